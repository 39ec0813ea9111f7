//! Uploads that move from node to node, and from a node that dies.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::support::client::Client;
use crate::support::patience::until;
use crate::support::seeded::Seeded;

/// scale-out C3: each request reaches a node that does not hold the upload.
#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_an_upload_may_reach_another_node() {
    const UPLOADS: usize = 12;
    const PIECE: usize = 128 << 10;
    const PIECES: usize = 6;
    let cluster = Cluster::new();
    let nodes = ["a", "b", "c"].map(|name| cluster.start(name, &[]));
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
    let mut uploading = JoinSet::new();
    for upload in 0..UPLOADS {
        let addresses = addresses.clone();
        uploading.spawn(async move {
            let bytes = Seeded::new(upload as u64).bytes(PIECE * PIECES);
            let at = |step: usize| addresses[(upload + step) % addresses.len()];
            let path = Client::connect(at(0)).await.create(bytes.len() as u64).await;
            for (step, piece) in bytes.chunks(PIECE).enumerate() {
                let offset = (step * PIECE) as u64;
                let mut client = Client::connect(at(step + 1)).await;
                assert_eq!(client.offset(&path).await, offset, "{path}");
                let answer = client.patch(&path, offset, piece).await;
                assert_eq!(answer.status, 204, "{path}: {answer:?}");
            }
            let loaded = Client::connect(at(0)).await.get(&path).await;
            assert!(loaded.status == 200 && loaded.body == bytes, "{path}: {}", loaded.status);
        });
    }
    while let Some(uploaded) = uploading.join_next().await {
        uploaded.unwrap();
    }
}

/// scale-out C2
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_is_replaced_within_seconds() {
    let cluster = Cluster::new();
    let [first, second] = ["a", "b"].map(|name| cluster.start(name, &[]));
    let bytes = Seeded::new(1).bytes(64 << 10);
    let path = first.client().await.create(bytes.len() as u64 * 2).await;
    assert_eq!(first.client().await.patch(&path, 0, &bytes).await.status, 204);
    let mut live = first.client().await;
    live.begin_patch(&path, bytes.len() as u64, bytes.len() as u64).await;
    live.send(&bytes[..1_000]).await;
    let at = first.address;
    until("the node has taken bytes", async || {
        let status = Client::connect(at).await.status(&path).await;
        (status["received"].as_u64() > Some(bytes.len() as u64)).then_some(())
    })
    .await;
    let began = Instant::now();
    first.program.signal("KILL");
    let mut client = second.client().await;
    let finished = until("another node continues", async || {
        let head = client.head(&path).await;
        let offset: u64 = head.header("upload-offset")?.parse().unwrap();
        let rest = [&bytes[..], &bytes[..]].concat()[usize::try_from(offset).unwrap()..].to_vec();
        Some(client.patch(&path, offset, &rest).await).filter(|answer| answer.status == 204)
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}: {finished:?}", began.elapsed());
    assert_eq!(client.get(&path).await.body, [&bytes[..], &bytes[..]].concat());
}
