//! Ranges in any order, from any number of connections.

use actix_web::dev::Payload;
use actix_web::{HttpRequest, HttpResponse};

use crate::caller::caller;
use crate::digests;
use crate::ranged::wire::{Carried, Data, End};
use crate::ranged::{FILLING, NAME, check_empty, creation, inspect, pumped, reply, small_body, wire};
use crate::uploads::UploadContext;
use domain::rejection::Rejection;
use domain::size::{Length, Offset};
use domain::upload::{Role, Upload};
use edge::body;
use edge::body::HeaderFields;
use edge::principal::principal;
use edge::problem::Problem;
use engine::command::{Append, CompletesUpload, Create, WritePosition};

/// Starts a session in this server's own form, described in JSON.
pub(super) async fn start(
    request: &HttpRequest,
    payload: Payload,
    shared: &UploadContext,
) -> Result<HttpResponse, Problem> {
    let fields = HeaderFields(request.headers());
    let named = digests::promised(&fields).map_err(|error| reply::wire_problem(&error.into()))?;
    let json = small_body(request, payload, shared).await?;
    let described =
        creation::plain(&json, shared.settings.max_metadata_bytes).map_err(|error| reply::creation_problem(&error))?;
    let command = Create {
        principal: principal(request),
        dialect: NAME,
        write_rules: FILLING,
        role: Role::Single,
        length: described.length,
        metadata: described.metadata,
        metadata_as_sent: None,
        wanted_digests: digests::wanted(&fields),
        promised_digests: [described.promised_digests, named].concat(),
        caller: caller(request, shared),
    };
    let upload = shared.engine.create(command).await.map_err(|error| reply::engine_problem(error, request))?;
    Ok(reply::started(&upload, request, shared))
}

/// Handles a range, a whole upload, or a query.
pub(super) async fn put(
    request: &HttpRequest,
    upload: Upload,
    mut payload: Payload,
    shared: &UploadContext,
) -> Result<HttpResponse, Problem> {
    let fields = HeaderFields(request.headers());
    let reject = |error: wire::WireError| reply::wire_problem(&error);
    let carried = wire::carried(&fields, body::announced_size(request)).map_err(reject)?;
    let checksum = digests::content(&fields).map_err(|error| reject(error.into()))?;
    let (dialect, caller) = (NAME, caller(request, shared));
    let command =
        Append { dialect, checksum, caller, ..Append::at(principal(request), upload.id(), Offset::ZERO, None) };
    let (command, unframed) = match carried {
        Carried::Question { total } => {
            check_empty(request, &mut payload, shared).await?;
            let found = inspect(request, upload.id(), shared).await?;
            match (found.length(), total) {
                (Some(ours), Some(theirs)) if ours != theirs => {
                    return Err(reply::rejection_problem(Rejection::LengthChanged { ours, theirs }));
                }
                (None, Some(total)) => (declaring(command, total), None),
                (_, Some(_) | None) => return Ok(reply::progress(&found)),
            }
        }
        Carried::Data(data) => (carrying(command, data), data.count.filter(|_| data.unframed)),
    };
    let checksum = command.checksum.clone();
    let reject = |error| reply::append_problem(error, checksum.as_ref(), request);
    let feed = shared.engine.append(command).await.map_err(reject)?;
    let upload = pumped(request, payload, feed, unframed, shared, reject).await?;
    Ok(reply::progress(&upload))
}

/// Returns the command that only declares the length of the upload.
fn declaring(command: Append, total: Length) -> Append {
    Append {
        position: WritePosition::Anywhere(Offset::ZERO),
        count: Some(0),
        length: Some(total),
        checksum: None,
        ..command
    }
}

fn carrying(command: Append, data: Data) -> Append {
    let ends = match (data.end, data.total) {
        // Without a range it is the whole, and its end is the end of the upload.
        (End::Last, None) => CompletesUpload::Here,
        (End::Last | End::IfTotal | End::More, _) => CompletesUpload::WhenFull,
    };
    Append { position: WritePosition::Anywhere(data.first), count: data.count, length: data.total, ends, ..command }
}
