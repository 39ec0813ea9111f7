//! The listeners, as the configuration wants them.

use std::net::SocketAddr;
use std::sync::Arc;

use actix_server::Server;
use actix_web::web;
use anyhow::Context;

use crate::config::Config;
use crate::http::Shared;
use crate::http::listen;

pub(super) fn listen(config: &Config, shared: web::Data<Shared>) -> anyhow::Result<(Server, SocketAddr)> {
    let settings = listen::Settings {
        address: config.server.listen,
        workers: threads(config.server.workers),
        max_connections: config.limits.max_connections,
        header_timeout: config.limits.header_timeout,
        keep_alive: config.limits.keep_alive,
        reader_timeout: config.limits.reader_timeout,
        shutdown_timeout: config.server.shutdown_timeout,
        on_thread_start: Arc::new(|| {}),
    };
    let address = settings.address;
    listen::listen(settings, shared).with_context(|| format!("could not listen on {address}"))
}

/// As many as asked for, or one for each processor core.
fn threads(asked: Option<usize>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1)
}
