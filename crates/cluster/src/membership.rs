//! The registration and the heartbeat of this node.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::LivingNodes;
use domain::node::Node;
use engine::Fence;
use state::{Leases, Membership};

/// Intervals of the heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MembershipSettings {
    /// The heartbeat is renewed this often.
    pub renew_every: Duration,
    /// Without a confirmed renewal for this time, this node stops. Shorter than `ttl`.
    pub fence_after: Duration,
    /// Without a renewal for this time, other nodes count this one as dead.
    pub ttl: Duration,
}

impl Default for MembershipSettings {
    fn default() -> Self {
        Self { renew_every: Duration::from_secs(1), fence_after: Duration::from_secs(3), ttl: Duration::from_secs(5) }
    }
}

/// A registered node. It counts as alive while [`Member::run`] runs.
#[derive(Debug)]
pub struct Member {
    node: Node,
    leases: Arc<dyn Leases>,
    settings: MembershipSettings,
    fence: Fence,
    living: watch::Sender<Arc<[Node]>>,
    /// True while renewals fail, which is logged once.
    is_cut: bool,
}

impl Member {
    /// Registers a node beside those that are alive.
    pub async fn join(node: Node, leases: Arc<dyn Leases>, settings: MembershipSettings) -> state::Result<Self> {
        let began = Instant::now();
        leases.join(&node, Membership::Others, Some(settings.ttl)).await?;
        let living = watch::Sender::new(leases.nodes().await?.into());
        let fence = Fence::new(settings.fence_after);
        fence.renew(began);
        Ok(Self { node, leases, settings, fence, living, is_cut: false })
    }

    /// Returns the fence that is closed while this node has no contact with the state.
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    pub fn living(&self) -> LivingNodes {
        LivingNodes::following(self.living.subscribe())
    }

    /// Renews the heartbeat until `stop`. The node counts as alive for a few seconds after that, unless it
    /// leaves.
    #[must_use]
    pub async fn run(mut self, stop: CancellationToken) -> Self {
        let mut pace = tokio::time::interval(self.settings.renew_every);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = pace.tick() => {}
            }
            // A node that stops does not wait for a state that does not answer.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.renew() => {}
            }
        }
        self
    }

    /// Unregisters the node, so that others do not have to wait until they count it as dead. Called once this
    /// node writes no upload any more.
    pub async fn leave(self) {
        let leaving = tokio::time::timeout(self.settings.renew_every, self.leases.leave(self.node.instance));
        if let Ok(Err(error)) = leaving.await {
            tracing::warn!(error = &error as &dyn Error, "could not unregister this node; others notice its end later");
        }
    }

    async fn renew(&mut self) {
        match self.try_to_renew().await {
            Ok(()) if self.is_cut => {
                self.is_cut = false;
                tracing::info!("renewed the heartbeat of this node again");
            }
            Ok(()) => {}
            Err(error) if !self.is_cut => {
                self.is_cut = true;
                let error = &error as &dyn Error;
                tracing::warn!(error, "could not renew the heartbeat of this node; uploads stop until that succeeds");
            }
            Err(_) => {}
        }
    }

    async fn try_to_renew(&mut self) -> state::Result<()> {
        // Uses the time before the call: the time at which the state records the heartbeat is unknown.
        let began = Instant::now();
        let Self { node, leases, settings, .. } = self;
        if !leases.renew(node.instance, settings.ttl).await? {
            self.fence.close();
            tracing::warn!("other nodes may have counted this node as dead and taken over its uploads");
            leases.join(node, Membership::Others, Some(settings.ttl)).await?;
        }
        self.fence.renew(began);
        let nodes: Arc<[Node]> = self.leases.nodes().await?.into();
        if let Some(own) = nodes.iter().find(|node| node.instance == self.node.instance) {
            self.node.is_draining = own.is_draining;
        }
        self.living.send_if_modified(|known| {
            let is_new = *known != nodes;
            *known = nodes;
            is_new
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use domain::id::{InstanceId, UploadId};
    use domain::node::{Lease, NodeName, NodeRole};
    use domain::time::Timestamp;
    use state::Error as StateError;
    use state::clock::{Clock, ClockReading};
    use state::conformance::bodies;
    use state::memory::{MemoryDatabase, MemoryState};
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::task::JoinHandle;

    /// The leases of a node that can lose its connection.
    #[derive(Debug)]
    struct Line {
        state: Arc<MemoryState>,
        is_cut: AtomicBool,
    }

    impl Line {
        fn check(&self) -> state::Result<()> {
            let cut = || StateError::Failed { operation: "reach the state", source: "the line is cut".into() };
            if self.is_cut.load(Ordering::Relaxed) { Err(cut()) } else { Ok(()) }
        }
    }

    #[deny(clippy::missing_trait_methods)]
    #[async_trait]
    impl Leases for Line {
        async fn join(&self, node: &Node, membership: Membership, lasts: Option<Duration>) -> state::Result<()> {
            self.check()?;
            self.state.join(node, membership, lasts).await
        }

        async fn renew(&self, node: InstanceId, lasts: Duration) -> state::Result<bool> {
            self.check()?;
            self.state.renew(node, lasts).await
        }

        async fn nodes(&self) -> state::Result<Vec<Node>> {
            self.check()?;
            self.state.nodes().await
        }

        async fn drain(&self, node: InstanceId) -> state::Result<bool> {
            self.check()?;
            self.state.drain(node).await
        }

        async fn leave(&self, node: InstanceId) -> state::Result<()> {
            self.check()?;
            self.state.leave(node).await
        }

        async fn acquire(&self, upload: UploadId, by: InstanceId) -> state::Result<Option<Lease>> {
            self.check()?;
            self.state.acquire(upload, by).await
        }

        async fn seize(&self, upload: UploadId, seen: Lease, by: InstanceId) -> state::Result<Option<Lease>> {
            self.check()?;
            self.state.seize(upload, seen, by).await
        }

        async fn release(&self, upload: UploadId, held: Lease) -> state::Result<()> {
            self.check()?;
            self.state.release(upload, held).await
        }
    }

    /// A state whose clock is the paused one of the test.
    fn state() -> Arc<MemoryState> {
        let began = Instant::now();
        let clock = Clock::new(move || {
            let running = began.elapsed();
            ClockReading { time_of_day: Timestamp::from_unix_ms(1_000).plus(running), running }
        });
        MemoryDatabase::new(bodies()).open_by(clock)
    }

    fn node(number: u8) -> Node {
        let instance = InstanceId::new(Timestamp::from_unix_ms(1), [number; 10]);
        let peer_url = Some(format!("https://node-{number}:8443"));
        Node { peer_url, ..Node::alone(instance, NodeName::new("a-node").unwrap(), "1.0.0") }
    }

    struct Running {
        line: Arc<Line>,
        fence: Fence,
        living: LivingNodes,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    async fn run(state: &Arc<MemoryState>, node: Node) -> Running {
        let line = Arc::new(Line { state: Arc::clone(state), is_cut: AtomicBool::default() });
        let leases = Arc::<Line>::clone(&line);
        let member = Member::join(node, leases, MembershipSettings::default()).await.unwrap();
        let (fence, living, stop) = (member.fence(), member.living(), CancellationToken::new());
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { member.run(stop).await.leave().await }
        });
        Running { line, fence, living, stop, task }
    }

    async fn seconds(count: u64) {
        tokio::time::sleep(Duration::from_secs(count)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_counts_as_alive_until_it_stops() {
        let state = state();
        let first = run(&state, node(1)).await;
        let second = run(&state, Node { role: NodeRole::Read, ..node(2) }).await;
        seconds(60).await;
        let both = [node(1), Node { role: NodeRole::Read, ..node(2) }];
        assert_eq!(state.nodes().await.unwrap(), both);
        assert_eq!(*first.living.list(), both);
        assert_eq!(first.living.find(node(2).instance).unwrap().peer_url, node(2).peer_url);
        assert_eq!(first.living.senders(), 1);
        assert!(!first.fence.is_closed());
        second.stop.cancel();
        second.task.await.unwrap();
        assert_eq!(state.nodes().await.unwrap(), [node(1)], "others need not wait");
        seconds(2).await;
        assert_eq!(first.living.find(node(2).instance), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_stops_before_others_count_it_as_dead() {
        let state = state();
        let cut = run(&state, node(1)).await;
        seconds(10).await;
        cut.line.is_cut.store(true, Ordering::Relaxed);
        let began = Instant::now();
        cut.fence.closed().await;
        let stopped_after = began.elapsed();
        while !state.nodes().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let dead_after = began.elapsed();
        assert!(stopped_after <= Duration::from_secs(3), "{stopped_after:?}");
        assert!(dead_after >= stopped_after + Duration::from_secs(1), "{stopped_after:?} {dead_after:?}");
        assert!(dead_after <= Duration::from_secs(6), "{dead_after:?}");

        seconds(60).await;
        assert!(cut.fence.is_closed());
        cut.line.is_cut.store(false, Ordering::Relaxed);
        seconds(2).await;
        assert!(!cut.fence.is_closed());
        assert_eq!(state.nodes().await.unwrap(), [node(1)], "it has registered again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_learns_that_it_is_to_drain() {
        let state = state();
        let mut member = run(&state, node(1)).await;
        let own = node(1).instance;
        seconds(5).await;
        assert!(state.drain(own).await.unwrap());
        let learning = tokio::time::timeout(Duration::from_secs(2), member.living.draining(own));
        learning.await.expect("it reads the list each second");
        // It stays so when it has to register again.
        member.line.is_cut.store(true, Ordering::Relaxed);
        seconds(10).await;
        member.line.is_cut.store(false, Ordering::Relaxed);
        seconds(2).await;
        assert!(state.nodes().await.unwrap()[0].is_draining);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_without_contact_stops_at_once() {
        let state = state();
        let member = run(&state, node(1)).await;
        member.line.is_cut.store(true, Ordering::Relaxed);
        let began = Instant::now();
        member.stop.cancel();
        member.task.await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}
