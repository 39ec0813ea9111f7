//! Settings of a node in a cluster, and the role of the node.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Url;

use crate::config::reader::{Parsed, Reader};
use crate::config::server::address;
use crate::config::units::{hours, minutes, ms, secs};
use cluster::{DrainSettings, LinkSettings};
use domain::node::{NodeName, NodeRole};
use engine::peers::PeerLimits;

/// Settings of a node that shares its state and its uploads with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The name that all nodes of the cluster have in common.
    pub name: NodeName,
    /// Port 0 selects a free port.
    pub peer_listen: SocketAddr,
    /// URL at which other nodes reach this one. `None`: the address of the listener.
    pub peer_url: Option<String>,
    pub drain: DrainSettings,
    pub peers: PeerLimits,
    pub link: LinkSettings,
}

impl ClusterConfig {
    /// Reads the settings; `None` outside cluster mode. A client may be silent for `idle_timeout`.
    pub(super) fn read(from: &mut Reader, idle_timeout: Duration) -> Option<Self> {
        let name = from.text("cluster.name", name);
        let peer_listen = from.text("cluster.peer_listen", optional_address);
        let peer_url = from.text("cluster.peer_url", optional_peer_url);
        let drain = DrainSettings {
            notice: from.duration("cluster.drain_notice", Duration::ZERO..=minutes(10)),
            grace: from.duration("cluster.drain_grace", Duration::ZERO..=hours(1)),
        };
        let link = read_link(from);
        let peers = read_peer_limits(from, &link, idle_timeout);
        let is_used = peer_listen.is_some() || peer_url.is_none();
        from.require(is_used, &["cluster.peer_url", "cluster.peer_listen"], |_| {
            "has no effect without cluster.peer_listen; set that, or leave cluster.peer_url empty".to_owned()
        });
        let peer_listen = peer_listen?;
        let is_reached = peer_url.is_some() || !peer_listen.ip().is_unspecified();
        from.require(is_reached, &["cluster.peer_listen", "cluster.peer_url"], |_| {
            "listens on all addresses, of which other nodes need one; set cluster.peer_url, such as \
             https://10.0.0.5:8443"
                .to_owned()
        });
        Some(Self { name, peer_listen, peer_url, drain, peers, link })
    }
}

fn read_link(from: &mut Reader) -> LinkSettings {
    LinkSettings {
        connect_timeout: from.duration("cluster.connect_timeout", ms(10)..=secs(10)),
        handshake_timeout: from.duration("cluster.handshake_timeout", ms(100)..=minutes(1)),
        idle_timeout: from.duration("cluster.idle_timeout", secs(1)..=hours(1)),
        stop_timeout: from.duration("cluster.stop_timeout", Duration::ZERO..=minutes(1)),
        max_handshakes: from.count("cluster.max_handshakes", 1..=100_000),
        max_connections: from.count("cluster.max_connections", 1..=100_000),
    }
}

/// Reads the limits of calls to the engines of other nodes. A client may be silent for `idle_timeout`.
fn read_peer_limits(from: &mut Reader, link: &LinkSettings, idle_timeout: Duration) -> PeerLimits {
    let silent_after = from.duration("cluster.takeover_timeout", ms(100)..=minutes(1));
    from.require(
        link.connect_timeout <= silent_after,
        &["cluster.connect_timeout", "cluster.takeover_timeout"],
        |_| "is longer than cluster.takeover_timeout, which includes it; shorten it".to_owned(),
    );
    PeerLimits {
        silent_after,
        progress_timeout: from.duration("cluster.progress_timeout", ms(10)..=secs(10)),
        progress_reuse: from.duration("cluster.progress_reuse", Duration::ZERO..=secs(10)),
        max_forwarded: from.count("cluster.max_forwarded", 1..=100_000),
        // The node that passes a request on ends it first.
        forwarded_idle_timeout: 2 * idle_timeout,
    }
}

/// Reads the role. A node outside a cluster has no other node that could serve the rest.
pub(super) fn read_role(from: &mut Reader, cluster: Option<&ClusterConfig>) -> NodeRole {
    let role = from.text("role", role);
    from.require(role == NodeRole::All || cluster.is_some(), &["role", "cluster.peer_listen"], |_| {
        "requires other nodes, which serve the rest; set cluster.peer_listen, or leave role = \"all\"".to_owned()
    });
    role
}

/// Rejects cluster mode without the parts that nodes share. `shares` says which of them are configured.
pub(super) fn check(from: &mut Reader, shares: SharedParts) {
    let SharedParts { has_database, has_server_key, shares_storage } = shares;
    from.require(has_database, &["cluster.peer_listen", "database.url", "database.url_file"], |_| {
        "requires a PostgreSQL database that all nodes share; set database.url or database.url_file".to_owned()
    });
    from.require(has_server_key, &["cluster.peer_listen", "auth.server_key_file"], |_| {
        "requires a server key that all nodes share; copy one key file to every node, such as longshore.key of a \
         server that has run alone, and name it in auth.server_key_file"
            .to_owned()
    });
    from.require(shares_storage, &["cluster.peer_listen", "storage.shared", "storage.kind"], |_| {
        "requires that all nodes store uploads in the same place; set storage.shared = true, or keep them in an object \
         store"
            .to_owned()
    });
}

/// The parts that the nodes of a cluster share, and whether they are configured.
#[derive(Debug, Clone, Copy)]
pub(super) struct SharedParts {
    pub(super) has_database: bool,
    pub(super) has_server_key: bool,
    pub(super) shares_storage: bool,
}

fn name(text: &str) -> Parsed<NodeName> {
    let hint = "not a name; write 1 to 255 visible ASCII characters without spaces, such as longshore";
    NodeName::new(text).ok_or_else(|| hint.to_owned())
}

fn optional_address(text: &str) -> Parsed<Option<SocketAddr>> {
    if text.is_empty() { Ok(None) } else { address(text).map(Some) }
}

fn optional_peer_url(text: &str) -> Parsed<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    let is_plain = |url: &Url| {
        url.scheme() == "https"
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    };
    let hint = "not a usable URL; write https://, a host and a port, such as https://10.0.0.5:8443";
    let url = Url::parse(text).ok().filter(is_plain).ok_or(hint)?;
    Ok(Some(url.as_str().trim_end_matches('/').to_owned()))
}

fn role(name: &str) -> Parsed<NodeRole> {
    NodeRole::by_name(name).ok_or_else(|| "write all, upload or read".to_owned())
}
