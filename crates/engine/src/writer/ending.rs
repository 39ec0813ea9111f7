//! The end of a writer, and the answers to the requests that remain.

use tokio::sync::oneshot;

use super::Writer;
use crate::Inner;
use crate::command::{EngineError, Unavailable};
use crate::commit::WriterBroken;
use crate::compare::RepeatedRequest;
use crate::completion::unless_failed;
use crate::hooks::Initiator;
use crate::joined_request::JoinedRequest;
use crate::writer_requests::EndNotice;
use domain::size::Offset;
use domain::stage::Stage;
use domain::upload::Upload;

pub(super) enum Ending {
    /// All bytes have arrived, or no request is left.
    Over,
    /// This node stops, or hands over its uploads.
    Stop(Unavailable),
    /// A newer request takes over, or ends the upload.
    Yield(oneshot::Sender<Result<(), Offset>>, Option<EndNotice>),
    /// The only request, in order, leaves nothing behind.
    Undone(Result<(), EngineError>),
    /// The only request, in order, has brought more than the upload can have, and the upload fails.
    Overflow(EngineError),
    Broken(WriterBroken),
}

impl Ending {
    pub(super) fn reason_of_stop(&self) -> Option<Unavailable> {
        if let Self::Stop(reason) = self { Some(*reason) } else { None }
    }
}

impl Writer {
    /// Ends the writer and returns the answer for the requests that remain. `completes` says that the upload
    /// completes when it is full.
    pub(super) async fn end(mut self, ending: Ending, completes: bool) -> Result<Upload, EngineError> {
        let committer = &mut self.ledger.committer;
        match ending {
            Ending::Over | Ending::Stop(_) => self.conclude(completes).await,
            Ending::Yield(answer, end_notice) => {
                let upload = &committer.upload;
                tracing::info!(upload = %upload.id(), offset_bytes = upload.offset().get(), "a newer request takes over");
                committer.abandon().await;
                // The newer request waits for the lease anyway.
                let _ = answer.send(Ok(()));
                drop(self);
                Err(EndNotice::error_for(end_notice).await)
            }
            Ending::Undone(outcome) => {
                committer.abandon().await;
                match outcome {
                    Ok(()) => {
                        committer.drop_leftovers().await;
                        Ok(self.ledger.committer.upload)
                    }
                    Err(error) => Err(committer.fail(error).await),
                }
            }
            Ending::Overflow(error) => {
                committer.abandon().await;
                Err(committer.fail_for_overflow().await.err().unwrap_or(error))
            }
            Ending::Broken(broken) => {
                committer.abandon().await;
                Err(committer.fail(broken.into()).await)
            }
        }
    }

    /// Commits the bytes that count, and completes a whole upload.
    pub(super) async fn conclude(mut self, completes: bool) -> Result<Upload, EngineError> {
        if let Err(broken) = self.commit_rest(completes).await {
            let committer = &mut self.ledger.committer;
            committer.abandon().await;
            return Err(committer.fail(broken.into()).await);
        }
        self.ledger.committer.close().await;
        let (inner, held, upload) = self.ledger.committer.into_parts();
        tracing::debug!(upload = %upload.id(), received_bytes = upload.received_bytes(), "no more bytes for now");
        let settled = inner.drive_to_completion(upload, &Initiator::Client(self.caller)).await.and_then(unless_failed);
        inner.give_back(settled.as_ref().ok()).await;
        drop(held);
        settled
    }

    pub(super) async fn commit_rest(&mut self, completes: bool) -> Result<(), WriterBroken> {
        self.await_pending().await?;
        let is_whole = completes && self.ledger.is_full();
        if !self.ledger.committer.upload.stage().takes_bytes() || !(self.ledger.has_uncovered() || is_whole) {
            return Ok(());
        }
        let seal = is_whole.then(|| self.upload_digests.whole(self.ledger.there.contiguous().get()));
        self.ledger.commit_last(self.upload_digests.state(), seal).await
    }
}

/// Sends the outcome of the upload to the requests that remain. Bytes that they still send to a complete
/// upload are already stored: they are compared as if they had arrived a moment later.
pub(super) async fn answer(
    inner: &Inner,
    requests: Vec<JoinedRequest>,
    outcome: &Result<Upload, EngineError>,
    stopped_by: Option<Unavailable>,
) {
    let complete = outcome.as_ref().ok().filter(|upload| upload.stage() == Stage::Completed);
    let complete = complete.and_then(|upload| Some((upload, upload.length()?)));
    let mut repeating = Vec::new();
    for request in requests {
        if !request.is_open() {
            request.answer(outcome.clone());
            continue;
        }
        if let Some(reason) = stopped_by {
            request.answer(outcome.clone().and(Err(EngineError::Unavailable(reason))));
            continue;
        }
        let Some((upload, length)) = complete else {
            request.answer(outcome.clone());
            continue;
        };
        let repeated = RepeatedRequest::rest_of(upload.clone(), length, request.at, request.end, request.ends);
        repeating.extend(request.into_intake().map(|intake| repeated.answer(inner, intake)));
    }
    futures::future::join_all(repeating).await;
}
