//! The conformance suite that every state store passes.
//!
//! A check is an async function over a [`StateFixture`], which opens and reopens a store.
//! `conformance_suite!` makes a test of each check; on request it includes those for stores that group
//! commits into one transaction.

#![expect(clippy::unwrap_used, reason = "a check says what it expects by failing")]

use domain::delivery::{Disposition, ReplayOutcome};
use domain::query::DeliveryQuery;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    Change, Claim, Deliveries, Dispatch, Endpoints, EventBodies, EventLog, HookCalls, Leases, Notices, Outbox, Replays,
    Retention, RetentionHorizon, Settlement, SettlementBatch, Store, UploadStore, Uploads,
};
use domain::delivery::{Attempt, AttemptOutcome, DeliveryRecord, DeliveryState, Timings};
use domain::dialect::Dialect;
use domain::endpoint::{DisabledBecause, Endpoint, EndpointId, EndpointState, EndpointTerms, Health, Origin};
use domain::event::EventFilter;
use domain::health::HealthChange;
use domain::id::{InstanceId, UploadId};
use domain::lane::ClaimLimits;
use domain::metadata::Metadata;
use domain::principal::TenantId;
use domain::principal::TenantScope;
use domain::removal::DeletedBy;
use domain::size::{Length, Offset};
use domain::time::Timestamp;
use domain::upload::{DurableBytes, NewUpload, ProgressPolicy, Role, Upload, UploadTerms};
use domain::write_rules::{Completion, WriteOrder, WriteRules};

pub mod backlogs;
pub mod bells;
pub mod clock;
pub mod cluster_record;
pub mod dispatchers;
pub mod duties;
pub mod endpoints;
pub mod events;
pub mod expiry;
pub mod hook_calls;
pub mod leases;
pub mod lists;
pub mod lives;
pub mod managing;
pub mod order;
pub mod progress;
pub mod rebuild;
pub mod replay;
pub mod retention;
pub mod sending;
pub mod tenants;
pub mod uploads;

pub const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_290_123);
pub const LEASE: Duration = Duration::from_secs(60);

/// A location for a state.
pub trait StateFixture: Sized {
    type Store: UploadStore + Leases + Outbox;

    /// Makes an empty location.
    fn new() -> Self;

    /// Opens the existing state.
    fn open(&self) -> impl Future<Output = Arc<Self::Store>> + Send;

    /// Returns the number of transactions that the store has written so far.
    fn transactions(store: &Self::Store) -> u64;
}

/// A location for a state whose store commits queued changes in one transaction.
pub trait GathersCommits: StateFixture {
    /// Keeps the writer busy until the returned value is dropped, so that changes written meanwhile are
    /// queued.
    fn hold(store: &Arc<Self::Store>) -> impl Future<Output = Box<dyn Send>> + Send;
}

#[macro_export]
macro_rules! conformance_suite {
    ($place:ty, gathering commits) => {
        $crate::conformance_suite! { $place }
        $crate::conformance_suite! { $place;
            uploads::many_commits_share_transactions
            uploads::a_conflict_spares_the_rest_of_its_batch
        }
    };
    ($place:ty) => {
        $crate::conformance_suite! { $place;
            clock::what_waits_by_a_clock_that_was_ahead_is_due
            clock::a_long_backlog_is_followed_in_pieces
            clock::all_handles_tell_one_time
            clock::renewed_leases_end_at_the_given_time
            uploads::a_stale_commit_changes_nothing
            uploads::reopening_keeps_everything
            backlogs::a_long_backlog_is_cancelled_in_pieces
            backlogs::a_removed_endpoint_leaves_nothing_to_its_successor
            backlogs::replayed_deliveries_are_not_cancelled
            backlogs::a_long_backlog_stops_and_resumes_with_its_endpoint
            backlogs::a_resumption_restores_no_cancelled_delivery
            backlogs::a_retry_of_after_the_resumption_is_not_hastened
            backlogs::a_relaxed_order_reaches_a_long_backlog
            events::a_change_and_its_events_are_one
            events::a_page_looks_at_a_bounded_number_of_events
            expiry::deliveries_that_wait_too_long_expire
            expiry::a_lane_advances_past_expired_deliveries
            expiry::old_progress_is_dropped_without_a_word
            expiry::what_is_kept_does_not_age
            lives::what_becomes_of_deliveries_goes_by_the_rules
            order::first_attempts_go_out_in_order
            order::a_delivery_that_backs_off_holds_nobody_back
            order::an_aborted_attempt_does_not_count
            order::lanes_do_not_wait_for_each_other
            order::newer_progress_replaces_pending_progress
            order::later_events_supersede_pending_progress_everywhere
            order::nothing_waits_for_superseded_progress
            order::a_lane_keeps_its_age_under_a_backlog
            order::progress_is_never_a_dead_letter
            order::overtaken_progress_is_not_sent_again
            sending::endpoints_get_what_their_filters_want
            sending::a_claim_tells_everything
            sending::nothing_is_claimed_twice
            sending::claims_keep_to_the_slots_oldest_first
            sending::an_expired_lease_goes_to_another
            sending::a_late_settlement_moves_nothing
            sending::attempts_are_recorded_once
            sending::the_bell_rings_for_ready_deliveries
            sending::deliveries_are_listed_with_their_attempts
            endpoints::a_paused_endpoint_gets_no_delivery
            endpoints::what_is_being_sent_settles_into_the_pause
            endpoints::opening_resumes_in_order
            endpoints::opening_takes_back_every_lease
            endpoints::deliveries_of_endpoints_no_longer_named_stay
            managing::an_endpoint_survives
            managing::an_endpoint_is_changed_by_its_version
            managing::new_endpoints_hear_at_once_and_removed_ones_no_more
            managing::a_start_undoes_only_what_the_server_did
            managing::a_new_endpoint_inherits_nothing
            managing::what_waits_for_nobody_ends
            managing::a_start_leaves_what_is_stopped_at_rest
            managing::metadata_chooses_who_hears
            managing::a_strict_endpoint_waits_for_every_event
            managing::an_endpoint_can_do_without_order
            managing::a_change_of_order_reaches_what_waits
            managing::a_thin_endpoint_gets_a_short_body
            managing::notices_go_to_those_who_want_them
            managing::a_test_is_for_one_endpoint
            replay::one_delivery_is_sent_again
            replay::what_waits_is_not_sent_before_its_turn
            replay::strict_order_outlives_replays_and_pauses
            replay::a_running_job_is_never_out_of_sight
            replay::what_is_pending_is_due_at_once
            replay::what_is_pending_waits_with_its_endpoint
            replay::a_job_sends_the_dead_again
            replay::a_job_sends_what_was_missed
            replay::a_job_sends_everything
            replay::a_job_resumes_where_it_was
            replay::a_job_goes_straight_to_its_range
            replay::two_nodes_carry_on_one_job
            replay::a_job_gets_over_a_clock_that_was_ahead
            replay::what_was_never_sent_is_sent_again_in_order
            replay::words_can_be_taken_out
            replay::what_is_old_goes
            retention::records_of_ended_uploads_end
            retention::an_abandoned_delivery_holds_no_lane_up
            retention::a_backlog_keeps_to_its_limits
            tenants::deliveries_are_of_one_tenant
            tenants::events_reach_endpoints_of_their_tenant
            tenants::a_replay_sends_events_of_its_tenant
            tenants::a_name_is_not_taken_over_by_another_tenant
            tenants::endpoints_are_of_one_tenant
            tenants::a_backlog_is_of_one_tenant
            tenants::replays_are_of_one_tenant
            tenants::words_of_another_tenant_stay
            uploads::every_field_survives
            uploads::of_two_commits_of_one_version_one_wins
            uploads::an_upload_is_inserted_once
            uploads::a_commit_whose_answer_was_lost_is_recognised
            uploads::a_closed_store_refuses
            uploads::a_check_reads_and_writes
            lists::every_filter_holds
            lists::uploads_are_found_by_what_they_are
            lists::a_cursor_is_stable_while_uploads_are_added
            lists::the_sweeper_finds_what_is_due
            lists::the_sweeper_finds_files_to_remove
            dispatchers::two_dispatchers_never_hold_one_delivery
            dispatchers::all_nodes_together_keep_to_the_slots_of_an_endpoint
            dispatchers::concurrent_claims_keep_to_the_slots_of_an_endpoint
            dispatchers::an_open_breaker_stops_every_node_and_one_of_them_probes
            dispatchers::changes_of_health_by_two_nodes_add_up
            dispatchers::the_number_of_endpoints_is_limited_over_all_nodes
            dispatchers::a_start_takes_no_delivery_from_a_running_node
            dispatchers::an_endpoint_stays_while_a_living_node_names_it
            dispatchers::the_newest_configuration_of_endpoints_stays
            dispatchers::what_one_node_writes_the_other_knows
            dispatchers::a_reader_misses_nothing_that_two_nodes_write
            dispatchers::a_lane_advances_with_concurrent_writes_and_settlements
            duties::one_node_has_a_duty_while_it_lives
            duties::a_duty_runs_out
            duties::a_duty_that_is_kept_costs_no_write
            leases::a_node_that_lives_keeps_what_it_holds
            leases::a_commit_that_was_taken_over_is_a_conflict
            leases::a_late_commit_of_a_lost_lease_changes_nothing
            leases::one_of_many_nodes_takes_what_is_free
            leases::a_node_counts_as_alive_as_long_as_it_said
            leases::a_start_beside_a_running_node_takes_nothing
            leases::living_nodes_are_listed_as_they_registered
            leases::a_draining_node_is_listed_as_that
            leases::a_holder_that_does_not_answer_is_taken_over_once
            leases::a_released_upload_is_free
            leases::only_a_holder_that_has_stopped_hands_over_cleanly
            leases::a_node_that_left_is_remembered_by_those_that_start
            leases::each_sweeper_finds_what_no_other_node_holds
            retention::records_without_bytes_end
            replay::a_record_loses_its_words_once_it_is_over
            events::events_come_in_pages
            events::what_was_missed_is_counted_so_far_and_no_further
            events::an_event_that_was_removed_counts_as_too_many
            events::every_commit_of_a_crowd_is_logged_in_order
            hook_calls::hook_calls_are_listed_newest_first
            tenants::a_scope_shows_one_tenant_only
            rebuild::replaying_the_log_rebuilds_the_rows
            rebuild::the_log_rebuilds_all_but_what_is_in_flight
        }
    };
    ($place:ty; $($file:ident::$check:ident)*) => {
        $(#[tokio::test]
        async fn $check() {
            let place = <$place as $crate::conformance::StateFixture>::new();
            $crate::conformance::$file::$check(place).await;
        })*
    };
}

pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(NOW.unix_ms() + seconds * 1_000)
}

/// Returns the node of checks that have only one.
pub fn own() -> InstanceId {
    InstanceId::new(NOW, [0; 10])
}

pub fn endpoint(name: &str) -> EndpointId {
    EndpointId::new(name).unwrap()
}

pub fn subscribed(name: &str, patterns: &[&str]) -> Endpoint {
    let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    subscribed_to(name, EventFilter::new(patterns).unwrap())
}

pub fn subscribed_to(name: &str, filter: EventFilter) -> Endpoint {
    let terms = EndpointTerms { filter, ..EndpointTerms::of("http://127.0.0.1:9/hooks") };
    Endpoint::new(TenantId::DEFAULT, endpoint(name), Origin::Config, terms, NOW)
}

/// Returns a horizon that permits the removal of everything that ended before `before`.
pub fn horizon(before: Timestamp) -> RetentionHorizon {
    RetentionHorizon {
        finished: before,
        dead: before,
        ended_uploads: before,
        abandoned: before,
        most_hook_calls: 100,
        now: at(5_000),
    }
}

/// Returns the endpoint as stored.
pub async fn stored<S: Outbox>(store: &S, name: &str) -> Endpoint {
    store.endpoints(TenantScope::All).await.unwrap().into_iter().find(|stored| stored.id.as_str() == name).unwrap()
}

pub async fn put_state<S: Outbox>(store: &S, name: &str, state: EndpointState, now: Timestamp) {
    let changed = Endpoint { state, updated_at: now, ..stored(store, name).await };
    store.put_endpoint(changed, now).await.unwrap();
}

pub async fn pause<S: Outbox>(store: &S, name: &str, now: Timestamp) {
    put_state(store, name, EndpointState::Paused { since: now }, now).await;
}

pub async fn disable<S: Outbox>(store: &S, name: &str, now: Timestamp) {
    put_state(store, name, EndpointState::Disabled { since: now, because: DisabledBecause::Gone }, now).await;
}

/// Returns a client's request for an upload of ten thousand bytes, created `number` seconds after [`NOW`].
pub fn asked(number: u8) -> NewUpload {
    let now = at(i64::from(number));
    NewUpload {
        id: UploadId::new(now, [number; 10]),
        tenant: TenantId::DEFAULT,
        dialect: Dialect::named("tus"),
        write_rules: WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull },
        role: Role::Single,
        length: Length::new(10_000),
        metadata: Metadata::default(),
        metadata_as_sent: None,
        terms: UploadTerms::default(),
        wanted_digests: vec![],
        promised_digests: vec![],
        expires_at: now.plus(Duration::from_secs(3_600)),
    }
}

/// Returns the change for the current upload, with the bodies of its events as sent to receivers.
pub fn change_of(upload: Upload) -> Change {
    Change::new(upload, |record, event| api::event::upload(record, event, "/api/v1/uploads/"), rand::random)
}

/// Returns the functions that write bodies as the server does.
pub fn bodies() -> EventBodies {
    EventBodies {
        notice: api::event::notice,
        ping: api::event::ping,
        thin: |event| api::event::thin(event.kind, event.at, event.upload, event.sequence, event.body),
        expunged: |event| api::event::expunged(event.kind, event.at, event.upload, event.sequence, event.body),
    }
}

pub fn new_upload(number: u8) -> Upload {
    let asked = asked(number);
    let now = asked.id.made_at();
    Upload::create(asked, now)
}

/// Receives more bytes. Each hundredth of the length causes a progress event.
pub fn receive(upload: &mut Upload, bytes: u64, now: Timestamp) {
    receive_with(upload, bytes, Some(ProgressPolicy { every: Duration::ZERO, min_bytes: u64::MAX }), now);
}

fn receive_with(upload: &mut Upload, bytes: u64, policy: Option<ProgressPolicy>, now: Timestamp) {
    let start = upload.offset().get();
    let durable = DurableBytes {
        ranges: vec![(start, start + bytes)],
        running_digests: vec![1, 2, 3],
        resume: vec![4, 5],
        expires_at: now.plus(Duration::from_secs(3_600)),
    };
    upload.receive(durable, policy, now).unwrap();
}

/// Receives all missing bytes, and passes every stage up to completed.
pub fn complete(upload: &mut Upload, now: Timestamp) {
    let missing = upload.length().unwrap().get() - upload.offset().get();
    receive_with(upload, missing, None, now);
    upload.seal(vec![], now).unwrap();
    upload.verify(now);
    upload.store(now);
    upload.complete(now);
}

pub fn offset(bytes: u64) -> Offset {
    Offset::new(bytes).unwrap()
}

/// Returns the limits of a node that may claim this many deliveries, and sends nothing yet.
pub fn up_to(name: &str, slots: u32) -> (EndpointId, ClaimLimits) {
    let longest_pause = Duration::from_secs(60);
    (endpoint(name), ClaimLimits { slots, in_flight: 0, max_in_flight: u32::MAX, longest_pause })
}

/// Claims all due deliveries of one endpoint.
pub async fn claim<S: Outbox>(store: &S, name: &str, now: Timestamp) -> Vec<Claim> {
    store.claim_due(own(), &[up_to(name, 100)], now, LEASE).await.unwrap()
}

/// Claims all due deliveries of one endpoint, and returns the sequences of their events.
pub async fn claimed<S: UploadStore + Outbox>(store: &S, name: &str, now: Timestamp) -> Vec<u64> {
    let mut sequences = Vec::new();
    for claim in claim(store, name, now).await {
        sequences.push(sequence_of(&claim));
    }
    sequences
}

pub fn sequence_of(claim: &Claim) -> u64 {
    let body: serde_json::Value = serde_json::from_slice(&claim.body).unwrap();
    body["data"]["sequence"].as_u64().unwrap()
}

pub fn settlement(claim: &Claim, outcome: AttemptOutcome, disposition: Disposition) -> Settlement {
    let attempt = Attempt {
        number: claim.attempts + 1,
        trigger: claim.trigger,
        started_at: NOW,
        took: Duration::from_micros(1_500),
        timings: Timings { dns: None, connect: Some(Duration::from_micros(7)), first_byte: Some(Duration::ZERO) },
        remote: Some("::1".parse().unwrap()),
        outcome,
        response_headers: vec![("server".to_owned(), "\"x\"".to_owned())],
        response_body: vec![0xff, 0, b'x'],
        note: None,
        next_attempt_at: match disposition {
            Disposition::RetryAt(at) => Some(at),
            _ => None,
        },
    };
    Settlement { delivery: claim.delivery, lease: claim.lease, attempt, disposition }
}

pub async fn settle<S: Outbox>(store: &S, settlements: Vec<Settlement>, now: Timestamp) {
    store.settle(SettlementBatch { settlements, health: vec![] }, now).await.unwrap();
}

pub async fn note_health<S: Outbox>(store: &S, name: &str, change: HealthChange, now: Timestamp) {
    let health = vec![(endpoint(name), change)];
    store.settle(SettlementBatch { settlements: vec![], health }, now).await.unwrap();
}

pub async fn succeed<S: Outbox>(store: &S, claim: &Claim, now: Timestamp) {
    settle(store, vec![settlement(claim, AttemptOutcome::Status(204), Disposition::Succeeded)], now).await;
}

pub async fn retry<S: Outbox>(store: &S, claim: &Claim, when: Timestamp, now: Timestamp) {
    settle(store, vec![settlement(claim, AttemptOutcome::Timeout, Disposition::RetryAt(when))], now).await;
}

/// Returns every delivery to an endpoint, in the order of the events.
pub async fn deliveries_to<S: Outbox>(store: &S, name: &str) -> Vec<DeliveryRecord> {
    let query = DeliveryQuery { endpoint: Some(endpoint(name)), limit: 1_000, ..DeliveryQuery::default() };
    let mut found = store.deliveries(TenantScope::All, &query).await.unwrap().found;
    found.sort_by_key(|delivery| (delivery.upload, delivery.sequence));
    found
}

pub async fn states_at<S: Outbox>(store: &S, name: &str) -> Vec<DeliveryState> {
    deliveries_to(store, name).await.into_iter().map(|delivery| delivery.state).collect()
}
