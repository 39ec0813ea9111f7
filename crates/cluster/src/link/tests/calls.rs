//! Calls between the nodes of one cluster.

use super::*;
use engine::command::BodyEnd;
use engine::peers::{Peers, YieldAnswer, YieldCondition};

#[tokio::test]
async fn an_upload_moves_from_node_to_node() {
    let cluster = Cluster::new();
    let nodes = [cluster.start(1).await, cluster.start(2).await, cluster.start(3).await];
    let id = nodes[0].create("tus", 9 * 1000).await;
    for (part, node) in nodes.iter().cycle().take(9).enumerate() {
        let mut feed = node.begin(id, part * 1000).await.unwrap();
        feed.push(&[7; 1000]).await.unwrap();
        let upload = feed.finish(BodyEnd::Complete).await.unwrap();
        assert_eq!(upload.offset(), offset((part + 1) * 1000));
    }
    let found = nodes[0].engine.status(&Principal::server(), id).await.unwrap().upload;
    assert_eq!(found.stage().name(), "completed");
    assert_eq!(found.record().lease.epoch.get(), 9, "each part moved the upload, by a clean takeover");
}

#[tokio::test]
async fn each_answer_arrives_as_it_was_given() {
    let cluster = Cluster::new();
    let (holder, other) = (cluster.start(1).await, cluster.start(2).await);
    let id = holder.create("tus", 10_000).await;
    let mut feed = holder.begin(id, 0).await.unwrap();
    feed.push(&[7; 5_000]).await.unwrap();
    feed.flush();
    until("the bytes are received", async || holder.engine.received_bytes(id).await == Some(5_000)).await;

    let peer = holder.engine.node();
    let absent = UploadId::new(Timestamp::from_unix_ms(1), [9; 10]);
    let readings = other.link.progress(peer, &[absent, id]).await.unwrap();
    assert!(readings[0].is_none());
    let reading = readings[1].unwrap();
    assert_eq!(reading.received_bytes, 5_000);
    assert!(reading.age < PATIENCE);

    other.link.checkpoint(peer, id).await.unwrap();
    let committed = cluster_offset(&other, id).await;
    assert_eq!(committed, offset(5_000));
    let answer = other.link.yield_upload(peer, id, YieldCondition::At(offset(1))).await.unwrap();
    assert_eq!(answer, YieldAnswer::Elsewhere(offset(5_000)));
    let answer = other.link.yield_upload(peer, id, YieldCondition::Idle).await.unwrap();
    assert_eq!(answer, YieldAnswer::Busy);
    let answer = other.link.yield_upload(peer, id, YieldCondition::Always).await.unwrap();
    assert_eq!(answer, YieldAnswer::Released);
    assert!(feed.finish(BodyEnd::Complete).await.is_err());
}

async fn cluster_offset(node: &TestNode, id: UploadId) -> Offset {
    node.engine.status(&Principal::server(), id).await.unwrap().upload.offset()
}

#[tokio::test]
async fn progress_of_more_uploads_than_one_call_may_name() {
    let cluster = Cluster::new();
    let (holder, other) = (cluster.start(1).await, cluster.start(2).await);
    let id = holder.create("tus", 10_000).await;
    let _feed = holder.begin(id, 0).await.unwrap();
    let absent = |number: u64| {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&number.to_be_bytes());
        UploadId::new(Timestamp::from_unix_ms(1), random)
    };
    let mut wanted: Vec<UploadId> = (0..2_500).map(absent).collect();
    wanted[2_400] = id;
    let readings = other.link.progress(holder.engine.node(), &wanted).await.unwrap();
    let found: Vec<usize> = (0..2_500).filter(|place| readings[*place].is_some()).collect();
    assert_eq!((readings.len(), found), (2_500, vec![2_400]));
}

#[tokio::test]
async fn a_node_that_is_gone_is_noticed_at_once() {
    let cluster = Cluster::new();
    let (holder, other) = (cluster.start(1).await, cluster.start(2).await);
    let peer = holder.engine.node();
    let id = holder.create("tus", 10_000).await;
    other.link.checkpoint(peer, id).await.unwrap();
    holder.stop.cancel();
    holder.serving.await.unwrap();
    let began = Instant::now();
    let refused = other.link.checkpoint(peer, id).await.unwrap_err().to_string();
    assert!(refused.contains("refused"), "{refused}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());

    let unregistered = InstanceId::new(Timestamp::from_unix_ms(1), [9; 10]);
    let error = other.link.checkpoint(unregistered, id).await.unwrap_err().to_string();
    assert!(error.contains("not registered"), "{error}");
}

/// A later run of the program has the address of an earlier one, whose end is not known yet.
#[tokio::test]
async fn a_call_for_an_earlier_run_has_no_answer() {
    let cluster = Cluster::new();
    let (later, other) = (cluster.start(1).await, cluster.start(2).await);
    let earlier = cluster.register(3, later.address).await;
    let id = later.create("tus", 10_000).await;
    let error = other.link.yield_upload(earlier, id, YieldCondition::Always).await.unwrap_err().to_string();
    assert!(error.contains("421"), "{error}");
}
