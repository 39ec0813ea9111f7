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

/// The most that is read of a connection before its bytes are taken.
const READ_AHEAD_BYTES: usize = 128 * 1024;

/// Moves a request's body into an append, and gives the upload as it is when all of it is settled.
///
/// Bytes are copied out of the connection's buffer while they are fresh in the processor's cache; so that
/// buffer is free again before the next read, and is used for it. While there is no room for bytes, none are
/// read. A body that is cut short keeps what arrived and is never answered with success.
pub(crate) async fn pump(
    request: &HttpRequest,
    payload: Payload,
    feed: Feed,
    idle_timeout: Duration,
) -> Result<Upload, EngineError> {
    pump_with_progress(request, payload, feed, idle_timeout, None).await
}

/// Does the same, and gives `report` the committed offset as it grows, once a second at most.
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

/// Hands bytes on. While that has to wait, other requests of the connection may have to, too.
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

/// Tells of progress, but not too often.
struct ProgressReporter<'a> {
    report: &'a dyn Fn(u64),
    reported_bytes: u64,
    due: Instant,
}

/// The shortest time between two words about progress.
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

/// What comes next; nothing once the append has ended by itself or the client was silent for too long.
async fn next(
    payload: &mut (impl Stream<Item = Result<Bytes, PayloadError>> + Unpin),
    feed: &mut Feed,
    read_limit: Option<&ReadLimit>,
    idle_timeout: Duration,
) -> Option<Option<Result<Bytes, PayloadError>>> {
    // Nothing else is looked at, and no timer set, while bytes are there.
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
