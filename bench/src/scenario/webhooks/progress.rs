//! The number of progress events of many uploads that receive many small PATCHes.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::lab::{Lab, Notebook, mib};
use crate::receiver::{Mood, Receiver};
use crate::results::{Metric, Values};
use crate::scenario::storm;
use crate::scenario::webhooks::endpoint;
use crate::server::Setup;
use crate::subject::Subject;
use crate::{process, tus, wire};

pub(crate) const PROGRESS: &str = "progress";

/// Three of these are more than one percent of an upload, the minimum for a progress event.
const PIECE: usize = 4 << 10;
const LENGTH: u64 = 1 << 20;

/// A client sends its next PATCH this long after the last one, or later if the response takes longer.
const GAP: Duration = Duration::from_millis(50);

const MOST_ROUNDS: u32 = 1;

pub(super) fn run(lab: &Lab, book: &mut Notebook) {
    let (uploads, seconds) = (lab.plan.progressing, lab.plan.progress.as_secs());
    book.note(format!(
        "Progress: {uploads} connections, one upload on each, and on each a PATCH of {} KiB every {} ms, or as soon \
         as the machine responds, for {seconds} s. The endpoint receives all events. Rows are counted in the \
         database: the maximum of any five seconds, divided by five.",
        PIECE >> 10,
        GAP.as_millis(),
    ));
    lab.take_turns(&[Subject::Longshore], MOST_ROUNDS, book, |subject, round, book| {
        let outcome = in_a_folder(lab, subject, book);
        book.keep(subject, PROGRESS, round, outcome);
    });
}

fn in_a_folder(lab: &Lab, subject: Subject, book: &mut Notebook) -> anyhow::Result<Values> {
    let folder = lab.kit.empty_folder(subject)?;
    let outcome = measure(lab, subject, &folder, book);
    fs::remove_dir_all(&folder)?;
    outcome
}

fn measure(lab: &Lab, subject: Subject, folder: &Path, book: &mut Notebook) -> anyhow::Result<Values> {
    let receiver = Receiver::start(Mood::Well)?;
    let uploads = lab.plan.progressing;
    let setup = Setup {
        hooks: vec![endpoint(&receiver)],
        uploads_at_once: Some(uploads),
        data: Some(folder.to_owned()),
        ..Setup::default()
    };
    let server = lab.start(subject, &setup, book)?;
    process::forget_peak(server.pid())?;
    let cpu = process::cpu_seconds(server.pid())?;
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let creation = tus::creation_head(&server.target, LENGTH, 0);
    let clients = Clients { creation, piece: lab.payload.head(PIECE).to_vec(), until: began + lab.plan.progress };
    let patches = runtime.block_on(clients.run(server.target.address, uploads))?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = process::cpu_seconds(server.pid())? - cpu;
    let peak = mib(process::peak(server.pid())?);
    server.stop_gently()?;
    Ok(Values::from([
        (Metric::RowsPerSecond, busiest(folder)?),
        (Metric::Connections, uploads as f64),
        (Metric::RequestsPerSecond, patches as f64 / seconds),
        (Metric::CpuPercent, cpu * 100.0 / seconds),
        (Metric::PeakMib, peak),
    ]))
}

fn busiest(folder: &Path) -> anyhow::Result<f64> {
    let output = Command::new("python3")
        .args(["bench/webhook_rows.py", "progress"])
        .arg(folder.join("longshore.db"))
        .output()
        .context("could not run python3")?;
    ensure!(output.status.success(), "could not count rows: {}", String::from_utf8_lossy(&output.stderr));
    let rate: f64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    ensure!(rate > 0.0, "there was no progress at all");
    Ok(rate)
}

struct Clients {
    creation: String,
    piece: Vec<u8>,
    until: Instant,
}

impl Clients {
    /// Runs the clients, and returns the number of answered PATCHes.
    async fn run(self, address: SocketAddr, count: usize) -> anyhow::Result<u64> {
        let all = Arc::new(self);
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let socket = TcpStream::connect(address).await.context("could not connect")?;
            socket.set_nodelay(true)?;
            let all = Arc::clone(&all);
            tasks.spawn(async move { all.one(socket).await });
        }
        let mut patches = 0;
        while let Some(done) = tasks.join_next().await {
            patches += done??;
        }
        Ok(patches)
    }

    async fn one(&self, mut socket: TcpStream) -> anyhow::Result<u64> {
        let head = storm::exchange(&mut socket, self.creation.as_bytes()).await?;
        let location = wire::header(&head, "location").context("no Location in the answer")?;
        let path = tus::path_of(location).to_owned();
        let (mut offset, mut patches) = (0, 0);
        while Instant::now() < self.until && offset < LENGTH {
            let next = Instant::now() + GAP;
            let mut request = tus::append_head(&path, offset, PIECE as u64).into_bytes();
            request.extend_from_slice(&self.piece);
            let head = storm::exchange(&mut socket, &request).await?;
            ensure!(head.starts_with("HTTP/1.1 204"), "unexpected answer: {}", head.lines().next().unwrap_or_default());
            offset += PIECE as u64;
            patches += 1;
            tokio::time::sleep_until(next.into()).await;
        }
        Ok(patches)
    }
}
