//! The listeners, built from the configuration.

use std::net::SocketAddr;
use std::sync::Arc;

use actix_server::{Server, ServerHandle};
use actix_web::web;
use anyhow::Context;
use tokio::sync::mpsc;

use crate::app::database::Database;
use crate::app::threads;
use crate::config::Config;
use domain::node::NodeRole;
use edge::listen::certificates::{CertificateError, CertificateFiles, Certificates};
use edge::listen::tls::Tls;
use edge::listen::window::WindowBudget;
use edge::listen::{ListenerRole, ReadAhead, http2};
use edge::{Edge, listen};

/// All listeners.
pub(super) struct Listeners {
    pub(super) address: SocketAddr,
    /// Address of the separate listener for reads, if there is one.
    pub(super) read_address: Option<SocketAddr>,
    servers: Vec<ServerHandle>,
    /// Triggers a check of the certificate files. Dropping it ends the task that checks them. `None` without
    /// TLS.
    reload: Option<mpsc::Sender<()>>,
}

impl Listeners {
    /// Binds the addresses and starts serving.
    pub(super) fn start(
        config: &Config,
        memory: ListenerMemory,
        database: &Database,
        edge: Edge,
    ) -> anyhow::Result<Self> {
        let edge = web::Data::new(edge);
        let (tls, reload) = match &config.tls.files {
            Some(files) => {
                let (tls, reload) = tls(config, files)?;
                (Some(tls), Some(reload))
            }
            None => (None, None),
        };
        // Both addresses are bound before either is served.
        let (uploads, address) = listen_on(uploading(config, tls.clone(), memory.clone()), edge.clone())?;
        let reads = match config.server.read_listen.filter(|_| config.role != NodeRole::Upload) {
            Some(address) => Some(listen_on(reading(config, address, tls, memory, database), edge)?),
            None => None,
        };
        let read_address = reads.as_ref().map(|(_, address)| *address);
        let servers = [uploads].into_iter().chain(reads.map(|(server, _)| server)).map(serve).collect();
        Ok(Self { address, read_address, servers, reload })
    }

    /// Triggers a check of the certificate files. Returns whether there are any.
    pub(super) fn reload_certificate(&self) -> bool {
        let Some(reload) = &self.reload else { return false };
        // If the request cannot be queued, a check is pending already.
        let _ = reload.try_send(());
        true
    }

    /// Closes all connections: at once, or after their current responses.
    pub(super) async fn stop(&self, graceful: bool) {
        futures::future::join_all(self.servers.iter().map(|server| server.stop(graceful))).await;
    }
}

fn listen_on(settings: listen::ListenerSettings, edge: web::Data<Edge>) -> anyhow::Result<(Server, SocketAddr)> {
    let address = settings.address;
    listen::listen(settings, edge).with_context(|| format!("could not listen on {address}"))
}

fn serve(server: Server) -> ServerHandle {
    let handle = server.handle();
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(error = %error, "a listener failed");
        }
    });
    handle
}

/// Memory budgets that all listeners share.
#[derive(Debug, Clone)]
pub(super) struct ListenerMemory {
    pub(super) http2: WindowBudget,
    pub(super) read_ahead: ReadAhead,
}

impl ListenerMemory {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            http2: WindowBudget::new(config.http2.budget_bytes()),
            read_ahead: ReadAhead::new(config.limits.read_ahead_memory_bytes),
        }
    }
}

fn uploading(config: &Config, tls: Option<Tls>, memory: ListenerMemory) -> listen::ListenerSettings {
    let niceness = threads::upload_niceness(config);
    listen::ListenerSettings {
        address: config.server.listen,
        role: match config.role {
            NodeRole::All | NodeRole::Upload => ListenerRole::All,
            NodeRole::Read => ListenerRole::ReadNode,
        },
        workers: worker_count(config.server.workers),
        max_connections: config.limits.max_connections,
        timeouts: config.limits.timeouts,
        shutdown_timeout: config.server.shutdown_timeout,
        tls,
        http2: http2::Http2Settings {
            max_streams: config.http2.max_streams,
            max_window_bytes: config.http2.max_window_bytes,
            budget: memory.http2,
        },
        read_ahead: memory.read_ahead,
        on_thread_start: Arc::new(move || threads::lower_this_thread(niceness)),
    }
}

fn reading(
    config: &Config,
    address: SocketAddr,
    tls: Option<Tls>,
    memory: ListenerMemory,
    database: &Database,
) -> listen::ListenerSettings {
    let database = database.clone();
    listen::ListenerSettings {
        address,
        role: ListenerRole::Reading,
        workers: worker_count(config.server.read_workers),
        max_connections: config.limits.max_read_connections,
        on_thread_start: Arc::new(move || database.serve_reads_on_this_thread()),
        ..uploading(config, tls, memory)
    }
}

/// Returns the configured number of workers, or the number of processor cores.
pub(super) fn worker_count(asked: Option<usize>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1)
}

/// Sets up TLS with a certificate that is reloaded when its files change, until the returned sender is
/// dropped.
fn tls(config: &Config, files: &CertificateFiles) -> anyhow::Result<(Tls, mpsc::Sender<()>)> {
    check_memory(config)?;
    let certificates = Arc::new(Certificates::load(files.clone()).map_err(|why| unusable(files, &why))?);
    let tls = Tls::new(Arc::clone(&certificates), config.tls.handshake_timeout, config.http2.max_connections)
        .context("could not set up TLS")?;
    let (reload, looks) = mpsc::channel(1);
    tokio::spawn(certificates.reload_on_change(config.tls.reload_every, looks));
    Ok((tls, reload))
}

/// Returns an error that names the configuration key.
fn unusable(files: &CertificateFiles, why: &CertificateError) -> anyhow::Error {
    let (key, path) = match why {
        CertificateError::Certificate(_) => ("tls.certificate_file", &files.certificate),
        CertificateError::PrivateKey(_) => ("tls.private_key_file", &files.private_key),
    };
    anyhow::anyhow!("could not use {key} = {path:?}: {why}")
}

/// Rejects a budget that exceeds the memory of this machine.
fn check_memory(config: &Config) -> anyhow::Result<()> {
    let system = rustix::system::sysinfo();
    let memory = u64::from(system.mem_unit).saturating_mul(system.totalram);
    let mib = |bytes: u64| bytes / (1024 * 1024);
    anyhow::ensure!(
        config.http2.memory_bytes <= memory,
        "http2.memory = {}MiB exceeds the memory of this machine ({}MiB); lower it",
        mib(config.http2.memory_bytes),
        mib(memory),
    );
    Ok(())
}
