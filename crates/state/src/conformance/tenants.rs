//! The scope of an access: the tenants whose facts it may touch.

use super::*;
use crate::Error;
use domain::delivery::ReplaySelection;
use domain::hook::{CallOutcome, Hook, HookCall};
use domain::id::{HookCallId, ReplayId};
use domain::log::EventPosition;
use domain::notice::Notice;
use domain::principal::{TenantId, TenantScope};
use domain::query::{HookCallQuery, UploadQuery};
use domain::replay::{ReplayJob, ReplayState};

const OWN: TenantId = TenantId::DEFAULT;
const OTHER: TenantId = TenantId::from_number(7);

/// A scope of one tenant contains the facts of this tenant and no others.
pub async fn a_scope_shows_one_tenant_only<P: StateFixture>(place: P) {
    let store = place.open().await;
    for (number, tenant) in [(1, OWN), (2, OTHER), (3, OWN)] {
        let upload = Upload::create(NewUpload { tenant, ..asked(number) }, at(i64::from(number)));
        let upload = store.insert(change_of(upload)).await.unwrap();
        store.record_hook_call(call(number, tenant, upload.id())).await.unwrap();
    }
    let ids = [1, 2, 3].map(|number| new_upload(number).id());
    for (scope, visible) in [
        (TenantScope::One(OWN), vec![ids[0], ids[2]]),
        (TenantScope::One(OTHER), vec![ids[1]]),
        (TenantScope::One(TenantId::from_number(8)), vec![]),
        (TenantScope::All, ids.to_vec()),
    ] {
        for id in ids {
            let is_visible = visible.contains(&id);
            assert_eq!(store.find(scope, id).await.unwrap().is_some(), is_visible, "{id} in {scope:?}");
            assert_eq!(!store.events_of(scope, id, 0, 10).await.unwrap().is_empty(), is_visible, "{id} in {scope:?}");
        }
        let query = UploadQuery { limit: 10, ..UploadQuery::default() };
        let mut listed: Vec<_> = store.list(scope, &query).await.unwrap().found.iter().map(Upload::id).collect();
        listed.reverse();
        assert_eq!(listed, visible, "{scope:?}");
        let page = store.events_since(scope, EventPosition::default(), 10).await.unwrap();
        assert_eq!(page.found.iter().map(|event| event.upload).collect::<Vec<_>>(), visible, "{scope:?}");
        let behind = store.count_events_behind(scope, EventPosition::default(), 10).await.unwrap();
        assert_eq!(behind, Some(u32::try_from(visible.len()).unwrap()), "{scope:?}");
        let query = HookCallQuery { limit: 10, ..HookCallQuery::default() };
        let mut asked: Vec<_> = store.hook_calls(scope, &query).await.unwrap().iter().map(|call| call.upload).collect();
        asked.reverse();
        assert_eq!(asked, visible, "{scope:?}");
    }
}

/// The same holds for deliveries: those of another tenant's upload are not visible.
pub async fn deliveries_are_of_one_tenant<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    store.put_endpoint(of(OTHER, "b"), NOW).await.unwrap();
    for (number, tenant) in [(1, OWN), (2, OTHER)] {
        insert(&*store, number, tenant).await;
    }
    let query = DeliveryQuery { limit: 10, ..DeliveryQuery::default() };
    let all = store.deliveries(TenantScope::All, &query).await.unwrap().found;
    assert_eq!(all.len(), 2);
    for (number, tenant) in [(1, OWN), (2, OTHER)] {
        let scope = TenantScope::One(tenant);
        let found = store.deliveries(scope, &query).await.unwrap().found;
        assert_eq!(found.iter().map(|one| one.upload).collect::<Vec<_>>(), [Some(new_upload(number).id())]);
        for delivery in &all {
            let is_visible = delivery.upload == found[0].upload;
            assert_eq!(store.delivery(scope, delivery.id).await.unwrap().is_some(), is_visible, "{scope:?}");
        }
    }
}

/// An event is delivered to endpoints of its tenant, a notice to endpoints of the tenant it concerns.
pub async fn events_reach_endpoints_of_their_tenant<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["*"])], NOW).await.unwrap();
    store.put_endpoint(of(OTHER, "b"), NOW).await.unwrap();
    for (number, tenant) in [(1, OWN), (2, OTHER), (3, OWN)] {
        insert(&*store, number, tenant).await;
    }
    let received = async |name| deliveries_to(&*store, name).await.into_iter().map(|it| it.upload).collect::<Vec<_>>();
    let upload = |number| Some(new_upload(number).id());
    assert_eq!(received("a").await, [upload(1), upload(3)]);
    assert_eq!(received("b").await, [upload(2)]);

    let failing = Notice::EndpointFailing { endpoint: endpoint("c"), since: NOW, percent: 50 };
    store.announce(OTHER, failing, at(4)).await.unwrap();
    let claims = claim(&*store, "b", at(5)).await;
    assert_eq!(claims.iter().map(|claim| claim.upload).collect::<Vec<_>>(), [upload(2), None]);
    for claim in claims.iter().filter(|claim| claim.upload.is_some()) {
        settle(&*store, vec![settlement(claim, AttemptOutcome::Status(500), Disposition::Dead)], at(6)).await;
    }
    disable(&*store, "b", at(7)).await;
    assert_eq!(
        received("b").await,
        [None, None, upload(2)],
        "the notice about its failed delivery belongs to it as well"
    );
    let test = store.test_endpoint(TenantScope::All, own(), &endpoint("b"), at(8), LEASE).await.unwrap().unwrap();
    assert_eq!(received("a").await, [upload(1), upload(3)]);
    let query = DeliveryQuery { limit: 10, ..DeliveryQuery::default() };
    let own = store.deliveries(TenantScope::One(OWN), &query).await.unwrap().found;
    assert!(own.iter().all(|delivery| delivery.endpoint == endpoint("a")), "{own:?}");
    assert!(store.delivery(TenantScope::One(OTHER), test.delivery).await.unwrap().is_some());
}

/// A replay sends the events of its tenant to an endpoint of its tenant.
pub async fn a_replay_sends_events_of_its_tenant<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![], NOW).await.unwrap();
    for (number, tenant) in [(1, OWN), (2, OTHER)] {
        insert(&*store, number, tenant).await;
    }
    store.put_endpoint(of(OTHER, "b"), NOW).await.unwrap();
    for (tenant, expected) in [(OWN, (ReplayState::Cancelled, 0)), (OTHER, (ReplayState::Done, 1))] {
        let id = ReplayId::new(at(50), rand::random());
        store.begin_replay(job(id, tenant, "b", ReplaySelection::Missed)).await.unwrap();
        let ended = store.advance_replay(id, 100, at(51)).await.unwrap().unwrap();
        assert_eq!((ended.state, ended.queued), expected, "{tenant:?}");
    }
    let queued = deliveries_to(&*store, "b").await;
    assert_eq!(queued.iter().map(|it| it.upload).collect::<Vec<_>>(), [Some(new_upload(2).id())]);
}

/// An endpoint never passes to another tenant, and an endpoint of the configuration inherits nothing from
/// another tenant.
pub async fn a_name_is_not_taken_over_by_another_tenant<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![], NOW).await.unwrap();
    let before = store.put_endpoint(of(OTHER, "b"), NOW).await.unwrap();
    insert(&*store, 2, OTHER).await;
    for version in [0, before.version] {
        let taken = store.put_endpoint(Endpoint { version, ..of(OWN, "b") }, at(3)).await;
        assert!(matches!(taken, Err(Error::EndpointConflict(_))), "{taken:?}");
    }
    assert_eq!(stored(&*store, "b").await, before);
    assert_eq!(states_at(&*store, "b").await, [DeliveryState::Ready]);
    store.open_for(own(), vec![subscribed("b", &["*"])], at(4)).await.unwrap();
    assert_eq!(states_at(&*store, "b").await, [DeliveryState::Cancelled]);
    // An endpoint that the configuration once named does not pass to another tenant either.
    store.open_for(own(), vec![], at(5)).await.unwrap();
    let taken = store.put_endpoint(of(OTHER, "b"), at(6)).await;
    assert!(matches!(taken, Err(Error::EndpointConflict(_))), "{taken:?}");
}

/// Endpoints of another tenant are not visible and cannot be changed.
pub async fn endpoints_are_of_one_tenant<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["*"])], NOW).await.unwrap();
    store.put_endpoint(of(OTHER, "b"), NOW).await.unwrap();
    insert(&*store, 2, OTHER).await;
    let names = async |scope| {
        let found = store.endpoints(scope).await.unwrap().into_iter();
        found.map(|endpoint| endpoint.id.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(TenantScope::One(OWN)).await, ["a"]);
    assert_eq!(names(TenantScope::One(OTHER)).await, ["b"]);
    assert_eq!(names(TenantScope::All).await, ["a", "b"]);

    let (own_scope, b) = (TenantScope::One(OWN), endpoint("b"));
    assert_eq!(store.test_endpoint(own_scope, own(), &b, at(3), LEASE).await.unwrap(), None);
    assert!(!store.cancel_backlog(own_scope, &b, at(3)).await.unwrap());
    assert!(!store.remove_endpoint(own_scope, &b, at(3)).await.unwrap());
    assert_eq!(states_at(&*store, "b").await, [DeliveryState::Ready], "nothing has changed");
    let scope = TenantScope::One(OTHER);
    assert!(store.cancel_backlog(scope, &b, at(4)).await.unwrap());
    assert_eq!(states_at(&*store, "b").await, [DeliveryState::Cancelled]);
    assert!(store.test_endpoint(scope, own(), &b, at(5), LEASE).await.unwrap().is_some());
    assert!(store.remove_endpoint(scope, &b, at(6)).await.unwrap());
}

/// A delivery of another tenant can neither be replayed nor counted.
pub async fn a_backlog_is_of_one_tenant<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["*"])], NOW).await.unwrap();
    store.put_endpoint(of(OTHER, "b"), NOW).await.unwrap();
    for (number, tenant) in [(1, OWN), (2, OTHER), (3, OTHER)] {
        insert(&*store, number, tenant).await;
    }
    let ready = async |scope, name| store.backlog(scope, name).await.unwrap().ready;
    let b = &endpoint("b");
    assert_eq!(ready(TenantScope::One(OWN), None).await, 1);
    assert_eq!(ready(TenantScope::One(OTHER), None).await, 2);
    assert_eq!(ready(TenantScope::All, None).await, 3);
    assert_eq!(ready(TenantScope::One(OWN), Some(b)).await, 0);
    assert_eq!(ready(TenantScope::One(OTHER), Some(b)).await, 2);

    let claim = claim(&*store, "b", at(4)).await.remove(0);
    succeed(&*store, &claim, at(4)).await;
    let replay = async |scope| store.replay(scope, claim.delivery, true, at(5)).await.unwrap();
    assert_eq!(replay(TenantScope::One(OWN)).await, ReplayOutcome::NoDelivery);
    let scope = TenantScope::One(OTHER);
    let found = store.delivery(scope, claim.delivery).await.unwrap().unwrap();
    assert_eq!(found.state, DeliveryState::Succeeded);
    assert_eq!(replay(scope).await, ReplayOutcome::Queued);
}

/// A replay of another tenant is not visible, and none reaches an endpoint of another tenant.
pub async fn replays_are_of_one_tenant<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["*"])], NOW).await.unwrap();
    store.put_endpoint(of(OTHER, "b"), NOW).await.unwrap();
    insert(&*store, 2, OTHER).await;
    let sent = claim(&*store, "b", at(3)).await.remove(0);
    retry(&*store, &sent, at(1_000), at(3)).await;
    let [ours, theirs] = [(OWN, "a"), (OTHER, "b")].map(|(tenant, name)| {
        let id = ReplayId::new(at(50), rand::random());
        job(id, tenant, name, ReplaySelection::Missed)
    });
    for job in [&ours, &theirs] {
        store.begin_replay(job.clone()).await.unwrap();
    }
    let listed = async |tenant| {
        let jobs = store.replay_jobs(TenantScope::One(tenant)).await.unwrap();
        jobs.into_iter().map(|job| job.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(OWN).await, [ours.id]);
    assert_eq!(listed(OTHER).await, [theirs.id]);
    assert_eq!(store.replay_jobs(TenantScope::All).await.unwrap().len(), 2);
    assert!(!store.cancel_replay(TenantScope::One(OWN), theirs.id, at(51)).await.unwrap());
    assert!(store.cancel_replay(TenantScope::One(OTHER), theirs.id, at(51)).await.unwrap());

    let hasten = |tenant| job(ReplayId::new(at(52), rand::random()), tenant, "b", ReplaySelection::Pending);
    let begun = store.begin_replay(hasten(OWN)).await.unwrap();
    assert_eq!((begun.state, begun.queued), (ReplayState::Done, 0));
    assert_eq!(claim(&*store, "b", at(60)).await, [], "it waits as long as before");
    assert_eq!(store.begin_replay(hasten(OTHER)).await.unwrap().queued, 1);
    assert_eq!(claim(&*store, "b", at(60)).await.len(), 1);
}

/// The free text of another tenant's upload is kept.
pub async fn words_of_another_tenant_stay<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![], NOW).await.unwrap();
    insert(&*store, 2, OTHER).await;
    let id = new_upload(2).id();
    store.record_hook_call(call(2, OTHER, id)).await.unwrap();
    let kept = async || {
        let scope = TenantScope::One(OTHER);
        let (found, events) = (store.find(scope, id).await.unwrap(), store.events_of(scope, id, 0, 10).await.unwrap());
        let query = HookCallQuery { limit: 10, ..HookCallQuery::default() };
        (found, events, store.hook_calls(scope, &query).await.unwrap())
    };
    let before = kept().await;
    assert_eq!(store.expunge(TenantScope::One(OWN), id).await.unwrap(), 0);
    assert_eq!(kept().await, before);
    assert_eq!(store.expunge(TenantScope::One(OTHER), id).await.unwrap(), 1);
    assert_ne!(kept().await.2, before.2);
}

/// Returns an endpoint made by the API that subscribes to everything.
fn of(tenant: TenantId, name: &str) -> Endpoint {
    Endpoint { tenant, origin: Origin::Api, ..subscribed(name, &["*"]) }
}

async fn insert<S: UploadStore>(store: &S, number: u8, tenant: TenantId) {
    let upload = Upload::create(NewUpload { tenant, ..asked(number) }, at(i64::from(number)));
    store.insert(change_of(upload)).await.unwrap();
}

fn job(id: ReplayId, tenant: TenantId, name: &str, what: ReplaySelection) -> ReplayJob {
    ReplayJob {
        id,
        tenant,
        endpoint: endpoint(name),
        what,
        from: Timestamp::from_unix_ms(0),
        before: at(50),
        state: ReplayState::Running,
        cursor: EventPosition(0),
        queued: 0,
        created_at: at(50),
        finished_at: None,
    }
}

fn call(number: u8, tenant: TenantId, upload: UploadId) -> HookCall {
    HookCall {
        id: HookCallId::new(at(i64::from(number)), [number; 10]),
        hook: Hook::PreCreate,
        tenant,
        upload,
        decision: format!("hook_{number}"),
        started_at: at(i64::from(number)),
        took: Duration::from_millis(1),
        outcome: CallOutcome::Accepted,
        status: Some(200),
        message: Some("said".to_owned()),
        response_body: Vec::new(),
    }
}
