//! Moves the body of a request into an append.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use tokio::time::Instant;

use crate::trouble::broken_off;
use domain::upload::Upload;
use edge::body;
use edge::body::{Pauses, ReadLimit};
use engine::command::{BodyEnd, EngineError};
use engine::feed::{Feed, FeedEnded};

/// The largest number of bytes read ahead from a connection before the append has accepted them.
const READ_AHEAD_BYTES: usize = 128 * 1024;

/// Moves a request's body into an append, and returns the upload when all of it is settled.
///
/// Bytes are copied out of the connection's buffer while they are in the processor's cache, so that the
/// buffer is free before the next read and is reused for it. While the append has no capacity, nothing is
/// read. If a body is cut off, the bytes that arrived are kept, and the response is never a success.
pub(crate) async fn pump(
    request: &HttpRequest,
    payload: Payload,
    feed: Feed,
    idle_timeout: Duration,
) -> Result<Upload, EngineError> {
    pump_with_progress(request, payload, feed, idle_timeout, None).await
}

/// Like [`pump`], and passes the committed offset to `report` as it grows, at most once a second.
pub(crate) async fn pump_with_progress(
    request: &HttpRequest,
    mut payload: impl Stream<Item = Result<Bytes, PayloadError>> + Unpin,
    mut feed: Feed,
    idle_timeout: Duration,
    report: Option<&dyn Fn(u64)>,
) -> Result<Upload, EngineError> {
    let read_limit = body::limit_reads(request);
    let pauses = body::pauses(request);
    let mut reporter = report.map(ProgressReporter::new);
    let end = loop {
        if let Some(reporter) = &mut reporter {
            reporter.report_if_due(&feed);
        }
        match next(&mut payload, &mut feed, read_limit.as_ref(), idle_timeout).await {
            Some(Some(Ok(chunk))) => {
                if push(&mut feed, &chunk, pauses.as_ref()).await.is_err() {
                    break BodyEnd::Cut;
                }
            }
            Some(None) => break BodyEnd::Complete,
            Some(Some(Err(_))) | None => break BodyEnd::Cut,
        }
    };
    drop(read_limit);
    let upload = feed.finish(end).await?;
    match end {
        BodyEnd::Complete => Ok(upload),
        BodyEnd::Cut => Err(broken_off()),
    }
}

/// Passes bytes on. While that waits, other requests of the connection may have to wait, too.
async fn push(feed: &mut Feed, chunk: &[u8], pauses: Option<&Pauses>) -> Result<(), FeedEnded> {
    let mut pushing = pin!(feed.push(chunk));
    let Some(pauses) = pauses else { return pushing.await };
    match futures::poll!(pushing.as_mut()) {
        Poll::Ready(pushed) => pushed,
        Poll::Pending => {
            let _pause = pauses.begin();
            pushing.await
        }
    }
}

/// Reports progress at a limited rate.
struct ProgressReporter<'a> {
    report: &'a dyn Fn(u64),
    reported_bytes: u64,
    due: Instant,
}

/// The shortest time between two reports of progress.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

impl<'a> ProgressReporter<'a> {
    fn new(report: &'a dyn Fn(u64)) -> Self {
        Self { report, reported_bytes: 0, due: Instant::now() + PUBLISH_EVERY }
    }

    fn report_if_due(&mut self, feed: &Feed) {
        let now = Instant::now();
        let committed_bytes = feed.committed_bytes();
        if now >= self.due && committed_bytes > self.reported_bytes {
            (self.report)(committed_bytes);
            (self.reported_bytes, self.due) = (committed_bytes, now + PUBLISH_EVERY);
        }
    }
}

/// Returns the next item of the body; `None` if the append has ended, or the client was silent for too long.
async fn next(
    payload: &mut (impl Stream<Item = Result<Bytes, PayloadError>> + Unpin),
    feed: &mut Feed,
    read_limit: Option<&ReadLimit>,
    idle_timeout: Duration,
) -> Option<Option<Result<Bytes, PayloadError>>> {
    // While bytes are available, nothing else is checked and no timer is set.
    if let Some(ready) = payload.next().now_or_never() {
        return Some(ready);
    }
    if let Some(read_limit) = read_limit {
        read_limit.allow(feed.wants_bytes().min(READ_AHEAD_BYTES));
    }
    let silent = tokio::time::sleep(idle_timeout);
    tokio::pin!(silent);
    loop {
        tokio::select! {
            next = payload.next() => return Some(next),
            () = feed.ended() => return None,
            () = &mut silent => return None,
            () = feed.flush_due() => feed.flush(),
        }
    }
}
