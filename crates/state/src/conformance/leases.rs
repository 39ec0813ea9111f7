//! Several nodes on one state: each check opens it twice.

use futures::future::join_all;

use super::*;
use crate::{CommitIdentity, Error, Membership, SweepSelection, SweepShare, resolve_lost_answer};
use domain::id::{CommitId, InstanceId};
use domain::node::{Epoch, Handover, Lease, Node, NodeName, NodeRole};
use domain::principal::TenantScope;

pub fn node(number: u8) -> Node {
    let instance = InstanceId::new(NOW, [number; 10]);
    Node::alone(instance, NodeName::new("a-node").unwrap(), "1.0.0")
}

/// Returns two handles on one state, each of a live node.
pub async fn two_nodes<P: StateFixture>(place: &P) -> [(Arc<P::Store>, InstanceId); 2] {
    let (first, second) = (place.open().await, place.open().await);
    for (store, number) in [(&first, 1), (&second, 2)] {
        store.join(&node(number), Membership::Others, None).await.unwrap();
    }
    [(first, node(1).instance), (second, node(2).instance)]
}

/// Inserts an upload that this node holds.
async fn insert_held<S: UploadStore>(store: &S, number: u8, node: InstanceId) -> Upload {
    let mut upload = new_upload(number);
    upload.assign_to(node);
    store.insert(change_of(upload)).await.unwrap()
}

/// Returns a lease that was taken over cleanly since it was first held.
fn held_by(holder: InstanceId, epoch: u64) -> Option<Lease> {
    Some(Lease { holder: Some(holder), epoch: Epoch::new(epoch), generation: Epoch::new(1) })
}

/// Returns a lease whose last takeover was unclean.
fn taken_by(holder: InstanceId, epoch: u64) -> Option<Lease> {
    Some(Lease { holder: Some(holder), epoch: Epoch::new(epoch), generation: Epoch::new(epoch) })
}

pub async fn a_node_that_lives_keeps_what_it_holds<P: StateFixture>(place: P) {
    let [(first, one), (second, two)] = two_nodes(&place).await;
    let id = first.insert(change_of(new_upload(1))).await.unwrap().id();
    assert_eq!(first.find(TenantScope::All, id).await.unwrap().unwrap().record().lease, Lease::NONE);
    assert_eq!(first.acquire(id, one).await.unwrap(), held_by(one, 1));
    assert_eq!(first.acquire(id, one).await.unwrap(), held_by(one, 1), "taking it up again changes nothing");
    assert_eq!(second.acquire(id, two).await.unwrap(), held_by(one, 1));

    first.leave(one).await.unwrap();
    assert_eq!(second.acquire(id, two).await.unwrap(), held_by(two, 2));
    assert_eq!(
        second.find(TenantScope::All, id).await.unwrap().unwrap().record().version,
        1,
        "nothing else has changed"
    );
    assert_eq!(first.acquire(id, one).await.unwrap(), held_by(two, 2));
    assert_eq!(first.acquire(new_upload(9).id(), one).await.unwrap(), None);
}

/// The record still has the identifier and version of the commit, but another node now holds the upload.
pub async fn a_commit_that_was_taken_over_is_a_conflict<P: StateFixture>(place: P) {
    let [(first, one), (second, two)] = two_nodes(&place).await;
    let lost = || Err(Error::Unanswered { operation: "commit an upload" });
    let mut upload = insert_held(&*first, 1, one).await;
    let id = upload.id();
    receive(&mut upload, 10, at(1));
    upload.set_commit_id(CommitId::new(NOW, [1; 10]));
    let signed = CommitIdentity::of(&upload);
    let committed = first.commit(change_of(upload)).await.unwrap();
    assert_eq!(resolve_lost_answer(&*first, signed, lost()).await.unwrap(), committed);

    first.leave(one).await.unwrap();
    assert_eq!(second.acquire(id, two).await.unwrap(), held_by(two, 2));
    let taken = resolve_lost_answer(&*first, signed, lost()).await;
    assert!(matches!(taken, Err(Error::Conflict(conflicted)) if conflicted == id), "{taken:?}");
}

pub async fn a_late_commit_of_a_lost_lease_changes_nothing<P: StateFixture>(place: P) {
    let [(first, one), (second, two)] = two_nodes(&place).await;
    let read = insert_held(&*first, 1, one).await;
    let id = read.id();
    first.leave(one).await.unwrap();
    second.acquire(id, two).await.unwrap();
    let taken_over = second.find(TenantScope::All, id).await.unwrap().unwrap();

    let mut late = read;
    receive(&mut late, 5, at(1));
    assert_eq!(late.record().version, taken_over.record().version, "the version alone would let it pass");
    assert!(matches!(first.commit(change_of(late)).await, Err(Error::Conflict(conflicted)) if conflicted == id));
    assert_eq!(second.find(TenantScope::All, id).await.unwrap().as_ref(), Some(&taken_over));
    assert_eq!(second.events_of(TenantScope::All, id, 0, 10).await.unwrap().len(), 1);

    let mut next = taken_over;
    receive(&mut next, 7, at(2));
    let committed = second.commit(change_of(next)).await.unwrap();
    assert_eq!(first.find(TenantScope::All, id).await.unwrap(), Some(committed));
}

pub async fn one_of_many_nodes_takes_what_is_free<P: StateFixture>(place: P) {
    let store = place.open().await;
    let id = store.insert(change_of(new_upload(1))).await.unwrap().id();
    for number in 1..=8 {
        store.join(&node(number), Membership::Others, None).await.unwrap();
    }
    let handles = [place.open().await, place.open().await];
    let rivals = (1..=8_u8).map(|number| {
        let store = Arc::clone(&handles[usize::from(number) % 2]);
        tokio::spawn(async move { store.acquire(id, node(number).instance).await.unwrap().unwrap() })
    });
    let leases: Vec<Lease> = join_all(rivals).await.into_iter().map(Result::unwrap).collect();
    let holder = leases[0].holder.expect("another node has it");
    assert!(leases.iter().all(|lease| Some(*lease) == held_by(holder, 1)), "{leases:?}");
}

pub async fn a_node_counts_as_alive_as_long_as_it_said<P: StateFixture>(place: P) {
    const LONG: Duration = Duration::from_secs(3_600);
    let (first, second) = (place.open().await, place.open().await);
    let [one, two, three] = [1, 2, 3].map(|number| node(number).instance);
    first.join(&node(1), Membership::Others, Some(Duration::ZERO)).await.unwrap();
    second.join(&node(2), Membership::Others, Some(LONG)).await.unwrap();
    let id = insert_held(&*first, 1, one).await.id();
    assert!(!first.renew(one, LONG).await.unwrap(), "its time was over");
    assert_eq!(second.acquire(id, two).await.unwrap(), taken_by(two, 2));
    assert_eq!(first.acquire(id, one).await.unwrap(), taken_by(two, 2), "the dead take nothing");

    assert!(second.renew(two, LONG).await.unwrap());
    first.join(&node(3), Membership::Others, Some(LONG)).await.unwrap();
    assert_eq!(first.acquire(id, three).await.unwrap(), taken_by(two, 2));
    assert!(second.renew(two, Duration::ZERO).await.unwrap());
    assert_eq!(first.acquire(id, three).await.unwrap(), taken_by(three, 3));
    assert!(!second.renew(two, LONG).await.unwrap());
}

pub async fn a_start_beside_a_running_node_takes_nothing<P: StateFixture>(place: P) {
    let first = place.open().await;
    first.join(&node(1), Membership::Alone, None).await.unwrap();
    let one = node(1).instance;
    let mut held = insert_held(&*first, 1, one).await;

    let second = place.open().await;
    second.join(&node(2), Membership::Others, None).await.unwrap();
    assert_eq!(second.acquire(held.id(), node(2).instance).await.unwrap(), held_by(one, 1));
    receive(&mut held, 5, at(1));
    let held = first.commit(change_of(held)).await.unwrap();

    // A node that joins as alone is trusted: no other node can be at work.
    let third = place.open().await;
    third.join(&node(3), Membership::Alone, None).await.unwrap();
    assert_eq!(third.acquire(held.id(), node(3).instance).await.unwrap(), taken_by(node(3).instance, 2));
    assert!(!first.renew(one, Duration::from_secs(1)).await.unwrap());
}

pub async fn living_nodes_are_listed_as_they_registered<P: StateFixture>(place: P) {
    const LONG: Duration = Duration::from_secs(3_600);
    let (first, second) = (place.open().await, place.open().await);
    let upload = Node {
        role: NodeRole::Upload,
        version: "1.2.3".to_owned(),
        peer_url: Some("https://upload-2:8443".to_owned()),
        ..node(2)
    };
    let read = Node { role: NodeRole::Read, name: NodeName::new("reader").unwrap(), ..node(1) };
    second.join(&upload, Membership::Others, Some(LONG)).await.unwrap();
    first.join(&read, Membership::Others, None).await.unwrap();
    first.join(&node(3), Membership::Others, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(second.nodes().await.unwrap(), [read.clone(), upload.clone()], "in the order of their instances");
    assert!(second.renew(upload.instance, LONG).await.unwrap());
    assert_eq!(first.nodes().await.unwrap(), [read.clone(), upload.clone()]);
    second.leave(upload.instance).await.unwrap();
    assert_eq!(first.nodes().await.unwrap(), [read]);
}

pub async fn a_draining_node_is_listed_as_that<P: StateFixture>(place: P) {
    const LONG: Duration = Duration::from_secs(3_600);
    let (first, second) = (place.open().await, place.open().await);
    first.join(&node(1), Membership::Others, Some(LONG)).await.unwrap();
    second.join(&node(2), Membership::Others, Some(Duration::ZERO)).await.unwrap();
    assert!(second.drain(node(1).instance).await.unwrap());
    assert!(!first.drain(node(2).instance).await.unwrap(), "it is dead");
    assert!(!first.drain(node(3).instance).await.unwrap(), "there is no such node");
    assert!(first.renew(node(1).instance, LONG).await.unwrap());
    assert_eq!(second.nodes().await.unwrap(), [Node { is_draining: true, ..node(1) }]);
}

/// A takeover requires the lease that the node has seen, so a late node takes nothing from the new holder.
pub async fn a_holder_that_does_not_answer_is_taken_over_once<P: StateFixture>(place: P) {
    let [(first, one), (second, two)] = two_nodes(&place).await;
    first.join(&node(3), Membership::Others, None).await.unwrap();
    let three = node(3).instance;
    let mut frozen = insert_held(&*first, 1, one).await;
    let (id, seen) = (frozen.id(), frozen.record().lease);
    assert_eq!(
        second.seize(id, seen.taken_by(three, Handover::Unclean), two).await.unwrap(),
        held_by(one, 1),
        "it is not the lease"
    );
    assert_eq!(second.seize(id, seen, two).await.unwrap(), taken_by(two, 2));
    assert_eq!(second.seize(id, seen, two).await.unwrap(), taken_by(two, 2), "a repetition changes nothing");
    assert_eq!(second.seize(id, seen, three).await.unwrap(), taken_by(two, 2), "it was too late");
    assert_eq!(
        second.seize(id, seen.taken_by(two, Handover::Unclean), two).await.unwrap(),
        taken_by(two, 2),
        "its own lease stays"
    );
    assert_eq!(second.seize(new_upload(9).id(), seen, two).await.unwrap(), None);
    receive(&mut frozen, 5, at(1));
    assert!(matches!(first.commit(change_of(frozen)).await, Err(Error::Conflict(conflicted)) if conflicted == id));

    let held = second.find(TenantScope::All, id).await.unwrap().unwrap().record().lease;
    let dead = node(9).instance;
    assert_eq!(first.seize(id, held, dead).await.unwrap(), taken_by(two, 2), "the dead take nothing");
}

pub async fn a_released_upload_is_free<P: StateFixture>(place: P) {
    let [(first, one), (second, two)] = two_nodes(&place).await;
    let mut yielded = insert_held(&*first, 1, one).await;
    let (id, held) = (yielded.id(), yielded.record().lease);
    first.release(id, held.taken_by(two, Handover::Unclean)).await.unwrap();
    assert_eq!(second.acquire(id, two).await.unwrap(), held_by(one, 1), "it was not the lease");
    first.release(id, held).await.unwrap();
    first.release(id, held).await.unwrap();
    let free = second.find(TenantScope::All, id).await.unwrap().unwrap();
    assert_eq!(free.record().lease, held.released());
    let due =
        second.due(SweepSelection::Expired { now: at(1_000_000) }, SweepShare::OwnAndFree(two), 0, 10).await.unwrap();
    assert_eq!(due.len(), 1, "any sweeper may take care of it");
    assert_eq!(second.acquire(id, two).await.unwrap(), held_by(two, 2), "no other node ever works in its epoch");
    receive(&mut yielded, 5, at(1));
    assert!(matches!(first.commit(change_of(yielded)).await, Err(Error::Conflict(conflicted)) if conflicted == id));
    first.release(id, held).await.unwrap();
    assert_eq!(first.acquire(id, one).await.unwrap(), held_by(two, 2), "it was late");
    first.release(new_upload(9).id(), held).await.unwrap();
}

/// scale-out C3: after a clean takeover the new holder may continue in the same generation, because no other
/// node can be writing to it.
pub async fn only_a_holder_that_has_stopped_hands_over_cleanly<P: StateFixture>(place: P) {
    const LONG: Duration = Duration::from_secs(3_600);
    let (first, second) = (place.open().await, place.open().await);
    let [one, two, three] = [1, 2, 3].map(|number| node(number).instance);
    first.join(&node(1), Membership::Others, Some(LONG)).await.unwrap();
    second.join(&node(2), Membership::Others, Some(LONG)).await.unwrap();
    let id = insert_held(&*first, 1, one).await.id();
    let abandoned = insert_held(&*first, 2, one).await.id();

    first.leave(one).await.unwrap();
    assert_eq!(second.acquire(id, two).await.unwrap(), held_by(two, 2), "its node has left");
    // The new holder dies. Its departure, reported too late, says nothing about what it wrote before.
    assert!(second.renew(two, Duration::ZERO).await.unwrap());
    second.leave(two).await.unwrap();
    first.join(&node(3), Membership::Others, Some(LONG)).await.unwrap();
    assert_eq!(first.acquire(id, three).await.unwrap(), taken_by(three, 3), "its node has died");
    let lease = taken_by(three, 3).unwrap();
    first.release(id, lease).await.unwrap();
    second.join(&node(2), Membership::Others, Some(LONG)).await.unwrap();
    let released = Lease { holder: Some(two), epoch: Epoch::new(4), ..lease };
    assert_eq!(second.acquire(id, two).await.unwrap(), Some(released), "it was released");

    // The first node registers again, and may write until it dies.
    first.join(&node(1), Membership::Others, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(second.acquire(abandoned, two).await.unwrap(), taken_by(two, 2), "it was at work again");
}

/// A start takes nothing from the nodes that left before it.
pub async fn a_node_that_left_is_remembered_by_those_that_start<P: StateFixture>(place: P) {
    for (number, membership) in [(1, Membership::Others), (2, Membership::Alone)] {
        let [left, next] = [number, number + 2].map(node);
        let store = place.open().await;
        store.join(&left, Membership::Others, None).await.unwrap();
        let id = insert_held(&*store, number, left.instance).await.id();
        store.leave(left.instance).await.unwrap();
        store.join(&next, membership, None).await.unwrap();
        assert_eq!(store.acquire(id, next.instance).await.unwrap(), held_by(next.instance, 2));
        assert!(!store.renew(left.instance, Duration::from_secs(1)).await.unwrap(), "it does not count as alive");
        store.leave(next.instance).await.unwrap();
        assert!(store.nodes().await.unwrap().is_empty());
    }
}

pub async fn each_sweeper_finds_what_no_other_node_holds<P: StateFixture>(place: P) {
    let [(first, one), (second, two)] = two_nodes(&place).await;
    insert_held(&*first, 1, one).await;
    insert_held(&*second, 2, two).await;
    first.insert(change_of(new_upload(3))).await.unwrap();
    insert_held(&*first, 4, node(9).instance).await;
    let far = at(1_000_000);
    let expired = async |store: &P::Store, node| {
        let due = store.due(SweepSelection::Expired { now: far }, SweepShare::OwnAndFree(node), 0, 100).await.unwrap();
        due.iter().map(|upload| upload.id().as_bytes()[15]).collect::<Vec<u8>>()
    };
    assert_eq!(expired(&first, one).await, [1, 3, 4], "its own, free ones, and those of a dead node");
    assert_eq!(expired(&second, two).await, [2, 3, 4]);
    let own = second.due(SweepSelection::Expired { now: far }, SweepShare::Own(two), 0, 100).await.unwrap();
    assert_eq!(own.iter().map(Upload::id).collect::<Vec<_>>(), [new_upload(2).id()]);
    first.leave(one).await.unwrap();
    assert_eq!(expired(&second, two).await, [1, 2, 3, 4]);

    // The first node to act processes the upload; the other's commit is too late.
    let [mut ours, mut theirs] = [
        second.due(SweepSelection::Expired { now: far }, SweepShare::OwnAndFree(two), 2, 1).await.unwrap().remove(0),
        first.due(SweepSelection::Expired { now: far }, SweepShare::OwnAndFree(one), 1, 1).await.unwrap().remove(0),
    ];
    assert_eq!(ours.id(), theirs.id());
    second.acquire(ours.id(), two).await.unwrap();
    theirs.expire(far);
    assert!(matches!(first.commit(change_of(theirs)).await, Err(Error::Conflict(_))));
    ours = second.find(TenantScope::All, ours.id()).await.unwrap().unwrap();
    ours.expire(far);
    second.commit(change_of(ours)).await.unwrap();
    assert_eq!(
        second.events_of(TenantScope::All, new_upload(3).id(), 0, 10).await.unwrap().len(),
        2,
        "it expired once"
    );
}
