//! The download of a completed upload: ranges, conditional requests, and header fields that keep browsers
//! from running its content.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use actix_web::body::{BodySize, MessageBody, SizedStream};
use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};

use crate::attachment;
use crate::upload_fields::imf_fixdate;
use domain::media_type;
use domain::upload::Upload;
use edge::EdgeMetrics;
use edge::answers::{IsDownload, PIECE_BYTES};
use edge::conditions::{list, names, names_strongly};
use edge::problem::Problem;
use engine::command::EngineError;
use engine::read::Download;

const CACHE_CONTROL: &str = "private, no-cache";

/// The part of `size` bytes that a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// From the first to the last byte, both inclusive.
    Range(u64, u64),
    OutOfReach,
}

/// The result of a request's conditions.
#[derive(Debug, PartialEq, Eq)]
enum Condition {
    Met,
    NotModified,
    Failed,
}

/// Answers a GET, or a HEAD with the same status and fields but without the bytes.
pub(crate) async fn serve(
    request: &HttpRequest,
    download: Download,
    metrics: &EdgeMetrics,
) -> Result<HttpResponse, EngineError> {
    let upload = &download.upload;
    let (size, tag) = (upload.offset().get(), etag(upload));
    let modified = upload.record().timeline.last().map_or(upload.record().updated_at, |(_, at)| *at);
    let modified = imf_fixdate(modified);
    match condition(request, &tag, &modified) {
        Condition::Met => {}
        Condition::NotModified => {
            // RFC 9110, 15.4.5: with the fields that a complete response would have for caches.
            return Ok(HttpResponse::NotModified()
                .insert_header((header::CACHE_CONTROL, CACHE_CONTROL))
                .insert_header((header::ETAG, tag))
                .insert_header((header::LAST_MODIFIED, modified))
                .finish());
        }
        Condition::Failed => {
            let problem = Problem::new(
                StatusCode::PRECONDITION_FAILED,
                "changed",
                "the upload does not match the condition of the request (If-Match or If-Unmodified-Since)",
            );
            return Ok(problem.respond(request));
        }
    }
    let asks_for_head = request.method() == Method::HEAD;
    let wanted = match list(request.headers(), &header::RANGE) {
        // RFC 9110, 14.2: ranges apply only to GET.
        Some(range) if !asks_for_head && range_applies(request, &tag, &modified) => wanted(&range, size),
        _ => Wanted::All,
    };
    let (first, end) = match wanted {
        Wanted::All => (0, size),
        Wanted::Range(first, last) => (first, last + 1),
        Wanted::OutOfReach => {
            let detail = format!("the upload has {size} bytes; the requested range is outside of them");
            let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range", detail);
            return Ok(problem.with(header::CONTENT_RANGE, format!("bytes */{size}")).respond(request));
        }
    };
    let mut response = HttpResponse::Ok();
    if let Wanted::Range(first, last) = wanted {
        response.status(StatusCode::PARTIAL_CONTENT);
        response.insert_header((header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}")));
    }
    response
        .insert_header((header::CONTENT_TYPE, attachment::content_type(served_type(upload).as_deref()).as_ref()))
        .insert_header((
            header::CONTENT_DISPOSITION,
            attachment::disposition(upload.record().metadata.file_name().as_deref()),
        ))
        // Content of clients must not run with the origin of this server.
        .insert_header((header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"))
        .insert_header((header::ACCEPT_RANGES, "bytes"))
        .insert_header((header::CACHE_CONTROL, CACHE_CONTROL))
        .insert_header((header::ETAG, tag))
        .insert_header((header::LAST_MODIFIED, modified));
    if asks_for_head {
        return Ok(response.body(Announced(size)));
    }
    let bytes = download.read(first..end).await?;
    let bytes = bytes.map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "a download failed");
        Box::<dyn std::error::Error>::from(error)
    });
    let metrics = metrics.clone();
    let count = move |piece: &Bytes| metrics.sent(piece.len());
    let pieces = bytes.map_ok(pieces).try_flatten().inspect_ok(count);
    let mut response = response.body(SizedStream::new(end - first, pieces));
    response.extensions_mut().insert(IsDownload);
    Ok(response)
}

/// The body that the response to a HEAD describes and does not have.
struct Announced(u64);

impl MessageBody for Announced {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(None)
    }
}

/// Returns the client's own type if it is specific, otherwise the type that was detected.
fn served_type(upload: &Upload) -> Option<String> {
    let record = upload.record();
    let named = record.metadata.content_type().filter(|named| !media_type::is_generic(named));
    named.or_else(|| record.facts.as_ref().map(|facts| facts.content_type.clone()))
}

/// Splits small chunks into smaller pieces: the HTTP layer keeps a buffer that has grown to `KEPT_BYTES` for
/// as long as its connection lives, and frees a larger one.
fn pieces(mut bytes: Bytes) -> impl Stream<Item = Result<Bytes, Box<dyn std::error::Error>>> {
    const KEPT_BYTES: usize = 128 << 10;
    let piece_bytes = if bytes.len() <= KEPT_BYTES { PIECE_BYTES } else { bytes.len() };
    let next = move || (!bytes.is_empty()).then(|| Ok(bytes.split_to(piece_bytes.min(bytes.len()))));
    stream::iter(std::iter::from_fn(next))
}

/// Returns the entity tag. A completed upload never changes, so its id identifies its bytes permanently.
fn etag(upload: &Upload) -> String {
    format!("\"{}\"", upload.id())
}

/// Evaluates the conditions of a request in the order of RFC 9110, 13.2.2.
fn condition(request: &HttpRequest, tag: &str, modified: &str) -> Condition {
    match (list(request.headers(), &header::IF_MATCH), text(request, header::IF_UNMODIFIED_SINCE)) {
        (Some(tags), _) if !names_strongly(&tags, tag) => return Condition::Failed,
        (None, Some(since)) if is_after(modified, since) => return Condition::Failed,
        _ => {}
    }
    match (list(request.headers(), &header::IF_NONE_MATCH), text(request, header::IF_MODIFIED_SINCE)) {
        (Some(tags), _) if names(&tags, tag) => Condition::NotModified,
        (None, Some(since)) if !is_after(modified, since) && httpdate::parse_http_date(since).is_ok() => {
            Condition::NotModified
        }
        _ => Condition::Met,
    }
}

/// Returns whether a range applies. If the client's copy is of something else, it gets the whole (RFC 9110,
/// 13.1.5).
fn range_applies(request: &HttpRequest, tag: &str, modified: &str) -> bool {
    text(request, header::IF_RANGE).is_none_or(|held| held == tag || held == modified)
}

/// Returns whether one HTTP date is later than another; false if either is invalid.
fn is_after(one: &str, other: &str) -> bool {
    let time = |text| httpdate::parse_http_date(text).unwrap_or(SystemTime::UNIX_EPOCH);
    httpdate::parse_http_date(other).is_ok() && time(one) > time(other)
}

fn text(request: &HttpRequest, name: header::HeaderName) -> Option<&str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Parses a single byte range (RFC 9110, 14). Several ranges or an invalid one select the whole.
fn wanted(range: &str, size: u64) -> Wanted {
    let in_bytes = range.split_once('=').filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes"));
    let Some((first, last)) = in_bytes.and_then(|(_, range)| range.split_once('-')) else { return Wanted::All };
    let number = |text: &str| domain::size::parse_bytes(text.trim());
    match (first.trim(), last.trim()) {
        ("", suffix) => match number(suffix) {
            Some(0) => Wanted::OutOfReach,
            Some(_) if size == 0 => Wanted::OutOfReach,
            Some(count) => Wanted::Range(size.saturating_sub(count), size - 1),
            None => Wanted::All,
        },
        (first, last) => match (number(first), number(last)) {
            (None, _) => Wanted::All,
            (Some(_), None) if !last.is_empty() => Wanted::All,
            (Some(first), Some(last)) if last < first => Wanted::All,
            (Some(first), _) if first >= size => Wanted::OutOfReach,
            (Some(first), last) => Wanted::Range(first, last.unwrap_or(size - 1).min(size - 1)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_understood_or_the_whole_is_sent() {
        for (range, size, expected) in [
            ("bytes=0-4", 10, Wanted::Range(0, 4)),
            ("bytes=5-", 10, Wanted::Range(5, 9)),
            ("bytes=5-999", 10, Wanted::Range(5, 9)),
            ("bytes=-3", 10, Wanted::Range(7, 9)),
            ("bytes=-30", 10, Wanted::Range(0, 9)),
            ("bytes=9-9", 10, Wanted::Range(9, 9)),
            ("Bytes=0-4", 10, Wanted::Range(0, 4)),
            ("bytes=10-", 10, Wanted::OutOfReach),
            ("bytes=-0", 10, Wanted::OutOfReach),
            ("bytes=0-", 0, Wanted::OutOfReach),
            ("bytes=-1", 0, Wanted::OutOfReach),
            ("bytes=4-2", 10, Wanted::All),
            ("bytes=0-1,3-4", 10, Wanted::All),
            ("bytes=+1-2", 10, Wanted::All),
            ("bytes=a-b", 10, Wanted::All),
            ("pages=1-2", 10, Wanted::All),
            ("bytes=18446744073709551616-", 10, Wanted::All),
        ] {
            assert_eq!(wanted(range, size), expected, "{range} of {size}");
        }
    }

    #[test]
    fn no_piece_is_of_a_size_that_the_http_layer_keeps() {
        use futures::{FutureExt, StreamExt};

        for (bytes, expected) in [(0, vec![]), (5, vec![5]), (20_000, vec![16_384, 3_616]), (1 << 18, vec![1 << 18])] {
            let split = pieces(Bytes::from(vec![0; bytes])).map(|piece| piece.unwrap().len()).collect::<Vec<_>>();
            assert_eq!(split.now_or_never(), Some(expected));
        }
    }
}
