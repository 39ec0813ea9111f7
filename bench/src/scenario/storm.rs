//! Scenario 4: many small uploads from 64 connections, driven by one thread.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::lab::{Lab, Notebook, mib};
use crate::results::{Metric, Values};
use crate::server::{Running, Setup};
use crate::stats::Times;
use crate::subject::Subject;
use crate::{process, tus, wire};

pub(super) const CONNECTIONS: usize = 64;
const SIZE: usize = 64 << 10;

const SUBJECTS: [Subject; 6] =
    [Subject::Longshore, Subject::LongshoreRelaxed, Subject::Tusd, Subject::TusNode, Subject::Rustus, Subject::Sink];

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    lab.take_turns(&SUBJECTS, u32::MAX, book, |subject, round, book| {
        let outcome = lab.start(subject, &Setup::default(), book).and_then(|server| measure(lab, &server));
        book.keep(subject, "", round, outcome);
    });
    Ok(())
}

pub(super) fn measure(lab: &Lab, server: &Running) -> anyhow::Result<Values> {
    let mut request = tus::creation_head(&server.target, SIZE as u64, SIZE as u64).into_bytes();
    request.extend_from_slice(lab.payload.head(SIZE));
    process::forget_peak(server.pid())?;
    let (cpu, database) = (process::cpu_seconds(server.pid())?, server.database_cpu_seconds()?);
    let began = Instant::now();
    let mut times = run_for(server, request, SIZE, lab.plan.storm)?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = process::cpu_seconds(server.pid())? - cpu;
    let uploads = times.count() as f64;
    let mut values = Values::from([
        (Metric::UploadsPerSecond, uploads / seconds),
        (Metric::CpuMsPerUpload, cpu * 1000.0 / uploads),
        (Metric::P50Ms, times.quantile_ms(500)),
        (Metric::P99Ms, times.quantile_ms(990)),
        (Metric::PeakMib, mib(process::peak(server.pid())?)),
    ]);
    if let Some((before, after)) = database.zip(server.database_cpu_seconds()?) {
        values.insert(Metric::DatabaseCpuMsPerUpload, (after - before) * 1000.0 / uploads);
    }
    Ok(values)
}

/// Repeats the request, which creates an upload of `size` with its bytes, on all connections.
pub(super) fn run_for(server: &Running, request: Vec<u8>, size: usize, how_long: Duration) -> anyhow::Result<Times> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(storm(server, request.into(), size, how_long))
}

async fn storm(server: &Running, request: Bytes, size: usize, how_long: Duration) -> anyhow::Result<Times> {
    let address = server.target.address;
    let until = Instant::now() + how_long;
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let request = request.clone();
        tasks.spawn(async move {
            let mut times = Times::default();
            let mut socket = None;
            while Instant::now() < until {
                let began = Instant::now();
                let mut open = match socket.take() {
                    Some(open) => open,
                    None => TcpStream::connect(address).await.context("could not connect")?,
                };
                open.set_nodelay(true)?;
                if upload(&mut open, &request, size).await? {
                    socket = Some(open);
                }
                times.add(began.elapsed());
            }
            anyhow::Ok(times)
        });
    }
    let mut all = Times::default();
    while let Some(times) = tasks.join_next().await {
        all.extend(times??);
    }
    Ok(all)
}

/// Sends one upload. Reports whether the connection may be used again.
async fn upload(socket: &mut TcpStream, request: &[u8], size: usize) -> anyhow::Result<bool> {
    let head = exchange(socket, request).await?;
    ensure!(head.starts_with("HTTP/1.1 201"), "unexpected answer: {}", head.lines().next().unwrap_or_default());
    let offset = wire::header(&head, "upload-offset").context("no Upload-Offset in the answer")?;
    ensure!(offset == size.to_string(), "only {offset} bytes were taken");
    Ok(!wire::header(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close")))
}

/// Sends a request and returns the head of the response. All of these servers respond with a head alone.
pub(super) async fn exchange(socket: &mut TcpStream, request: &[u8]) -> anyhow::Result<String> {
    socket.write_all(request).await.context("could not send a request")?;
    let mut head = Vec::with_capacity(2048);
    while wire::find(&head, b"\r\n\r\n").is_none() {
        let count = socket.read_buf(&mut head).await.context("could not read an answer")?;
        ensure!(count > 0, "the server closed the connection instead of answering");
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
