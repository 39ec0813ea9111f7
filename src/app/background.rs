//! The tasks of a node besides serving and sending: its drain, and the comparison of clocks.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::database::Database;
use crate::app::membership::Registration;
use crate::config::Config;
use cluster::clock_guard::ClockLimits;
use cluster::drain::DrainedNode;
use cluster::{ClockGuard, Drain, DrainSettings};
use engine::Engine;

/// Tasks that end with the server.
pub(super) struct Background {
    stop: CancellationToken,
    draining: JoinHandle<()>,
    comparing_clocks: Option<JoinHandle<()>>,
}

impl Background {
    pub(super) fn start(
        config: &Config,
        engine: &Engine,
        registration: &Registration,
        database: &Database,
        drain: &Drain,
    ) -> Self {
        let stop = CancellationToken::new();
        let node = DrainedNode {
            engine: engine.clone(),
            instance: registration.node.instance,
            nodes: database.nodes(),
            living: registration.living(),
        };
        let settings = config.cluster.as_ref().map_or(DrainSettings::ALONE, |cluster| cluster.drain);
        let draining = tokio::spawn(drain.clone().run(settings, node));
        let comparing_clocks = database.clock_offset().map(|offset_seconds| {
            let guard = ClockGuard::new(engine.clone(), ClockLimits::default(), offset_seconds);
            tokio::spawn(guard.run(stop.clone()))
        });
        Self { stop, draining, comparing_clocks }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.draining.abort();
        if let Some(comparing) = self.comparing_clocks {
            // A task that has died has been reported.
            let _ = comparing.await;
        }
    }
}
