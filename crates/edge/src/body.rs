//! Request bodies: reading them, and responding before they are complete.
//!
//! A response that is sent before the whole body has arrived would often be lost: closing a connection with
//! unread bytes resets it, and the reset can overtake the response. An early response is therefore sent
//! immediately, and the rest of the body is read and discarded for a limited time before the connection
//! closes. The HTTP layer announces the closing (`Connection: close`) in each response to a body that is
//! incomplete; the connection stays open only after a complete body.
//!
//! A client may wait for `100 Continue` before it sends the body (`Expect: 100-continue`). The interim
//! response is sent when the body is polled and none of it has arrived. A handler that rejects a request
//! without reading the body therefore rejects it before the client has sent any, and nothing needs to be
//! discarded afterwards.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize as ResponseSize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;
use actix_web::http::header;
use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use tokio::time::Instant;

use crate::body_rate::{BodyRate, MinRate};
use crate::fields::Fields;
use crate::listen::deadline::Deadline;
use crate::listen::exchange::Exchange;
use crate::listen::inflow::Inflow;

pub use crate::body_rate::Pauses;
pub use crate::listen::inflow::ReadLimit;
pub use crate::listen::interim::Interim;

/// The limits for request bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// The longest time for which a client may send nothing in the middle of a body.
    pub idle_timeout: Duration,
    /// The minimum rate in bytes per second of a body, on average over `idle_timeout`, for clients on other
    /// machines. 0: no minimum.
    pub min_rate_bytes: u64,
    /// The longest time for which the rest of a body is read after the response was sent.
    pub drain_timeout: Duration,
}

/// The size of a request's body, as known before any of it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodySize {
    /// `Content-Length`; zero if there is no body.
    Known(u64),
    /// The body is chunked.
    Unknown,
}

impl BodySize {
    /// Returns the size for the `Content-Length` and the transfer coding that the HTTP layer has parsed.
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

/// Returns the size of the body according to the header fields.
pub fn announced_size(request: &HttpRequest) -> BodySize {
    let headers = request.headers();
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    BodySize::of(length, headers.contains_key(header::TRANSFER_ENCODING))
}

/// Runs long work for as long as the client waits for the response. Returns `None` if the client has closed
/// its connection. Only for requests without a body.
pub async fn while_awaited<T>(request: &HttpRequest, work: impl Future<Output = T>) -> Option<T> {
    // `None` over HTTP/2, which drops the handler of a stream that was reset.
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

/// Returns the control for how many bytes the connection of a request reads ahead. `None` over HTTP/2, which
/// controls this by its windows.
pub fn limit_reads(request: &HttpRequest) -> Option<ReadLimit> {
    request.conn_data::<Inflow>().map(Inflow::limit_reads)
}

/// Returns the pauses that the requests of an HTTP/2 connection share. `None` over HTTP/1.1.
pub fn pauses(request: &HttpRequest) -> Option<Pauses> {
    request.extensions().get::<Pauses>().cloned()
}

/// A body that stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyCut;

/// Returns whether a request has a non-empty body.
pub fn carries_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes);
    length.is_some_and(|length| length != b"0") || headers.contains_key(header::TRANSFER_ENCODING)
}

/// Returns the next bytes of a body; `None` at its end.
pub async fn next_piece(payload: &mut Payload, idle_timeout: Duration) -> Result<Option<Bytes>, BodyCut> {
    match tokio::time::timeout(idle_timeout, payload.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
        Ok(Some(Err(_))) | Err(_) => Err(BodyCut),
    }
}

/// Returns the whole body, or `None` if it has more than `limit` bytes. A body that announces more is
/// rejected before its client is asked to send it.
pub async fn small(
    request: &HttpRequest,
    mut payload: Payload,
    limit: usize,
    idle_timeout: Duration,
) -> Result<Option<Vec<u8>>, BodyCut> {
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

/// The body of a request, which remains readable after the handler has finished.
#[derive(Clone)]
pub(crate) struct RequestBody(Rc<RefCell<RequestBodyState>>);

struct RequestBodyState {
    payload: Payload,
    ended: bool,
    /// Sends `100 Continue`, while the client waits for it.
    held_back: Option<Interim>,
    /// The framing of the body, over HTTP/1.1.
    exchange: Option<Exchange>,
    inflow: Option<Inflow>,
    read_bytes: u64,
    /// The minimum rate, if one applies.
    rate: Option<BodyRate>,
    is_too_slow: bool,
}

impl RequestBody {
    /// Wraps the body of a request, and enforces the minimum rate `least` on it.
    pub(crate) fn tap(request: &mut ServiceRequest, least: Option<MinRate>) -> Self {
        let held_back = request.head().expect().then(|| Interim::of(request)).flatten();
        let pauses = request.extensions().get::<Pauses>().cloned().unwrap_or_default();
        let request_body = Self(Rc::new(RefCell::new(RequestBodyState {
            payload: request.take_payload(),
            ended: false,
            held_back,
            exchange: request.conn_data::<Exchange>().cloned(),
            inflow: request.conn_data::<Inflow>().cloned(),
            read_bytes: 0,
            rate: least.map(|least| BodyRate::new(least, pauses)),
            is_too_slow: false,
        })));
        request.set_payload(Payload::Stream { payload: Box::pin(request_body.clone()) });
        request_body
    }

    /// Returns whether the whole body has been read.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.borrow().ended
    }

    /// Returns whether the body ended because it arrived too slowly.
    pub(crate) fn is_too_slow(&self) -> bool {
        self.0.borrow().is_too_slow
    }

    /// Returns whether the body ended at invalid framing.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.borrow().is_broken()
    }

    /// Returns whether the client is still waiting for `100 Continue`.
    fn is_held_back(&self) -> bool {
        self.0.borrow().held_back.is_some()
    }
}

impl RequestBodyState {
    /// Polls for the next bytes, and enforces the rate and the framing of the body.
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
                if let Some(rate) = &mut self.rate {
                    rate.on_pending();
                }
            }
            Poll::Ready(Some(Ok(bytes))) => {
                self.read_bytes += bytes.len() as u64;
                // These bytes are still passed on.
                self.is_too_slow = self.rate.as_mut().is_some_and(|rate| !rate.on_bytes(bytes.len()));
            }
            Poll::Ready(None | Some(Err(_))) => {}
        }
        polled
    }

    fn is_broken(&self) -> bool {
        self.exchange.as_ref().and_then(Exchange::breaks_at) == Some(self.read_bytes)
    }
}

impl Stream for RequestBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.borrow_mut();
        let polled = state.poll_payload(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            state.ended = true;
        }
        // RFC 9110, 10.1.1: a client that has begun to send needs no `100 Continue`. After the final
        // response, none can be sent.
        let comes = polled.is_ready() || state.exchange.as_ref().is_some_and(Exchange::has_body);
        if state.held_back.as_ref().is_some_and(|interim| comes || interim.send_continue()) {
            state.held_back = None;
        }
        polled
    }
}

/// The longest silence in the middle of the body of a client that was answered. After this time the client
/// has read the response, or it is gone.
const LINGER: Duration = Duration::from_secs(1);

/// A response that continues to read the request's body for a limited time after it is sent.
pub(crate) struct DrainingAnswer {
    answer: BoxBody,
    request_body: RequestBody,
    patience: Duration,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
    silence: Deadline,
}

impl DrainingAnswer {
    pub(crate) fn new(answer: BoxBody, request_body: RequestBody, patience: Duration) -> Self {
        Self { answer, request_body, patience, deadline: None, silence: Deadline::none() }
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_first = self.deadline.is_none();
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.patience)));
        if deadline.poll_unpin(cx).is_ready() {
            return Poll::Ready(());
        }
        // Yields to the other connections of this thread, however fast the client sends.
        for turn in 0..64 {
            match Pin::new(&mut self.request_body).poll_next(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending if self.request_body.is_held_back() => return Poll::Ready(()),
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

impl MessageBody for DrainingAnswer {
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

/// Header fields of the HTTP layer, as [`Fields`].
#[derive(Debug)]
pub struct HeaderFields<'a>(pub &'a HeaderMap);

impl Fields for HeaderFields<'_> {
    fn values<'a>(&'a self, name: &'a str) -> Box<dyn Iterator<Item = &'a [u8]> + 'a> {
        Box::new(self.0.get_all(name).map(|value| value.as_bytes()))
    }
}
