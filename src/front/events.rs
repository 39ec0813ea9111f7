//! Server-Sent Events: a snapshot, then changes; `Last-Event-ID` resumes.
//!
//! Committed events carry an id and exactly the JSON that webhooks carry. Progress between commits comes from
//! memory, without an id: it is not repeated after a reconnect. An id is a sealed position in its stream and
//! is opaque to clients. An id that does not open is answered with a snapshot.

use std::collections::VecDeque;
use std::sync::Arc;

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use futures::stream;
use tokio::time::Instant;

use crate::front::status::{PROGRESS_EVERY, Viewer};
use crate::front::{UploadApi, problems, status};
use api::upload::UploadSnapshot;
use domain::id::UploadId;
use domain::log::{EventPosition, LoggedEvent};
use domain::principal::{Principal, TenantId};
use domain::query::UploadQuery;
use domain::stage::Stage;
use domain::time::Timestamp;
use domain::upload::Upload;
use edge::answers::{AnswerReservation, PIECE_BYTES};
use edge::principal::principal;
use edge::problem::Problem;
use edge::query;
use edge::query::Query;
use edge::stream_slots::StreamSlot;
use edge::table::RoutedRequest;
use engine::command::EngineError;
use engine::read::UploadBell;
use keyring::{CursorScope, Listing};

/// Maximum number of events that are buffered for a client.
const BATCH: u32 = 32;

/// Maximum number of missed events that are replayed. A client that has missed more gets a new snapshot.
const MOST_REPLAYED: u32 = 500;

/// Maximum number of unfinished uploads in a snapshot of all uploads.
const SNAPSHOT_UPLOADS: u32 = 100;

/// `GET /api/v1/uploads/{id}/events`. The stream ends when the upload is settled, or with `?until=ended` only
/// when no report can be made any more. A further request is then answered with 204, which keeps browsers
/// from reconnecting.
pub(super) async fn of_one(call: RoutedRequest, shared: Arc<UploadApi>) -> Result<HttpResponse, Problem> {
    if call.request.method() == Method::HEAD {
        return Ok(stream_head().finish());
    }
    answer_one(&call.request, &call.parameter(0), shared).await
}

async fn answer_one(request: &HttpRequest, id: &str, shared: Arc<UploadApi>) -> Result<HttpResponse, Problem> {
    let (id, principal) = (problems::parse_id(id)?, principal(request));
    let StreamRequest { seen, until } = stream_request(request, &["last_event_id", "until"])?;
    let slot = shared.stream_slots.take(request)?;
    let bell = shared.engine.bell(id);
    let status = shared.engine.status(&principal, id).await.map_err(|error| problems::problem(error, request))?;
    let newest = status.upload.record().next_sequence - 1;
    let seen = seen.and_then(|sealed| sequence_in(&shared, principal.tenant, id, &sealed));
    if seen.is_some_and(|seen| seen >= newest) && until.is_reached_by(&status.upload) {
        return Ok(HttpResponse::NoContent().finish());
    }
    let resumed = seen.filter(|seen| can_resume(*seen, newest));
    let mut ready = VecDeque::new();
    let mut unpublished = UnpublishedReports::default();
    if resumed.is_none() {
        unpublished.are_shown(&status.upload);
        ready.push_back(message(
            "snapshot",
            Some(&sequence_id(&shared, principal.tenant, id, newest)),
            &status::text(&status::shown(&status, &shared, Viewer::Client)),
        ));
    }
    let source = StreamSource::One { id, seen: resumed.unwrap_or(newest), until, sent_received: None, unpublished };
    let memory = shared.answers.reserve(request, ready.iter().map(Bytes::len).sum()).await?;
    Ok(Stream {
        shared,
        principal,
        source,
        bell,
        ready,
        memory: Some(memory),
        query_due: true,
        ended: false,
        _slot: slot,
    }
    .respond())
}

/// Reports whether a client can resume. One that has missed too many events gets a snapshot instead, and so
/// does one whose id is ahead of the newest event: its id predates a restore of the database from a backup.
fn can_resume(seen: u64, newest: u64) -> bool {
    newest.checked_sub(seen).is_some_and(|missed| missed <= u64::from(MOST_REPLAYED))
}

/// Returns the id of the event of an upload with this sequence.
fn sequence_id(shared: &UploadApi, tenant: TenantId, upload: UploadId, sequence: u64) -> String {
    shared.cursors.seal(own(tenant, Listing::EventsOf(upload)), &sequence.to_be_bytes())
}

fn sequence_in(shared: &UploadApi, tenant: TenantId, upload: UploadId, sealed: &str) -> Option<u64> {
    let place = shared.cursors.open(own(tenant, Listing::EventsOf(upload)), sealed)?;
    Some(u64::from_be_bytes(place.try_into().ok()?))
}

/// Returns the id of the event at this position in the log of all uploads.
fn position_id(shared: &UploadApi, tenant: TenantId, position: EventPosition) -> String {
    shared.cursors.seal(own(tenant, Listing::Events), &position.to_bytes())
}

fn own(tenant: TenantId, listing: Listing) -> CursorScope {
    CursorScope { tenant, listing }
}

/// `GET /api/v1/events`: the events of all uploads, in the order of their commits.
pub(super) async fn of_all(call: RoutedRequest, shared: Arc<UploadApi>) -> Result<HttpResponse, Problem> {
    if call.request.method() == Method::HEAD {
        return Ok(stream_head().finish());
    }
    answer_all(&call.request, shared).await
}

async fn answer_all(request: &HttpRequest, shared: Arc<UploadApi>) -> Result<HttpResponse, Problem> {
    let principal = principal(request);
    let StreamRequest { seen, .. } = stream_request(request, &["last_event_id"])?;
    let slot = shared.stream_slots.take(request)?;
    let bell = shared.engine.bell_for_all();
    let refuse = |error| problems::problem(error, request);
    let newest = shared.engine.newest_event().await.map_err(refuse)?;
    let (mut ready, mut memory) = (VecDeque::new(), None);
    let seen = match resumable_position(&shared, &principal, seen.as_deref()).await.map_err(refuse)? {
        Some(seen) => seen,
        None => {
            let mut most = SNAPSHOT_UPLOADS;
            let mut making = shared.answers.reserve_page(request, &mut most, shared.max_metadata_bytes).await?;
            let snapshot = snapshot_of_all(&shared, &principal, newest, most).await.map_err(refuse)?;
            making.shrink_to(snapshot.len());
            ready.push_back(snapshot);
            memory = Some(making);
            newest
        }
    };
    let source = StreamSource::All { seen };
    Ok(Stream { shared, principal, source, bell, ready, memory, query_due: true, ended: false, _slot: slot }.respond())
}

/// Returns the position from which a client resumes, by the same rule as [`can_resume`]. Returns `None` also
/// if it has missed events that are no longer stored.
async fn resumable_position(
    shared: &UploadApi,
    principal: &Principal,
    sealed: Option<&str>,
) -> Result<Option<EventPosition>, EngineError> {
    let tenant = principal.tenant;
    let open = |sealed| shared.cursors.open(own(tenant, Listing::Events), sealed);
    let Some(seen) = sealed.and_then(open).and_then(|place| EventPosition::from_bytes(&place)) else {
        return Ok(None);
    };
    let missed = shared.engine.count_events_behind(principal, seen, MOST_REPLAYED + 1).await?;
    Ok(missed.filter(|missed| *missed <= MOST_REPLAYED).map(|_| seen))
}

async fn snapshot_of_all(
    shared: &UploadApi,
    principal: &Principal,
    newest: EventPosition,
    most: u32,
) -> Result<Bytes, EngineError> {
    let unfinished = UploadQuery {
        stages: vec![Stage::Created, Stage::Receiving, Stage::Stalled, Stage::Received, Stage::Verified, Stage::Stored],
        limit: most,
        ..UploadQuery::default()
    };
    let uploads = shared.engine.list(principal, &unfinished).await?;
    let uploads = uploads.found.iter().map(|status| status::shown(status, shared, Viewer::Client)).collect();
    Ok(message(
        "snapshot",
        Some(&position_id(shared, principal.tenant, newest)),
        &status::text(&UploadSnapshot { uploads }),
    ))
}

/// The parameters of a request for a stream.
#[derive(Debug, Default)]
struct StreamRequest {
    /// Id of the last event that the client has seen.
    seen: Option<String>,
    until: StreamEnd,
}

/// Condition for the end of the stream of one upload.
#[derive(Debug, Clone, Copy, Default)]
enum StreamEnd {
    /// No automatic step is left: the upload has completed or ended, or it is a partial upload with all its
    /// bytes.
    #[default]
    Settled,
    /// The upload has ended, or its file was removed.
    Ended,
}

impl StreamEnd {
    fn is_reached_by(self, upload: &Upload) -> bool {
        match self {
            Self::Settled => upload.is_settled(),
            Self::Ended => !upload.owns_bytes(),
        }
    }
}

/// Parses a request for a stream. The last event id may be in the header or, for pages that cannot set it, in
/// the query.
fn stream_request(request: &HttpRequest, known: &[&str]) -> Result<StreamRequest, Problem> {
    let mut stream_request = StreamRequest::default();
    let mut seen = request.headers().get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    for (name, value) in Query::parse(request.query_string())?.pairs() {
        match (name, value) {
            (query::TOKEN, _) => {}
            _ if !known.contains(&name) => return Err(query::unknown(name, &known.join(", "))),
            ("last_event_id", _) => seen = seen.or_else(|| Some(value.to_owned())),
            (_, "settled") => stream_request.until = StreamEnd::Settled,
            (_, "ended") => stream_request.until = StreamEnd::Ended,
            _ => return Err(query::bad(name, value, "settled, ended")),
        }
    }
    stream_request.seen = seen;
    Ok(stream_request)
}

struct Stream {
    shared: Arc<UploadApi>,
    principal: Principal,
    source: StreamSource,
    bell: UploadBell,
    ready: VecDeque<Bytes>,
    /// Memory for the messages in `ready`.
    memory: Option<AnswerReservation>,
    /// Set if there may be events that were not queried yet, or if the stream may have reached its end.
    query_due: bool,
    ended: bool,
    _slot: StreamSlot,
}

enum StreamSource {
    One { id: UploadId, seen: u64, until: StreamEnd, sent_received: Option<u64>, unpublished: UnpublishedReports },
    All { seen: EventPosition },
}

/// Reports of backends that followed others too closely to become events. They are shown too, but combined.
#[derive(Debug, Default)]
struct UnpublishedReports {
    /// Time of the latest report that was shown.
    shown: Option<Timestamp>,
    /// Time at which the reports since then are to be shown.
    due: Option<Instant>,
}

impl UnpublishedReports {
    fn are_shown(&mut self, upload: &Upload) {
        *self = Self { shown: Self::latest(upload), due: None };
    }

    /// Reports whether reports are to be shown now. Sets the time at which later ones are to be shown.
    fn are_due(&mut self, upload: &Upload) -> bool {
        let now = Instant::now();
        if Self::latest(upload) <= self.shown {
            return false;
        }
        *self.due.get_or_insert(now + PROGRESS_EVERY) <= now
    }

    fn latest(upload: &Upload) -> Option<Timestamp> {
        upload.record().reports.iter().filter(|report| report.at != report.published_at).map(|report| report.at).max()
    }
}

impl Stream {
    fn respond(self) -> HttpResponse {
        let messages = stream::unfold(self, |mut stream| async move {
            let message = stream.next().await?;
            Some((Ok::<_, actix_web::Error>(message), stream))
        });
        stream_head().streaming(messages)
    }

    /// Returns the next message or a piece of it, or `None` at the end. An error ends the stream: the client
    /// reconnects with the id of the last event it has seen.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = self.ready.front_mut() {
                let piece = message.split_to(message.len().min(PIECE_BYTES));
                if message.is_empty() {
                    self.ready.pop_front();
                }
                return Some(piece);
            }
            // Messages that were passed on belong to the memory of the connection.
            self.memory = None;
            if self.ended {
                return None;
            }
            if self.query_due {
                self.query_due = false;
                // A client that reconnects resumes where it was.
                let most_bytes = BATCH as usize * self.shared.most_event_bytes();
                let mut memory = self.shared.answers.reserve_with(None, most_bytes).await.ok()?;
                if let Err(error) = self.gather().await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "an event stream failed");
                    return None;
                }
                memory.shrink_to(self.ready.iter().map(Bytes::len).sum());
                self.memory = Some(memory);
                continue;
            }
            let heartbeat = Instant::now() + self.shared.heartbeat;
            let (is_live, unpublished_due) = self.timers().await;
            tokio::select! {
                () = self.bell.rung() => self.query_due = true,
                () = tokio::time::sleep(PROGRESS_EVERY), if is_live => self.query_due = true,
                () = tokio::time::sleep_until(unpublished_due.unwrap_or(heartbeat)), if unpublished_due.is_some() => self.query_due = true,
                () = self.shared.engine.stopping() => return None,
                () = tokio::time::sleep_until(heartbeat) => {
                    self.query_due = true;
                    return Some(Bytes::from_static(b": still here\n\n"));
                }
            }
        }
    }

    /// Returns whether bytes are arriving, and the time at which unpublished reports are to be shown.
    async fn timers(&self) -> (bool, Option<Instant>) {
        match &self.source {
            StreamSource::One { id, unpublished, .. } => (self.shared.engine.is_live(*id).await, unpublished.due),
            StreamSource::All { .. } => (false, None),
        }
    }

    async fn gather(&mut self) -> Result<(), EngineError> {
        let engine = &self.shared.engine;
        match &mut self.source {
            StreamSource::One { id, seen, until, sent_received, unpublished } => {
                let status = engine.status(&self.principal, *id).await?;
                let events = engine.events_of(&self.principal, *id, *seen, BATCH).await?;
                self.query_due = events.len() == BATCH as usize;
                for event in &events {
                    *seen = event.sequence;
                    self.ready.push_back(event_message(
                        event,
                        &sequence_id(&self.shared, self.principal.tenant, *id, event.sequence),
                    ));
                }
                let received = status.live.map(|live| live.received_bytes);
                let has_bytes = received.is_some() && received != *sent_received;
                if has_bytes || unpublished.are_due(&status.upload) {
                    *sent_received = received;
                    unpublished.are_shown(&status.upload);
                    self.ready.push_back(message(
                        "progress",
                        None,
                        &status::text(&status::shown(&status, &self.shared, Viewer::Client)),
                    ));
                }
                self.ended = until.is_reached_by(&status.upload) && *seen + 1 >= status.upload.record().next_sequence;
            }
            StreamSource::All { seen } => {
                let page = engine.events_since(&self.principal, *seen, BATCH).await?;
                (*seen, self.query_due) = (page.seen, page.has_more);
                for event in &page.found {
                    self.ready.push_back(event_message(
                        event,
                        &position_id(&self.shared, self.principal.tenant, event.position),
                    ));
                }
            }
        }
        Ok(())
    }
}

fn stream_head() -> HttpResponseBuilder {
    let mut head = HttpResponse::Ok();
    head.content_type("text/event-stream")
        .insert_header(("cache-control", "no-store"))
        // Otherwise nginx would buffer messages.
        .insert_header(("x-accel-buffering", "no"));
    head
}

fn event_message(event: &LoggedEvent, id: &str) -> Bytes {
    message(event.kind.name(), Some(id), &String::from_utf8_lossy(&event.body))
}

/// Formats one message. JSON text contains no line breaks, so the data is one line.
fn message(event: &str, id: Option<&str>, data: &str) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    Bytes::from(format!("{id}event: {event}\ndata: {data}\n\n"))
}
