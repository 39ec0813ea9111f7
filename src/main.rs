//! The `longshore` program.

use std::process::ExitCode;
use std::time::Duration;

use longshore::app;
use longshore::app::Stopped;
use longshore::cli;
use longshore::config::Config;
use longshore::telemetry;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

fn main() -> ExitCode {
    cli::run(serve)
}

fn serve(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config.log)?;
    app::restrict_new_files(config.storage.file_mode);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve_until_stopped(config));
    // A thread that hangs in the kernel, on a dead disk say, must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Serves until the first signal, then stops in order; a second signal ends everything at once.
async fn serve_until_stopped(config: Config) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut signalled = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let running = tokio::select! {
        started = app::start(config) => started?,
        () = signalled() => return Ok(()),
    };
    running.announce()?;
    signalled().await;
    tracing::info!("stopping; once more ends at once");
    tokio::select! {
        stopped = running.stop() => match stopped {
            Stopped::Clean => tracing::info!("stopped"),
            Stopped::TimedOut => tracing::warn!("stopped before everything begun had ended; the next start finishes it"),
        },
        () = signalled() => {
            tracing::warn!("ended at once; the next start finishes what was begun");
            std::process::exit(1);
        }
    }
    Ok(())
}
