//! The way in: bytes are gathered in pooled memory by whoever serves the connection, and handed to the append task in
//! large pieces.
//!
//! A buffer holds about what an upload sends in [`GATHER_FOR`]: a fast one earns large buffers, a slow one holds
//! little. While memory or the task is short, [`Feed::push`] waits, and with it the client.

use std::time::Duration;

use bytes::Bytes;
use storage::pool::Buffer;
use storage::pool::MAX_BUFFER_BYTES;
use storage::pool::MIN_BUFFER_BYTES;
use storage::pool::Pool;
use tokio::sync::mpsc;
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::domain::upload::Upload;
use crate::engine::command::BodyEnd;
use crate::engine::command::EngineError;

/// How many pieces may wait between the connection and the append task.
const DEPTH: usize = 2;

/// A piece is handed on after this time, full or not.
const GATHER_FOR: Duration = Duration::from_millis(50);

/// How large the first buffer of a request is, before its speed is known.
const FIRST_BUFFER_BYTES: usize = 256 << 10;

/// One step up or down in the size of buffers.
const STEP: usize = 4;

/// Where the bytes of one request go. Dropping it means that the request was cut; what arrived is handed on.
#[derive(Debug)]
pub struct Feed {
    pieces: Option<mpsc::Sender<Fed>>,
    outcome: oneshot::Receiver<Result<Upload, EngineError>>,
    pool: Pool,
    filling: Option<Filling>,
    /// Where the next byte goes in the upload.
    at: u64,
    /// How many bytes are still to come, where that is known.
    left: Option<u64>,
    buffer_bytes: usize,
}

#[derive(Debug)]
struct Filling {
    buffer: Buffer,
    since: Instant,
    /// The place it will take on its way, so that handing on never waits.
    place: OwnedPermit<Fed>,
}

#[derive(Debug)]
pub(super) enum Fed {
    Piece(Bytes),
    End,
}

/// The other end of a [`Feed`].
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) pieces: mpsc::Receiver<Fed>,
    pub(super) outcome: oneshot::Sender<Result<Upload, EngineError>>,
}

/// The append has ended by itself; [`Feed::finish`] says how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

impl Feed {
    /// A feed for bytes from the offset `at`, `count` of them if that is known.
    pub(super) fn new(pool: Pool, at: u64, count: Option<u64>) -> (Self, Intake) {
        let (pieces, received_pieces) = mpsc::channel(DEPTH);
        let (told, outcome) = oneshot::channel();
        let buffer_bytes = FIRST_BUFFER_BYTES;
        let feed = Self { pieces: Some(pieces), outcome, pool, filling: None, at, left: count, buffer_bytes };
        (feed, Intake { pieces: received_pieces, outcome: told })
    }

    /// Takes bytes in order; waits while there is no memory for them or the engine has enough to do.
    pub async fn push(&mut self, mut bytes: &[u8]) -> Result<(), Ended> {
        while !bytes.is_empty() {
            if self.filling.is_none() {
                self.filling = Some(self.begin().await?);
            }
            let Some(filling) = &mut self.filling else { continue };
            let count = filling.buffer.fill(bytes);
            bytes = &bytes[count..];
            self.at += count as u64;
            self.left = self.left.map(|left| left.saturating_sub(count as u64));
            if filling.buffer.is_full() {
                self.flush();
            }
        }
        Ok(())
    }

    /// When [`Self::flush`] should be called although more may come.
    pub fn flush_at(&self) -> Option<Instant> {
        self.filling.as_ref().map(|filling| filling.since + GATHER_FOR)
    }

    /// Hands on what is gathered.
    pub fn flush(&mut self) {
        let Some(Filling { buffer, since, place }) = self.filling.take() else { return };
        self.buffer_bytes = next_size(self.buffer_bytes, &buffer, since.elapsed());
        place.send(Fed::Piece(buffer.freeze()));
    }

    /// Waits until the append takes no more: it has failed, a newer request has taken over, or the engine is stopping.
    /// A client that is silent just then is told at once, and not only when it sends again.
    pub async fn ended(&self) {
        if let Some(pieces) = &self.pieces {
            pieces.closed().await;
        }
    }

    /// Says that no more comes, and waits until everything is settled. Gives the upload as committed; after a cut it
    /// may be anywhere.
    pub async fn finish(mut self, end: BodyEnd) -> Result<Upload, EngineError> {
        self.flush();
        if let (Some(pieces), BodyEnd::Complete) = (self.pieces.take(), end) {
            // A task that has ended by itself does not mind.
            let _ = pieces.send(Fed::End).await;
        }
        let died = |source| EngineError::Failed { operation: "finish an append", source: Box::new(source) };
        (&mut self.outcome).await.map_err(died)?
    }

    async fn begin(&self) -> Result<Filling, Ended> {
        let pieces = self.pieces.as_ref().ok_or(Ended)?;
        let place = pieces.clone().reserve_owned().await.map_err(|_| Ended)?;
        let left = self.left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = tokio::select! {
            biased;
            buffer = self.pool.take(self.at, self.buffer_bytes.min(left)) => buffer,
            () = pieces.closed() => return Err(Ended),
        };
        Ok(Filling { buffer, since: Instant::now(), place })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The size of the next buffer, after `buffer` of about `size_bytes` was filled as far as it is in `took`.
fn next_size(size_bytes: usize, buffer: &Buffer, took: Duration) -> usize {
    let next = match buffer.is_full() {
        true if took < GATHER_FOR / 16 => MAX_BUFFER_BYTES,
        true if took < GATHER_FOR => size_bytes * STEP,
        true => size_bytes,
        false if buffer.len() < buffer.size_bytes() / STEP => size_bytes / STEP,
        false => size_bytes,
    };
    next.clamp(MIN_BUFFER_BYTES, MAX_BUFFER_BYTES)
}
