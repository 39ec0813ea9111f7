//! The record of hook calls.

use super::*;

use domain::hook::{CallOutcome, Hook, HookCall};
use domain::id::HookCallId;
use domain::principal::{TenantId, TenantScope};
use domain::query::HookCallQuery;

fn call(number: u8, upload: u8, outcome: CallOutcome) -> HookCall {
    HookCall {
        id: HookCallId::new(at(i64::from(number)), [number; 10]),
        hook: Hook::ALL[usize::from(number) % 3],
        tenant: TenantId::DEFAULT,
        upload: new_upload(upload).id(),
        decision: format!("hook_{number}"),
        started_at: at(i64::from(number)),
        took: Duration::from_micros(1_234),
        outcome,
        status: (outcome != CallOutcome::Timeout).then_some(403),
        message: (outcome == CallOutcome::Rejected).then(|| "no".to_owned()),
        response_body: vec![0, 255, number],
    }
}

/// Recorded calls are listed newest first (webhooks K3).
pub async fn hook_calls_are_listed_newest_first<P: StateFixture>(place: P) {
    let store = place.open().await;
    let outcomes = CallOutcome::ALL;
    let calls: Vec<HookCall> = (0..6).map(|number| call(number, number % 2, outcomes[usize::from(number)])).collect();
    for call in &calls {
        store.record_hook_call(call.clone()).await.unwrap();
        store.record_hook_call(call.clone()).await.unwrap();
    }
    store.close().await;
    let store = place.open().await;
    let listed = async |query| store.hook_calls(TenantScope::All, &query).await.unwrap();
    let newest_first: Vec<HookCall> = calls.iter().rev().cloned().collect();
    let all = HookCallQuery { limit: 10, ..HookCallQuery::default() };
    assert_eq!(listed(all.clone()).await, newest_first);
    assert_eq!(listed(HookCallQuery { limit: 2, ..all.clone() }).await, newest_first[..2]);
    assert_eq!(listed(HookCallQuery { before: Some(calls[4].id), ..all.clone() }).await, newest_first[2..]);
    let of_one = listed(HookCallQuery { upload: Some(calls[1].upload), ..all.clone() }).await;
    assert_eq!(of_one, [calls[5].clone(), calls[3].clone(), calls[1].clone()]);

    let prune = async |horizon| while store.prune(horizon, 3).await.unwrap() > 0 {};
    prune(RetentionHorizon { most_hook_calls: 6, ..horizon(NOW) }).await;
    assert_eq!(listed(all.clone()).await, newest_first, "so many may stay");
    prune(RetentionHorizon { most_hook_calls: 5, ..horizon(NOW) }).await;
    assert_eq!(listed(all.clone()).await, newest_first[..5], "one too many");
    prune(horizon(at(4))).await;
    assert_eq!(listed(all).await, newest_first[..2], "old calls are removed");
}
