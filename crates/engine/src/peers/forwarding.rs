//! Requests with bytes that are passed on to the node that writes the upload.
//!
//! An upload that takes bytes in any order has one writer, and its requests do not replace each other. A
//! request that reaches another node than the writer's is therefore passed on, piece by piece, with the bytes
//! in the memory of the feed of its client. Only the bytes that the holder commits count.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::asking::ProbeTimes;
use super::metrics::MeasuredCall;
use super::{ForwardOutcome, PeerAccess, PeerLimits};
use crate::append::Begun;
use crate::command::{Append, BodyEnd, EngineError, Unavailable};
use crate::feed::{Feed, FeedItem, FeedReceiver};
use crate::{Engine, Inner};
use domain::id::InstanceId;
use domain::principal::TenantScope;
use domain::upload::Upload;

/// The bytes of a request on their way to another node. An end before the last byte is an error.
#[derive(Debug)]
pub struct ForwardedBody {
    pieces: mpsc::Receiver<FeedItem>,
    has_ended: bool,
}

/// The rest of a request's bytes will not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request was cut")]
pub struct BodyLost;

impl ForwardedBody {
    /// Creates the body of a request without bytes.
    pub fn empty() -> Self {
        Self { pieces: mpsc::channel(1).1, has_ended: true }
    }
}

impl Stream for ForwardedBody {
    type Item = Result<Bytes, BodyLost>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let next = match ready!(self.pieces.poll_recv(context)) {
            Some(FeedItem::Piece(piece)) => return Poll::Ready(Some(Ok(piece))),
            Some(FeedItem::End) => None,
            None => Some(Err(BodyLost)),
        };
        self.has_ended = true;
        Poll::Ready(next)
    }
}

impl Engine {
    /// Begins an append whose bytes are passed on to the node that writes the upload.
    pub(crate) fn forward(&self, command: Append, holder: InstanceId) -> Result<Feed, EngineError> {
        let inner = Arc::clone(&self.0);
        let peers = inner.peers.as_ref().ok_or(EngineError::Unavailable(Unavailable::Held))?;
        let slot = Arc::clone(&peers.forwarding).try_acquire_owned();
        let slot = slot.map_err(|_| EngineError::Unavailable(Unavailable::Busy))?;
        // The holder skips bytes that the upload already has, and knows the offset that it has committed.
        let (feed, received) =
            Feed::new(inner.pool.clone(), command.position.offset().get(), command.count, Arc::default());
        self.spawn(async move {
            let FeedReceiver { pieces, outcome } = received;
            let forwarded = match &inner.peers {
                Some(peers) => inner.carry(peers, (command, holder), pieces).await,
                None => Err(EngineError::Unavailable(Unavailable::Held)),
            };
            drop(slot);
            // The client may have gone away.
            let _ = outcome.send(forwarded);
        });
        Ok(feed)
    }

    /// Accepts a request with bytes from another node. It is never passed on a second time.
    pub async fn accept_forwarded<E>(
        &self,
        command: Append,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> ForwardOutcome {
        match self.take_forwarded(command, body).await {
            Ok(true) => ForwardOutcome::Committed,
            Ok(false) => ForwardOutcome::NotHolder,
            Err(error) => ForwardOutcome::Failed(error),
        }
    }

    /// Returns false if this node does not hold the upload.
    async fn take_forwarded<E>(
        &self,
        command: Append,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<bool, EngineError> {
        let is_here = self.0.leases.holder(command.id).is_some()
            || self.0.holds(&self.0.find(command.principal.scope(), command.id).await?);
        if !is_here {
            return Ok(false);
        }
        let Begun::Here(mut feed) = Box::pin(self.begin(command)).await? else { return Ok(false) };
        let limits = self.0.peers.as_ref().map_or_else(PeerLimits::default, |peers| peers.limits);
        let end = loop {
            match next_piece(&mut body, &mut feed, limits.forwarded_idle_timeout).await {
                Some(Some(Ok(piece))) if feed.push(&piece).await.is_ok() => {}
                Some(None) => break BodyEnd::Complete,
                Some(Some(_)) | None => break BodyEnd::Cut,
            }
        };
        feed.finish(end).await?;
        match end {
            BodyEnd::Complete => Ok(true),
            BodyEnd::Cut => Err(EngineError::Unavailable(Unavailable::IncompleteBody)),
        }
    }
}

/// Returns the next item of a body; `None` if the append has ended, or nothing arrives for too long.
async fn next_piece<Item>(
    body: &mut (impl Stream<Item = Item> + Unpin),
    feed: &mut Feed,
    patience: Duration,
) -> Option<Option<Item>> {
    let mut silent = pin!(tokio::time::sleep(patience));
    loop {
        tokio::select! {
            next = body.next() => return Some(next),
            () = feed.ended() => return None,
            () = silent.as_mut() => return None,
            () = feed.flush_due() => feed.flush(),
        }
    }
}

impl Inner {
    /// Passes the bytes of a request on, and returns the upload as the holder has committed it.
    async fn carry(
        &self,
        peers: &PeerAccess,
        (command, holder): (Append, InstanceId),
        pieces: mpsc::Receiver<FeedItem>,
    ) -> Result<Upload, EngineError> {
        let id = command.id;
        let (passed_on, body) = mpsc::channel(1);
        let body = ForwardedBody { pieces: body, has_ended: false };
        let call = async {
            let call = peers.calls.forward(holder, command, body);
            let mut call = pin!(self.metrics.peers.measure(MeasuredCall::Forward, call));
            tokio::select! {
                // The holder may reject a request before it has all bytes.
                answer = call.as_mut() => answer.map(Some),
                end = self.pass_on(pieces, passed_on) => match (end, call.await) {
                    (BodyEnd::Complete, answer) => answer.map(Some),
                    (BodyEnd::Cut, _) => Ok(None),
                },
            }
        };
        let probes = ProbeTimes { every: peers.limits.silent_after, patience: self.settings.takeover_timeout };
        let answer = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(EngineError::Unavailable(Unavailable::ShuttingDown)),
            answer = call => answer,
            silence = self.silence_of(peers, holder, id, probes) => Err(silence),
        };
        match answer {
            Ok(Some(ForwardOutcome::Committed)) => self.find(TenantScope::All, id).await,
            Ok(Some(ForwardOutcome::Failed(error))) => Err(error),
            Ok(Some(ForwardOutcome::NotHolder)) => Err(EngineError::Unavailable(Unavailable::Held)),
            // The holder keeps the bytes that have arrived, as for its own clients.
            Ok(None) => {
                self.checkpoint_elsewhere(&self.find(TenantScope::All, id).await?).await;
                self.find(TenantScope::All, id).await
            }
            Err(no_answer) => {
                tracing::warn!(upload = %id, error = %no_answer, "could not pass bytes on to the node that writes the upload");
                Err(EngineError::Unavailable(Unavailable::Held))
            }
        }
    }

    async fn pass_on(&self, mut pieces: mpsc::Receiver<FeedItem>, to: mpsc::Sender<FeedItem>) -> BodyEnd {
        while let Some(item) = pieces.recv().await {
            let is_end = matches!(item, FeedItem::End);
            if let FeedItem::Piece(piece) = &item {
                self.metrics.forwarded_bytes.inc_by(piece.len() as u64);
            }
            if to.send(item).await.is_err() {
                // The call is over; its outcome is about to be known.
                std::future::pending::<()>().await;
            }
            if is_end {
                return BodyEnd::Complete;
            }
        }
        BodyEnd::Cut
    }
}
