//! Answers to the calls of other nodes, on an established connection.

use std::error::Error;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{StreamExt, stream};
use http_body_util::{BodyDataStream, BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::{
    Call, CheckpointAnswer, CheckpointRequest, ForwardAnswer, ForwardRequest, MAX_HEAD_BYTES, MAX_READINGS,
    MAX_REQUEST_BYTES, PREFIX_BYTES, ProgressAnswer, ProgressRequest, TextId, WireReading, WireYieldAnswer,
    YieldRequest,
};
use domain::id::{InstanceId, UploadId};
use engine::Engine;

/// A call that is answered without an answer of the engine, and the status that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Declined(StatusCode);

/// Answers one request. Its body has to arrive within `body_timeout`.
pub(super) async fn answer(
    engine: Engine,
    request: Request<Incoming>,
    body_timeout: Duration,
) -> Response<Full<Bytes>> {
    let (status, body) = match reply(&engine, request, body_timeout).await {
        Ok(json) => (StatusCode::OK, json),
        Err(Declined(status)) => (status, Bytes::new()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

async fn reply(engine: &Engine, request: Request<Incoming>, body_timeout: Duration) -> Result<Bytes, Declined> {
    let call = Call::of(request.uri().path()).ok_or(Declined(StatusCode::NOT_FOUND))?;
    if request.method() != Method::POST {
        return Err(Declined(StatusCode::METHOD_NOT_ALLOWED));
    }
    let body = request.into_body();
    match call {
        Call::Yield => yield_upload(engine, read(body, body_timeout).await?).await,
        Call::Checkpoint => checkpoint(engine, read(body, body_timeout).await?).await,
        Call::Progress => progress(engine, read(body, body_timeout).await?).await,
        Call::Forward => accept_forwarded(engine, body, body_timeout).await,
    }
}

async fn yield_upload(engine: &Engine, request: YieldRequest) -> Result<Bytes, Declined> {
    let YieldRequest { to, upload, when } = request;
    check_receiver(engine, to)?;
    let when = when.try_into().map_err(|_| Declined(StatusCode::BAD_REQUEST))?;
    let answer = engine.yield_upload(upload.0, when).await.map_err(|error| {
        tracing::debug!(upload = %upload.0, error = &error as &dyn Error, "could not yield an upload");
        Declined(StatusCode::SERVICE_UNAVAILABLE)
    })?;
    print(&WireYieldAnswer::from(answer))
}

async fn checkpoint(engine: &Engine, request: CheckpointRequest) -> Result<Bytes, Declined> {
    let CheckpointRequest { to, upload } = request;
    check_receiver(engine, to)?;
    engine.checkpoint(upload.0).await;
    print(&CheckpointAnswer {})
}

async fn progress(engine: &Engine, request: ProgressRequest) -> Result<Bytes, Declined> {
    let ProgressRequest { to, uploads } = request;
    check_receiver(engine, to)?;
    if uploads.len() > MAX_READINGS {
        return Err(Declined(StatusCode::PAYLOAD_TOO_LARGE));
    }
    let uploads: Vec<UploadId> = uploads.into_iter().map(|upload| upload.0).collect();
    let readings = engine.local_progress(&uploads).await;
    let readings = readings.into_iter().map(|reading| reading.map(WireReading::from)).collect();
    print(&ProgressAnswer { readings })
}

/// Accepts a request with bytes that reached another node.
async fn accept_forwarded(engine: &Engine, body: Incoming, timeout: Duration) -> Result<Bytes, Declined> {
    let mut body = body.into_data_stream();
    let head = tokio::time::timeout(timeout, read_head(&mut body)).await;
    let (head, first_bytes) = head.map_err(|_| Declined(StatusCode::REQUEST_TIMEOUT))??;
    let request: ForwardRequest = parse(&head)?;
    check_receiver(engine, request.to)?;
    let command = request.command().map_err(|_| Declined(StatusCode::BAD_REQUEST))?;
    let mut pieces = stream::iter([Ok(first_bytes)]).chain(body);
    let outcome = engine.accept_forwarded(command, &mut pieces).await;
    // If the request ended before its body, the other side still sends. It reads the answer only while this
    // side reads, too.
    tokio::spawn(tokio::time::timeout(timeout, async move { while let Some(Ok(_)) = pieces.next().await {} }));
    print(&ForwardAnswer::from(outcome))
}

/// Reads the JSON of a forwarded request. Returns it with the bytes behind it that have arrived.
async fn read_head(body: &mut BodyDataStream<Incoming>) -> Result<(Bytes, Bytes), Declined> {
    let mut head = BytesMut::new();
    loop {
        if let Some(prefix) = head.first_chunk::<PREFIX_BYTES>() {
            let json_bytes = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
            if json_bytes > MAX_HEAD_BYTES {
                return Err(Declined(StatusCode::PAYLOAD_TOO_LARGE));
            }
            if head.len() >= PREFIX_BYTES + json_bytes {
                let rest = head.split_off(PREFIX_BYTES + json_bytes);
                head.advance(PREFIX_BYTES);
                return Ok((head.freeze(), rest.freeze()));
            }
        }
        match body.next().await {
            Some(Ok(piece)) => head.extend_from_slice(&piece),
            Some(Err(_)) | None => return Err(Declined(StatusCode::BAD_REQUEST)),
        }
    }
}

/// Reads the JSON of a call.
async fn read<T: DeserializeOwned>(body: Incoming, timeout: Duration) -> Result<T, Declined> {
    let collected = tokio::time::timeout(timeout, Limited::new(body, MAX_REQUEST_BYTES).collect()).await;
    let collected = collected.map_err(|_| Declined(StatusCode::REQUEST_TIMEOUT))?;
    let collected = collected.map_err(|error| match error.is::<LengthLimitError>() {
        true => Declined(StatusCode::PAYLOAD_TOO_LARGE),
        false => Declined(StatusCode::BAD_REQUEST),
    })?;
    parse(&collected.to_bytes())
}

/// Declines a call for another run of the program, which had this address before. It must not be mistaken for
/// an answer of that run.
fn check_receiver(engine: &Engine, to: TextId<InstanceId>) -> Result<(), Declined> {
    if to.0 == engine.node() { Ok(()) } else { Err(Declined(StatusCode::MISDIRECTED_REQUEST)) }
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Declined> {
    serde_json::from_slice(json).map_err(|_| Declined(StatusCode::BAD_REQUEST))
}

fn print(answer: &impl Serialize) -> Result<Bytes, Declined> {
    let json = serde_json::to_vec(answer).map_err(|_| Declined(StatusCode::INTERNAL_SERVER_ERROR))?;
    Ok(json.into())
}
