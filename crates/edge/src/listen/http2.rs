//! HTTP/2: many requests over one connection.
//!
//! The dispatcher of actix-http limits neither the number of requests nor the size of their heads, waits
//! indefinitely for a peer that reads nothing, and does not end idle connections when the server stops. This
//! one replaces it and passes requests to the same application. Requests are translated to the form of
//! HTTP/1.1, so that nothing above needs to know the difference.
//!
//! A connection makes the server hold at most what its window lets its peer send ahead: see `window.rs`.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use ::http::Response;
use actix_http::{BoxedPayloadStream, Payload, Request};
use actix_service::Service;
use actix_web::HttpMessage;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::error::PayloadError;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{Method, Uri, Version, header};
use bytes::Bytes;
use futures::Stream;
use futures::future::poll_fn;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::answers::{AnswerSlots, IsDownload};
use crate::body_rate::Pauses;
use crate::listen::connection::{AppService, CLOSE_TIMEOUT, ConnectionAddresses};
use crate::listen::exchange::HangUp;
use crate::listen::heads::HeadTimeout;
use crate::listen::outflow::{ReaderDeadline, ReaderTimeouts};
use crate::listen::window::{ConsumedBytes, FIRST_WINDOW_BYTES, ReceiveWindow, WindowBudget};
use crate::listen::wire::Wire;
use crate::listen::write_queue::{CountedStream, WriteQueue};

/// The largest head of a request, the same as over HTTP/1.1.
const MAX_HEAD_BYTES: u32 = 128 * 1024;

/// The largest frame that a peer may send. Large frames are cheaper to process.
const MAX_FRAME_BYTES: u32 = 64 * 1024;

/// The settings of HTTP/2 connections.
#[derive(Debug, Clone)]
pub struct Http2Settings {
    pub max_streams: u32,
    /// The largest window of a fast connection.
    pub max_window_bytes: u32,
    /// The budget from which windows grow, shared by all connections.
    pub budget: WindowBudget,
}

/// The times to wait for a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Http2Timeouts {
    /// For the start of the connection, and for each head.
    pub(super) head: Duration,
    /// For the next request when none is open.
    pub(super) idle: Duration,
    /// For the peer to read more of a response.
    pub(super) readers: ReaderTimeouts,
}

/// Serves a connection until it ends, is idle for too long, or, after `stopping` completes, its last request
/// is answered.
pub(super) async fn serve(
    mut wire: Wire,
    addresses: ConnectionAddresses,
    answers: &AppService,
    settings: &Http2Settings,
    timeouts: Http2Timeouts,
    stopping: impl Future<Output = ()>,
) -> Result<(), h2::Error> {
    drive(&mut wire, addresses, answers, settings, timeouts, stopping).await?;
    // Closing with unread bytes would reset the connection, and the reset can overtake the last response.
    let _ = timeout(CLOSE_TIMEOUT, tokio::io::copy(&mut wire, &mut tokio::io::sink())).await;
    Ok(())
}

async fn drive(
    wire: &mut Wire,
    addresses: ConnectionAddresses,
    answers: &AppService,
    settings: &Http2Settings,
    timeouts: Http2Timeouts,
    stopping: impl Future<Output = ()>,
) -> Result<(), h2::Error> {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(settings.max_streams)
        .initial_window_size(FIRST_WINDOW_BYTES)
        .initial_connection_window_size(FIRST_WINDOW_BYTES)
        .max_header_list_size(MAX_HEAD_BYTES)
        .max_frame_size(MAX_FRAME_BYTES);
    let queue = WriteQueue::default();
    let wire = HeadTimeout::new(CountedStream::new(wire, queue.clone()), timeouts.head);
    let Ok(connection) = timeout(timeouts.head, builder.handshake::<_, Bytes>(wire)).await else {
        return Ok(());
    };
    let mut connection = connection?;
    let each = AnswerContext {
        answers: Rc::clone(answers),
        readers: timeouts.readers,
        queue: queue.clone(),
        answer_slots: AnswerSlots::default(),
        pauses: Pauses::default(),
    };

    let taken = ConsumedBytes::default();
    let mut window =
        ReceiveWindow::new(&mut connection, taken.clone(), settings.max_window_bytes, settings.budget.clone());
    let running = OpenRequests::default();
    let mut stopping = pin!(stopping);
    let mut leaving = false;
    loop {
        let patience = if leaving { CLOSE_TIMEOUT } else { timeouts.idle };
        tokio::select! {
            accepted = poll_fn(|cx| {
                let accepted = connection.poll_accept(cx);
                if accepted.is_pending() {
                    queue.is_idle();
                }
                accepted
            }) => match accepted {
                None => return Ok(()),
                Some(request) => {
                    let (request, respond) = request?;
                    let underway = (running.0.count.get() < settings.max_streams).then(|| running.begin());
                    begin(request, respond, addresses, &taken, &each, underway);
                }
            },
            () = running.0.ended.notified() => {}
            () = poll_fn(|cx| window.poll_earned(cx)) => window.grow(&mut connection),
            () = tokio::time::sleep_until(running.0.quiet_since.get() + patience) => {
                let busy = running.0.count.get() > 0 || connection.has_streams();
                // A peer that has not accepted the GOAWAY by now accepts nothing.
                if leaving && !busy {
                    return Ok(());
                }
                if !busy {
                    connection.graceful_shutdown();
                    leaving = true;
                }
                running.0.quiet_since.set(Instant::now());
            }
            () = &mut stopping, if !leaving => {
                // Open requests are answered; the connection ends with the last of them.
                connection.graceful_shutdown();
                leaving = true;
                running.0.quiet_since.set(Instant::now());
            }
        }
    }
}

/// The state that the responses of one connection share.
#[derive(Clone)]
struct AnswerContext {
    answers: AppService,
    readers: ReaderTimeouts,
    queue: WriteQueue,
    answer_slots: AnswerSlots,
    pauses: Pauses,
}

/// The open requests of one connection.
#[derive(Default)]
struct OpenRequests(Rc<RequestCount>);

struct RequestCount {
    count: Cell<u32>,
    /// The start of the current idle period: the time when the last of them ended, or of the last idle check.
    quiet_since: Cell<Instant>,
    ended: Notify,
}

impl Default for RequestCount {
    fn default() -> Self {
        Self { count: Cell::new(0), quiet_since: Cell::new(Instant::now()), ended: Notify::new() }
    }
}

/// An open request, until dropped.
struct OpenRequest(Rc<RequestCount>);

impl OpenRequests {
    fn begin(&self) -> OpenRequest {
        self.0.count.set(self.0.count.get() + 1);
        OpenRequest(Rc::clone(&self.0))
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.quiet_since.set(Instant::now());
        self.0.ended.notify_one();
    }
}

fn begin(
    request: ::http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    addresses: ConnectionAddresses,
    taken: &ConsumedBytes,
    each: &AnswerContext,
    underway: Option<OpenRequest>,
) {
    // A request that its peer has reset no longer counts for the protocol, but its handler may not have ended
    // yet.
    let Some(underway) = underway else {
        return respond.send_reset(Reason::REFUSED_STREAM);
    };
    let has_body = !request.body().is_end_stream();
    let Some(request) = to_http1(request, addresses, taken.clone()) else {
        return respond.send_reset(Reason::PROTOCOL_ERROR);
    };
    request.extensions_mut().insert(each.answer_slots.clone());
    request.extensions_mut().insert(each.pauses.clone());
    let each = each.clone();
    tokio::task::spawn_local(async move {
        let _underway = underway;
        if let Err(error) = answer(&each, request, has_body, respond).await {
            tracing::debug!(error = %error, "could not send a response");
        }
    });
}

/// Translates a request to the form it would have over HTTP/1.1. Returns `None` if that is impossible.
fn to_http1(
    request: ::http::Request<RecvStream>,
    addresses: ConnectionAddresses,
    taken: ConsumedBytes,
) -> Option<Request> {
    let (parts, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    let body: BoxedPayloadStream = Box::pin(Http2Body { stream: body, taken });
    let mut request = Request::with_payload(Payload::Stream { payload: body });
    let head = request.head_mut();
    head.version = Version::HTTP_2;
    head.peer_addr = addresses.peer;
    head.method = Method::from_bytes(parts.method.as_str().as_bytes()).ok()?;
    head.uri = match parts.uri.path_and_query()?.as_str() {
        // RFC 9113, 8.3.1: OPTIONS for the server as a whole, which is routed as `/`.
        "*" if head.method == Method::OPTIONS => Uri::from_static("/"),
        target => target.parse::<Uri>().ok()?,
    };
    for (name, value) in &parts.headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        head.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    if let Some(authority) = parts.uri.authority() {
        head.headers.insert(header::HOST, HeaderValue::from_str(authority.as_str()).ok()?);
    }
    // RFC 9113, 8.2.2: a peer cannot send this field. Over HTTP/2, no field announces a body of unknown size.
    if has_body && !head.headers.contains_key(header::CONTENT_LENGTH) {
        head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(local_address) = addresses.local_address {
        request.extensions_mut().insert(local_address);
    }
    Some(request)
}

/// The body of a request. Its peer may send more only as the body is consumed.
struct Http2Body {
    stream: RecvStream,
    taken: ConsumedBytes,
}

impl Stream for Http2Body {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let broken = |error: h2::Error| PayloadError::Incomplete(Some(std::io::Error::other(error)));
        let chunk = match ready!(self.stream.poll_data(cx)) {
            None => return Poll::Ready(None),
            Some(chunk) => chunk.map_err(broken),
        };
        Poll::Ready(Some(chunk.and_then(|chunk| {
            self.taken.add(chunk.len());
            self.stream.flow_control().release_capacity(chunk.len()).map_err(broken)?;
            Ok(chunk)
        })))
    }
}

/// Answers a request and sends the response, unless the peer resets the stream first.
///
/// In that case the handler is dropped, as over HTTP/1.1 when a connection is reset. A handler with a body
/// learns of the reset from the body, after all bytes that have arrived, because dropping it would lose them.
/// The protocol itself rejects what is left of the body after the response: RFC 9113, 8.1, RST_STREAM with
/// NO_ERROR.
async fn answer(
    each: &AnswerContext,
    request: Request,
    has_body: bool,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let asks_for_head = request.method() == Method::HEAD;
    let answered = tokio::select! {
        answered = each.answers.call(request) => answered,
        _ = poll_fn(|cx| respond.poll_reset(cx)), if !has_body => return Ok(()),
    };
    let response: actix_http::Response<BoxBody> = match answered {
        Ok(response) => response.into(),
        Err(error) => error.into(),
    };
    if response.extensions().contains::<HangUp>() {
        respond.send_reset(Reason::CANCEL);
        return Ok(());
    }
    let is_download = response.extensions().contains::<IsDownload>();
    let (response, body) = response.into_parts();
    let (head, bodiless) = to_http2(&response, body.size());
    let addresses = bodiless || asks_for_head;
    let stream = respond.send_response(head, addresses)?;
    if addresses {
        return Ok(());
    }
    let reader =
        AnswerStream { stream, queue: each.queue.clone(), patience: ReaderDeadline::new(each.readers, is_download) };
    send(body, reader).await
}

/// Returns the head of a response without the fields that only HTTP/1.1 has, and whether the response has no
/// body.
fn to_http2(response: &actix_http::Response<()>, size: BodySize) -> (Response<()>, bool) {
    const OF_HTTP1: [HeaderName; 3] = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];
    let mut head = Response::new(());
    *head.status_mut() = ::http::StatusCode::from_u16(response.status().as_u16()).unwrap_or_default();
    let mut add = |name: &str, value: &[u8]| {
        let name = ::http::HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, ::http::HeaderValue::from_bytes(value)) {
            head.headers_mut().append(name, value);
        }
    };
    for (name, value) in response.headers() {
        if !OF_HTTP1.contains(name) {
            add(name.as_str(), value.as_bytes());
        }
    }
    // RFC 9110, 8.6: these have no `Content-Length`, not even 0.
    let may_have_length = !matches!(response.status().as_u16(), 204 | 304);
    if let (BodySize::Sized(bytes), true) = (size, may_have_length) {
        add("content-length", bytes.to_string().as_bytes());
    }
    if !response.headers().contains_key(header::DATE) {
        add("date", date().as_bytes());
    }
    (head, size.is_eof() || !may_have_length)
}

/// The current time for the `Date` field. No deadline depends on it.
#[expect(clippy::disallowed_methods, reason = "RFC 9110, 6.6.1: the date is that of the machine")]
fn date() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}

/// The stream of a response, and the deadline of its reader.
struct AnswerStream {
    stream: SendStream<Bytes>,
    queue: WriteQueue,
    patience: ReaderDeadline,
}

async fn send(body: BoxBody, mut reader: AnswerStream) -> Result<(), h2::Error> {
    // If the length is known, nothing more is taken from the body before the reader has capacity for it. If
    // it is unknown, more may never come, so the body is polled; such a body holds little.
    let mut left = match body.size() {
        BodySize::Sized(bytes) => bytes,
        BodySize::None | BodySize::Stream => 0,
    };
    let mut body = pin!(body);
    loop {
        if left > 0 && reader.capacity(1).await?.is_none() {
            return Ok(());
        }
        let chunk = tokio::select! {
            chunk = poll_fn(|cx| body.as_mut().poll_next(cx)) => chunk,
            _ = poll_fn(|cx| reader.stream.poll_reset(cx)) => return Ok(()),
        };
        match chunk {
            None => return reader.stream.send_data(Bytes::new(), true),
            Some(Ok(chunk)) => {
                left = left.saturating_sub(chunk.len() as u64);
                if !reader.take(chunk).await? {
                    return Ok(());
                }
            }
            // The cause was logged where it occurred. The peer must not mistake a part for the whole.
            Some(Err(_)) => {
                reader.stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
        }
    }
}

impl AnswerStream {
    /// Sends a chunk as the peer reads. Returns whether the peer accepted all of it.
    async fn take(&mut self, mut chunk: Bytes) -> Result<bool, h2::Error> {
        while !chunk.is_empty() {
            let Some(capacity) = self.capacity(chunk.len()).await? else { return Ok(false) };
            let piece = chunk.split_to(capacity.min(chunk.len()));
            self.patience.has_taken(piece.len());
            self.queue.add(piece.len());
            self.stream.send_data(piece, false)?;
        }
        Ok(true)
    }

    /// Returns how many of the `wanted` bytes the peer and its connection have capacity for, as soon as they
    /// have any; `None` if the peer has reset the stream or its deadline has passed.
    async fn capacity(&mut self, wanted: usize) -> Result<Option<usize>, h2::Error> {
        let Self { stream, queue, patience } = self;
        stream.reserve_capacity(wanted);
        let capacity = async {
            // The capacity of the connection is checked last: it must not be gone when that of the peer
            // becomes available.
            let capacity =
                if stream.capacity() > 0 { Some(Ok(stream.capacity())) } else { poll_capacity(stream).await };
            queue.wait_for_capacity().await;
            capacity
        };
        match tokio::time::timeout_at(patience.deadline(), capacity).await {
            Ok(capacity) => capacity.transpose(),
            Err(_) => {
                stream.send_reset(Reason::CANCEL);
                Ok(None)
            }
        }
    }
}

async fn poll_capacity(stream: &mut SendStream<Bytes>) -> Option<Result<usize, h2::Error>> {
    poll_fn(|cx| stream.poll_capacity(cx)).await
}
