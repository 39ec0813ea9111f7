//! The path of upload bytes from the connection to the writer: the task that serves the connection gathers
//! them in pooled memory and passes them on in large pieces.
//!
//! A buffer holds about as many bytes as the upload sends in 50 ms: a fast upload gets large buffers, and a
//! slow one holds little memory from its first byte on. When memory is short or the writer is behind,
//! [`Feed::push`] waits, and with it the client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pool::{Buffer, MAX_BUFFER_BYTES, MIN_BUFFER_BYTES, Pool};
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::command::{BodyEnd, EngineError};
use crate::progress::WriterProgress;
use domain::upload::Upload;

/// Maximum number of pieces that wait between the connection and the writer.
const DEPTH: usize = 2;

/// A piece is passed on after this time, full or not.
const GATHER_FOR: Duration = Duration::from_millis(50);

/// Size of the first buffer of a request whose bytes arrive quickly.
const FIRST_BUFFER_BYTES: usize = 256 << 10;

/// Factor between two sizes of buffers.
const STEP: usize = 4;

/// The sending end for the bytes of one request. Dropping it means that the request was cut; bytes that have
/// arrived are passed on.
#[derive(Debug)]
pub struct Feed {
    pieces: Option<mpsc::Sender<FeedItem>>,
    outcome: oneshot::Receiver<Result<Upload, EngineError>>,
    pool: Pool,
    filling: Option<Filling>,
    /// Number of bytes at the beginning that the upload already has.
    known_bytes: u64,
    progress: Arc<WriterProgress>,
    /// The offset of the next byte in the upload.
    at: u64,
    /// Number of bytes still to come, if known.
    left: Option<u64>,
    /// Unknown until the first bytes have shown the upload's speed.
    buffer_bytes: Option<usize>,
}

#[derive(Debug)]
struct Filling {
    buffer: Buffer,
    /// The size that matches the upload's speed; the buffer may be smaller.
    wanted_bytes: usize,
    since: Instant,
    /// A reserved slot in the channel, so that passing the piece on never waits.
    place: OwnedPermit<FeedItem>,
}

#[derive(Debug)]
pub(super) enum FeedItem {
    Piece(Bytes),
    End,
}

/// The receiving end of a [`Feed`].
#[derive(Debug)]
pub(super) struct FeedReceiver {
    pub(super) pieces: mpsc::Receiver<FeedItem>,
    pub(super) outcome: oneshot::Sender<Result<Upload, EngineError>>,
}

/// The append has ended on the writer's side; [`Feed::finish`] returns why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedEnded;

impl Feed {
    /// Creates a feed for bytes from the offset `at` on, `count` of them if that is known.
    pub(super) fn new(pool: Pool, at: u64, count: Option<u64>, progress: Arc<WriterProgress>) -> (Self, FeedReceiver) {
        let (pieces, received_pieces) = mpsc::channel(DEPTH);
        let (told, outcome) = oneshot::channel();
        let feed = Self {
            pieces: Some(pieces),
            outcome,
            pool,
            filling: None,
            known_bytes: 0,
            progress,
            at,
            left: count,
            buffer_bytes: None,
        };
        (feed, FeedReceiver { pieces: received_pieces, outcome: told })
    }

    /// Skips the first `known_bytes` bytes, which the upload already has.
    pub(super) fn passing_over(mut self, known_bytes: u64) -> Self {
        self.known_bytes = known_bytes;
        self
    }

    /// Returns the offset last committed since the writer of this upload began; zero before its first commit.
    pub fn committed_bytes(&self) -> u64 {
        self.progress.committed_bytes()
    }

    /// Accepts bytes in order. Waits while no memory is free or the writer is behind.
    pub async fn push(&mut self, mut bytes: &[u8]) -> Result<(), FeedEnded> {
        if self.known_bytes > 0 {
            let known = bytes.len().min(usize::try_from(self.known_bytes).unwrap_or(usize::MAX));
            self.known_bytes -= known as u64;
            bytes = &bytes[known..];
        }
        while !bytes.is_empty() {
            if self.filling.is_none() {
                self.filling = Some(self.begin(bytes.len()).await?);
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

    /// Returns roughly how many bytes the feed takes at once, based on the speed so far.
    pub fn wants_bytes(&self) -> usize {
        self.buffer_bytes.unwrap_or(FIRST_BUFFER_BYTES)
    }

    /// Waits until [`Self::flush`] is due, even if more bytes may follow.
    pub async fn flush_due(&self) {
        match self.flush_at() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn flush_at(&self) -> Option<Instant> {
        self.filling.as_ref().map(|filling| filling.since + GATHER_FOR)
    }

    /// Passes on the bytes gathered so far.
    pub fn flush(&mut self) {
        let Some(Filling { buffer, wanted_bytes, since, place }) = self.filling.take() else { return };
        self.buffer_bytes = Some(next_size(wanted_bytes, &buffer, since.elapsed()));
        place.send(FeedItem::Piece(buffer.freeze()));
    }

    /// Waits until the append accepts no more bytes: it has failed, a newer request has taken over, or the
    /// engine is stopping. A client that is silent at that moment is notified at once, and not only when it
    /// sends again.
    pub async fn ended(&self) {
        if let Some(pieces) = &self.pieces {
            pieces.closed().await;
        }
    }

    /// Ends the body and waits for the outcome. Returns the upload as committed; after a cut it may be at any
    /// offset.
    pub async fn finish(mut self, end: BodyEnd) -> Result<Upload, EngineError> {
        self.flush();
        if let (Some(pieces), BodyEnd::Complete) = (self.pieces.take(), end) {
            // A writer that has already ended does not need it.
            let _ = pieces.send(FeedItem::End).await;
        }
        let died = |source| EngineError::Failed { operation: "finish an append", source: Arc::new(source) };
        (&mut self.outcome).await.map_err(died)?
    }

    /// Reserves a slot and takes a buffer; `ready_bytes` have already arrived.
    async fn begin(&self, ready_bytes: usize) -> Result<Filling, FeedEnded> {
        let pieces = self.pieces.as_ref().ok_or(FeedEnded)?;
        let place = pieces.clone().reserve_owned().await.map_err(|_| FeedEnded)?;
        let wanted_bytes = self.buffer_bytes.unwrap_or_else(|| first_size(ready_bytes));
        let left = self.left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = tokio::select! {
            biased;
            buffer = self.pool.take(self.at, wanted_bytes.min(left)) => buffer,
            () = pieces.closed() => return Err(FeedEnded),
        };
        Ok(Filling { buffer, wanted_bytes, since: Instant::now(), place })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Returns the size of the first buffer. A slow upload would leave most of a larger one empty, and there may
/// be thousands.
fn first_size(ready_bytes: usize) -> usize {
    if ready_bytes < MIN_BUFFER_BYTES { MIN_BUFFER_BYTES } else { FIRST_BUFFER_BYTES }
}

/// Returns the size of the next buffer, after `buffer` of about `size_bytes` was filled to its present length
/// in `took`.
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;

    fn feed(pool: &Pool, count: Option<u64>) -> (Feed, FeedReceiver) {
        Feed::new(pool.clone(), 0, count, Arc::default())
    }

    /// Returns the pieces that wait in the channel.
    fn waiting(intake: &mut FeedReceiver) -> Vec<Bytes> {
        let piece = |fed| match fed {
            FeedItem::Piece(piece) => piece,
            FeedItem::End => Bytes::from_static(b"the end"),
        };
        std::iter::from_fn(|| intake.pieces.try_recv().ok()).map(piece).collect()
    }

    /// Takes all memory that the pool has.
    fn exhaust(pool: &Pool) -> Vec<Buffer> {
        let take = || tokio::task::unconstrained(pool.take(0, MIB)).now_or_never();
        std::iter::from_fn(take).collect()
    }

    /// Returns the size of the buffer for the next byte. The buffer is passed on at once, so that the size
    /// stays as it is.
    async fn next_buffer_bytes(feed: &mut Feed, intake: &mut FeedReceiver) -> usize {
        feed.push(b"x").await.expect("the task takes more");
        let size = feed.filling.as_ref().expect("a byte is in it").buffer.size_bytes();
        let known = feed.buffer_bytes;
        feed.flush();
        feed.buffer_bytes = known.or(feed.buffer_bytes);
        waiting(intake);
        size
    }

    /// Sends `size` bytes, evenly over `span`, and flushes when that is due, as the connection does.
    async fn send(feed: &mut Feed, intake: &mut FeedReceiver, size: usize, span: Duration) {
        let steps = 100;
        for _ in 0..steps {
            if feed.flush_at().is_some_and(|at| Instant::now() >= at) {
                feed.flush();
            }
            for part in vec![7; size / steps].chunks(KIB) {
                feed.push(part).await.expect("the task takes more");
                waiting(intake);
            }
            tokio::time::advance(span / 100).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn buffers_follow_the_speed_of_the_upload() {
        let pool = Pool::new(256 << 20);
        let (mut feed, mut intake) = feed(&pool, None);
        let second = Duration::from_secs(1);
        for (bytes_per_second, expected) in [
            (100 * MIB, MIB),
            (10 * KIB, 4 * KIB),
            (400 * KIB, 16 * KIB),
            (2 * MIB, 64 * KIB),
            (6 * MIB, 256 * KIB),
            (KIB, 4 * KIB),
            (200 * MIB, MIB),
        ] {
            send(&mut feed, &mut intake, bytes_per_second, second).await;
            feed.flush();
            waiting(&mut intake);
            let size = next_buffer_bytes(&mut feed, &mut intake).await;
            assert!((expected / 4..=expected * 4).contains(&size), "{size} for {bytes_per_second} bytes a second");
        }
    }

    #[tokio::test]
    async fn the_first_bytes_tell_how_large_the_first_buffer_is() {
        let pool = Pool::new(256 << 20);
        for (ready, expected) in
            [(1, 4 * KIB), (4 * KIB - 1, 4 * KIB), (4 * KIB, FIRST_BUFFER_BYTES), (32 * KIB, FIRST_BUFFER_BYTES)]
        {
            let (mut feed, _intake) = feed(&pool, None);
            feed.push(&vec![1; ready]).await.expect("the task takes more");
            let size = feed.filling.as_ref().map(|filling| filling.buffer.size_bytes());
            assert_eq!(size, Some(expected), "{ready} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_upload_holds_little_and_not_for_long() {
        let pool = Pool::new(256 << 20);
        let total = pool.free_bytes();
        let (mut feed, mut intake) = feed(&pool, None);
        send(&mut feed, &mut intake, 10 * KIB, Duration::from_secs(10)).await;
        feed.push(b"x").await.expect("the task takes more");
        assert!(total - pool.free_bytes() <= MIN_BUFFER_BYTES, "{} bytes are held", total - pool.free_bytes());
        let due = feed.flush_at().expect("something is gathered");
        assert!(due <= Instant::now() + GATHER_FOR);
        feed.flush();
        assert_eq!(feed.flush_at(), None);
        waiting(&mut intake);
        assert_eq!(pool.free_bytes(), total);
    }

    #[tokio::test]
    async fn no_more_is_taken_than_there_is_to_come() {
        let pool = Pool::new(256 << 20);
        let (mut feed, _intake) = feed(&pool, Some(5_000));
        feed.push(&[1; 4_500]).await.expect("the task takes more");
        assert_eq!(feed.filling.as_ref().map(|filling| filling.buffer.size_bytes()), Some(16 * KIB));
        feed.flush();
        feed.push(&[1; 500]).await.expect("the task takes more");
        assert_eq!(feed.filling.as_ref().map(|filling| filling.buffer.size_bytes()), Some(4 * KIB));
    }

    #[tokio::test]
    async fn a_dropped_feed_hands_on_what_arrived() {
        let pool = Pool::new(256 << 20);
        let (mut feed, mut intake) = feed(&pool, None);
        feed.push(&vec![1; FIRST_BUFFER_BYTES]).await.expect("the task takes more");
        feed.push(b"and the rest").await.expect("the task takes more");
        drop(feed);
        let pieces = waiting(&mut intake);
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [FIRST_BUFFER_BYTES, 12]);
        assert_eq!(&pieces[1][..], b"and the rest");
        assert!(intake.pieces.recv().await.is_none(), "a cut sends no end");
    }

    #[tokio::test]
    async fn the_end_comes_behind_all_bytes_and_a_cut_has_none() {
        for (end, expected) in [(BodyEnd::Complete, &[&b"bytes"[..], b"the end"][..]), (BodyEnd::Cut, &[b"bytes"])] {
            let pool = Pool::new(256 << 20);
            let (mut feed, mut intake) = feed(&pool, None);
            feed.push(b"bytes").await.expect("the task takes more");
            let mut finishing = Box::pin(feed.finish(end));
            assert!((&mut finishing).now_or_never().is_none(), "it waits for the outcome");
            assert_eq!(waiting(&mut intake), expected);
            let _ = intake.outcome.send(Err(EngineError::NoSpace));
            assert!(matches!(finishing.await, Err(EngineError::NoSpace)));
        }
    }

    #[tokio::test]
    async fn without_memory_it_waits_and_nothing_is_lost() {
        let pool = Pool::new(0);
        let mut taken = exhaust(&pool);
        let (mut feed, mut intake) = feed(&pool, None);
        let sent: Vec<u8> = (0_u8..=250).cycle().take(100 * KIB).collect();
        let mut arrived = Vec::new();
        let mut pushing = Box::pin(feed.push(&sent));
        for _ in 0..10 {
            assert!((&mut pushing).now_or_never().is_none(), "there is no memory for it");
            arrived.extend(waiting(&mut intake));
        }
        assert!(arrived.is_empty());
        let mut pushed = None;
        while pushed.is_none() && taken.pop().is_some() {
            pushed = (&mut pushing).now_or_never();
            arrived.extend(waiting(&mut intake));
        }
        assert_eq!(pushed, Some(Ok(())));
        drop(pushing);
        drop(feed);
        arrived.extend(waiting(&mut intake));
        assert!(arrived.concat() == sent);
    }

    #[tokio::test]
    async fn an_append_that_ended_is_told_while_memory_is_waited_for() {
        let pool = Pool::new(0);
        let _taken = exhaust(&pool);
        let (mut feed, intake) = feed(&pool, None);
        let mut pushing = Box::pin(feed.push(b"x"));
        assert!((&mut pushing).now_or_never().is_none());
        drop(intake);
        assert_eq!(pushing.await, Err(FeedEnded));
        feed.ended().await;
        assert!(matches!(feed.finish(BodyEnd::Cut).await, Err(EngineError::Failed { .. })));
    }

    #[tokio::test]
    async fn a_place_is_waited_for_before_memory_is_taken() {
        let pool = Pool::new(256 << 20);
        let (mut feed, mut intake) = feed(&pool, None);
        for _ in 0..DEPTH {
            feed.push(b"x").await.expect("the task takes more");
            feed.flush();
        }
        let free = pool.free_bytes();
        let mut pushing = Box::pin(feed.push(b"y"));
        assert!((&mut pushing).now_or_never().is_none());
        assert_eq!(pool.free_bytes(), free, "an upload whose bytes are not taken holds no more");
        assert!(intake.pieces.recv().await.is_some());
        assert_eq!(pushing.await, Ok(()));
    }
}
