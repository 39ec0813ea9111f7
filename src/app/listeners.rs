//! The listeners, as the configuration wants them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use actix_server::Server;
use actix_web::web;
use anyhow::Context;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::config::TlsFiles;
use crate::http::Shared;
use crate::http::listen;
use crate::http::listen::certificates::Certificates;
use crate::http::listen::certificates::Files;
use crate::http::listen::certificates::Unusable;
use crate::http::listen::http2;
use crate::http::listen::tls::Tls;

pub(super) fn listen(config: &Config, shared: web::Data<Shared>) -> anyhow::Result<(Server, SocketAddr)> {
    let settings = listen::Settings {
        address: config.server.listen,
        workers: threads(config.server.workers),
        max_connections: config.limits.max_connections,
        header_timeout: config.limits.header_timeout,
        keep_alive: config.limits.keep_alive,
        reader_timeout: config.limits.reader_timeout,
        shutdown_timeout: config.server.shutdown_timeout,
        tls: config.tls.files.as_ref().map(|files| tls(config, files)).transpose()?,
        http2: http2::Settings {
            max_streams: config.http2.max_streams,
            stream_window_bytes: config.http2.stream_window_bytes,
            connection_window_bytes: config.http2.connection_window_bytes,
        },
        on_thread_start: Arc::new(|| {}),
    };
    let address = settings.address;
    listen::listen(settings, shared).with_context(|| format!("could not listen on {address}"))
}

/// As many as asked for, or one for each processor core.
fn threads(asked: Option<usize>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1)
}

/// Encryption with a certificate that follows its files.
fn tls(config: &Config, files: &TlsFiles) -> anyhow::Result<Tls> {
    check_memory(config)?;
    let paths = Files { certificate: files.certificate.clone(), private_key: files.private_key.clone() };
    let certificates = Arc::new(Certificates::load(paths).map_err(|why| unusable(files, &why))?);
    let (looking, look) = mpsc::channel(1);
    pass_on_hangups(looking).context("could not wait for SIGHUP")?;
    tokio::spawn(Arc::clone(&certificates).keep_fresh(config.tls.reload_every, look));
    Tls::new(certificates, config.tls.handshake_timeout, config.http2.max_connections).context("could not set up TLS")
}

/// In the words of the configuration.
fn unusable(files: &TlsFiles, why: &Unusable) -> anyhow::Error {
    let (key, path) = match why {
        Unusable::Certificate(_) => ("tls.certificate_file", &files.certificate),
        Unusable::PrivateKey(_) => ("tls.private_key_file", &files.private_key),
    };
    anyhow::anyhow!("could not use {key} = {path:?}: {why}")
}

/// Refuses what this machine cannot hold.
fn check_memory(config: &Config) -> anyhow::Result<()> {
    let system = rustix::system::sysinfo();
    let memory = u64::from(system.mem_unit).saturating_mul(system.totalram);
    let most = config.http2.most_held_bytes();
    let mib = |bytes: u64| bytes / (1024 * 1024);
    anyhow::ensure!(
        most <= memory,
        "could not allow so much HTTP/2: http2.max_connections = {} times http2.connection_window = {}MiB is {}MiB, and \
         this machine has {}MiB of memory; lower one of them",
        config.http2.max_connections,
        mib(config.http2.connection_window_bytes.into()),
        mib(most),
        mib(memory),
    );
    tracing::debug!(most_held_bytes = most, "what HTTP/2 connections may make the server hold");
    Ok(())
}

fn pass_on_hangups(to: mpsc::Sender<()>) -> io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move { while hangups.recv().await.is_some() && to.send(()).await.is_ok() {} });
    Ok(())
}
