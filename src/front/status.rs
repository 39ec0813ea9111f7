//! Status of one upload, and lists of statuses. A query takes no lock and does not delay a writer.

use domain::query::UploadQuery;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::http::header::HeaderValue;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use tokio::time::Instant;

use crate::front::cursors::PageCursors;
use crate::front::{UploadApi, position, problems};
use api::facts::Facts;
use api::text::Text;
use api::upload::{StageEntry, StageReport, UploadFailure, UploadLinks, UploadList, UploadStatus as Shown};
use dialects::missing::MissingRanges;
use domain::id::UploadId;
use domain::policy::TypePattern;
use domain::principal::Principal;
use domain::stage::{Ended, Stage};
use domain::time::Timestamp;
use domain::upload::Upload;
use edge::principal::principal;
use edge::problem::Problem;
use edge::query::Query;
use edge::table::RoutedRequest;
use edge::{conditions, query};
use engine::Engine;
use engine::command::EngineError;
use engine::read::UploadStatus;

/// Minimum interval of progress notifications to a waiting client while bytes arrive.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_millis(500);

const DEFAULT_PAGE: u32 = 100;

/// Suffix of the tag of an upload that is past its expiry.
const EXPIRED: &str = "-expired";

/// Size at which a page ends, in bytes; the item that reaches it is included.
const PAGE_BYTES: usize = 1 << 20;

/// Maximum number of conditions on metadata, or of types, in one query.
const MAX_CONDITIONS: usize = 16;

/// `GET /api/v1/uploads/{id}`. With `?wait=30s` the response is delayed until something has changed.
pub(super) async fn one(call: RoutedRequest, shared: Arc<UploadApi>) -> Result<HttpResponse, Problem> {
    answer_one(&call.request, &call.parameter(0), &shared).await
}

async fn answer_one(request: &HttpRequest, id: &str, shared: &UploadApi) -> Result<HttpResponse, Problem> {
    let id = problems::parse_id(id)?;
    let mut wait = Duration::ZERO;
    for (name, value) in Query::parse(request.query_string())?.pairs() {
        match name {
            "wait" => wait = query::wait(value, shared.long_poll_max)?,
            query::TOKEN => {}
            _ => return Err(query::unknown(name, "wait")),
        }
    }
    let position = position::known(request)?;
    let known = conditions::list(request.headers(), &header::IF_NONE_MATCH);
    let known = known.as_deref();
    let _slot = if wait.is_zero() { None } else { Some(shared.stream_slots.take(request)?) };
    let principal = principal(request);
    let status = if wait.is_zero() {
        shared.engine.queries(&principal, position).status(id, known.and_then(newest_version)).await
    } else {
        wait_for_change(&shared.engine, &principal, id, known, wait).await
    };
    let status = status.map_err(|error| problems::problem(error, request))?;
    let tag = etag(&status);
    if known.is_some_and(|known| conditions::names(known, &tag)) {
        return Ok(HttpResponse::NotModified()
            .insert_header((header::ETAG, tag))
            .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-cache")))
            .finish());
    }
    Ok(HttpResponse::Ok()
        .insert_header((header::ETAG, tag))
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-cache")))
        .json(shown(&status, shared, Viewer::of(request, shared))))
}

/// Returns the status as soon as it differs from the one that the client knows, or when the wait is over.
/// Without a known status, any change counts. A bell rings for a commit that a copy of the state may not have
/// yet, so these reads go to the state itself.
async fn wait_for_change(
    engine: &Engine,
    principal: &Principal,
    id: UploadId,
    known: Option<&str>,
    wait: Duration,
) -> Result<UploadStatus, EngineError> {
    let deadline = Instant::now() + wait;
    // Registered before reading the status, so that no change in between is missed.
    let mut bell = engine.bell(id);
    let mut status = engine.status(principal, id).await?;
    let known = known.map_or_else(|| etag(&status), str::to_owned);
    while !is_new(&status, &known, engine.readings_may_lag()) {
        tokio::select! {
            () = bell.rung() => {}
            () = more_bytes(engine, id, &status) => {}
            () = tokio::time::sleep_until(deadline) => return Ok(status),
            () = engine.stopping() => return Ok(status),
        }
        status = engine.status(principal, id).await?;
    }
    Ok(status)
}

/// Waits until a running append has received more bytes than the status says. Reads no rows.
async fn more_bytes(engine: &Engine, id: UploadId, status: &UploadStatus) {
    let received = status.live.map(|live| live.received_bytes);
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        if engine.received_bytes(id).await > received {
            return;
        }
    }
}

/// `GET /api/v1/uploads`, newest first.
pub(super) async fn list(call: RoutedRequest, shared: Arc<UploadApi>) -> Result<HttpResponse, Problem> {
    answer_list(&call.request, &shared).await
}

async fn answer_list(request: &HttpRequest, shared: &UploadApi) -> Result<HttpResponse, Problem> {
    let principal = principal(request);
    let cursors = PageCursors::in_uploads(&shared.cursors, &principal);
    let mut wanted = list_query(request.query_string(), shared.max_page, &cursors)?;
    let position = position::known(request)?;
    let memory = shared.answers.reserve_page(request, &mut wanted.limit, shared.max_metadata_bytes).await?;
    let listed = shared.engine.queries(&principal, position).list(&wanted).await;
    let uploads = listed.map_err(|error| problems::problem(error, request))?;
    let viewer = Viewer::of(request, shared);
    let (uploads_shown, cut) = page(uploads.found.iter().map(|status| shown(status, shared, viewer)), false);
    let cut = cut.and_then(|last| uploads.found.get(last)).map(|status| status.upload.id());
    let next = cut.or(uploads.next).map(|next| cursors.cursor(next.as_bytes()));
    let mut answer = HttpResponse::Ok();
    answer.insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-cache")));
    Ok(memory.with(answer.json(UploadList { uploads: uploads_shown, next })))
}

/// Returns as many of `items` as fit into a page that a slow reader may keep in memory, and the index of the
/// last one if there may be more: items are left over, or the query was `full`.
pub(super) fn page<T: Serialize>(items: impl Iterator<Item = T>, full: bool) -> (Vec<T>, Option<usize>) {
    let mut items = items.peekable();
    let (mut shown, mut bytes) = (Vec::new(), 0);
    while bytes < PAGE_BYTES
        && let Some(item) = items.next()
    {
        bytes += text(&item).len();
        shown.push(item);
    }
    let more = full || items.peek().is_some();
    let last = shown.len().checked_sub(1).filter(|_| more);
    (shown, last)
}

fn list_query(text: &str, max_page: u32, cursors: &PageCursors<'_>) -> Result<UploadQuery, Problem> {
    let mut wanted = UploadQuery { limit: DEFAULT_PAGE.min(max_page), ..UploadQuery::default() };
    for (name, value) in Query::parse(text)?.pairs() {
        match name {
            "stage" => {
                for stage in value.split(',') {
                    let known = Stage::ALL.map(Stage::name).join(", ");
                    let stage = Stage::by_name(stage).ok_or_else(|| query::bad(name, stage, &known))?;
                    if !wanted.stages.contains(&stage) {
                        wanted.stages.push(stage);
                    }
                }
            }
            "type" => {
                for pattern in value.split(',') {
                    let pattern = TypePattern::new(pattern)
                        .ok_or_else(|| query::bad(name, pattern, "write a type such as video/mp4, or video/*"))?;
                    if !wanted.types.contains(&pattern) {
                        wanted.types.push(pattern);
                    }
                }
                if wanted.types.len() > MAX_CONDITIONS {
                    return Err(query::bad(name, value, &format!("at most {MAX_CONDITIONS} values are allowed")));
                }
            }
            "min_width" => wanted.width.least = Some(query::number(name, value)?),
            "max_width" => wanted.width.most = Some(query::number(name, value)?),
            "min_height" => wanted.height.least = Some(query::number(name, value)?),
            "max_height" => wanted.height.most = Some(query::number(name, value)?),
            "min_duration" => wanted.duration_ms.least = Some(query::span_ms(name, value)?),
            "max_duration" => wanted.duration_ms.most = Some(query::span_ms(name, value)?),
            "created_from" => wanted.created_from = Some(query::time(name, value)?),
            "created_before" => wanted.created_before = Some(query::time(name, value)?),
            "cursor" => wanted.before = Some(UploadId::from_bytes(cursors.open(value)?)),
            "limit" => wanted.limit = query::limit(value, max_page)?,
            _ => match name.strip_prefix("metadata.") {
                Some(_) if wanted.metadata.len() >= MAX_CONDITIONS => {
                    return Err(query::bad(name, value, &format!("at most {MAX_CONDITIONS} values are allowed")));
                }
                Some(key) => wanted.metadata.push((key.to_owned(), value.as_bytes().to_vec())),
                None => {
                    let known = "stage, type, min_width, max_width, min_height, max_height, min_duration, max_duration, \
                                 created_from, created_before, metadata.<key>, cursor, limit";
                    return Err(query::unknown(name, known));
                }
            },
        }
    }
    Ok(wanted)
}

/// Returns the tag of a status. It changes with every commit, and with every byte that a running append
/// receives.
fn etag(status: &UploadStatus) -> String {
    let expired = if status.expired { EXPIRED } else { "" };
    format!("W/\"{}-{}{expired}\"", status.upload.record().version, received(status))
}

fn received(status: &UploadStatus) -> u64 {
    status.live.map_or(0, |live| live.received_bytes)
}

/// Reports whether a status differs from those that a client knows, and is not behind one of them. If
/// readings do not lag, a smaller number of bytes is a change: received bytes were dropped.
fn is_new(status: &UploadStatus, known: &str, readings_may_lag: bool) -> bool {
    let is_behind =
        readings_may_lag && !status.expired && knows_more(known, status.upload.record().version, received(status));
    !is_behind && !conditions::names(known, &etag(status))
}

/// Reports whether one of these tags has this version and more bytes. Nodes behind a load balancer may lag
/// behind each other in the bytes that a running append has received: a client that queries them in turn
/// would otherwise get immediate responses again and again.
fn knows_more(known: &str, version: u64, received: u64) -> bool {
    let of_version = format!("{version}-");
    let received_by = |tag: &str| {
        let opaque = tag.trim().trim_start_matches("W/").trim_matches('"');
        opaque.strip_prefix(&of_version)?.parse::<u64>().ok()
    };
    known.split(',').filter_map(received_by).any(|known| known > received)
}

/// Returns the newest version of an upload that these tags name.
fn newest_version(known: &str) -> Option<u64> {
    let version = |tag: &str| {
        let opaque = tag.trim().trim_start_matches("W/").trim_matches('"');
        opaque.split_once('-')?.0.parse::<u64>().ok()
    };
    known.split(',').filter_map(version).max()
}

/// Returns a response or a message as JSON text.
pub(super) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names and values are always JSON")
}

/// Returns the public status of an upload.
pub(super) fn shown<'a>(status: &'a UploadStatus, shared: &UploadApi, viewer: Viewer) -> Shown<'a> {
    let record = status.upload.record();
    let stage = if status.expired { Stage::Ended(Ended::Expired) } else { record.stage };
    let offset = status.upload.offset().get();
    let received = status.live.map_or(status.upload.received_bytes(), |live| live.received_bytes);
    let length = record.length.map(|length| length.get());
    let rate = status.live.map(|live| live.bytes_per_second);
    let missing = MissingRanges::of(&status.upload);
    let entered = |(stage, at): &(Stage, Timestamp)| StageEntry { name: stage.name().into(), at: at.to_string() };
    let metadata = record.metadata.pairs().iter();
    Shown {
        id: record.id.to_string(),
        stage: stage.name().into(),
        protocol: record.dialect.name().into(),
        role: record.role.name().into(),
        offset,
        received,
        length,
        missing: missing.ranges,
        missing_truncated: missing.truncated,
        percent: percent(received, length),
        bytes_per_second: rate,
        eta_seconds: match (length, rate) {
            (Some(length), Some(rate)) if rate > 0 => Some(length.saturating_sub(received).div_ceil(rate)),
            _ => None,
        },
        created_at: record.created_at.to_string(),
        updated_at: record.updated_at.to_string(),
        expires_at: record.expires_at.map(|at| at.to_string()),
        removed_at: record.removed.map(|removed| removed.at.to_string()),
        removed_by: record.removed.map(|removed| removed.by.name().into()),
        bytes_missing_since: record.missing_since.map(|since| since.to_string()),
        stages: record.timeline.iter().map(entered).collect(),
        reports: record.reports.iter().map(StageReport::from).collect(),
        digests: record.digests.iter().map(|digest| (digest.algorithm().name(), digest.hex())).collect(),
        content_type: record.metadata.content_type(),
        facts: record.facts.as_ref().map(Facts::from),
        filename: record.metadata.file_name(),
        metadata: metadata.map(|(name, value)| (name, Text::from(&value[..]))).collect(),
        error: record.failure.as_ref().map(UploadFailure::from),
        links: links(&status.upload, shared, viewer),
    }
}

/// The viewer of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Viewer {
    Client,
    /// May see the paths of files.
    Operator,
}

impl Viewer {
    fn of(request: &HttpRequest, shared: &UploadApi) -> Self {
        if shared.access.opens_administration(request) { Self::Operator } else { Self::Client }
    }
}

fn links(upload: &Upload, shared: &UploadApi, viewer: Viewer) -> UploadLinks {
    let (id, record) = (upload.id(), upload.record());
    let path = shared.status_url(id);
    let has_file = record.stage == Stage::Completed && record.removed.is_none() && record.missing_since.is_none();
    UploadLinks {
        events: format!("{path}/events"),
        status: path,
        upload: shared.upload_url(id),
        download: has_file.then(|| shared.upload_url(id)),
        file: shared.engine.file_of(upload).filter(|_| viewer == Viewer::Operator),
    }
}

/// Returns the percentage with two decimal places; it is 100 only if all bytes have arrived.
fn percent(received: u64, length: Option<u64>) -> Option<f64> {
    let length = length?;
    let hundredths = if length == 0 { 10_000 } else { u128::from(received) * 10_000 / u128::from(length) };
    Some(f64::from(u32::try_from(hundredths).unwrap_or(10_000)) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyring::{Cursors, ServerKeys};

    #[test]
    fn only_all_of_it_is_a_hundred_percent() {
        assert_eq!(percent(0, Some(3)), Some(0.0));
        assert_eq!(percent(1, Some(3)), Some(33.33));
        assert_eq!(percent(u64::MAX - 1, Some(u64::MAX)), Some(99.99));
        assert_eq!(percent(0, Some(0)), Some(100.0));
        assert_eq!(percent(5, None), None);
    }

    #[test]
    fn a_client_that_has_seen_more_bytes_waits_for_more_than_these() {
        for known in ["W/\"7-500\"", "\"7-500\"", "\"3-0\", W/\"7-500\""] {
            assert!(knows_more(known, 7, 499) && knows_more(known, 7, 0), "{known}");
            assert!(!knows_more(known, 7, 500) && !knows_more(known, 7, 501), "{known}");
            assert!(!knows_more(known, 8, 0), "{known}: a commit is a change");
        }
        for known in ["*", "", "W/\"7-500-expired\"", "\"77-500\"", "\"7\"", "\"7-many\""] {
            assert!(!knows_more(known, 7, 0), "{known}");
        }
    }

    #[test]
    fn the_version_that_a_client_knows_is_in_its_tag() {
        for (known, version) in [
            ("W/\"7-500\"", Some(7)),
            ("\"7-500-expired\"", Some(7)),
            ("\"3-0\", W/\"12-5\",\"4-0\"", Some(12)),
            ("*", None),
            ("\"another\"", None),
            ("\"-5\"", None),
        ] {
            assert_eq!(newest_version(known), version, "{known}");
        }
    }

    #[test]
    fn a_page_ends_before_it_is_large() {
        let item = "x".repeat(PAGE_BYTES / 4);
        let (shown, last) = page(vec![item.clone(); 3].into_iter(), false);
        assert_eq!((shown.len(), last), (3, None));
        let (shown, last) = page(vec![item.clone(); 3].into_iter(), true);
        assert_eq!((shown.len(), last), (3, Some(2)), "there may be more where these came from");
        let (shown, last) = page(vec![item; 9].into_iter(), false);
        assert_eq!((shown.len(), last), (4, Some(3)));
        let large = "x".repeat(2 * PAGE_BYTES);
        assert_eq!(page([large].into_iter(), false).0.len(), 1, "a large upload can always be listed");
    }

    #[test]
    fn a_list_query_is_read_strictly() {
        let (cursors, principal) = (Cursors::new(&ServerKeys::generate([7; 32], [7; 4])), Principal::server());
        let list_query = |text, max| list_query(text, max, &PageCursors::in_uploads(&cursors, &principal));
        let query = list_query("stage=receiving,stalled&stage=failed&metadata.user=7&limit=5", 1_000).unwrap();
        assert_eq!(query.stages, [Stage::Receiving, Stage::Stalled, Stage::Ended(Ended::Failed)]);
        assert_eq!(query.metadata, [("user".to_owned(), b"7".to_vec())]);
        assert_eq!(query.limit, 5);
        let facts =
            "type=video/*,image/png&type=Video/*&min_width=640&max_height=1080&min_duration=1500ms&max_duration=90";
        let query = list_query(facts, 1_000).unwrap();
        assert_eq!(query.types, ["video/*", "image/png"].map(|pattern| TypePattern::new(pattern).unwrap()));
        assert_eq!((query.width.least, query.width.most), (Some(640), None));
        assert_eq!((query.height.least, query.height.most), (None, Some(1_080)));
        assert_eq!((query.duration_ms.least, query.duration_ms.most), (Some(1_500), Some(90_000)));
        let many = "metadata.k=v&".repeat(MAX_CONDITIONS + 1);
        for wrong in [
            many.as_str(),
            "stage=done",
            "limit=0",
            "limit=1001",
            "limit=+5",
            "cursor=x",
            "created_from=now",
            "type=video",
            "type=video/mp4,",
            "type=*/*",
            "min_width=-1",
            "max_height=1.5",
            "min_duration=long",
            "max_duration=1h",
            "colour=red",
        ] {
            assert!(list_query(wrong, 1_000).is_err(), "{wrong}");
        }
    }
}
