//! Ranges of one upload through several nodes (scale-out C7).

use super::*;
use domain::checksum::{Algorithm, Digest};
use domain::rejection::Rejection;
use domain::upload::Upload;
use engine::command::{BodyEnd, Unavailable, WritePosition};
use engine::peers::{ForwardOutcome, ForwardedBody, Peers};

const PART: usize = 200_000;

fn part_of(id: UploadId, part: usize) -> Append {
    let position = WritePosition::Anywhere(offset(part * PART));
    Append {
        dialect: Dialect::named("ranged"),
        position,
        count: Some(PART as u64),
        ..Append::at(Principal::server(), id, Offset::ZERO, None)
    }
}

async fn send(node: &TestNode, command: Append, byte: u8) -> Result<Upload, EngineError> {
    let mut feed = node.engine.append(command).await?;
    for _ in 0..PART / 1000 {
        if feed.push(&[byte; 1000]).await.is_err() {
            return feed.finish(BodyEnd::Cut).await;
        }
    }
    feed.finish(BodyEnd::Complete).await
}

/// Begins a range at a node, which holds the upload as long as the range is open.
async fn hold(node: &TestNode, id: UploadId, part: usize) -> Feed {
    let mut feed = node.engine.append(part_of(id, part)).await.unwrap();
    feed.push(&[9; 1000]).await.unwrap();
    feed.flush();
    until("the holder receives", async || node.engine.received_bytes(id).await.is_some_and(|bytes| bytes >= 1000))
        .await;
    feed
}

async fn find(node: &TestNode, id: UploadId) -> Upload {
    node.engine.status(&Principal::server(), id).await.unwrap().upload
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_ranges_through_all_nodes_fill_one_upload() {
    let cluster = Cluster::new();
    let nodes = [cluster.start(1).await, cluster.start(2).await, cluster.start(3).await];
    let id = nodes[0].create("ranged", 13 * PART).await;
    let mut first = hold(&nodes[0], id, 0).await;
    let others = (1..13).map(|part| send(&nodes[part % 3], part_of(id, part), u8::try_from(part).unwrap()));
    for sent in futures::future::join_all(others).await {
        // What is reported is committed.
        assert!(!sent.unwrap().record().received.pairs().is_empty());
    }
    first.push(&vec![9; PART - 1000]).await.unwrap();
    let upload = first.finish(BodyEnd::Complete).await.unwrap();
    assert_eq!(upload.stage().name(), "completed");
    assert_eq!(upload.record().lease.epoch.get(), 1, "one writer has taken all ranges");
    let download = nodes[1].engine.download(&Principal::server(), id).await.unwrap().unwrap();
    let mut stream = Box::pin(download.read(0..(13 * PART) as u64).await.unwrap());
    let mut bytes = Vec::new();
    while let Some(chunk) = futures::StreamExt::next(&mut stream).await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    for (part, bytes) in bytes.chunks(PART).enumerate() {
        let expected = if part == 0 { 9 } else { u8::try_from(part).unwrap() };
        assert!(bytes.len() == PART && bytes.iter().all(|byte| *byte == expected), "part {part}");
    }
}

/// The answer is that of the holder, whether it comes before or after the last byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejections_of_the_holder_reach_the_client() {
    let cluster = Cluster::new();
    let (holder, other) = (cluster.start(1).await, cluster.start(2).await);
    let id = holder.create("ranged", 5 * PART).await;
    let _open = hold(&holder, id, 0).await;
    send(&other, part_of(id, 1), 1).await.unwrap();

    let differs = send(&other, part_of(id, 1), 2).await;
    let expected = Rejection::DifferentBytes { at: PART as u64 };
    assert!(matches!(&differs, Err(EngineError::Rejected(why)) if *why == expected), "{differs:?}");
    let checksum = Digest::new(Algorithm::Crc32c, vec![0; 4]);
    let broken = send(&other, Append { checksum, ..part_of(id, 2) }, 2).await;
    let expected = Rejection::ChecksumMismatch(Algorithm::Crc32c);
    assert!(matches!(&broken, Err(EngineError::Rejected(why)) if *why == expected), "{broken:?}");
    send(&other, part_of(id, 2), 2).await.unwrap();
}

/// A newer request for the same range ends the older one, at whichever nodes they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_of_two_requests_for_a_range_wins_across_nodes() {
    let cluster = Cluster::new();
    let (holder, other) = (cluster.start(1).await, cluster.start(2).await);
    let id = holder.create("ranged", 5 * PART).await;
    let _open = hold(&holder, id, 0).await;
    let mut old = other.engine.append(part_of(id, 1)).await.unwrap();
    old.push(&[1; 1000]).await.unwrap();
    old.flush();
    until("it arrives", async || holder.engine.received_bytes(id).await == Some(2000)).await;
    let new = tokio::spawn({
        let (engine, command) = (holder.engine.clone(), part_of(id, 1));
        async move { engine.append(command).await.unwrap() }
    });
    tokio::time::timeout(PATIENCE, old.ended()).await.expect("it is ended without sending again");
    let superseded = old.finish(BodyEnd::Cut).await;
    assert!(matches!(superseded, Err(EngineError::Unavailable(Unavailable::Superseded))), "{superseded:?}");
    drop(new.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_range_keeps_the_bytes_that_reached_the_holder() {
    let cluster = Cluster::new();
    let (holder, other) = (cluster.start(1).await, cluster.start(2).await);
    let id = holder.create("ranged", 5 * PART).await;
    let open = hold(&holder, id, 0).await;
    let mut cut = other.engine.append(part_of(id, 1)).await.unwrap();
    cut.push(&[1; 3000]).await.unwrap();
    cut.flush();
    until("it arrives", async || holder.engine.received_bytes(id).await == Some(4000)).await;
    let kept = cut.finish(BodyEnd::Cut).await.unwrap();
    assert!(kept.record().received.pairs().contains(&(PART as u64, (PART + 3000) as u64)), "{:?}", kept.record());
    drop(open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_dies_costs_a_retry_and_no_committed_byte() {
    let cluster = Cluster::new();
    let (holder, other) = (cluster.start(1).await, cluster.start(2).await);
    let id = holder.create("ranged", 5 * PART).await;
    let _open = hold(&holder, id, 0).await;
    let mut lost = other.engine.append(part_of(id, 1)).await.unwrap();
    lost.push(&[1; 1000]).await.unwrap();
    lost.flush();
    until("it arrives", async || holder.engine.received_bytes(id).await == Some(2000)).await;
    // The holder freezes: it closes no connection, and other nodes count it as dead.
    cluster.state.leave(holder.engine.node()).await.unwrap();
    cluster.living.send_replace(cluster.state.nodes().await.unwrap().into());
    tokio::time::timeout(PATIENCE, lost.ended()).await.expect("it is ended");
    let failed = lost.finish(BodyEnd::Cut).await;
    assert!(matches!(failed, Err(EngineError::Unavailable(Unavailable::Held))), "{failed:?}");
    // The retry finds the upload free, and any bytes that count.
    let upload = send(&other, part_of(id, 1), 1).await.unwrap();
    assert!(upload.record().lease.is_of(other.engine.node()));
}

/// A body is passed on once. A node that has lost the upload meanwhile says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_hold_the_upload_takes_no_bytes_of_it() {
    let cluster = Cluster::new();
    let (holder, other, third) = (cluster.start(1).await, cluster.start(2).await, cluster.start(3).await);
    let id = holder.create("ranged", 5 * PART).await;
    let _open = hold(&holder, id, 0).await;
    let not_holder = third.link.forward(other.engine.node(), part_of(id, 1), ForwardedBody::empty()).await.unwrap();
    assert!(matches!(not_holder, ForwardOutcome::NotHolder), "{not_holder:?}");
    assert_eq!(find(&other, id).await.record().lease.holder, Some(holder.engine.node()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_bodies_are_passed_on_than_allowed() {
    let cluster = Cluster::new();
    let holder = cluster.start(1).await;
    let limits = PeerLimits { max_forwarded: 1, ..PeerLimits::default() };
    let other = cluster.start_with(2, identity(), LinkSettings::default(), limits).await;
    let id = holder.create("ranged", 5 * PART).await;
    let _open = hold(&holder, id, 0).await;
    let first = other.engine.append(part_of(id, 1)).await.unwrap();
    let second = other.engine.append(part_of(id, 2)).await;
    assert!(matches!(second, Err(EngineError::Unavailable(Unavailable::Busy))), "{second:?}");
    drop(first);
    until("there is a slot again", async || send(&other, part_of(id, 2), 2).await.is_ok()).await;
}

/// The client is read only as fast as the holder writes: what is on the way is bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_without_memory_holds_up_the_client() {
    let cluster = Cluster::new();
    let (holder, other) = (cluster.start(1).await, cluster.start(2).await);
    let length = 200 * MIB;
    let id = holder.create("ranged", length).await;
    let _open = hold(&holder, id, 0).await;
    let command = Append { count: Some((length - PART) as u64), ..part_of(id, 1) };
    let mut feed = other.engine.append(command).await.unwrap();
    let mut taken = Vec::new();
    while let Ok(buffer) = tokio::time::timeout(Duration::from_millis(50), holder.engine.buffers().take(0, MIB)).await {
        taken.push(buffer);
    }
    let piece = vec![1; MIB];
    let mut sent = 0;
    while let Ok(pushed) = tokio::time::timeout(Duration::from_secs(1), feed.push(&piece)).await {
        pushed.unwrap();
        sent += 1;
        assert!(sent < 40, "the client is not held up");
    }
    drop(taken);
    tokio::time::timeout(PATIENCE, feed.push(&piece)).await.expect("it continues").unwrap();
}
