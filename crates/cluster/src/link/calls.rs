//! The calling side of the link.

use std::error::Error;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use reqwest::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::pinned_keys::OTHER_KEY;
use super::wire::{
    Call, CheckpointAnswer, CheckpointRequest, ForwardAnswer, ForwardRequest, InvalidRejection, MAX_ANSWER_BYTES,
    MAX_READINGS, NotAnOffset, ProgressAnswer, ProgressRequest, TextId, WireYieldAnswer, YieldRequest,
};
use super::{LinkSettings, PeerIdentity};
use crate::LivingNodes;
use domain::id::{InstanceId, UploadId};
use engine::command::Append;
use engine::peers::{ForwardOutcome, ForwardedBody, NoAnswer, Peers, YieldAnswer, YieldCondition};
use state::ProgressReading;

/// Calls the engines of the living nodes. Connections are reused.
#[derive(Debug)]
pub struct PeerLink {
    client: reqwest::Client,
    living: LivingNodes,
}

/// The reason why a call has no answer, as the end of a sentence about the other node.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("it is not registered")]
    Unregistered,
    #[error("it publishes no address for calls")]
    NoAddress,
    #[error("this node speaks a version without the call")]
    NotSpoken,
    #[error("it has another server key or cluster name")]
    OtherKey,
    #[error("{0}")]
    Transport(String),
    #[error("it rejected the call with status {0}")]
    Rejected(StatusCode),
    #[error("its answer is larger than {MAX_ANSWER_BYTES} bytes")]
    TooLarge,
    #[error("its answer is not valid JSON of the call: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its answer is not valid: {0}")]
    Offset(#[from] NotAnOffset),
    #[error("its answer is not valid: {0}")]
    Rejection(#[from] InvalidRejection),
    #[error("its answer is not for as many uploads as the call")]
    Count,
}

impl From<CallError> for NoAnswer {
    fn from(error: CallError) -> Self {
        Self::because(error)
    }
}

impl From<reqwest::Error> for CallError {
    fn from(error: reqwest::Error) -> Self {
        let cause = root_cause(&error);
        match cause.downcast_ref::<rustls::Error>() {
            Some(rejected) if *rejected == OTHER_KEY => Self::OtherKey,
            Some(_) | None => Self::Transport(cause.to_string()),
        }
    }
}

/// Returns the error at the end of a chain of causes.
fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    loop {
        // An I/O error hides the one that it is made of: its source is already the next one.
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| cause.source()) {
            Some(next) => cause = next,
            None => return cause,
        }
    }
}

impl PeerLink {
    /// Prepares calls to the living nodes of a cluster.
    pub fn new(
        settings: &LinkSettings,
        identity: &PeerIdentity,
        living: LivingNodes,
    ) -> Result<Arc<Self>, reqwest::Error> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(identity.calling.clone())
            .https_only(true)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(settings.connect_timeout)
            .pool_idle_timeout(settings.reuse_within())
            .build()?;
        Ok(Arc::new(Self { client, living }))
    }

    async fn call<Answer: DeserializeOwned>(
        &self,
        holder: InstanceId,
        call: Call,
        request: &(impl Serialize + Sync),
    ) -> Result<Answer, CallError> {
        self.send(holder, call, serde_json::to_vec(request)?).await
    }

    async fn send<Answer: DeserializeOwned>(
        &self,
        holder: InstanceId,
        call: Call,
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer, CallError> {
        let node = self.living.find(holder).ok_or(CallError::Unregistered)?;
        let base = node.peer_url.ok_or(CallError::NoAddress)?;
        let url = format!("{}{}", base.trim_end_matches('/'), call.path().ok_or(CallError::NotSpoken)?);
        let sent = self.client.post(url).body(body).send().await?;
        if !sent.status().is_success() {
            return Err(CallError::Rejected(sent.status()));
        }
        Ok(serde_json::from_slice(&read(sent).await?)?)
    }
}

async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, CallError> {
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if answer.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(CallError::TooLarge);
        }
        answer.extend_from_slice(&chunk);
    }
    Ok(answer)
}

#[async_trait]
impl Peers for PeerLink {
    async fn yield_upload(
        &self,
        holder: InstanceId,
        upload: UploadId,
        when: YieldCondition,
    ) -> Result<YieldAnswer, NoAnswer> {
        let request = YieldRequest { to: TextId(holder), upload: TextId(upload), when: when.into() };
        let answer: WireYieldAnswer = self.call(holder, Call::Yield, &request).await?;
        Ok(answer.try_into().map_err(CallError::Offset)?)
    }

    async fn checkpoint(&self, holder: InstanceId, upload: UploadId) -> Result<(), NoAnswer> {
        let request = CheckpointRequest { to: TextId(holder), upload: TextId(upload) };
        let CheckpointAnswer {} = self.call(holder, Call::Checkpoint, &request).await?;
        Ok(())
    }

    async fn progress(
        &self,
        holder: InstanceId,
        uploads: &[UploadId],
    ) -> Result<Vec<Option<ProgressReading>>, NoAnswer> {
        let mut readings = Vec::with_capacity(uploads.len());
        // A request for no reading is also a call: it shows whether the node answers.
        let none = uploads.is_empty().then_some(uploads);
        for some in none.into_iter().chain(uploads.chunks(MAX_READINGS)) {
            let request = ProgressRequest { to: TextId(holder), uploads: some.iter().copied().map(TextId).collect() };
            let answer: ProgressAnswer = self.call(holder, Call::Progress, &request).await?;
            if answer.readings.len() != some.len() {
                return Err(CallError::Count.into());
            }
            readings.extend(answer.readings.into_iter().map(|reading| reading.map(ProgressReading::from)));
        }
        Ok(readings)
    }

    async fn forward(
        &self,
        holder: InstanceId,
        command: Append,
        body: ForwardedBody,
    ) -> Result<ForwardOutcome, NoAnswer> {
        let head = ForwardRequest::new(holder, command).print().map_err(CallError::from)?;
        let frames = stream::iter([Ok(head)]).chain(body).map_ok(Frame::data);
        let body = reqwest::Body::wrap(StreamBody::new(frames));
        let answer: ForwardAnswer = self.send(holder, Call::Forward, body).await?;
        Ok(answer.try_into().map_err(CallError::Rejection)?)
    }
}
