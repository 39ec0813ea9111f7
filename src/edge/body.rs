//! Request bodies: pumping them into the engine, and answering while they still arrive.
//!
//! An answer given before the whole body has come would often be lost: closing a connection with unread bytes resets
//! it, and the reset can overtake the answer. So an early answer is sent at once, and what still comes is read and
//! thrown away for a bounded time before the connection closes. The HTTP layer announces that it closes (`Connection:
//! close`) with every answer to a body that has not all come; only one that has all come lets the connection live on.
//!
//! A client may wait to be told before it sends the body (`Expect: 100-continue`). It is told when somebody asks for
//! the body and none of it is there. So whoever refuses without a look at the body refuses before the client has sent
//! any, and there is nothing to wait for afterwards.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize as ResponseSize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;
use actix_web::http::header;
use actix_web::http::header::HeaderMap;
use actix_web::{HttpMessage, HttpRequest, web};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use tokio::time::Instant;

use domain::upload::Upload;

use crate::edge::fields::Fields;
use crate::edge::listen::deadline::Deadline;
use crate::edge::listen::exchange::Exchange;
use crate::edge::listen::inflow::{Inflow, Taker};
use crate::edge::listen::interim::Interim;
use crate::edge::pace::{MinRate, Pace, Pauses};
use engine::command::{BodyEnd, EngineError, Unavailable};
use engine::feed::{Ended, Feed};

/// What is known of a request's body before a byte of it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodySize {
    /// `Content-Length`; zero when there is no body.
    Known(u64),
    /// Chunked.
    Unknown,
}

impl BodySize {
    /// Reads `Content-Length` as the HTTP layer has understood it.
    pub fn of(content_length: Option<u64>, chunked: bool) -> Self {
        match content_length {
            _ if chunked => Self::Unknown,
            Some(bytes) => Self::Known(bytes),
            None => Self::Known(0),
        }
    }

    pub fn known(self) -> Option<u64> {
        match self {
            Self::Known(bytes) => Some(bytes),
            Self::Unknown => None,
        }
    }

    pub fn is_empty(self) -> bool {
        self == Self::Known(0)
    }
}

/// What the headers say about the size of the body.
pub(crate) fn announced_size(request: &HttpRequest) -> BodySize {
    let headers = request.headers();
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    BodySize::of(length, headers.contains_key(header::TRANSFER_ENCODING))
}

/// The most that is read of a connection before its bytes are taken.
const READ_AHEAD_BYTES: usize = 128 * 1024;

/// Does long work for as long as its client waits for the answer. `None`: the client has closed its connection. Only
/// for requests without a body.
pub(crate) async fn while_awaited<T>(request: &HttpRequest, work: impl Future<Output = T>) -> Option<T> {
    // HTTP/2 has none: it drops the handler of a stream that was reset.
    let inflow = request.conn_data::<Inflow>().cloned();
    let gone = async {
        match inflow {
            Some(inflow) => inflow.ended().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = gone => None,
    }
}

/// Moves a request's body into an append, and gives the upload as it is when all of it is settled.
///
/// Bytes are copied out of the connection's buffer while they are fresh in the processor's cache; so that buffer is
/// free again before the next read, and is used for it. While there is no room for bytes, none are read. A body that
/// is cut short keeps what arrived and is never answered with success.
pub(crate) async fn pump(
    request: &HttpRequest,
    payload: web::Payload,
    feed: Feed,
    idle_timeout: Duration,
) -> Result<Upload, EngineError> {
    pump_and_tell(request, payload, feed, idle_timeout, None).await
}

/// The same, and `tell` is given the committed offset as it grows, once a second at most.
pub(crate) async fn pump_and_tell(
    request: &HttpRequest,
    mut payload: impl Stream<Item = Result<Bytes, PayloadError>> + Unpin,
    mut feed: Feed,
    idle_timeout: Duration,
    tell: Option<&dyn Fn(u64)>,
) -> Result<Upload, EngineError> {
    // HTTP/2 has windows of its own for this.
    let taker = request.conn_data::<Inflow>().map(Inflow::take_over);
    let pauses = request.extensions().get::<Pauses>().cloned();
    let mut telling = tell.map(Telling::new);
    let end = loop {
        if let Some(telling) = &mut telling {
            telling.look(&feed);
        }
        match next(&mut payload, &mut feed, taker.as_ref(), idle_timeout).await {
            Some(Some(Ok(chunk))) => {
                if push(&mut feed, &chunk, pauses.as_ref()).await.is_err() {
                    break BodyEnd::Cut;
                }
            }
            Some(None) => break BodyEnd::Complete,
            Some(Some(Err(_))) | None => break BodyEnd::Cut,
        }
    };
    drop(taker);
    let upload = feed.finish(end).await?;
    match end {
        BodyEnd::Complete => Ok(upload),
        BodyEnd::Cut => Err(broken_off()),
    }
}

/// Hands bytes on. While that has to wait, other requests of the connection may have to, too.
async fn push(feed: &mut Feed, chunk: &[u8], pauses: Option<&Pauses>) -> Result<(), Ended> {
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
struct Telling<'a> {
    tell: &'a dyn Fn(u64),
    told_bytes: u64,
    due: Instant,
}

/// The shortest time between two words about progress.
const TELL_EVERY: Duration = Duration::from_secs(1);

impl<'a> Telling<'a> {
    fn new(tell: &'a dyn Fn(u64)) -> Self {
        Self { tell, told_bytes: 0, due: Instant::now() + TELL_EVERY }
    }

    fn look(&mut self, feed: &Feed) {
        let now = Instant::now();
        let committed_bytes = feed.committed_bytes();
        if now >= self.due && committed_bytes > self.told_bytes {
            (self.tell)(committed_bytes);
            (self.told_bytes, self.due) = (committed_bytes, now + TELL_EVERY);
        }
    }
}

/// The next bytes of a body, or its end.
pub(crate) async fn next_piece(
    payload: &mut web::Payload,
    idle_timeout: Duration,
) -> Result<Option<Bytes>, EngineError> {
    match tokio::time::timeout(idle_timeout, payload.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
        Ok(Some(Err(_))) | Err(_) => Err(broken_off()),
    }
}

/// Returns all of a body, unless it has more than `limit` bytes. One that announces more is rejected before its client
/// is asked to send it.
pub(crate) async fn small(
    request: &HttpRequest,
    mut payload: web::Payload,
    limit: usize,
    idle_timeout: Duration,
) -> Result<Option<Vec<u8>>, EngineError> {
    let announced = announced_size(request).known();
    if announced.is_some_and(|size| usize::try_from(size).map_or(true, |size| size > limit)) {
        return Ok(None);
    }
    let mut all = Vec::new();
    while let Some(bytes) = next_piece(&mut payload, idle_timeout).await? {
        if bytes.len() > limit - all.len() {
            return Ok(None);
        }
        all.extend_from_slice(&bytes);
    }
    Ok(Some(all))
}

/// What is said of a body that ceased to come before its end.
pub(crate) fn broken_off() -> EngineError {
    EngineError::Unavailable(Unavailable::Idle)
}

/// What comes next; nothing once the append has ended by itself or the client was silent for too long.
async fn next(
    payload: &mut (impl Stream<Item = Result<Bytes, PayloadError>> + Unpin),
    feed: &mut Feed,
    taker: Option<&Taker>,
    idle_timeout: Duration,
) -> Option<Option<Result<Bytes, PayloadError>>> {
    // Nothing else is looked at, and no timer set, while bytes are there.
    if let Some(ready) = payload.next().now_or_never() {
        return Some(ready);
    }
    if let Some(taker) = taker {
        taker.allow(feed.wants_bytes().min(READ_AHEAD_BYTES));
    }
    let silent = tokio::time::sleep(idle_timeout);
    tokio::pin!(silent);
    loop {
        let flush_at = feed.flush_at();
        tokio::select! {
            next = payload.next() => return Some(next),
            () = feed.ended() => return None,
            () = &mut silent => return None,
            () = come(flush_at), if flush_at.is_some() => feed.flush(),
        }
    }
}

async fn come(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A request's body, still readable after the handler is done with it.
#[derive(Clone)]
pub(crate) struct Inlet(Rc<RefCell<Shared>>);

struct Shared {
    payload: Payload,
    ended: bool,
    /// While the client waits to be told to send: what tells it.
    held_back: Option<Interim>,
    /// Over HTTP/1.1: what is known of the body's framing.
    exchange: Option<Exchange>,
    inflow: Option<Inflow>,
    read_bytes: u64,
    /// Where the body has to keep a minimum rate.
    pace: Option<Pace>,
    is_too_slow: bool,
}

impl Inlet {
    /// Puts itself between a request and its body, which has to come at least so fast.
    pub(crate) fn tap(request: &mut ServiceRequest, least: Option<MinRate>) -> Self {
        let held_back = request.head().expect().then(|| Interim::of(request)).flatten();
        let pauses = request.extensions().get::<Pauses>().cloned().unwrap_or_default();
        let inlet = Self(Rc::new(RefCell::new(Shared {
            payload: request.take_payload(),
            ended: false,
            held_back,
            exchange: request.conn_data::<Exchange>().cloned(),
            inflow: request.conn_data::<Inflow>().cloned(),
            read_bytes: 0,
            pace: least.map(|least| Pace::new(least, pauses)),
            is_too_slow: false,
        })));
        request.set_payload(Payload::Stream { payload: Box::pin(inlet.clone()) });
        inlet
    }

    /// Whether the whole body has been read.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.borrow().ended
    }

    /// Whether the body ended because it came too slowly.
    pub(crate) fn is_too_slow(&self) -> bool {
        self.0.borrow().is_too_slow
    }

    /// Whether the body ended where its framing is broken.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.borrow().is_broken()
    }

    /// Whether the client still waits to be told to send the body.
    fn is_held_back(&self) -> bool {
        self.0.borrow().held_back.is_some()
    }
}

impl Shared {
    /// What comes next, as the rate and the framing of the body allow.
    fn poll_payload(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PayloadError>>> {
        if self.is_too_slow {
            let slow = std::io::Error::from(std::io::ErrorKind::TimedOut);
            return Poll::Ready(Some(Err(PayloadError::Incomplete(Some(slow)))));
        }
        let polled = Pin::new(&mut self.payload).poll_next(cx);
        match &polled {
            Poll::Pending if self.is_broken() => return Poll::Ready(Some(Err(PayloadError::EncodingCorrupted))),
            Poll::Pending => {
                if let Some(inflow) = &self.inflow {
                    inflow.want_body();
                }
                if let Some(pace) = &mut self.pace {
                    pace.wait();
                }
            }
            Poll::Ready(Some(Ok(bytes))) => {
                self.read_bytes += bytes.len() as u64;
                // These bytes still count.
                self.is_too_slow = self.pace.as_mut().is_some_and(|pace| !pace.came(bytes.len()));
            }
            Poll::Ready(None | Some(Err(_))) => {}
        }
        polled
    }

    fn is_broken(&self) -> bool {
        self.exchange.as_ref().and_then(Exchange::breaks_at) == Some(self.read_bytes)
    }
}

impl Stream for Inlet {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut shared = self.0.borrow_mut();
        let polled = shared.poll_payload(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            shared.ended = true;
        }
        // RFC 9110, 10.1.1: a client that has begun to send need not be told. Once answered, it cannot be any more.
        let comes = polled.is_ready() || shared.exchange.as_ref().is_some_and(Exchange::has_body);
        if shared.held_back.as_ref().is_some_and(|interim| comes || interim.send_continue()) {
            shared.held_back = None;
        }
        polled
    }
}

/// How long a client that was answered may be silent in the middle of its body. Either it has read the answer, or it is
/// gone.
const LINGER: Duration = Duration::from_secs(1);

/// An answer that, once sent, goes on reading the request's body for a while.
pub(crate) struct Draining {
    answer: BoxBody,
    inlet: Inlet,
    patience: Duration,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
    silence: Deadline,
}

impl Draining {
    pub(crate) fn new(answer: BoxBody, inlet: Inlet, patience: Duration) -> Self {
        Self { answer, inlet, patience, deadline: None, silence: Deadline::none() }
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_first = self.deadline.is_none();
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.patience)));
        if deadline.poll_unpin(cx).is_ready() {
            return Poll::Ready(());
        }
        // Other connections of this thread get their turn, however fast this client is.
        for turn in 0..64 {
            match Pin::new(&mut self.inlet).poll_next(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending if self.inlet.is_held_back() => return Poll::Ready(()),
                Poll::Pending => {
                    if is_first || turn > 0 {
                        self.silence.set(Instant::now() + LINGER);
                    }
                    return self.silence.poll_passed(cx);
                }
            }
        }
        self.silence.set(Instant::now() + LINGER);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl MessageBody for Draining {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> ResponseSize {
        self.answer.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.deadline.is_none() {
            match Pin::new(&mut self.answer).poll_next(cx) {
                Poll::Ready(None) => {}
                polled => return polled,
            }
        }
        self.drain(cx).map(|()| None)
    }
}

/// Header fields of the HTTP layer, as dialects read them.
pub(crate) struct HeaderFields<'a>(pub(crate) &'a HeaderMap);

impl Fields for HeaderFields<'_> {
    fn values<'a>(&'a self, name: &'a str) -> Box<dyn Iterator<Item = &'a [u8]> + 'a> {
        Box::new(self.0.get_all(name).map(|value| value.as_bytes()))
    }
}
