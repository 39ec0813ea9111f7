//! The end of every run: after the last fault and a restart, well-behaved clients bring every upload to its
//! end.

use domain::principal::Principal;
use domain::size::Offset;
use domain::stage::Stage;
use domain::upload::Upload;
use domain::write_rules::Completion;
use engine::command::{Append, BodyEnd, CompletesUpload, EngineError, WritePosition};

use crate::client::{Clients, RETRY_AFTER, length};
use crate::model::{Promised, places};
use crate::script::{Content, Name};
use crate::settings::SWEEP_EVERY;

/// The number of attempts of a client.
const TRIES: usize = 4;

/// Waits for the sweeper, and then resumes the clients. Each request goes to the next node.
pub async fn prove(nodes: &[Clients]) {
    tokio::time::sleep(SWEEP_EVERY * 2 + SWEEP_EVERY / 2).await;
    check_swept(&nodes[0]);
    let names = nodes[0].court.bench().model.names();
    let mut turns = nodes.iter().cycle();
    for name in names {
        resume(&mut turns, name).await;
    }
}

/// Checks that a start and a sweep leave no work of the server unfinished.
fn check_swept(clients: &Clients) {
    let bench = &mut *clients.court.bench();
    for row in bench.audit.rows() {
        let name = bench.model.by_id(row.id()).map_or_else(|| row.id().to_string(), |known| known.name.to_string());
        if row.stage().takes_bytes() && row.is_full() && row.completion() == Completion::WhenFull {
            let how = format!("{name} has all its bytes, and after a start and a sweep it is {}", row.stage().name());
            bench.model.breaks(Promised::FullUploadsAreFinished, how);
        }
        if row.is_settling() {
            let how = format!("{name} is {} forever", row.stage().name());
            bench.model.breaks(Promised::FullUploadsAreFinished, how);
        }
    }
}

/// Brings an upload to its end, as its client would.
async fn resume<'a>(turns: &mut impl Iterator<Item = &'a Clients>, name: Name) {
    let mut last = None;
    let mut court = None;
    for clients in turns.take(TRIES) {
        court = Some(&clients.court);
        match go_on(clients, name).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
    let bench = &mut *court.expect("there is a node").bench();
    let row = bench.model.get(name).and_then(|known| bench.audit.row(known.id));
    let stands = row.map_or_else(
        || "nowhere".to_owned(),
        |row| format!("{}, with {:?} of {:?}", row.stage().name(), row.record().received.pairs(), row.length()),
    );
    let why = last.map_or_else(String::new, |error| format!(" ({error}: {error:?})"));
    bench.model.breaks(Promised::EverythingCanBeResumed, format!("{name} cannot be finished; it is {stands}{why}"));
}

/// Requests the offset of an upload, and sends the missing bytes. Returns whether nothing is left to do.
async fn go_on(clients: &Clients, name: Name) -> Result<bool, EngineError> {
    let Some((id, floor, planned)) =
        clients.court.bench().model.get(name).map(|known| (known.id, known.offset, known.plan.size))
    else {
        return Ok(true);
    };
    let found = clients.engine.inspect(&Principal::server(), id).await?;
    if found.gone.is_some() || found.upload.is_settled() {
        return Ok(true);
    }
    clients.court.hear(name, &found.upload, floor);
    let upload = found.upload;
    let reach = upload.record().received.pairs().last().map_or(0, |(_, end)| *end);
    let target = upload.length().map_or(planned.max(reach), |length| length.get());
    let mut missing: Vec<(u64, u64)> = upload.record().received.missing(target).collect();
    if missing.is_empty() {
        missing.push((target, target));
    }
    for (start, end) in missing {
        send(clients, name, &upload, start, end, target).await?;
    }
    Ok(false)
}

async fn send(
    clients: &Clients,
    name: Name,
    upload: &Upload,
    start: u64,
    end: u64,
    target: u64,
) -> Result<(), EngineError> {
    let bytes = {
        let mut bench = clients.court.bench();
        let known = bench.model.get_mut(name).expect("it was there");
        for may in &mut known.may[places(start..end)] {
            *may = may.or(Content::File);
        }
        known.deviates |= target != known.plan.size;
        known.file.bytes(Content::File)[places(start..end)].to_vec()
    };
    let at = Offset::new(start).expect("files are small");
    let ends_here = upload.completion() == Completion::WhenSaid;
    let command = Append {
        dialect: upload.dialect(),
        position: match upload.dialect().name() {
            "google" => WritePosition::From(at),
            "ranged" => WritePosition::Anywhere(at),
            _ => WritePosition::At(at),
        },
        length: Some(length(target)),
        ends: if ends_here { CompletesUpload::Here } else { CompletesUpload::WhenFull },
        ..Append::at(Principal::server(), upload.id(), at, Some(end - start))
    };
    let mut feed = clients.engine.append(command).await?;
    // An append that ends early returns the reason when it is finished.
    let _ = feed.push(&bytes).await;
    let told = feed.finish(BodyEnd::Complete).await?;
    clients.court.hear(name, &told, 0);
    Ok(())
}

/// Audits everything, and downloads the complete uploads, each from the next node.
pub async fn check_all(nodes: &[Clients]) {
    let rows = {
        let bench = &mut *nodes[0].court.bench();
        bench.audit.look_at_rest(&mut bench.model);
        bench.audit.rows()
    };
    let complete = rows.iter().filter(|row| row.stage() == Stage::Completed && row.owns_bytes());
    for (row, clients) in complete.zip(nodes.iter().cycle()) {
        if let Err(how) = check_download(clients, row).await {
            let bench = &mut *clients.court.bench();
            // Its retention may have ended just now.
            if bench.audit.row(row.id()).is_some_and(|row| row.owns_bytes()) {
                bench.model.breaks(Promised::CompleteIsComplete, how);
            }
        }
    }
}

/// Checks that a complete upload can be read, and that the stored bytes are returned.
async fn check_download(clients: &Clients, row: &Upload) -> Result<(), String> {
    let id = row.id();
    let size = row.offset().get();
    let found = clients
        .engine
        .download(&Principal::server(), id)
        .await
        .map_err(|error| format!("{id} cannot be downloaded: {error}"))?;
    let found = found.ok_or_else(|| format!("{id} is complete, and cannot be found for a download"))?;
    let stream = found.read(0..size).await.map_err(|error| format!("{id} cannot be read: {error}"))?;
    let chunks: Vec<_> = futures::StreamExt::collect(stream).await;
    let mut bytes = Vec::new();
    for chunk in chunks {
        bytes.extend_from_slice(&chunk.map_err(|error| format!("{id} breaks off: {error}"))?);
    }
    let stored = clients.court.bench().audit.durable(id).map(|(_, stored)| stored);
    let is_right = stored.is_some_and(|stored| stored[..] == bytes[..]) && bytes.len() as u64 == size;
    if is_right { Ok(()) } else { Err(format!("the download of {id} differs from the stored bytes")) }
}
