//! Whose facts an access may touch.

use super::*;
use domain::hook::{CallOutcome, Hook, HookCall};
use domain::id::HookCallId;
use domain::log::EventPosition;
use domain::principal::{TenantId, TenantScope};
use domain::query::{HookCallQuery, UploadQuery};

const OWN: TenantId = TenantId::DEFAULT;
const OTHER: TenantId = TenantId::from_number(7);

/// A scope of one tenant shows what is this tenant's, and nothing else exists in it.
pub async fn a_scope_shows_one_tenant_only<P: Place>(place: P) {
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

/// The same for deliveries: of an upload of another tenant none is to be seen.
pub async fn deliveries_are_of_one_tenant<P: Place>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    for (number, tenant) in [(1, OWN), (2, OTHER)] {
        store
            .insert(change_of(Upload::create(NewUpload { tenant, ..asked(number) }, at(i64::from(number)))))
            .await
            .unwrap();
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
        message: None,
        response_body: Vec::new(),
    }
}
