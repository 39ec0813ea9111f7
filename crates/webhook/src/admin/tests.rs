//! Operators' changes on a real store: the checks, the written rows, and the state after a restart.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::testing::{SECRET, TestClock, endpoint, node};
use crate::{
    Admin, AdminError, EndpointChange, InvalidEndpoint, KeyRotation, NewEndpoint, ReplayRequest, Resumption,
    SendableEndpoint, Sender, SenderError, SenderParts, Vault, VerificationKeys, WebhookSettings,
};
use domain::delivery::ReplaySelection;
use domain::endpoint::{EndpointId, EndpointState, EndpointTerms, Signing};
use domain::event::EventFilter;
use domain::principal::TenantId;
use domain::replay::ReplayState;
use domain::time::Timestamp;
use keyring::ServerKeys;
use outbound::address::{EgressRules, RejectedUrl};
use outbound::keys::{InvalidKey, KeyKind, SigningKey};
use state::Store;
use state_sqlite::{SqliteSettings, SqliteStore};

const KEY_ONE: &str = "one:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";
const KEY_TWO: &str = "two:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n";

/// A folder with a database, and a clock.
struct Place {
    folder: TempDir,
    clock: TestClock,
}

impl Place {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), clock: TestClock::default() }
    }

    async fn store(&self) -> Arc<SqliteStore> {
        let durability = state::Durability::Relaxed;
        let settings = SqliteSettings { read_connections: 2, durability, ..SqliteSettings::default() };
        let path = self.folder.path().join("state.db");
        SqliteStore::open_by(self.clock.clock(), &path, settings, crate::bodies()).await.unwrap()
    }

    /// Opens a sender under these server keys, without running it.
    async fn open(
        &self,
        keys: &str,
        configured: Vec<SendableEndpoint>,
    ) -> Result<(Sender, Arc<SqliteStore>), SenderError> {
        let store = self.store().await;
        let parts = SenderParts {
            node: node(),
            outbox: Arc::<SqliteStore>::clone(&store),
            rules: Arc::new(EgressRules::new(vec![], true)),
            vault: Vault::new(&ServerKeys::parse(keys).unwrap()),
            settings: WebhookSettings { max_endpoints: 3, ..WebhookSettings::default() },
            senders: Arc::new(|| 1),
        };
        Ok((Sender::open(parts, configured).await?, store))
    }

    async fn admin(&self) -> Admin {
        self.open(KEY_ONE, vec![endpoint("static", "http://127.0.0.1:9/")])
            .await
            .unwrap()
            .0
            .admin()
            .of(TenantId::DEFAULT)
    }
}

fn id(name: &str) -> EndpointId {
    EndpointId::new(name).unwrap()
}

fn new(name: &str) -> NewEndpoint {
    let terms = EndpointTerms::of("https://example.com/hook");
    NewEndpoint { id: Some(id(name)), terms, headers: Vec::new(), key: None }
}

fn rotation(kind: Option<KeyKind>) -> KeyRotation {
    KeyRotation { key: None, kind, overlap: Duration::from_hours(1) }
}

#[tokio::test]
async fn what_is_made_is_there_after_a_restart() {
    let place = Place::new();
    let (sender, store) = place.open(KEY_ONE, vec![]).await.unwrap();
    let mut wanted = new("app");
    wanted.terms.signing = Signing::Both;
    wanted.headers = vec![("X-Token".to_owned(), "t0p".to_owned())];
    wanted.key = Some(SigningKey::parse(SECRET).unwrap());
    let (stored, shown) = sender.admin().of(TenantId::DEFAULT).create(wanted).await.unwrap();
    assert_eq!((stored.version, shown.secret.as_deref()), (1, Some(SECRET)), "the operator's own key");
    assert!(!format!("{shown:?}").contains(SECRET));
    store.close().await;
    drop(sender);

    let (sender, _) = place.open(KEY_ONE, vec![]).await.unwrap();
    let overview = sender.admin().of(TenantId::DEFAULT).endpoint(&id("app")).await.unwrap();
    assert_eq!(overview.endpoint, stored);
    assert_eq!((overview.headers, overview.keys.len()), (vec!["x-token".to_owned()], 2));
    assert_eq!(sender.admin().of(TenantId::DEFAULT).public_key(&id("app")).await.unwrap(), shown.public_key);
    let plain = String::from_utf8_lossy(&overview.endpoint.sealed).into_owned();
    assert!(!plain.contains("whsec") && !plain.contains("t0p"), "webhooks S11");
}

/// webhooks S11: after one start under a new server key, the old key is no longer needed.
#[tokio::test]
async fn a_start_under_a_newer_server_key_seals_everything_anew() {
    let place = Place::new();
    let (sender, store) = place.open(KEY_ONE, vec![]).await.unwrap();
    let (_, shown) = sender.admin().of(TenantId::DEFAULT).create(new("app")).await.unwrap();
    store.close().await;
    let (_, store) = place.open(&format!("{KEY_TWO}{KEY_ONE}"), vec![]).await.unwrap();
    store.close().await;

    let (sender, store) = place.open(KEY_TWO, vec![]).await.unwrap();
    let (_, rotated) = sender.admin().of(TenantId::DEFAULT).rotate(&id("app"), rotation(None)).await.unwrap();
    assert!(rotated.secret.is_some() && rotated != shown);
    assert_eq!(
        sender.admin().of(TenantId::DEFAULT).endpoint(&id("app")).await.unwrap().keys.len(),
        2,
        "the old secret is still known"
    );
    store.close().await;

    let (sender, _) = place.open(KEY_ONE, vec![]).await.unwrap();
    let refused =
        sender.admin().of(TenantId::DEFAULT).rotate(&id("app"), rotation(None)).await.unwrap_err().to_string();
    assert!(refused.contains("two"), "it names the key that is missing: {refused}");
    assert_eq!(sender.admin().of(TenantId::DEFAULT).endpoint(&id("app")).await.unwrap().keys, []);
}

#[tokio::test]
async fn a_change_must_know_what_it_changes() {
    let place = Place::new();
    let admin = place.admin().await;
    let (stored, _) = admin.create(new("app")).await.unwrap();
    let terms = EndpointTerms { description: "new".to_owned(), signing: Signing::Both, ..stored.terms.clone() };
    let change =
        EndpointChange { version: stored.version, terms, headers: Some(vec![("x-a".to_owned(), "1".to_owned())]) };
    let (changed, shown) = admin.update(&id("app"), change.clone()).await.unwrap();
    assert_eq!((changed.version, changed.terms.description.as_str()), (2, "new"));
    assert!(matches!(admin.update(&id("app"), change).await, Err(AdminError::Changed(_))), "it was read before");
    let public_key = admin.public_key(&id("app")).await.unwrap();
    assert!(public_key.is_some(), "the key it needs now was made");
    assert_eq!(shown, VerificationKeys { secret: None, public_key }, "and the one it had is not shown again");
    assert_eq!(admin.endpoint(&id("app")).await.unwrap().headers, ["x-a"]);

    let keep = EndpointChange { version: 2, terms: changed.terms, headers: None };
    assert_eq!(admin.update(&id("app"), keep).await.unwrap().1, VerificationKeys::default(), "nothing was made");
    assert_eq!(admin.endpoint(&id("app")).await.unwrap().headers, ["x-a"]);
}

#[tokio::test]
async fn what_cannot_be_an_endpoint_is_refused() {
    let place = Place::new();
    let admin = place.admin().await;
    let with_url = |url: &str| NewEndpoint { terms: EndpointTerms::of(url), ..new("bad") };
    for (url, why) in [
        ("http://example.com/", RejectedUrl::NotHttps),
        ("https://user:pass@example.com/", RejectedUrl::Credentials),
        ("https://10.0.0.1/", RejectedUrl::Private),
        ("https://example.com:6379/", RejectedUrl::Port(6379)),
        ("nonsense", RejectedUrl::NotAUrl),
    ] {
        let refused = admin.create(with_url(url)).await.unwrap_err();
        assert!(matches!(&refused, AdminError::Invalid(InvalidEndpoint::Url(told)) if *told == why), "{refused}");
        assert_eq!(admin.check_url(url), Err(why));
        assert!(!refused.to_string().contains("pass@"));
    }
    let nothing = EndpointTerms { filter: EventFilter::new(vec![]).unwrap(), ..new("x").terms };
    let refused = admin.create(NewEndpoint { terms: nothing, ..new("bad") }).await.unwrap_err();
    assert!(matches!(refused, AdminError::Invalid(InvalidEndpoint::NoEvents)));
    let headers = vec![("Host".to_owned(), "x".to_owned())];
    assert!(matches!(admin.create(NewEndpoint { headers, ..new("bad") }).await, Err(AdminError::Invalid(_))));

    for name in ["a", "b"] {
        admin.create(new(name)).await.unwrap();
    }
    assert!(matches!(admin.create(new("a")).await, Err(AdminError::Exists(_))));
    assert!(matches!(admin.create(new("static")).await, Err(AdminError::Exists(_))));
    let (made_up, _) = admin.create(NewEndpoint { id: None, ..new("c") }).await.unwrap();
    assert!(made_up.id.as_str().starts_with("ep_"));
    assert!(matches!(admin.create(new("d")).await, Err(AdminError::TooManyEndpoints(3))));
    admin.delete(&made_up.id).await.unwrap();
    assert!(matches!(admin.delete(&made_up.id).await, Err(AdminError::NoSuchEndpoint(_))));
    assert_eq!(admin.endpoints().await.unwrap().len(), 3);
}

/// webhooks A1.
#[tokio::test]
async fn what_stands_in_the_configuration_is_changed_there() {
    let place = Place::new();
    let (sender, store) = place.open(KEY_ONE, vec![endpoint("static", "http://127.0.0.1:9/")]).await.unwrap();
    let admin = &sender.admin().of(TenantId::DEFAULT);
    let stored = admin.endpoint(&id("static")).await.unwrap().endpoint;
    let change = EndpointChange { version: stored.version, terms: stored.terms, headers: None };
    assert!(matches!(admin.update(&id("static"), change).await, Err(AdminError::Configured(_))));
    assert!(matches!(admin.delete(&id("static")).await, Err(AdminError::Configured(_))));
    assert!(matches!(admin.rotate(&id("static"), rotation(None)).await, Err(AdminError::Configured(_))));
    let paused = admin.pause(&id("static")).await.unwrap();
    assert!(matches!(paused.state, EndpointState::Paused { .. }));
    assert_eq!(admin.pause(&id("static")).await.unwrap().version, paused.version, "it is paused already");
    let hour_ago = place.clock.now().minus(Duration::from_hours(1));
    let how = Resumption { missed_since: Some(hour_ago), ..Resumption::default() };
    let (resumed, job) = admin.resume(&id("static"), how).await.unwrap();
    assert_eq!(resumed.state, EndpointState::Enabled);
    assert_eq!(job.map(|job| job.what), Some(ReplaySelection::Missed));
    admin.create(new("app")).await.unwrap();
    store.close().await;

    let taken = place.open(KEY_ONE, vec![endpoint("app", "http://127.0.0.1:9/")]).await;
    assert!(matches!(taken, Err(SenderError::NameTaken(_))), "the configuration does not take an endpoint over");
}

/// Deliveries that the replay has queued are cancelled with the backlog, so the replay restarts.
#[tokio::test]
async fn a_resume_that_drops_what_waits_begins_its_replay_anew() {
    let place = Place::new();
    let admin = place.admin().await;
    admin.create(new("app")).await.unwrap();
    admin.pause(&id("app")).await.unwrap();
    let from = place.clock.now().minus(Duration::from_hours(1));
    let what = ReplaySelection::Missed;
    let wanted = ReplayRequest { endpoint: id("app"), what, from, before: None, force: false };
    let running = admin.begin_replay(wanted).await.unwrap();
    let how = Resumption { drops_backlog: true, missed_since: Some(from) };
    let begun = admin.resume(&id("app"), how).await.unwrap().1.unwrap();
    assert_ne!(begun.id, running.id);
    assert!(begun.before > running.before, "up to the delivery that was dropped last");
    let states: Vec<_> = admin.replays().await.unwrap().into_iter().map(|job| (job.id, job.state)).collect();
    assert!(
        states.contains(&(running.id, ReplayState::Cancelled)) && states.contains(&(begun.id, ReplayState::Running))
    );
}

/// webhooks H10.
#[tokio::test]
async fn a_rotation_shows_the_new_key_once() {
    let place = Place::new();
    let admin = place.admin().await;
    let (_, first) = admin.create(new("app")).await.unwrap();
    let (_, second) = admin.rotate(&id("app"), rotation(None)).await.unwrap();
    assert!(second.secret.is_some() && second.public_key.is_none() && second != first);
    let keys = admin.endpoint(&id("app")).await.unwrap().keys;
    let ends: Vec<bool> = keys.iter().map(|key| key.expires_at.is_some()).collect();
    assert_eq!(ends, [false, true], "newest first");
    let (_, public) = admin.rotate(&id("app"), rotation(Some(KeyKind::Ed25519))).await.unwrap();
    assert!(public.public_key.is_some() && public.secret.is_none());
    let long = KeyRotation { overlap: Duration::from_hours(8 * 24), ..rotation(None) };
    assert!(matches!(admin.rotate(&id("app"), long).await, Err(AdminError::Key(InvalidKey::Overlap))));
}

/// webhooks H9: a receiver that can forge messages to one endpoint must not be able to forge them to another.
#[tokio::test]
async fn no_two_endpoints_have_one_secret() {
    let place = Place::new();
    let (sender, store) = place.open(KEY_ONE, vec![endpoint("static", "http://127.0.0.1:9/")]).await.unwrap();
    let admin = &sender.admin().of(TenantId::DEFAULT);
    let with = |name: &str, key: &SigningKey| NewEndpoint { key: Some(key.clone()), ..new(name) };
    let rotated_to = |key: &SigningKey| KeyRotation { key: Some(key.clone()), ..rotation(None) };
    let of_the_file = SigningKey::parse(SECRET).unwrap();
    let [first, second] = [SigningKey::generate(KeyKind::Hmac), SigningKey::generate(KeyKind::Ed25519)];
    admin.create(with("a", &first)).await.unwrap();
    for taken in [&of_the_file, &first] {
        let refused = admin.create(with("b", taken)).await.unwrap_err();
        assert!(matches!(refused, AdminError::SecretTaken), "{refused}");
        assert!(!refused.to_string().contains("static") && !refused.to_string().contains("endpoint a"), "{refused}");
    }
    admin.create(new("b")).await.unwrap();
    admin.rotate(&id("a"), rotated_to(&second)).await.unwrap();
    for taken in [&of_the_file, &first, &second] {
        let refused = admin.rotate(&id("b"), rotated_to(taken)).await.unwrap_err();
        assert!(matches!(refused, AdminError::SecretTaken), "{refused}");
    }
    let known = admin.rotate(&id("a"), rotated_to(&first)).await.unwrap_err();
    assert!(matches!(known, AdminError::Key(InvalidKey::Known)), "its own: {known}");
    store.close().await;
    drop(sender);

    // Secrets that cannot be read cannot be compared.
    let (sender, _) = place.open(KEY_TWO, vec![]).await.unwrap();
    sender.admin().of(TenantId::DEFAULT).create(with("c", &first)).await.unwrap();
}

/// webhooks L3, L4.
#[tokio::test]
async fn a_replay_is_begun_once_and_can_be_stopped() {
    let place = Place::new();
    let admin = place.admin().await;
    let now = place.clock.now();
    let hour_ago = now.minus(Duration::from_hours(1));
    let wanted = ReplayRequest {
        endpoint: id("static"),
        what: ReplaySelection::Dead,
        from: hour_ago,
        before: Some(now),
        force: false,
    };
    let job = admin.begin_replay(wanted.clone()).await.unwrap();
    assert_eq!(admin.begin_replay(wanted.clone()).await.unwrap(), job, "it runs already");
    let everything = ReplayRequest { what: ReplaySelection::Everything, ..wanted.clone() };
    assert!(matches!(admin.begin_replay(everything.clone()).await, Err(AdminError::NeedsForce)));
    admin.begin_replay(ReplayRequest { force: true, ..everything }).await.unwrap();
    let empty = ReplayRequest { from: now, ..wanted.clone() };
    assert!(matches!(admin.begin_replay(empty).await, Err(AdminError::EmptyRange)));
    let missing = ReplayRequest { endpoint: id("missing"), ..wanted.clone() };
    assert!(matches!(admin.begin_replay(missing).await, Err(AdminError::NoSuchEndpoint(_))));

    let pending = ReplayRequest { what: ReplaySelection::Pending, from: Timestamp::from_unix_ms(0), ..wanted.clone() };
    assert!(matches!(admin.begin_replay(pending.clone()).await, Err(AdminError::TakesNoRange)));
    let begun = admin.begin_replay(ReplayRequest { before: None, ..pending }).await.unwrap();
    assert_eq!((begun.state, begun.queued), (ReplayState::Done, 0), "nothing waits");

    admin.cancel_replay(job.id).await.unwrap();
    assert!(matches!(admin.cancel_replay(job.id).await, Err(AdminError::NoSuchReplay(_))));
    let states: Vec<ReplayState> = admin.replays().await.unwrap().iter().map(|job| job.state).collect();
    assert_eq!(states.iter().filter(|state| **state == ReplayState::Cancelled).count(), 1);
    for step in 2..=20 {
        let from = hour_ago.minus(Duration::from_secs(step));
        admin.begin_replay(ReplayRequest { from, ..wanted.clone() }).await.unwrap();
    }
    let more = ReplayRequest { from: now.minus(Duration::from_mins(1)), ..wanted };
    assert!(matches!(admin.begin_replay(more).await, Err(AdminError::TooManyReplays)));
}

/// access T6: for a tenant, endpoints of other tenants do not exist.
#[tokio::test]
async fn a_tenant_neither_sees_nor_changes_what_another_has() {
    let place = Place::new();
    let (sender, _store) = place.open(KEY_ONE, vec![]).await.unwrap();
    let [own, other] = [0, 7].map(|number| sender.admin().of(TenantId::from_number(number)));
    let (made, _) = own.create(new("app")).await.unwrap();
    let app = &made.id;
    let from = Timestamp::from_unix_ms(0);
    let wanted = ReplayRequest { endpoint: app.clone(), what: ReplaySelection::Dead, from, before: None, force: false };
    let job = own.begin_replay(wanted.clone()).await.unwrap();

    assert!(other.endpoints().await.unwrap().is_empty() && other.replays().await.unwrap().is_empty());
    let terms = made.terms.clone();
    let refusals = [
        other.endpoint(app).await.err(),
        other.update(app, EndpointChange { version: 1, terms, headers: None }).await.err(),
        other.rotate(app, rotation(None)).await.err(),
        other.public_key(app).await.err(),
        other.pause(app).await.err(),
        other.resume(app, Resumption { drops_backlog: true, missed_since: None }).await.err(),
        other.test(app).await.err(),
        other.begin_replay(wanted).await.err(),
        other.delete(app).await.err(),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, Some(AdminError::NoSuchEndpoint(_))), "{refusal:?}");
    }
    assert!(matches!(other.cancel_replay(job.id).await, Err(AdminError::NoSuchReplay(_))));
    assert_eq!(other.pause_all().await.unwrap(), 0);
    assert_eq!(own.endpoint(app).await.unwrap().endpoint, made);
    assert_eq!(own.replays().await.unwrap(), [job]);
    assert!(matches!(other.create(new("app")).await, Err(AdminError::Exists(_))), "names are of the whole server");
    other.create(new("theirs")).await.unwrap();
    assert_eq!(own.endpoints().await.unwrap().len(), 1);
}
