//! HTTP/1.1 by actix-http, with two layers of this module around the application and one around the stream.
//!
//! Below actix-http, a connection is framed into requests that arrive one at a time and within their
//! deadlines (`framing`), is read only as far as the consumer has capacity (`inflow.rs`), and interim
//! responses are inserted between the responses (`interim.rs`). Above it, requests are passed to the
//! application. The state of the current request that both sides need is in `exchange.rs`.
//!
//! `Expect: 100-continue`: actix-http calls a separate service to decide whether such a request may continue,
//! sends `100 Continue` if so, and calls the application afterwards. The application could then reject a
//! request only after its body was requested. Here the application itself is that service. Its response is
//! sent the way a rejection by that service is sent, which is the way of all responses, and actix-http never
//! sends `100 Continue`. It is sent when a body that has not arrived is first read: see `body.rs`.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::{ConnectionType, HttpService, KeepAlive, Request, Response, h1};
use actix_server::GracefulShutdownSignal;
use actix_service::{Service, ServiceFactory, fn_factory, forward_ready};
use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::Version;
use futures::FutureExt;
use futures::future::{Either, LocalBoxFuture};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::addresses::LocalAddress;
use crate::answers::IsDownload;
use crate::listen::connection::{AppService, CLOSE_TIMEOUT};
use crate::listen::exchange::{AnswerBody, Exchange, HangUp};
use crate::listen::framing::{Framing, FramingSettings};
use crate::listen::inflow::{Inflow, ReadAhead};
use crate::listen::interim::{InterimPeriod, Interleaver};
use crate::listen::outflow::{Outflow, ReaderTimeouts};

/// Serves connections over HTTP/1.1.
pub(super) type Http1<S> =
    h1::H1ServiceHandler<Http1Stream<S>, Http1Service, AnswerBody, ExpectService, h1::UpgradeHandler>;

pub(super) async fn http1<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    answers: AppService,
    stopping: GracefulShutdownSignal,
) -> Result<Http1<S>, ()> {
    let in_turn = Http1Service { answers };
    let instead = ExpectService(in_turn.clone());
    let service = HttpService::build()
        // Both deadlines are enforced below, where they apply to each request: see `framing`.
        .client_request_timeout(Duration::ZERO)
        .keep_alive(KeepAlive::Os)
        .client_disconnect_timeout(CLOSE_TIMEOUT)
        // The amount that is written at a time, and the capacity that is kept. Bodies arrive in pieces of
        // this size or much larger.
        .h1_write_buffer_size(WRITE_BUFFER_BYTES)
        .on_connect_ext(|stream: &Http1Stream<S>, data| {
            data.insert(stream.exchange.clone());
            data.insert(stream.outflow.clone());
            data.insert(stream.inflow.clone());
            data.insert(stream.interleaver.interims().clone());
            if let Some(local_address) = stream.local_address {
                data.insert(local_address);
            }
        })
        .expect(fn_factory(move || ready(Ok::<_, Infallible>(instead.clone()))))
        // Without it, a stopping server would wait for idle connections. The server of actix-web uses it,
        // too.
        .graceful_shutdown_signal(move || {
            let stopping = stopping.clone();
            async move { stopping.notified().await }
        });
    service.h1(fn_factory(move || ready(Ok::<_, Infallible>(in_turn.clone())))).new_service(()).await
}

/// The initial size in the HTTP layer.
const WRITE_BUFFER_BYTES: usize = 8 << 10;

/// A connection that uses HTTP/1.1.
pub(super) struct Http1Stream<S> {
    stream: S,
    exchange: Exchange,
    framing: Framing,
    inflow: Inflow,
    interleaver: Interleaver,
    outflow: Outflow,
    local_address: Option<LocalAddress>,
}

impl<S> Http1Stream<S> {
    pub(super) fn new(stream: S, settings: FramingSettings, readers: ReaderTimeouts, read_ahead: ReadAhead) -> Self {
        let exchange = Exchange::default();
        let framing = Framing::new(settings, exchange.clone());
        let (inflow, interleaver) = (Inflow::metered(read_ahead), Interleaver::default());
        Self { stream, exchange, framing, inflow, interleaver, outflow: Outflow::new(readers), local_address: None }
    }

    /// Sets the local address, for the requests of the connection.
    pub(super) fn at(self, local_address: Option<LocalAddress>) -> Self {
        Self { local_address, ..self }
    }

    fn check(&self) -> io::Result<()> {
        if self.exchange.is_hung_up() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Http1Stream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check()?;
        this.framing.poll_read(Pin::new(&mut this.stream), &this.inflow, cx, buf)
    }
}

/// The dispatcher writes from a single buffer, so there is no vectored writing to pass on.
impl<S: AsyncWrite + Unpin> AsyncWrite for Http1Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.check()?;
        ready!(this.interleaver.poll_finish(Pin::new(&mut this.stream), cx))?;
        this.outflow.poll_write(Pin::new(&mut this.stream), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.interleaver.poll_write_queued(Pin::new(&mut this.stream), cx))?;
        ready!(this.outflow.poll_flush(Pin::new(&mut this.stream), cx))?;
        this.framing.flushed(cx);
        if this.framing.is_between_requests() {
            this.inflow.end_body();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The application, called with one request after the other.
#[derive(Clone)]
pub(super) struct Http1Service {
    answers: AppService,
}

/// A response in progress, and the period for interim responses, which ends with it.
pub(super) struct AnswerFuture {
    answer: AnswerSource,
    turn: Option<InterimPeriod>,
    outflow: Option<Outflow>,
    exchange: Option<Exchange>,
    version: Version,
}

/// From the application, or already complete.
type AnswerSource = Either<
    LocalBoxFuture<'static, Result<ServiceResponse<BoxBody>, actix_web::Error>>,
    std::future::Ready<HttpResponse>,
>;

impl Service<Request> for Http1Service {
    type Response = Response<AnswerBody>;
    type Error = actix_web::Error;
    type Future = AnswerFuture;

    forward_ready!(answers);

    fn call(&self, request: Request) -> Self::Future {
        let exchange = request.conn_data::<Exchange>().cloned();
        let rejection = exchange.as_ref().and_then(Exchange::take_rejection);
        let turn = InterimPeriod::begin(&request);
        let outflow = request.conn_data::<Outflow>().cloned();
        let version = request.head().version;
        let answer = match rejection {
            Some(problem) => Either::Right(ready(problem.respond_alone())),
            None => Either::Left(self.answers.call(request)),
        };
        AnswerFuture { answer, turn, outflow, exchange, version }
    }
}

impl Future for AnswerFuture {
    type Output = Result<Response<AnswerBody>, actix_web::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer: Response<BoxBody> = match &mut self.answer {
            Either::Left(answer) => match ready!(answer.poll_unpin(cx)) {
                Ok(answer) => answer.into(),
                Err(error) => error.into(),
            },
            Either::Right(rejection) => ready!(rejection.poll_unpin(cx)).into(),
        };
        // Ends the period now, instead of when this future is dropped.
        self.turn = None;
        if let Some(outflow) = &self.outflow {
            outflow.begin(answer.extensions().contains::<IsDownload>());
        }
        // RFC 9112, 6.1 and 6.3: HTTP/1.0 has no chunked coding. A body of unknown length ends with the
        // connection.
        if self.version == Version::HTTP_10 && answer.body().size() == BodySize::Stream {
            answer.head_mut().no_chunking(true);
            answer.head_mut().set_connection_type(ConnectionType::Close);
        }
        let exchange = self.exchange.take();
        if let Some(exchange) = &exchange {
            if answer.extensions().contains::<HangUp>() {
                exchange.hang_up();
            }
            // The HTTP layer would continue with the rest of a chunked body.
            if exchange.breaks_at().is_some() {
                answer.head_mut().set_connection_type(ConnectionType::Close);
            }
        }
        Poll::Ready(Ok(answer.map_body(|_, body| AnswerBody::new(body, exchange))))
    }
}

/// The application in place of the service that decides on requests with `Expect`. It never lets such a
/// request continue; it returns the response instead.
#[derive(Clone)]
pub(super) struct ExpectService(Http1Service);

/// The response of the application.
pub(super) struct FinalAnswer(Box<Response<BoxBody>>);

impl From<actix_web::Error> for FinalAnswer {
    fn from(error: actix_web::Error) -> Self {
        Self(Box::new(error.into()))
    }
}

impl From<FinalAnswer> for Response<BoxBody> {
    fn from(FinalAnswer(answer): FinalAnswer) -> Self {
        *answer
    }
}

impl Service<Request> for ExpectService {
    type Response = Request;
    type Error = FinalAnswer;
    type Future =
        futures::future::Map<AnswerFuture, fn(<AnswerFuture as Future>::Output) -> Result<Request, FinalAnswer>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx).map_err(FinalAnswer::from)
    }

    fn call(&self, request: Request) -> Self::Future {
        self.0.call(request).map(|answer| Err(FinalAnswer(Box::new(answer?.map_body(|_, tail| BoxBody::new(tail))))))
    }
}

#[cfg(test)]
mod tests;
