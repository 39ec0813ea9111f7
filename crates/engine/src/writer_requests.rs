//! Requests to a live writer; the newest wins.
//!
//! Owns the messages between a request and the writer of its upload: to commit, to yield, to take one more
//! request. Knows how long to wait for a writer, and nothing of how bytes are written.

use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::command::{Append, EngineError, Unavailable};
use crate::feed::Feed;
use crate::lease::{LeaseGuard, LeaseHolder, LocalLeases};
use domain::id::UploadId;
use domain::rejection::Rejection;
use domain::size::Offset;
use domain::stage::Ended;

/// A request to a live writer.
#[derive(Debug)]
pub(super) enum WriterRequest {
    /// Commit the bytes received so far, then answer and continue.
    Checkpoint(oneshot::Sender<()>),
    /// Take the bytes of one more request. A writer of bytes in order does so only while it has no request.
    Join { command: Box<Append>, answer: oneshot::Sender<Result<Feed, NotJoined>> },
    /// End without committing further bytes. With `at`, only if that is the committed offset; otherwise the
    /// answer is the committed offset.
    Yield { at: Option<Offset>, end_notice: Option<EndNotice>, answer: oneshot::Sender<Result<(), Offset>> },
}

/// The outcome of ending an upload whose lease was taken from a writer. It is known once the end is
/// committed.
#[derive(Debug, Clone)]
pub(super) struct EndNotice(watch::Receiver<Option<Ended>>);

impl EndNotice {
    /// Returns the error for the requests of the previous writer: gone if the upload has ended, otherwise
    /// superseded.
    pub(super) async fn error_for(end_notice: Option<Self>) -> EngineError {
        let taken_over = EngineError::Unavailable(Unavailable::Superseded);
        let Some(Self(mut ended)) = end_notice else { return taken_over };
        let Ok(ended) = ended.wait_for(Option::is_some).await else { return taken_over };
        ended.map_or(taken_over, |how| Rejection::Gone(how).into())
    }
}

impl WriterRequest {
    /// Reports whether the sender no longer waits for the answer. Handling the request would serve nobody,
    /// and could end a writer whose client is still sending.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Checkpoint(answer) => answer.is_closed(),
            Self::Join { answer, .. } => answer.is_closed(),
            Self::Yield { answer, .. } => answer.is_closed(),
        }
    }
}

/// The reason why a request did not join the writer of its upload.
#[derive(Debug)]
pub(super) enum NotJoined {
    /// The writer takes bytes in order, and has a request that sends them.
    InOrder,
    Rejected(EngineError),
}

impl LocalLeases<WriterRequest> {
    /// Takes the lease, ending the writer that holds it. With `at`, a writer is ended only if its committed
    /// offset is `at`: a request that would be rejected anyway must not disturb it.
    pub(super) async fn take(
        &self,
        id: UploadId,
        at: Option<Offset>,
        patience: Duration,
    ) -> Result<LeaseGuard<WriterRequest>, EngineError> {
        self.claim(id, at, None, patience).await
    }

    /// Takes the lease to end the upload. The requests of the previous writer are answered once the sender
    /// has reported how the upload ended, or was dropped.
    pub(super) async fn take_to_end(
        &self,
        id: UploadId,
        patience: Duration,
    ) -> Result<(LeaseGuard<WriterRequest>, watch::Sender<Option<Ended>>), EngineError> {
        let (ended, end_notice) = watch::channel(None);
        let held = self.claim(id, None, Some(EndNotice(end_notice)), patience).await?;
        Ok((held, ended))
    }

    async fn claim(
        &self,
        id: UploadId,
        at: Option<Offset>,
        end_notice: Option<EndNotice>,
        patience: Duration,
    ) -> Result<LeaseGuard<WriterRequest>, EngineError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(held) = self.try_take(id) {
                return Ok(held);
            }
            let Some(holder) = self.holder(id) else { continue };
            tokio::time::timeout_at(deadline, holder.end_writer(at, end_notice.clone()))
                .await
                .map_err(|_| EngineError::Unavailable(Unavailable::Held))??;
        }
    }
}

impl LeaseHolder<WriterRequest> {
    /// Requests the end of the writer, and waits for it.
    async fn end_writer(&self, at: Option<Offset>, end_notice: Option<EndNotice>) -> Result<(), Rejection> {
        // A writer that accepts no requests is about to end anyway.
        let answer = self.request(|answer| WriterRequest::Yield { at, end_notice, answer }).await;
        if let (Some(theirs), Some(Err(ours))) = (at, answer) {
            return Err(Rejection::WrongOffset { ours, theirs });
        }
        self.ended().await;
        Ok(())
    }

    /// Passes a request to the writer. Returns `None` if it has ended.
    pub(super) async fn join(&self, command: Append) -> Option<Result<Feed, NotJoined>> {
        let command = Box::new(command);
        let answer = self.request(|answer| WriterRequest::Join { command, answer }).await;
        if answer.is_none() {
            self.ended().await;
        }
        answer
    }

    /// Requests a commit from the writer. Waits until it is done, the writer has ended, or `patience` is
    /// over.
    pub(super) async fn checkpoint(&self, patience: Duration) {
        let asked = async {
            if self.request(WriterRequest::Checkpoint).await.is_none() {
                self.ended().await;
            }
        };
        // On a timeout the committed row is still correct, only a little older.
        let _ = tokio::time::timeout(patience, asked).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::time::Timestamp;
    use std::sync::Arc;

    fn leases() -> LocalLeases<WriterRequest> {
        LocalLeases::new(Arc::new(state::LocalProgress::default()))
    }

    fn id() -> UploadId {
        UploadId::new(Timestamp::from_unix_ms(1), [3; 10])
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_request_ends_the_writer_before_it() {
        let leases = leases();
        let mut first = leases.try_take(id()).unwrap();
        let taking = leases.take(id(), None, Duration::from_secs(5));
        let yielding = async {
            let Some(WriterRequest::Yield { answer, .. }) = first.requests.recv().await else { panic!("no order") };
            answer.send(Ok(())).unwrap();
            drop(first);
        };
        let (second, ()) = tokio::join!(taking, yielding);
        assert!(second.is_ok());
        assert_eq!(leases.count(), 1);
        drop(second);
        assert_eq!(leases.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_at_the_wrong_offset_disturbs_nobody() {
        let leases = leases();
        let mut first = leases.try_take(id()).unwrap();
        let theirs = Offset::new(7).unwrap();
        let taking = leases.take(id(), Some(theirs), Duration::from_secs(5));
        let refusing = async {
            let Some(WriterRequest::Yield { answer, at, .. }) = first.requests.recv().await else { panic!("no order") };
            assert_eq!(at, Some(theirs));
            answer.send(Err(Offset::ZERO)).unwrap();
        };
        let (refused, ()) = tokio::join!(taking, refusing);
        let expected = Rejection::WrongOffset { ours: Offset::ZERO, theirs };
        assert!(matches!(refused, Err(EngineError::Rejected(rejection)) if rejection == expected));
        assert_eq!(leases.count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_of_an_ended_writer_learn_what_became_of_the_upload() {
        for (how, expected) in [
            (Some(Ended::Terminated), EngineError::from(Rejection::Gone(Ended::Terminated))),
            (None, EngineError::Unavailable(Unavailable::Superseded)),
        ] {
            let leases = leases();
            let mut first = leases.try_take(id()).unwrap();
            let ending = async {
                let (_held, ended) = leases.take_to_end(id(), Duration::from_secs(5)).await.unwrap();
                if how.is_some() {
                    ended.send_replace(how);
                }
            };
            let yielding = async {
                let Some(WriterRequest::Yield { answer, end_notice, .. }) = first.requests.recv().await else {
                    panic!("no order")
                };
                answer.send(Ok(())).unwrap();
                drop(first);
                EndNotice::error_for(end_notice).await
            };
            let ((), answer) = tokio::join!(ending, yielding);
            assert_eq!(answer.to_string(), expected.to_string(), "{how:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_hangs_is_not_waited_for_for_ever() {
        let leases = leases();
        let _first = leases.try_take(id()).unwrap();
        let taken = leases.take(id(), None, Duration::from_secs(5)).await;
        assert!(matches!(taken, Err(EngineError::Unavailable(Unavailable::Held))));
    }
}
