//! The registration of this node: as the only one, or as one of the nodes of a cluster.

use std::sync::Arc;

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::database::Database;
use crate::config::{ClusterConfig, Config};
use cluster::{LivingNodes, Member, MembershipSettings, PeerIdentity, PeerLink, PeerListener, admission, reachability};
use domain::node::Node;
use engine::peers::PeerLimits;
use engine::{Engine, Fence};
use keyring::ServerKeys;
use state::Membership;

/// The registration of this node. It lasts until [`Registration::end`].
pub(super) struct Registration {
    pub(super) node: Node,
    database: Database,
    /// `None` for a node that works alone.
    cluster: Option<ClusterNode>,
}

/// A node of a cluster: its heartbeat, and its connections to the other nodes.
struct ClusterNode {
    living: LivingNodes,
    fence: Fence,
    heartbeat: JoinHandle<Member>,
    link: Arc<PeerLink>,
    limits: PeerLimits,
    /// Serves the other nodes once there is an engine.
    listener: Option<PeerListener>,
    serving: Option<JoinHandle<()>>,
    stop_heartbeat: CancellationToken,
    stop_serving: CancellationToken,
}

impl Registration {
    /// Registers the node. In a cluster it counts as alive from then on, because a task sends its heartbeat.
    pub(super) async fn begin(
        config: &Config,
        server_keys: &ServerKeys,
        database: &Database,
        mut node: Node,
    ) -> anyhow::Result<Self> {
        let cluster = match &config.cluster {
            None => {
                // The folder and the database belong to this process alone.
                let joined = database.nodes().join(&node, Membership::Alone, None).await;
                joined.context(NOT_REGISTERED)?;
                None
            }
            Some(cluster) => Some(ClusterNode::join(cluster, server_keys, database, &mut node).await?),
        };
        tracing::info!(node = %node.name, instance = %node.instance, role = node.role.name(), "started a node");
        Ok(Self { node, database: database.clone(), cluster })
    }

    /// Connects an engine with the engines of other nodes.
    pub(super) fn connect(&self, engine: Engine) -> Engine {
        match &self.cluster {
            None => engine,
            Some(cluster) => {
                let link = Arc::clone(&cluster.link);
                engine.fenced_by(cluster.fence.clone()).with_peers(link, cluster.limits)
            }
        }
    }

    /// Answers the calls of other nodes from now on.
    pub(super) fn serve_peers(&mut self, engine: &Engine) {
        let Some(cluster) = &mut self.cluster else { return };
        if let Some(listener) = cluster.listener.take() {
            cluster.serving = Some(tokio::spawn(listener.serve(engine.clone(), cluster.stop_serving.clone())));
            let (link, living) = (Arc::clone(&cluster.link), cluster.living.clone());
            tokio::spawn(async move { reachability::check(&*link, &living).await });
        }
    }

    /// Returns the nodes that count as alive; `None` for a node that works alone.
    pub(super) fn living(&self) -> Option<LivingNodes> {
        self.cluster.as_ref().map(|cluster| cluster.living.clone())
    }

    /// Returns the number of nodes that send webhooks at present.
    pub(super) fn senders(&self) -> webhook::SenderCount {
        match self.living() {
            Some(living) => Arc::new(move || living.senders()),
            None => Arc::new(|| 1),
        }
    }

    /// Ends the registration. If a writer may still be at work (`is_idle` is false), other nodes wait until
    /// they count this one as dead.
    pub(super) async fn end(self, is_idle: bool) {
        match self.cluster {
            // The next start counts it as dead.
            None if !is_idle => {}
            None => {
                if let Err(error) = self.database.nodes().leave(self.node.instance).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "could not unregister this node from the database");
                }
            }
            Some(cluster) => cluster.end(is_idle).await,
        }
    }
}

const NOT_REGISTERED: &str = "could not register this node in the database";

impl ClusterNode {
    async fn join(
        config: &ClusterConfig,
        server_keys: &ServerKeys,
        database: &Database,
        node: &mut Node,
    ) -> anyhow::Result<Self> {
        let record = database.cluster_record().context("SQLite is for one server")?;
        admission::admit(&*record, &config.name, server_keys).await.context("could not join the cluster")?;
        let identity = PeerIdentity::derive(server_keys, config.name.as_str())
            .context("could not derive the certificate of this node from the server key")?;
        let listener = PeerListener::bind(config.peer_listen, &identity, config.link.clone())
            .with_context(|| format!("could not listen on {} (cluster.peer_listen)", config.peer_listen))?;
        node.peer_url = Some(config.peer_url.clone().unwrap_or_else(|| format!("https://{}", listener.address())));
        let joining = Member::join(node.clone(), database.nodes(), MembershipSettings::default());
        let member = joining.await.context(NOT_REGISTERED)?;
        let (living, fence) = (member.living(), member.fence());
        let link = PeerLink::new(&config.link, &identity, living.clone());
        let link = link.context("could not set up calls to other nodes")?;
        let (stop_heartbeat, stop_serving) = (CancellationToken::new(), CancellationToken::new());
        let heartbeat = tokio::spawn(member.run(stop_heartbeat.clone()));
        let (listener, serving) = (Some(listener), None);
        let limits = config.peers;
        Ok(Self { living, fence, heartbeat, link, limits, listener, serving, stop_heartbeat, stop_serving })
    }

    async fn end(self, is_idle: bool) {
        self.stop_heartbeat.cancel();
        if let Ok(member) = self.heartbeat.await
            && is_idle
        {
            member.leave().await;
        }
        self.stop_serving.cancel();
        if let Some(serving) = self.serving {
            // It ends at once; its calls are short.
            let _ = serving.await;
        }
    }
}
