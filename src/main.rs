//! The `longshore` program.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use longshore::app::StopOutcome;
use longshore::app::migration;
use longshore::app::moving::{self, MoveOrder, MoveStep};
use longshore::app::store_check;
use longshore::cli::{MigrateMode, MigrateReport, MoveCommand, Program, TableProgress};
use longshore::config::Config;
use longshore::{app, cli, telemetry};

mod signals;

use signals::Signals;

fn main() -> ExitCode {
    cli::run(Program { serve, migrate, check_store, move_state })
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

fn migrate(config: Config, mode: MigrateMode) -> anyhow::Result<MigrateReport> {
    telemetry::init(&config.log)?;
    app::restrict_new_files(config.storage.file_mode);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        match mode {
            MigrateMode::Check => migration::compare(&config).await,
            MigrateMode::Apply => migration::migrate(&config).await,
        }
    })?;
    Ok(MigrateReport { text: report.text(), is_current: report.is_current() })
}

fn check_store(config: Config) -> anyhow::Result<String> {
    telemetry::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(store_check::check(&config))
}

fn move_state(command: MoveCommand, progress: &mut dyn FnMut(TableProgress)) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (data_dir, url, password) = match command {
        MoveCommand::Undo { data_dir } => return runtime.block_on(moving::undo(&data_dir)),
        MoveCommand::Move { data_dir, url, password } => (data_dir, url, password),
    };
    let order = MoveOrder::new(data_dir, &url, password.as_deref())?;
    let mut shown = |step: MoveStep| {
        progress(match step {
            MoveStep::Copied { table, done, total } => TableProgress { action: "moving", table, done, total },
            MoveStep::Compared { done, total } => TableProgress { action: "comparing", table: "events", done, total },
        });
    };
    let moved = runtime.block_on(moving::move_state(&order, &mut shown))?;
    Ok(moved.text())
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
    let stopping = async {
        running.drain().await;
        running.stop().await
    };
    tokio::select! {
        stopped = stopping => match stopped {
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
