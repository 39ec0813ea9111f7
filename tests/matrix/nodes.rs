//! The nodes of one life, and what a script does to them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use state::Leases;

use crate::client::Clients;
use crate::faults::HANG;
use crate::model::Promised;
use crate::node::{Node, Site};
use crate::peers::Line;
use crate::script::{NodeNumber, Wire};

/// The time for which a node that was killed is gone.
const DOWNTIME: Duration = Duration::from_millis(300);

/// The longest time for any operation when nothing hangs.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The nodes, by number. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct Nodes {
    site: Arc<Site>,
    running: Arc<Mutex<Vec<Arc<Node>>>>,
}

impl Nodes {
    /// Starts all nodes. If there are several, each that dies is replaced; a single one is not.
    pub async fn start(site: Site) -> Self {
        let nodes = Self { site: Arc::new(site), running: Arc::default() };
        for _ in 0..nodes.site.tuning.nodes {
            let node = Node::start(&nodes.site).await;
            nodes.running().push(Arc::new(node));
        }
        if nodes.site.is_shared() {
            tokio::spawn(nodes.clone().replace_the_dead());
        }
        nodes
    }

    pub fn get(&self, number: NodeNumber) -> Arc<Node> {
        let running = self.running();
        Arc::clone(&running[usize::from(number.0) % running.len()])
    }

    pub fn clients(&self) -> Vec<Clients> {
        self.running().iter().map(|node| node.clients.clone()).collect()
    }

    async fn replace_the_dead(self) {
        loop {
            self.site.faults.death().await;
            tokio::time::sleep(DOWNTIME).await;
            let dead: Vec<usize> = {
                let running = self.running();
                (0..running.len()).filter(|number| running[*number].process.was_killed()).collect()
            };
            for number in dead {
                let node = Node::start(&self.site).await;
                let before = std::mem::replace(&mut self.running()[number], Arc::new(node));
                self.bury(&before);
            }
        }
    }

    fn bury(&self, node: &Node) {
        node.end();
        self.site.peers.set(node.instance, Line::Refused);
    }

    /// Kills a node. Another one takes its place.
    pub fn kill(&self, number: NodeNumber) {
        self.bury(&self.get(number));
        self.site.faults.note_death();
    }

    /// Stops a node in order. Another one takes its place.
    pub async fn stop(&self, number: NodeNumber) {
        let node = self.get(number);
        if !node.process.is_running() {
            return;
        }
        let has_ended = tokio::select! {
            biased;
            () = node.process.killed() => true,
            has_ended = node.stop(PATIENCE + HANG * 2 * self.site.faults.hung()) => has_ended,
        };
        if !has_ended {
            self.site.court.bench().model.breaks(Promised::NothingWaitsForEver, "the engine does not stop");
        }
        self.kill(number);
    }

    pub fn cut(&self, number: NodeNumber, wire: Wire, line: Line) {
        let node = self.get(number);
        match wire {
            Wire::Peers if node.process.is_running() => self.site.peers.set(node.instance, line),
            Wire::Peers => {}
            Wire::State | Wire::Heartbeat => node.process.set(wire, line),
        }
    }

    pub fn freeze(&self, number: NodeNumber) {
        let node = self.get(number);
        if self.site.is_shared() && node.process.is_running() {
            self.site.peers.set(node.instance, Line::Stopped);
            node.process.freeze();
        }
    }

    pub fn thaw(&self, number: NodeNumber) {
        let node = self.get(number);
        if !node.process.is_running() && !node.process.was_killed() {
            node.process.thaw();
            self.site.peers.set(node.instance, Line::Open);
        }
    }

    /// Ends the time for which a node counts as alive, until its next heartbeat. Unlike a node that leaves,
    /// it may still be writing.
    pub async fn forget(&self, number: NodeNumber) {
        if self.site.is_shared() {
            let node = self.get(number).instance;
            self.site.state().renew(node, Duration::ZERO).await.expect("the state in memory does not fail");
        }
    }

    /// Restores all lines, and lets all processes run.
    pub fn restore(&self) {
        for number in (0..self.site.tuning.nodes).map(NodeNumber) {
            self.thaw(number);
            for wire in [Wire::Peers, Wire::State, Wire::Heartbeat] {
                self.cut(number, wire, Line::Open);
            }
        }
    }

    /// Returns what a node still holds.
    pub fn unrest(&self) -> Option<(Promised, String)> {
        self.running().iter().find_map(|node| node.unrest())
    }

    /// Ends all nodes, which would keep each other.
    pub fn end(&self) {
        self.running().drain(..).for_each(|node| node.end());
    }

    fn running(&self) -> MutexGuard<'_, Vec<Arc<Node>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
