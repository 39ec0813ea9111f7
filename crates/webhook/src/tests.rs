//! The sender against receivers on real sockets.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt as _;
use ring::signature::{ED25519, UnparsedPublicKey};
use standardwebhooks::Webhook;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::field::Field;
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::testing::{
    Receiver, SECRET, Sample, Script, TestClock, TestOutbox, endpoint, endpoint_with, node, sample, up_to, vault,
    wall_clock,
};
use crate::{
    Admin, AdminError, EndpointChange, HealthRules, InvalidEndpoint, KeyRotation, NewEndpoint, Resumption,
    SendableEndpoint, Sender, SenderError, SenderParts, Unhealthy, VerificationKeys, WebhookMetrics, WebhookSettings,
};
use domain::delivery::{AttemptOutcome, DeliveryState, Disposition};
use domain::endpoint::{DisabledBecause, EndpointId, EndpointState, EndpointTerms, Health, Signing};
use domain::notice::Notice;
use domain::principal::TenantId;
use domain::time::Timestamp;
use outbound::address::{EgressRules, RejectedUrl};
use outbound::resolver::{Lookup, system_lookup};
use state::Dispatch;

mod nodes;

/// A running sender with its parts.
struct Work {
    outbox: Arc<TestOutbox>,
    metrics: WebhookMetrics,
    admin: Admin,
    clock: TestClock,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// Settings that are short enough for tests, and long enough for a busy machine where nothing is meant to
/// time out.
fn settings() -> WebhookSettings {
    WebhookSettings {
        timeout: Duration::from_secs(10),
        retry_schedule: vec![Duration::from_secs(20); 3],
        ..WebhookSettings::default()
    }
}

fn impatient() -> WebhookSettings {
    WebhookSettings { timeout: Duration::from_millis(400), ..settings() }
}

fn parts(outbox: &Arc<TestOutbox>, settings: WebhookSettings, rules: EgressRules) -> SenderParts {
    let outbox = Arc::clone(outbox) as _;
    SenderParts { node: node(), outbox, rules: Arc::new(rules), vault: vault(), settings, senders: Arc::new(|| 1) }
}

impl Work {
    async fn begin(endpoints: Vec<SendableEndpoint>, settings: WebhookSettings) -> Self {
        Self::begin_with(endpoints, settings, EgressRules::default(), system_lookup()).await
    }

    async fn begin_with(
        endpoints: Vec<SendableEndpoint>,
        settings: WebhookSettings,
        rules: EgressRules,
        lookup: Lookup,
    ) -> Self {
        let (clock, stop) = (TestClock::default(), CancellationToken::new());
        let outbox = Arc::new(TestOutbox::by(&clock));
        let parts = parts(&outbox, settings, rules);
        let sender = Sender::open_with(parts, endpoints, lookup).await.unwrap();
        let (metrics, admin) = (sender.metrics().clone(), sender.admin().of(TenantId::DEFAULT));
        let running = tokio::spawn(sender.run(stop.clone()));
        Self { outbox, metrics, admin, clock, stop, running }
    }

    /// Starts a sender with one endpoint, `app`, at this receiver.
    async fn with(receiver: &Receiver, settings: WebhookSettings) -> Self {
        Self::begin(vec![endpoint("app", &receiver.url())], settings).await
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(Duration::from_secs(30), self.running).await.expect("the sender stops").unwrap();
        assert_eq!(self.metrics.in_flight.get(), 0);
    }
}

/// Sends one delivery to a receiver with this script, and returns its first attempt.
async fn attempt_at(script: Script, settings: WebhookSettings) -> (domain::delivery::Attempt, Disposition) {
    let receiver = Receiver::start([script]).await;
    let work = Work::with(&receiver, settings).await;
    let id = work.outbox.add_for("app");
    let attempt = work.outbox.attempted(id, 1).await.last().clone();
    work.end().await;
    attempt
}

fn retry_at(disposition: Disposition) -> Timestamp {
    match disposition {
        Disposition::RetryAt(at) => at,
        other => panic!("{other:?} is no retry"),
    }
}

/// webhooks P1, H1, H3, H4, H5, H12, H13, H14.
#[tokio::test]
async fn a_delivery_arrives_signed_and_whole() {
    let receiver = Receiver::start([Script::Status(204)]).await;
    let work = Work::with(&receiver, settings()).await;
    let body = r#"{"type":"upload.completed","data":{"filename":"Grüße.mp4"}}"#;
    let row = work.outbox.attempted(work.outbox.add(Sample { body, ..sample() }), 1).await;
    let event = row.event;
    assert_eq!((row.state, row.last().0.number), (DeliveryState::Succeeded, 1));

    let request = receiver.received().remove(0);
    assert_eq!(request.head.lines().next(), Some("POST /hook HTTP/1.1"));
    assert_eq!(request.body, body.as_bytes());
    Webhook::new(SECRET).unwrap().verify(&request.body, &request.headers).unwrap();
    assert_eq!(request.header("webhook-id"), format!("evt_{event}"));
    assert_eq!(request.header("webhook-attempt"), "1");
    assert_eq!(request.header("webhook-event-type"), "upload.completed");
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.header("user-agent"), concat!("longshore/", env!("CARGO_PKG_VERSION")));
    for absent in ["content-encoding", "transfer-encoding", "accept-encoding", "cookie", "referer", "authorization"] {
        assert!(!request.headers.contains_key(absent), "{absent}");
    }
    work.end().await;
}

/// webhooks H2, H3, P7: the receiver fails twice; the timestamp advances, and the message does not change.
#[tokio::test]
async fn a_retry_is_the_same_message_at_a_new_time() {
    let receiver = Receiver::start([Script::Status(500), Script::Status(500), Script::Status(200)]).await;
    let work = Work::with(&receiver, settings()).await;
    let id = work.outbox.add_for("app");
    for attempt in 1..=3 {
        work.outbox.attempted(id, attempt).await;
        work.clock.put_forward(Duration::from_secs(25));
        work.outbox.ring();
    }
    let row = work.outbox.row(id);
    let numbers: Vec<u32> = row.attempts.iter().map(|(attempt, _)| attempt.number).collect();
    assert_eq!((row.state, numbers), (DeliveryState::Succeeded, vec![1, 2, 3]));

    let requests = receiver.received();
    let receiving = Webhook::new(SECRET).unwrap();
    for (index, request) in requests.iter().enumerate() {
        receiving.verify(&request.body, &request.headers).unwrap();
        assert_eq!(request.header("webhook-id"), requests[0].header("webhook-id"));
        assert_eq!(request.body, requests[0].body);
        assert_eq!(request.header("webhook-attempt"), (index + 1).to_string());
    }
    let times: Vec<i64> = requests.iter().map(|request| request.header("webhook-timestamp").parse().unwrap()).collect();
    assert!(times[0] + 20 <= times[1] && times[1] + 20 <= times[2], "{times:?}");
    assert_eq!(requests.len(), 3);
    work.end().await;
}

/// webhooks R1, R14 in part: the schedule is used up.
#[tokio::test]
async fn a_delivery_dies_when_its_attempts_are_used_up() {
    let receiver = Receiver::start([Script::Status(500)]).await;
    let work =
        Work::with(&receiver, WebhookSettings { retry_schedule: vec![Duration::from_secs(20)], ..settings() }).await;
    let id = work.outbox.add_for("app");
    work.outbox.attempted(id, 1).await;
    work.clock.put_forward(Duration::from_secs(25));
    work.outbox.ring();
    let row = work.outbox.attempted(id, 2).await;
    assert_eq!((row.state, row.outcomes()), (DeliveryState::Dead, vec![AttemptOutcome::Status(500); 2]));
    work.end().await;
}

/// webhooks R8.
#[tokio::test]
async fn a_redirect_is_a_failure_and_leads_nowhere() {
    let elsewhere = Receiver::start([Script::Status(200)]).await;
    let location = format!("{}?{}", elsewhere.url(), "x".repeat(400));
    let headers = vec![("location", location.clone())];
    let (attempt, disposition) =
        attempt_at(Script::Answer { status: 307, headers, body: b"over there".to_vec() }, settings()).await;
    assert_eq!(attempt.outcome, AttemptOutcome::Status(307));
    assert_eq!(attempt.response_body, b"over there");
    let note = attempt.note.unwrap();
    assert!(note.contains(&elsewhere.url()) && note.len() == 200, "{note}");
    assert!(matches!(disposition, Disposition::RetryAt(_)));
    assert!(elsewhere.received().is_empty());
}

/// webhooks R7, and R9 `disable`.
#[tokio::test]
async fn a_receiver_that_is_gone_is_left_alone() {
    let disable = Script::Answer { status: 503, headers: vec![("webhook-delivery", "disable".into())], body: vec![] };
    let last_words = [(Script::Status(410), DisabledBecause::Gone), (disable, DisabledBecause::Asked)];
    for (last_word, expected) in last_words {
        let receiver = Receiver::start([last_word]).await;
        let other = Receiver::start([Script::Status(200)]).await;
        let endpoints = vec![endpoint("app", &receiver.url()), endpoint("other", &other.url())];
        let work = Work::begin(endpoints, settings()).await;
        let first = work.outbox.add_for("app");
        assert_eq!(work.outbox.attempted(first, 1).await.state, DeliveryState::Paused);
        let state = work.outbox.stored("app").state;
        assert!(matches!(state, EndpointState::Disabled { because, .. } if because == expected), "{state:?}");

        // The delivery waits with its endpoint.
        let second = work.outbox.add_for("app");
        let witness = work.outbox.add_for("other");
        work.outbox.attempted(witness, 1).await;
        assert_eq!(work.outbox.row(second).state, DeliveryState::Paused);
        assert_eq!(receiver.received().len(), 1);
        work.end().await;
    }
}

/// webhooks R9.
#[tokio::test]
async fn a_receiver_may_refuse_one_message_for_good() {
    let headers = vec![("webhook-delivery", "abort-message".to_owned())];
    let (_, disposition) = attempt_at(Script::Answer { status: 422, headers, body: vec![] }, settings()).await;
    assert_eq!(disposition, Disposition::Dead);
}

/// webhooks R5, R6: the wait that the receiver requests in either form of `Retry-After`.
#[tokio::test]
async fn a_busy_receiver_says_when_to_come_back() {
    let in_ten_minutes = httpdate::fmt_http_date(
        std::time::UNIX_EPOCH + wall_clock().since(Timestamp::from_unix_ms(0)) + Duration::from_mins(10),
    );
    for (asked, at_least, at_most) in
        [(None, 60, 91), (Some("150.5".to_owned()), 150, 220), (Some(in_ten_minutes), 590, 860)]
    {
        let headers = asked.map(|value| ("retry-after", value)).into_iter().collect();
        let (attempt, disposition) =
            attempt_at(Script::Answer { status: 429, headers, body: vec![] }, settings()).await;
        let wait = retry_at(disposition).since(attempt.started_at);
        assert!((at_least..=at_most).contains(&wait.as_secs()), "{wait:?} is not in {at_least}..={at_most}");
    }
}

/// webhooks R5, R11: silence at any point ends with the one timeout.
#[tokio::test]
async fn a_receiver_that_does_not_answer_times_out() {
    for script in [Script::Hang, Script::DripHead] {
        let (attempt, disposition) = attempt_at(script.clone(), impatient()).await;
        assert_eq!(attempt.outcome, AttemptOutcome::Timeout, "{script:?}");
        assert!(attempt.took >= impatient().timeout, "{script:?}");
        assert!(retry_at(disposition).since(attempt.started_at) >= Duration::from_secs(60), "{script:?}");
    }
}

/// webhooks R11: the timeout covers the name lookup, and so does the timeout for connecting.
#[tokio::test]
async fn a_lookup_that_hangs_times_out() {
    let limit = impatient().timeout;
    for limits in [impatient(), WebhookSettings { connect_timeout: limit, ..settings() }] {
        let lookup: Lookup = Arc::new(|_| Box::pin(std::future::pending()));
        let endpoints = vec![endpoint("app", "http://hangs.example/")];
        let work = Work::begin_with(endpoints, limits, EgressRules::default(), lookup).await;
        let (attempt, disposition) = work.outbox.attempted(work.outbox.add_for("app"), 1).await.last().clone();
        assert_eq!((attempt.outcome, attempt.remote), (AttemptOutcome::Timeout, None));
        assert!(attempt.took >= limit && attempt.took < settings().timeout, "{:?}", attempt.took);
        assert!(retry_at(disposition).since(attempt.started_at) >= Duration::from_secs(60), "webhooks R5");
        work.end().await;
    }
}

/// webhooks R11: the accept queue of the receiver is full, and it accepts no connection.
#[tokio::test]
async fn a_receiver_that_accepts_nobody_times_out() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut line = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        line.push(connected.unwrap());
        assert!(line.len() < 100, "the line has no end");
    }
    let limits = WebhookSettings { connect_timeout: Duration::from_millis(300), ..settings() };
    let work = Work::begin(vec![endpoint("app", &format!("http://{address}/"))], limits).await;
    let (attempt, _) = work.outbox.attempted(work.outbox.add_for("app"), 1).await.last().clone();
    assert_eq!(attempt.outcome, AttemptOutcome::Timeout);
    assert!(attempt.took < settings().timeout, "{:?}", attempt.took);
    work.end().await;
}

/// webhooks R12: the status has arrived, and the body does not matter.
#[tokio::test]
async fn a_body_without_an_end_does_not_undo_a_success() {
    for script in [Script::DripBody(200), Script::StalledBody(200)] {
        let (attempt, disposition) = attempt_at(script.clone(), impatient()).await;
        assert_eq!((attempt.outcome, disposition), (AttemptOutcome::Status(200), Disposition::Succeeded), "{script:?}");
        assert!(!attempt.response_body.is_empty() && attempt.note.is_some(), "{script:?}");
    }
    let (attempt, disposition) = attempt_at(Script::DripBody(500), impatient()).await;
    assert_eq!(attempt.outcome, AttemptOutcome::Status(500));
    assert!(matches!(disposition, Disposition::RetryAt(_)));
}

/// webhooks R12: 64 KiB are read and 4 KiB stored. Bytes that the kernel buffered on the way are not read.
#[tokio::test]
async fn a_gigabyte_of_answer_is_not_read() {
    let receiver = Receiver::start([Script::Gigabyte(200)]).await;
    let work = Work::with(&receiver, settings()).await;
    let row = work.outbox.attempted(work.outbox.add_for("app"), 1).await;
    assert_eq!((row.state, row.last().0.response_body.len()), (DeliveryState::Succeeded, 4096));
    work.end().await;
    assert!(receiver.body_bytes_sent() < 64 << 20, "{}", receiver.body_bytes_sent());
}

/// webhooks R1: each kind of failure has its class.
#[tokio::test]
async fn a_broken_exchange_is_recorded_as_what_it_was() {
    for (script, outcome) in [
        (Script::Reset, AttemptOutcome::Reset),
        (Script::Close, AttemptOutcome::Reset),
        (Script::Garbage, AttemptOutcome::Transport),
    ] {
        let (attempt, disposition) = attempt_at(script.clone(), settings()).await;
        assert_eq!(attempt.outcome, outcome, "{script:?}");
        assert!(attempt.note.is_some_and(|note| !note.is_empty()), "{script:?}");
        assert!(matches!(disposition, Disposition::RetryAt(_)));
    }
}

#[tokio::test]
async fn a_receiver_that_cannot_be_reached_is_recorded_as_such() {
    let gone = Receiver::start([Script::Status(200)]).await.address;
    let plain = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let plain_address = plain.local_addr().unwrap();
    let _mail_server = tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"220 mail.example.com ESMTP\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let too_long = "a".repeat(64);
    for (url, outcome) in [
        (format!("http://{gone}/"), AttemptOutcome::Refused),
        (format!("https://{plain_address}/"), AttemptOutcome::Tls),
        (format!("http://{too_long}.example/"), AttemptOutcome::Dns),
    ] {
        let work = Work::begin(vec![endpoint("app", &url)], settings()).await;
        let row = work.outbox.attempted(work.outbox.add_for("app"), 1).await;
        assert_eq!(row.outcomes(), [outcome], "{url}: {:?}", row.last().0.note);
        work.end().await;
    }
}

/// webhooks R10: the receiver closed the idle connection as it was being reused.
#[tokio::test]
async fn a_dead_idle_connection_costs_no_attempt() {
    for dying in [Script::Close, Script::Reset] {
        let receiver = Receiver::start([Script::Status(200), dying, Script::Status(200)]).await;
        let work = Work::with(&receiver, settings()).await;
        work.outbox.attempted(work.outbox.add_for("app"), 1).await;
        let row = work.outbox.attempted(work.outbox.add_for("app"), 1).await;
        assert_eq!((row.state, row.outcomes()), (DeliveryState::Succeeded, vec![AttemptOutcome::Status(200)]));

        let requests = receiver.received();
        assert_eq!(requests.iter().map(|request| request.connection).collect::<Vec<_>>(), [0, 0, 1]);
        assert_eq!(requests[1].header("webhook-id"), requests[2].header("webhook-id"));
        assert_eq!(requests[1].body, requests[2].body);
        work.end().await;
    }
}

/// webhooks R10: a request is repeated only on a connection that was already dead.
#[tokio::test]
async fn an_idle_connection_that_dies_late_is_an_attempt() {
    let late = Script::ResetLate(Duration::from_millis(1_200));
    let receiver = Receiver::start([Script::Status(200), late, Script::Status(200)]).await;
    let work = Work::with(&receiver, settings()).await;
    work.outbox.attempted(work.outbox.add_for("app"), 1).await;
    let row = work.outbox.attempted(work.outbox.add_for("app"), 1).await;
    assert_eq!(row.outcomes(), [AttemptOutcome::Reset]);
    assert_eq!(receiver.received().len(), 2);
    work.end().await;
}

/// webhooks R10: a fresh connection that dies is the receiver's failure.
#[tokio::test]
async fn a_fresh_connection_that_dies_is_an_attempt() {
    let receiver = Receiver::start([Script::Close, Script::Status(200)]).await;
    let work = Work::with(&receiver, settings()).await;
    let row = work.outbox.attempted(work.outbox.add_for("app"), 1).await;
    assert_eq!(row.outcomes(), [AttemptOutcome::Reset]);
    assert_eq!(receiver.received().len(), 1);
    work.end().await;
}

/// webhooks S12.
#[tokio::test]
async fn credentials_of_a_url_are_sent_as_a_header() {
    let receiver = Receiver::start([Script::Status(200)]).await;
    let url = receiver.url().replace("http://", "http://user:p%40ss@");
    let work = Work::begin(vec![endpoint("app", &url)], settings()).await;
    work.outbox.attempted(work.outbox.add_for("app"), 1).await;
    assert_eq!(receiver.received()[0].header("authorization"), "Basic dXNlcjpwQHNz");
    assert_eq!(receiver.received()[0].header("host"), receiver.address.to_string());
    work.end().await;
}

/// webhooks E1, E2: a receiver that hangs fills its own slots and delays no other.
#[tokio::test]
async fn a_hanging_receiver_holds_up_no_other() {
    let hanging = Receiver::start([Script::Hang]).await;
    let mut healthy = Vec::new();
    for _ in 0..9 {
        healthy.push(Receiver::start([Script::Status(200)]).await);
    }
    let mut endpoints = vec![endpoint("hanging", &hanging.url())];
    endpoints.extend(healthy.iter().enumerate().map(|(n, receiver)| endpoint(&format!("h{n}"), &receiver.url())));
    let limits = WebhookSettings {
        timeout: Duration::from_secs(30),
        max_in_flight: 12,
        max_in_flight_per_endpoint: 3,
        drain_timeout: Duration::ZERO,
        ..settings()
    };
    let work = Work::begin(endpoints, limits).await;
    for _ in 0..100 {
        work.outbox.add_for("hanging");
    }
    hanging.heard(3).await;
    for n in 0..180 {
        work.outbox.add_for(&format!("h{}", n % 9));
    }
    let all_succeeded = |name: &str| {
        let rows = work.outbox.rows_for(name);
        rows.iter().all(|row| row.state == DeliveryState::Succeeded)
    };
    work.outbox.until(|| (0..9).all(|n| all_succeeded(&format!("h{n}")))).await;
    assert!(healthy.iter().all(|receiver| receiver.received().len() == 20));
    assert_eq!(hanging.received().len(), 3);
    assert!(work.outbox.rows_for("hanging").iter().all(|row| row.attempts.is_empty()));
    work.end().await;
}

/// webhooks E1: the limits of the endpoints do not add up to more than the total limit.
#[tokio::test]
async fn all_endpoints_together_have_a_limit() {
    let (hanging, other) = (Receiver::start([Script::Hang]).await, Receiver::start([Script::Status(200)]).await);
    let names = ["a", "b", "c"];
    let mut endpoints = names.map(|name| endpoint(name, &hanging.url())).to_vec();
    endpoints.push(endpoint("other", &other.url()));
    let limits = WebhookSettings { timeout: Duration::from_secs(30), drain_timeout: Duration::ZERO, ..settings() };
    let work = Work::begin(endpoints, WebhookSettings { max_in_flight: 5, ..limits }).await;
    for name in names.iter().cycle().take(30) {
        work.outbox.add_for(name);
    }
    hanging.heard(5).await;
    // A test need not wait for a slot. By then the loop has polled again.
    work.outbox.ring();
    work.admin.test(&EndpointId::new("other").unwrap()).await.unwrap();
    let rows: Vec<_> = names.iter().flat_map(|name| work.outbox.rows_for(name)).collect();
    let leased = rows.iter().filter(|row| row.state == DeliveryState::Leased).count();
    assert_eq!((leased, hanging.received().len(), other.received().len()), (5, 5, 1));
    work.end().await;
}

/// webhooks E7, R13: a receiver gets a backlog of any size at its rate, and waiting uses up no attempt.
#[tokio::test]
async fn a_receiver_gets_no_more_in_a_second_than_it_wants() {
    let receiver = Receiver::start([Script::Status(200)]).await;
    let limited = endpoint_with("app", &receiver.url(), |terms| terms.max_per_second = Some(50));
    let work = Work::begin(vec![limited], settings()).await;
    let began = Instant::now();
    let ids: Vec<_> = (0..100).map(|_| work.outbox.add_for("app")).collect();
    for id in ids {
        assert_eq!(work.outbox.attempted(id, 1).await.outcomes(), [AttemptOutcome::Status(200)]);
    }
    // Five may be sent at once, and one every 20 ms after them.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(95 * 20 - 10), "a hundred in {took:?}");
    work.end().await;
}

/// With more endpoints than slots, and always more deliveries due than fit, no endpoint is starved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_take_turns_when_slots_are_short() {
    let receiver = Receiver::start([Script::Status(200)]).await;
    let names: Vec<String> = (0..7).map(|n| format!("e{n}")).collect();
    let endpoints = names.iter().map(|name| endpoint(name, &receiver.url())).collect();
    let work = Work::begin(endpoints, WebhookSettings { max_in_flight: 2, ..settings() }).await;
    for name in names.iter().cycle().take(70) {
        work.outbox.add_for(name);
    }
    let sent = |name: &String| work.outbox.rows_for(name).iter().all(|row| row.state == DeliveryState::Succeeded);
    work.outbox.until(|| names.iter().all(sent)).await;
    assert_eq!(receiver.received().len(), 70);
    work.end().await;
}

/// webhooks G6: first attempts are made in order, and a delivery in backoff does not block the next.
#[tokio::test]
async fn first_attempts_of_an_upload_keep_their_order() {
    let receiver = Receiver::start([Script::Status(200), Script::Status(500), Script::Status(200)]).await;
    let work = Work::with(&receiver, settings()).await;
    let first = sample();
    let ids: Vec<_> =
        (0..6).map(|_| Sample { upload: first.upload, ..sample() }).map(|sample| work.outbox.add(sample)).collect();
    work.outbox.attempted(ids[5], 1).await;

    let sent: Vec<String> = receiver.received().iter().map(|request| request.header("webhook-id").to_owned()).collect();
    let expected: Vec<String> = ids.iter().map(|id| format!("evt_{}", work.outbox.row(*id).event)).collect();
    assert_eq!(sent, expected);
    assert_eq!(work.outbox.row(ids[1]).state, DeliveryState::Ready);
    work.end().await;
}

/// webhooks O4: while results cannot be written, nothing is claimed; afterwards nothing is sent again.
#[tokio::test]
async fn a_result_that_cannot_be_recorded_is_kept_and_not_sent_again() {
    let receiver = Receiver::start([Script::Status(200)]).await;
    let work = Work::with(&receiver, settings()).await;
    work.outbox.writes_fail.store(true, Ordering::SeqCst);
    let first = work.outbox.add_for("app");
    work.outbox.failed(2).await;
    let second = work.outbox.add_for("app");
    // The lease expires meanwhile.
    work.clock.put_forward(Duration::from_secs(70));
    work.outbox.ring();
    work.outbox.failed(2).await;
    assert_eq!(receiver.received().len(), 1);

    work.outbox.writes_fail.store(false, Ordering::SeqCst);
    assert_eq!(work.outbox.attempted(second, 1).await.state, DeliveryState::Succeeded);
    assert_eq!(work.outbox.row(first).attempts.len(), 1);
    assert_eq!(receiver.received().len(), 2);
    work.end().await;
}

/// webhooks O4.
#[tokio::test]
async fn the_sender_outlives_an_outage_of_the_store() {
    let receiver = Receiver::start([Script::Status(200)]).await;
    let work = Work::with(&receiver, settings()).await;
    work.outbox.claims_fail.store(true, Ordering::SeqCst);
    let id = work.outbox.add_for("app");
    work.outbox.failed(3).await;
    work.outbox.claims_fail.store(false, Ordering::SeqCst);
    assert_eq!(work.outbox.attempted(id, 1).await.state, DeliveryState::Succeeded);
    work.end().await;
}

/// webhooks G1: a worker died with the lease; the lease expires and the delivery is sent.
#[tokio::test]
async fn a_lease_that_ran_out_is_claimed_again() {
    let receiver = Receiver::start([Script::Status(200)]).await;
    let clock = TestClock::default();
    let outbox = Arc::new(TestOutbox::by(&clock));
    let id = outbox.add_for("app");
    let leased = Dispatch::claim_due(&*outbox, node(), &[up_to("app", 1)], clock.now(), Duration::from_secs(60)).await;
    assert_eq!(leased.unwrap().len(), 1);
    clock.put_forward(Duration::from_secs(61));

    let stop = CancellationToken::new();
    let endpoints = vec![endpoint("app", &receiver.url())];
    let sender = Sender::open(parts(&outbox, settings(), EgressRules::default()), endpoints).await.unwrap();
    let running = tokio::spawn(sender.run(stop.clone()));
    assert_eq!(outbox.attempted(id, 1).await.state, DeliveryState::Succeeded);
    stop.cancel();
    running.await.unwrap();
}

/// A delivery that is in flight when the clock is set ahead is not sent again, and its result counts.
#[tokio::test]
async fn a_clock_set_ahead_ends_no_lease() {
    let receiver = Receiver::start([Script::Hang, Script::Status(200)]).await;
    let work = Work::with(&receiver, impatient()).await;
    let held = work.outbox.add_for("app");
    receiver.heard(1).await;
    work.clock.step_ahead(Duration::from_hours(10));
    work.outbox.ring();
    let row = work.outbox.attempted(held, 1).await;
    assert_eq!((row.state, row.outcomes()), (DeliveryState::Ready, vec![AttemptOutcome::Timeout]));
    let next = work.outbox.add(Sample { at: work.clock.now(), ..sample() });
    work.outbox.attempted(next, 1).await;
    assert_eq!(receiver.received().len(), 2, "nothing was sent twice");
    work.end().await;
}

/// A retry, a first attempt and a breaker were scheduled by a clock that was ahead. The clock is set back
/// between two runs of the process, or during one.
#[tokio::test]
async fn nothing_waits_for_a_clock_that_was_ahead() {
    for restarts in [false, true] {
        let receiver = Receiver::start([Script::Status(500), Script::Status(500), Script::Status(200)]).await;
        let rules =
            HealthRules { breaker_failures: 2, breaker_pause: Duration::from_secs(1), ..HealthRules::default() };
        let limits = WebhookSettings { health: rules, retry_schedule: vec![Duration::from_secs(1); 3], ..settings() };
        let clock = TestClock::default();
        let outbox = Arc::new(TestOutbox::by(&clock));
        let start = async || {
            let parts = parts(&outbox, limits.clone(), EgressRules::default());
            let stop = CancellationToken::new();
            let endpoints = match outbox.has("app") {
                true => vec![endpoint("app", &receiver.url()).with(outbox.stored("app")).unwrap()],
                false => vec![endpoint("app", &receiver.url())],
            };
            let sender = Sender::open(parts, endpoints).await.unwrap();
            (tokio::spawn(sender.run(stop.clone())), stop)
        };
        clock.step_ahead(Duration::from_hours(10));
        let (mut running, mut stop) = start().await;
        let at = |sample: Sample| Sample { at: clock.now(), ..sample };
        let tried = [outbox.add(at(sample())), outbox.add(at(sample()))];
        for id in tried {
            outbox.attempted(id, 1).await;
        }
        let untried = outbox.add(at(sample()));
        outbox.until(|| outbox.stored("app").health.open_until.is_some()).await;
        if restarts {
            stop.cancel();
            running.await.unwrap();
            clock.step_back(Duration::from_hours(10));
            (running, stop) = start().await;
        } else {
            clock.step_back(Duration::from_hours(10));
        }
        for id in tried {
            assert_eq!(outbox.attempted(id, 2).await.state, DeliveryState::Succeeded);
        }
        assert_eq!(outbox.attempted(untried, 1).await.state, DeliveryState::Succeeded);
        stop.cancel();
        running.await.unwrap();
    }
}

/// A minute of failures and a week of sleep are not a week of failures.
#[tokio::test]
async fn an_endpoint_is_not_disabled_for_time_that_was_passed_over() {
    let receiver = Receiver::start([Script::Status(500)]).await;
    let rules = HealthRules { breaker_failures: 0, ..HealthRules::default() };
    let work = Work::with(&receiver, WebhookSettings { retry_schedule: vec![], health: rules, ..settings() }).await;
    for _ in 0..3 {
        let id = work.outbox.add(Sample { at: work.clock.now(), ..sample() });
        work.outbox.attempted(id, 1).await;
        work.clock.step_ahead(Duration::from_hours(7 * 24));
    }
    assert_eq!(*work.outbox.notices.lock().unwrap(), []);
    assert_eq!(work.outbox.stored("app").state, EndpointState::Enabled);
    work.end().await;
}

/// webhooks O5: responses in time are recorded; the other deliveries are recorded as aborted and are due at
/// once.
#[tokio::test]
async fn stopping_records_every_delivery_in_flight() {
    let receiver = Receiver::start([Script::Hang]).await;
    let limits = WebhookSettings {
        drain_timeout: Duration::from_millis(100),
        max_in_flight_per_endpoint: 2,
        timeout: Duration::from_secs(30),
        ..settings()
    };
    let work = Work::with(&receiver, limits).await;
    let ids: Vec<_> = (0..3).map(|_| work.outbox.add_for("app")).collect();
    receiver.heard(2).await;
    let outbox = Arc::clone(&work.outbox);
    work.end().await;

    for id in &ids[..2] {
        let row = outbox.row(*id);
        assert_eq!((row.state, row.outcomes()), (DeliveryState::Ready, vec![AttemptOutcome::Aborted]));
        assert!(retry_at(row.last().1).since(row.last().0.started_at) < Duration::from_secs(15));
    }
    let untouched = outbox.row(ids[2]);
    assert!(untouched.state == DeliveryState::Ready && untouched.attempts.is_empty());
    let later = wall_clock().plus(Duration::from_mins(1));
    let again =
        Dispatch::claim_due(&*outbox, node(), &[up_to("app", 9)], later, Duration::from_secs(60)).await.unwrap();
    assert_eq!(
        again.iter().map(|claim| claim.attempts).collect::<Vec<_>>(),
        [0; 3],
        "an aborted attempt does not count"
    );
}

#[tokio::test]
async fn stopping_waits_for_an_answer_that_comes_in_time() {
    let receiver = Receiver::start([Script::StalledBody(200)]).await;
    let work = Work::with(&receiver, WebhookSettings { timeout: Duration::from_secs(1), ..settings() }).await;
    let id = work.outbox.add_for("app");
    receiver.heard(1).await;
    let outbox = Arc::clone(&work.outbox);
    work.end().await;
    assert_eq!(outbox.row(id).outcomes(), [AttemptOutcome::Status(200)]);
}

#[tokio::test]
async fn a_sender_needs_sound_settings_and_names() {
    let open = async |endpoints, settings| {
        let outbox = Arc::new(TestOutbox::default());
        Sender::open(parts(&outbox, settings, EgressRules::default()), endpoints).await
    };
    let short = WebhookSettings { lease: Duration::from_secs(10), ..settings() };
    assert!(matches!(open(vec![], short).await, Err(SenderError::Settings(_))));
    let twice = vec![endpoint("app", "http://a.example"), endpoint("app", "http://b.example")];
    assert!(matches!(open(twice, settings()).await, Err(SenderError::TwoOfOneName(_))));
    let sender = open(vec![endpoint("app", "http://user:pass@a.example")], settings()).await.unwrap();
    assert!(!format!("{sender:?}").contains("pass"));
}

/// Returns rules that allow loopback for endpoints created through the API.
fn open_rules() -> EgressRules {
    EgressRules::new(vec!["127.0.0.0/8".parse().unwrap()], true)
}

fn no_names() -> Lookup {
    names(&[])
}

/// Returns a lookup that resolves every name to these addresses.
fn names(addresses: &[&str]) -> Lookup {
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Arc::new(move |_| {
        let addresses = addresses.clone();
        Box::pin(async move { Ok(addresses) })
    })
}

fn made_by_api(url: &str) -> NewEndpoint {
    let terms = EndpointTerms::of(url);
    NewEndpoint { id: EndpointId::new("app"), terms, headers: Vec::new(), key: None }
}

/// Starts a sender without endpoints of the configuration.
async fn with_api(rules: EgressRules, lookup: Lookup) -> Work {
    Work::begin_with(Vec::new(), settings(), rules, lookup).await
}

/// If an endpoint is removed while another of the same name is created, the new one is sent to.
#[tokio::test]
async fn an_endpoint_made_while_one_of_its_name_goes_is_sent_to() {
    let receiver = Receiver::start([Script::Status(200)]).await;
    let url = format!("http://app.example:{}/hook", receiver.address.port());
    let work = with_api(open_rules(), names(&["127.0.0.1"])).await;
    work.admin.create(made_by_api(&url)).await.unwrap();
    work.outbox.holds_removals.store(true, Ordering::SeqCst);
    let admin = work.admin.clone();
    let removing = tokio::spawn(async move { admin.delete(&app()).await });
    work.outbox.until(|| !work.outbox.has("app")).await;
    let admin = work.admin.clone();
    let making = tokio::spawn(async move { admin.create(made_by_api(&url)).await });
    for _ in 0..1_000 {
        yield_now().await;
    }
    work.outbox.holds_removals.store(false, Ordering::SeqCst);
    removing.await.unwrap().unwrap();
    making.await.unwrap().unwrap();
    let sent = work.outbox.attempted(work.outbox.add_for("app"), 1).await;
    assert_eq!(sent.state, DeliveryState::Succeeded);
    work.end().await;
}

/// The complete record of an attempt (webhooks L1).
#[tokio::test]
async fn an_attempt_says_where_its_time_went_and_what_came_back() {
    let headers = vec![
        ("content-type", "text/plain".to_owned()),
        ("server", "test".to_owned()),
        ("x-request-id", "r".repeat(300)),
        ("set-cookie", "secret=1".to_owned()),
    ];
    let receiver = Receiver::start([Script::Answer { status: 200, headers, body: b"ok".to_vec() }]).await;
    let url = format!("http://app.example:{}/hook", receiver.address.port());
    let work = Work::begin_with(vec![endpoint("app", &url)], settings(), open_rules(), names(&["127.0.0.1"])).await;
    let first = work.outbox.attempted(work.outbox.add_for("app"), 1).await.last().0.clone();
    let kept: Vec<&str> = first.response_headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(kept, ["content-type", "content-length", "server", "x-request-id"], "and no cookie");
    assert_eq!(first.response_headers[3].1.len(), 200);
    assert_eq!(first.remote, Some(receiver.address.ip()));
    let timings = first.timings;
    assert!(timings.dns.is_some() && timings.connect.is_some(), "{timings:?}");
    assert!(timings.first_byte.unwrap() >= timings.dns.unwrap() + timings.connect.unwrap(), "{timings:?}");
    assert!(first.took >= timings.first_byte.unwrap());

    let second = work.outbox.attempted(work.outbox.add_for("app"), 1).await.last().0.clone();
    let timings = second.timings;
    assert_eq!((timings.dns, timings.connect), (None, None), "the connection was there");
    assert!(timings.first_byte.is_some());
    work.end().await;
}

/// webhooks S5: of a name with allowed and blocked addresses only the allowed ones are called, and of one
/// with only blocked addresses none: no packet is sent.
#[tokio::test]
async fn a_name_leads_only_to_addresses_that_are_allowed() {
    let allowed = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = allowed.local_addr().unwrap().port();
    let Ok(refused) = TcpListener::bind(("127.0.0.2", port)).await else { panic!("{port} is taken on 127.0.0.2") };
    let only_one = || EgressRules::new(vec!["127.0.0.1".parse().unwrap()], true);
    for (addresses, outcome) in [
        (&["127.0.0.2", "::1", "10.0.0.1", "127.0.0.1"][..], AttemptOutcome::Reset),
        (&["127.0.0.2", "::ffff:127.0.0.2", "169.254.169.254", "::1"][..], AttemptOutcome::Blocked),
    ] {
        let work = with_api(only_one(), names(addresses)).await;
        work.admin.create(made_by_api(&format!("http://app.example:{port}/"))).await.unwrap();
        let id = work.outbox.add_for("app");
        if outcome == AttemptOutcome::Reset {
            // The listener accepts the request and closes the connection.
            drop(timeout(Duration::from_secs(30), allowed.accept()).await.expect("it is called").unwrap());
        }
        let attempt = work.outbox.attempted(id, 1).await.last().0.clone();
        assert_eq!(attempt.outcome, outcome, "{attempt:?}");
        work.end().await;
    }
    assert!(refused.accept().now_or_never().is_none(), "no connection was made");
    assert!(allowed.accept().now_or_never().is_none());
}

/// webhooks S1, S10: an address that was allowed at registration is checked again, and the record reveals
/// nothing of the target.
#[tokio::test]
async fn a_name_that_changes_its_mind_gets_nowhere() {
    let here = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (open, closed) = (here.local_addr().unwrap().port(), closed_port().await);
    let mut notes = Vec::new();
    for port in [open, closed] {
        let work = with_api(EgressRules::new(vec![], true), names(&["127.0.0.1"])).await;
        work.admin.create(made_by_api(&format!("https://rebind.example:{port}/"))).await.unwrap();
        let attempt = work.outbox.attempted(work.outbox.add_for("app"), 1).await.last().0.clone();
        assert_eq!((attempt.outcome, attempt.remote), (AttemptOutcome::Blocked, None));
        assert!(attempt.response_body.is_empty() && attempt.timings.connect.is_none());
        notes.push(attempt.note);
        work.end().await;
    }
    assert_eq!(notes[0], notes[1], "whether something listens there or not");
    assert!(here.accept().now_or_never().is_none(), "no connection was made");
}

/// webhooks S1: the checked address is the one that is called. The name is resolved once; a second lookup
/// would return an address that is not allowed, with a listener on it.
#[tokio::test]
async fn a_name_is_looked_up_once_and_called_as_it_was_judged() {
    let receiver = Receiver::start([Script::Status(200)]).await;
    let port = receiver.address.port();
    let Ok(trap) = TcpListener::bind(("127.0.0.2", port)).await else { panic!("{port} is taken on 127.0.0.2") };
    let looked_up = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looked_up);
    let rebinding: Lookup = Arc::new(move |_| {
        let address = if counted.fetch_add(1, Ordering::SeqCst) == 0 { "127.0.0.1" } else { "127.0.0.2" };
        Box::pin(async move { Ok(vec![address.parse().unwrap()]) })
    });
    let work = with_api(EgressRules::new(vec!["127.0.0.1".parse().unwrap()], true), rebinding).await;
    work.admin.create(made_by_api(&format!("http://rebind.example:{port}/hook"))).await.unwrap();
    let attempt = work.outbox.attempted(work.outbox.add_for("app"), 1).await.last().0.clone();
    assert_eq!((attempt.outcome, attempt.remote), (AttemptOutcome::Status(200), Some(receiver.address.ip())));
    assert_eq!(looked_up.load(Ordering::SeqCst), 1);
    assert!(trap.accept().now_or_never().is_none(), "no connection was made");
    work.end().await;
}

/// webhooks S7, as an attempt: also for endpoints of the configuration.
#[tokio::test]
async fn the_server_itself_is_never_called() {
    let own = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = own.local_addr().unwrap();
    for url in [format!("http://{address}/"), format!("http://localhost:{}/", address.port())] {
        let rules = open_rules();
        rules.set_own(vec![address]);
        let configured = vec![endpoint("app", &url)];
        let work = Work::begin_with(configured, settings(), rules, names(&["127.0.0.1"])).await;
        let row = work.outbox.attempted(work.outbox.add_for("app"), 1).await;
        assert_eq!(row.outcomes(), [AttemptOutcome::Blocked], "{url}");
        work.end().await;
    }
    assert!(own.accept().now_or_never().is_none(), "no connection was made");
}

/// webhooks S7: an operator who registers a name of this server gets an error that says so.
#[tokio::test]
async fn a_name_that_leads_here_makes_no_endpoint() {
    let rules = open_rules();
    rules.set_own(vec!["127.0.0.1:8080".parse().unwrap()]);
    let work = with_api(rules, names(&["192.0.2.1", "127.0.0.1"])).await;
    let refused = work.admin.create(made_by_api("https://machine.example:8080/")).await.unwrap_err();
    assert!(matches!(refused, AdminError::Invalid(InvalidEndpoint::Url(RejectedUrl::Own))), "{refused}");
    let (stored, _) = work.admin.create(made_by_api("https://machine.example:8443/")).await.unwrap();
    let terms = EndpointTerms::of("https://machine.example:8080/");
    let moved = work.admin.update(&app(), EndpointChange { version: stored.version, terms, headers: None }).await;
    assert!(matches!(moved, Err(AdminError::Invalid(_))), "{moved:?}");
    work.end().await;
}

/// webhooks H6, H12: signatures of both kinds, and custom headers that change none of the server's.
#[tokio::test]
async fn an_endpoint_gets_both_signatures_and_its_own_headers() {
    let receiver = Receiver::start([Script::Status(200)]).await;
    let work = with_api(open_rules(), no_names()).await;
    let mut new = made_by_api(&receiver.url());
    new.terms.signing = Signing::Both;
    new.headers = vec![("X-Token".to_owned(), "t0p".to_owned())];
    let (_, shown) = work.admin.create(new).await.unwrap();
    let (secret, public) = (shown.secret.unwrap(), shown.public_key.unwrap());
    work.outbox.attempted(work.outbox.add_for("app"), 1).await;
    let request = receiver.received()[0].clone();
    Webhook::new(&secret).unwrap().verify(&request.body, &request.headers).unwrap();

    let signature = request.header("webhook-signature").split(' ').find_map(|one| one.strip_prefix("v1a,")).unwrap();
    let decoded = |text: &str| STANDARD.decode(text).unwrap();
    let key = UnparsedPublicKey::new(&ED25519, decoded(public.strip_prefix("whpk_").unwrap()));
    let signed = [request.header("webhook-id"), ".", request.header("webhook-timestamp"), "."].concat();
    key.verify(&[signed.as_bytes(), &request.body].concat(), &decoded(signature)).unwrap();
    assert_eq!(request.header("x-token"), "t0p");
    assert_eq!(work.admin.public_key(&app()).await.unwrap(), Some(public));
    work.end().await;
}

/// webhooks H10, A4: a change takes effect with the next attempt, also for deliveries queued before it.
#[tokio::test]
async fn a_change_counts_from_the_next_attempt_on() {
    let (old, new) = (Receiver::start([Script::Status(500)]).await, Receiver::start([Script::Status(200)]).await);
    let work = with_api(open_rules(), no_names()).await;
    let (stored, first) = work.admin.create(made_by_api(&old.url())).await.unwrap();
    let id = work.outbox.add_for("app");
    work.outbox.attempted(id, 1).await;

    let rotation = KeyRotation { key: None, kind: None, overlap: Duration::from_secs(60) };
    let (rotated, second) = work.admin.rotate(&app(), rotation).await.unwrap();
    let stale = EndpointChange { version: stored.version, terms: stored.terms.clone(), headers: None };
    assert!(matches!(work.admin.update(&app(), stale).await, Err(AdminError::Changed(_))));
    let terms = EndpointTerms { url: new.url(), ..rotated.terms };
    work.admin.update(&app(), EndpointChange { version: rotated.version, terms, headers: None }).await.unwrap();
    work.clock.put_forward(Duration::from_secs(30));
    work.outbox.ring();
    assert_eq!(work.outbox.attempted(id, 2).await.state, DeliveryState::Succeeded);
    // The receiver's library has its own clock and requires it to be right within five minutes.
    let request = new.received()[0].clone();
    for shown in [&first, &second] {
        let holder = Webhook::new(shown.secret.as_ref().unwrap()).unwrap();
        holder.verify(&request.body, &request.headers).unwrap();
    }
    assert_eq!(old.received().len(), 1);

    work.clock.put_forward(Duration::from_secs(60));
    work.outbox.attempted(work.outbox.add_for("app"), 1).await;
    let request = new.received()[1].clone();
    let verify = |shown: &VerificationKeys| {
        Webhook::new(shown.secret.as_ref().unwrap()).unwrap().verify(&request.body, &request.headers)
    };
    assert!(verify(&first).is_err() && verify(&second).is_ok(), "the overlap is over");
    work.end().await;
}

/// webhooks R3, R11: settings of an endpoint override the defaults.
#[tokio::test]
async fn an_endpoint_has_a_timeout_and_a_schedule_of_its_own() {
    let receiver = Receiver::start([Script::Hang]).await;
    let own = endpoint_with("app", &receiver.url(), |terms| {
        terms.timeout = Some(Duration::from_millis(300));
        terms.retry_schedule = Some(vec![Duration::from_hours(1)]);
    });
    let work = Work::begin(vec![own], settings()).await;
    let (attempt, disposition) = work.outbox.attempted(work.outbox.add_for("app"), 1).await.last().clone();
    assert_eq!(attempt.outcome, AttemptOutcome::Timeout);
    assert!(attempt.took < settings().timeout, "{:?}", attempt.took);
    assert!(retry_at(disposition).since(attempt.started_at) >= Duration::from_mins(48));
    work.end().await;
}

/// webhooks E4, R13: while the breaker is open, nothing is sent and no attempt is used up; then one delivery
/// probes the endpoint.
#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_spared() {
    let mut script = vec![Script::Status(500); 10];
    script.push(Script::Status(200));
    let receiver = Receiver::start(script).await;
    let limits =
        WebhookSettings { max_in_flight_per_endpoint: 5, retry_schedule: vec![Duration::from_hours(9)], ..settings() };
    let work = Work::with(&receiver, limits).await;
    for _ in 0..10 {
        let id = work.outbox.add_for("app");
        work.outbox.attempted(id, 1).await;
    }
    assert_eq!(work.metrics.breakers_opened.get(), 1);
    let waiting: Vec<_> = (0..20).map(|_| work.outbox.add_for("app")).collect();
    let open_until = work.outbox.stored("app").health.open_until.expect("it is stored");
    work.outbox.ring();
    assert!(waiting.iter().all(|id| work.outbox.row(*id).attempts.is_empty()));

    work.clock.put_forward(open_until.since(wall_clock()));
    work.outbox.ring();
    for id in waiting {
        assert_eq!(work.outbox.attempted(id, 1).await.outcomes(), [AttemptOutcome::Status(200)]);
    }
    assert_eq!(work.outbox.stored("app").health, Health::default());
    assert_eq!(receiver.received().len(), 30);
    work.end().await;
}

/// webhooks E5, E8: operators are warned, and then the endpoint is disabled; undelivered deliveries are kept.
#[tokio::test]
async fn an_endpoint_that_fails_for_days_is_disabled() {
    let receiver = Receiver::start([Script::Status(500)]).await;
    let rules =
        HealthRules { breaker_failures: 0, disable_after: Duration::from_secs(1_000), ..HealthRules::default() };
    let limits = WebhookSettings { retry_schedule: vec![], health: rules, ..settings() };
    let forgiving = endpoint_with("other", &receiver.url(), |terms| terms.auto_disable = false);
    let work = Work::begin(vec![endpoint("app", &receiver.url()), forgiving], limits).await;
    for seconds in [0, 500, 100, 400] {
        work.clock.put_forward(Duration::from_secs(seconds));
        for name in ["app", "other"] {
            let id = work.outbox.add(Sample { at: work.clock.now(), ..for_endpoint(name) });
            work.outbox.attempted(id, 1).await;
        }
    }
    let told: Vec<u8> = work.outbox.notices.lock().unwrap().iter().map(percent_of).collect();
    assert_eq!(told, [50, 100]);
    let state = work.outbox.stored("app").state;
    assert!(matches!(state, EndpointState::Disabled { because: DisabledBecause::Failing, .. }), "{state:?}");
    assert_eq!(work.outbox.stored("other").state, EndpointState::Enabled);

    let (resumed, _) = work.admin.resume(&app(), Resumption::default()).await.unwrap();
    assert_eq!((resumed.state, resumed.health), (EndpointState::Enabled, Health::default()));
    let id = work.outbox.add(Sample { at: work.clock.now(), ..for_endpoint("app") });
    assert_eq!(work.outbox.attempted(id, 1).await.outcomes(), [AttemptOutcome::Status(500)]);
    assert_eq!(work.outbox.stored("app").state, EndpointState::Enabled, "it begins anew");
    work.end().await;
}

fn for_endpoint(name: &str) -> Sample {
    Sample { endpoint: EndpointId::new(name).unwrap(), ..sample() }
}

fn percent_of(notice: &Notice) -> u8 {
    match notice {
        Notice::EndpointFailing { endpoint, percent, .. } if *endpoint == app() => *percent,
        other => panic!("{other:?}"),
    }
}

fn app() -> EndpointId {
    EndpointId::new("app").unwrap()
}

/// webhooks A5: a test takes the path of every message, whatever the state of its endpoint, and changes
/// nothing.
#[tokio::test]
async fn a_test_goes_the_way_of_every_message() {
    let receiver = Receiver::start([Script::Status(200), Script::Status(410), Script::Status(200)]).await;
    let work = Work::with(&receiver, settings()).await;
    let tested = work.admin.test(&app()).await.unwrap();
    assert_eq!(tested.attempt.outcome, AttemptOutcome::Status(200));
    assert_eq!(work.outbox.row(tested.delivery).state, DeliveryState::Succeeded, "it is recorded by then");
    let request = receiver.received()[0].clone();
    Webhook::new(SECRET).unwrap().verify(&request.body, &request.headers).unwrap();
    assert_eq!(request.header("webhook-event-type"), "webhook.ping");

    let refused = work.admin.test(&app()).await.unwrap();
    assert_eq!(refused.attempt.outcome, AttemptOutcome::Status(410));
    assert_eq!(work.outbox.row(refused.delivery).state, DeliveryState::Cancelled);
    assert_eq!(work.outbox.stored("app").state, EndpointState::Enabled);

    work.admin.pause(&app()).await.unwrap();
    let paused = work.admin.test(&app()).await.unwrap();
    assert_eq!(paused.attempt.outcome, AttemptOutcome::Status(200));
    let missing = EndpointId::new("missing").unwrap();
    assert!(matches!(work.admin.test(&missing).await, Err(AdminError::NoSuchEndpoint(_))));
    work.end().await;
}

/// webhooks A5: also under load, when the bell has rung again at every poll.
#[tokio::test]
async fn a_test_does_not_wait_for_a_quiet_moment() {
    let receiver = Receiver::start([Script::Status(200)]).await;
    let limits = WebhookSettings { timeout: Duration::from_secs(2), lease: Duration::from_secs(8), ..settings() };
    let work = Work::with(&receiver, limits).await;
    work.outbox.is_never_quiet.store(true, Ordering::SeqCst);
    let ids: Vec<_> = (0..500).map(|_| work.outbox.add_for("app")).collect();
    let tested = work.admin.test(&app()).await.expect("it is sent before its time is over");
    assert_eq!(tested.attempt.outcome, AttemptOutcome::Status(200));
    for id in ids {
        assert_eq!(work.outbox.attempted(id, 1).await.state, DeliveryState::Succeeded);
    }
    work.end().await;
}

/// webhooks A5: a blocked address is blocked for a test too.
#[tokio::test]
async fn a_test_obeys_the_rules_of_addresses() {
    let work = with_api(EgressRules::new(vec![], true), names(&["10.0.0.1"])).await;
    work.admin.create(made_by_api("https://internal.example/")).await.unwrap();
    assert_eq!(work.admin.test(&app()).await.unwrap().attempt.outcome, AttemptOutcome::Blocked);
    work.end().await;
}

/// webhooks E6, O7.
#[tokio::test]
async fn a_paused_endpoint_gets_nothing_until_it_is_resumed() {
    let (receiver, witness) =
        (Receiver::start([Script::Status(200)]).await, Receiver::start([Script::Status(200)]).await);
    let endpoints = [("app", &receiver), ("b", &receiver), ("witness", &witness)];
    let endpoints = endpoints.map(|(name, receiver)| endpoint(name, &receiver.url())).to_vec();
    let work = Work::begin(endpoints, settings()).await;
    assert_eq!(work.admin.pause_all().await.unwrap(), 3);
    let ids = [work.outbox.add_for("app"), work.outbox.add_for("b")];
    work.admin.resume(&EndpointId::new("witness").unwrap(), Resumption::default()).await.unwrap();
    work.outbox.attempted(work.outbox.add_for("witness"), 1).await;
    assert!(ids.iter().all(|id| work.outbox.row(*id).state == DeliveryState::Paused));
    assert_eq!((receiver.received().len(), witness.received().len()), (0, 1));
    assert_eq!(work.admin.resume_all().await.unwrap(), 2);
    assert_eq!(work.admin.resume_all().await.unwrap(), 0);
    for id in ids {
        assert_eq!(work.outbox.attempted(id, 1).await.state, DeliveryState::Succeeded);
    }
    assert_eq!(receiver.received().len(), 2);
    work.end().await;
}

/// webhooks O3: a loop that hangs is detected, whatever else still runs.
#[tokio::test(start_paused = true)]
async fn a_loop_that_hangs_is_noticed() {
    let (outbox, stop) = (Arc::new(TestOutbox::default()), CancellationToken::new());
    let parts = parts(&outbox, settings(), EgressRules::default());
    let sender = Sender::open(parts, vec![endpoint("app", "http://127.0.0.1:9/")]).await.unwrap();
    let liveness = sender.liveness().clone();
    let running = tokio::spawn(sender.run(stop));
    sleep(Duration::from_mins(2)).await;
    assert_eq!(liveness.check(), Ok(()), "it has nothing to send and goes on looking");
    outbox.claims_hang.store(true, Ordering::SeqCst);
    sleep(Duration::from_secs(29)).await;
    assert_eq!(liveness.check(), Ok(()));
    sleep(Duration::from_secs(4)).await;
    assert!(matches!(liveness.check(), Err(Unhealthy::Silent(_))), "{:?}", liveness.check());
    running.abort();
}

/// A request for a test fails at once if the sender has stopped.
#[tokio::test]
async fn nobody_waits_for_a_sender_that_has_stopped() {
    let receiver = Receiver::start([Script::Status(200)]).await;
    let work = Work::with(&receiver, settings()).await;
    let admin = work.admin.clone();
    work.end().await;
    assert!(matches!(admin.test(&app()).await, Err(AdminError::NotSending)));
}

/// webhooks O2: an attempt has a span that contains its messages.
#[tokio::test]
async fn an_attempt_has_a_span() {
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    let _listening = tracing::subscriber::set_default(subscriber);
    let receiver = Receiver::start([Script::Status(500)]).await;
    let work = Work::with(&receiver, settings()).await;
    let id = work.outbox.add_for("app");
    let event = work.outbox.attempted(id, 1).await.event;
    work.end().await;
    let expected = format!("webhook_attempt delivery={id} event={event} endpoint=app attempt=1");
    let seen = spans.0.lock().unwrap();
    assert_eq!(seen.iter().filter(|line| **line == expected).count(), 1, "{seen:?}");
    assert!(seen.contains(&"in webhook_attempt: a delivery attempt failed".to_owned()), "{seen:?}");
}

/// Collects each span with its fields, and each message inside a span.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, span: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut line = span.metadata().name().to_owned();
        span.record(&mut |field: &Field, value: &dyn fmt::Debug| line += &format!(" {field}={value:?}"));
        self.0.lock().unwrap().push(line);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(span) = context.event_span(event) else { return };
        event.record(&mut |field: &Field, value: &dyn fmt::Debug| {
            if field.name() == "message" {
                let said = format!("{value:?}");
                let line = format!("in {}: {}", span.name(), said.split(';').next().unwrap_or_default());
                self.0.lock().unwrap().push(line);
            }
        });
    }
}

async fn closed_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}
