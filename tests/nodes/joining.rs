//! Nodes that join a cluster, and those that must not.

use crate::cluster::Cluster;
use crate::support::patience::{until, until_fits};
use crate::support::program::run;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_list_each_other_and_two_may_have_one_name() {
    let cluster = Cluster::new();
    let [first, second] = ["a", "b"].map(|name| cluster.start(name, &[]));
    let reader = cluster.start("b", &["--role", "read"]);
    for node in [&first, &second, &reader] {
        let names = until_fits("it lists all nodes", async || node.sees().await, |nodes| nodes.len() == 3).await;
        assert_eq!(names, [("a".to_owned(), false), ("b".to_owned(), false), ("b".to_owned(), false)]);
    }
    let server = format!("http://{}", first.address);
    let listed = run(&["nodes", "--server", &server]);
    assert!(listed.stdout.contains("read") && listed.stdout.lines().count() == 4, "{listed:?}");
    // scale-out F27: their name does not say which of them is meant.
    let mut client = first.client().await;
    let drained = client.request("POST", "/api/v1/nodes/b/drain", &[], b"").await;
    assert_eq!((drained.status, drained.problem().as_str()), (409, "ambiguous-node"));
    let drained = client.request("POST", "/api/v1/nodes/c/drain", &[], b"").await;
    assert_eq!((drained.status, drained.problem().as_str()), (404, "no-such-node"));
    let mut metrics = async || String::from_utf8_lossy(&client.get("/metrics").await.body).into_owned();
    until_fits("it has read the list", &mut metrics, |all| all.contains("\nlongshore_nodes_alive 3\n")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_belong_to_the_cluster_does_not_start() {
    let cluster = Cluster::new();
    let _first = cluster.start("a", &[]);
    let other_key = cluster.key_file(2);
    for (flags, said) in [
        (["--auth-server-key-file", other_key.to_str().unwrap()], "have another server key"),
        (["--cluster-name", "another"], "belongs to the cluster longshore"),
    ] {
        let ran = cluster.refused(&flags);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(said), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_nobody_reaches_is_in_the_log() {
    let cluster = Cluster::new();
    let node = cluster.start("a", &["--cluster-peer-url", "https://127.0.0.1:1"]);
    until("the log names it", async || node.program.stderr().contains("https://127.0.0.1:1").then_some(())).await;
    assert!(node.program.stderr().contains("check cluster.peer_url"), "{}", node.program.stderr());
}
