//! Cluster mode: what it requires, and what says so.

use super::*;
use domain::node::NodeRole;
use engine::peers::PeerLimits;

const URL: (&str, &str) = ("LONGSHORE_DATABASE_URL", "postgres://longshore@127.0.0.1:5433/uploads");
const SHARED: (&str, &str) = ("LONGSHORE_STORAGE_SHARED", "true");
const LISTEN: (&str, &str) = ("LONGSHORE_CLUSTER_PEER_LISTEN", "10.0.0.5:8443");

/// Returns the folder and the path of a key file.
fn key_file() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    fs::write(&path, ServerKeys::generate([7; 32], [7; 4]).to_text()).unwrap();
    let path = path.display().to_string();
    (folder, path)
}

#[test]
fn without_an_address_for_peers_a_server_works_alone() {
    let config = Config::default();
    assert_eq!((config.cluster, config.role), (None, NodeRole::All));
    assert!(Config::read(&env(&[URL])).unwrap().postgres.unwrap().alone);
}

#[test]
fn a_node_of_a_cluster_shares_what_the_others_use() {
    let (_folder, key) = key_file();
    let given = [URL, LISTEN, SHARED, ("LONGSHORE_AUTH_SERVER_KEY_FILE", &*key), ("LONGSHORE_ROLE", "read")];
    let config = Config::read(&env(&given)).unwrap();
    let cluster = config.cluster.unwrap();
    assert_eq!(cluster.name.as_str(), "longshore");
    assert_eq!(cluster.peer_listen.to_string(), "10.0.0.5:8443");
    assert_eq!(cluster.peer_url, None);
    assert_eq!((cluster.drain.notice, cluster.drain.grace), (Duration::from_secs(3), Duration::from_secs(10)));
    assert_eq!(cluster.link, ::cluster::LinkSettings::default());
    let limits = PeerLimits { forwarded_idle_timeout: cluster.peers.forwarded_idle_timeout, ..PeerLimits::default() };
    assert_eq!(cluster.peers, limits);
    assert_eq!(config.role, NodeRole::Read);
    assert!(!config.postgres.unwrap().alone);
}

#[test]
fn what_is_missing_or_wrong_is_said() {
    let (_folder, key) = key_file();
    let key = ("LONGSHORE_AUTH_SERVER_KEY_FILE", &*key);
    let peer_url = |url| ("LONGSHORE_CLUSTER_PEER_URL", url);
    for (given, expected) in [
        (vec![LISTEN, SHARED, URL], "requires a server key that all nodes share"),
        (vec![LISTEN, URL, key], "set storage.shared = true"),
        (vec![("LONGSHORE_CLUSTER_PEER_LISTEN", "0.0.0.0:8443"), SHARED, URL, key], "set cluster.peer_url"),
        (vec![("LONGSHORE_CLUSTER_PEER_LISTEN", "a:8443"), SHARED, URL, key], "not an address and port"),
        (vec![LISTEN, SHARED, URL, key, peer_url("http://10.0.0.5:8443")], "write https://, a host and a port"),
        (vec![LISTEN, SHARED, URL, key, peer_url("https://10.0.0.5:8443/?a=b")], "write https://, a host and a port"),
        (vec![LISTEN, SHARED, URL, key, ("LONGSHORE_CLUSTER_NAME", "two words")], "without spaces"),
        (vec![LISTEN, SHARED, URL, key, ("LONGSHORE_CLUSTER_CONNECT_TIMEOUT", "2s")], "longer than cluster.takeover"),
        (vec![peer_url("https://10.0.0.5:8443")], "has no effect without cluster.peer_listen"),
        (vec![("LONGSHORE_ROLE", "read")], "requires other nodes"),
        (vec![("LONGSHORE_ROLE", "write")], "write all, upload or read"),
    ] {
        let lines = errors(&env(&given));
        assert!(lines.len() == 1 && lines[0].contains(expected), "{given:?}: {lines:?}");
    }
}

/// scale-out C10
#[test]
fn a_container_has_the_time_to_drain_and_to_shut_down() {
    let (_folder, key) = key_file();
    let given = [URL, LISTEN, SHARED, ("LONGSHORE_AUTH_SERVER_KEY_FILE", &*key)];
    let config = Config::read(&env(&given)).unwrap();
    let cluster = config.cluster.unwrap();
    let drain = cluster.drain;
    assert_eq!(drain, ::cluster::DrainSettings::default());
    let compose = include_str!("../../../docker/compose.yaml");
    let grace = compose.lines().find_map(|line| line.trim().strip_prefix("stop_grace_period: "));
    let grace = grace.and_then(crate::config::parse_duration).unwrap();
    assert!(drain.longest() + config.server.shutdown_timeout + cluster.link.stop_timeout < grace, "{grace:?}");
}

#[test]
fn everything_that_is_missing_is_said_at_once() {
    let lines = errors(&env(&[LISTEN]));
    let expected = ["requires a PostgreSQL database", "requires a server key", "requires that all nodes store uploads"];
    assert!(lines.len() == 3 && expected.iter().all(|part| lines.iter().any(|line| line.contains(part))), "{lines:?}");
}
