//! The `longshore` program.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use longshore::app::StopOutcome;
use longshore::config::Config;
use longshore::{app, cli, telemetry};

mod signals;

use signals::Signals;

fn main() -> ExitCode {
    cli::run(serve)
}

fn serve(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config.log)?;
    app::restrict_new_files(config.storage.file_mode);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve_until_stopped(config));
    // A thread that hangs in the kernel, for example on a dead disk, must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Serves until the first signal to stop, then shuts down gracefully. A second signal ends the process at
/// once.
async fn serve_until_stopped(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::take().context("could not install the signal handlers")?;
    let running = tokio::select! {
        started = app::start(config) => started?,
        // Nothing to reload: the start is reading the certificate.
        () = signals.until_stop(|| {}) => return Ok(()),
    };
    running.announce()?;
    signals.until_stop(|| running.reload()).await;
    tracing::info!("shutting down; signal again to stop immediately");
    tokio::select! {
        stopped = running.stop() => match stopped {
            StopOutcome::Clean => tracing::info!("stopped"),
            StopOutcome::TimedOut => tracing::warn!("stopped before all work was finished; the next start completes it"),
        },
        () = signals.until_stop(|| {}) => {
            tracing::warn!("stopped immediately; the next start completes unfinished work");
            std::process::exit(1);
        }
    }
    Ok(())
}
