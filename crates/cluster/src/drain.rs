//! The drain of a node: it hands over its uploads before it stops, or for as long as it still runs.
//!
//! First the load balancer notices the drain at `GET /lb`, while everything is still served. Then no new
//! upload is accepted, while those that are being sent continue. Finally the remaining ones commit what they
//! have, and their clients resume at another node.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::LivingNodes;
use domain::id::InstanceId;
use engine::Engine;
use engine::command::Unavailable;
use state::Leases;

/// The maximum time for the last commits.
const COMMIT_WITHIN: Duration = Duration::from_secs(10);

/// The maximum time for publishing the drain to the other nodes.
const MARK_WITHIN: Duration = Duration::from_secs(1);

/// Time limits of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainSettings {
    /// Everything is served for this time after the drain has begun.
    pub notice: Duration,
    /// Live uploads continue for this time after that.
    pub grace: Duration,
}

impl DrainSettings {
    /// Nothing to wait for: no other node takes over.
    pub const ALONE: Self = Self { notice: Duration::ZERO, grace: Duration::ZERO };
}

impl DrainSettings {
    /// Returns the maximum time that a drain takes.
    pub fn longest(&self) -> Duration {
        self.notice + self.grace + COMMIT_WITHIN
    }
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self { notice: Duration::from_secs(3), grace: Duration::from_secs(10) }
    }
}

/// The drain of this node. Clones are the same drain.
#[derive(Debug, Clone, Default)]
pub struct Drain(Arc<watch::Sender<DrainPhase>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum DrainPhase {
    #[default]
    Serving,
    Draining,
    Drained,
}

impl Drain {
    /// Begins the drain, which is not undone.
    pub fn begin(&self) {
        self.advance_to(DrainPhase::Draining);
    }

    pub fn has_begun(&self) -> bool {
        *self.0.borrow() > DrainPhase::Serving
    }

    /// Waits until this node has handed over its uploads.
    pub async fn ended(&self) {
        self.reached(DrainPhase::Drained).await;
    }

    /// Waits for the drain to begin, here or at the request of another node, and drains `engine`.
    pub async fn run(self, settings: DrainSettings, node: DrainedNode) {
        let DrainedNode { engine, instance, nodes, mut living } = node;
        let requested = async {
            match &mut living {
                Some(living) => living.draining(instance).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.reached(DrainPhase::Draining) => {}
            () = requested => self.begin(),
        }
        tracing::info!(
            notice_ms = millis(settings.notice),
            grace_ms = millis(settings.grace),
            "draining: this node hands over its uploads"
        );
        let noticed = tokio::time::sleep(settings.notice);
        mark(&*nodes, instance).await;
        noticed.await;
        engine.announce_handover(Unavailable::Draining);
        // Whether they have ended or their time is over makes no difference.
        let _ = tokio::time::timeout(settings.grace, engine.without_writers()).await;
        match engine.hand_over(Unavailable::Draining, COMMIT_WITHIN).await {
            true => tracing::info!("drained: this node writes no uploads any more"),
            false => tracing::warn!("drained, but some uploads are still being written"),
        }
        self.advance_to(DrainPhase::Drained);
    }

    fn advance_to(&self, phase: DrainPhase) {
        self.0.send_if_modified(|current| {
            let is_later = phase > *current;
            *current = phase.max(*current);
            is_later
        });
    }

    async fn reached(&self, phase: DrainPhase) {
        let mut phases = self.0.subscribe();
        if phases.wait_for(|current| *current >= phase).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The parts of a node that a drain needs.
#[derive(Debug)]
pub struct DrainedNode {
    pub engine: Engine,
    pub instance: InstanceId,
    pub nodes: Arc<dyn Leases>,
    /// `None` for a node that works alone.
    pub living: Option<LivingNodes>,
}

/// Publishes the drain to the other nodes. Nothing depends on it: the lists of operators show it.
async fn mark(nodes: &dyn Leases, node: InstanceId) {
    let marking = tokio::time::timeout(MARK_WITHIN, nodes.drain(node));
    if let Ok(Err(error)) = marking.await {
        tracing::warn!(error = &error as &dyn Error, "could not publish that this node is draining");
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
