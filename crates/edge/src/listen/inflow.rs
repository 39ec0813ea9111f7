//! Limits on how far a connection is read ahead of the consumer of its bytes.
//!
//! The HTTP layer reads as much as is available, up to some hundred KiB for which no consumer may have
//! memory. While a consumer has set an allowance, no more than that is read (plus what one read returns
//! beyond it), and reading resumes when the consumer allows more. Memory for uploads is therefore what their
//! buffers hold. What does not fit waits in the socket, and the client waits with it.
//!
//! The HTTP layer's own buffer grows with the bytes that are read at a time, and keeps its size. A connection
//! with a large body takes a grant for that from [`ReadAhead`], and keeps it until the connection ends. A
//! connection that gets no grant is metered: its body is read a few KiB at a time on demand, and its buffer
//! keeps its initial size.

use std::cell::{Cell, OnceCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::{fmt, io};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A consumer that allows no more than this at a time is slow, and should hold little memory.
pub(super) const SLOW_BYTES: usize = 4 * 1024;

/// With less free capacity than this, actix-http reserves 8 KiB before it reads on.
const LOW_ROOM_BYTES: usize = 1024;

/// The size to which the buffer of a connection can grow: actix-http stops reading at 128 KiB, and a buffer
/// doubles when it grows.
const GRANT_BYTES: u64 = 256 * 1024;

/// Memory for the buffers of connections with large bodies. Clones share it.
#[derive(Debug, Clone)]
pub struct ReadAhead(Arc<Semaphore>);

impl ReadAhead {
    /// Shares `memory_bytes` among connections.
    pub fn new(memory_bytes: u64) -> Self {
        let grants = usize::try_from(memory_bytes / GRANT_BYTES).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(grants.min(Semaphore::MAX_PERMITS))))
    }

    /// Returns the bytes that are not granted.
    pub fn free_bytes(&self) -> u64 {
        u64::try_from(self.0.available_permits()).unwrap_or(u64::MAX).saturating_mul(GRANT_BYTES)
    }

    fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}

/// The allowance of one connection. Clones refer to the same connection.
#[derive(Clone, Default)]
pub(crate) struct Inflow(Rc<State>);

#[derive(Default)]
struct State {
    /// `None`: there is no limit.
    allowance_bytes: Cell<Option<usize>>,
    /// `None`: the buffer of the connection may grow without a grant.
    read_ahead: Option<ReadAhead>,
    grant: OnceCell<OwnedSemaphorePermit>,
    /// True if the current body is read only on demand, and no consumer has set a limit for it.
    is_held: Cell<bool>,
    reader: Cell<Option<Waker>>,
    /// True if the peer has closed its side of the connection, or is gone.
    has_ended: Cell<bool>,
    end_waiter: Cell<Option<Waker>>,
}

/// A consumer that limits the reads of a connection to its own capacity. Dropping it removes the limit; a
/// metered connection is then read on demand again.
pub struct ReadLimit(Inflow);

impl fmt::Debug for ReadLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadLimit").finish_non_exhaustive()
    }
}

impl Inflow {
    /// Creates the state of a connection whose buffer may grow only with a grant.
    pub(super) fn metered(read_ahead: ReadAhead) -> Self {
        Self(Rc::new(State { read_ahead: Some(read_ahead), ..State::default() }))
    }

    /// Stops reading until the returned limit allows it.
    pub(crate) fn limit_reads(&self) -> ReadLimit {
        self.0.is_held.set(false);
        self.set(Some(0));
        ReadLimit(self.clone())
    }

    /// Begins a large body. Without a grant, only a little of it is read before it is polled. `handed_bytes`
    /// of what was read before are still to be passed on.
    pub(super) fn begin_body(&self, handed_bytes: usize) {
        if let Some(grant) = self.0.read_ahead.as_ref().filter(|_| self.is_metered()).and_then(ReadAhead::take) {
            // It was empty before.
            let _ = self.0.grant.set(grant);
        }
        if self.is_metered() {
            self.0.is_held.set(true);
            self.set(Some(handed_bytes + SLOW_BYTES));
        }
    }

    /// Records that the body was polled and no bytes were available.
    pub(crate) fn want_body(&self) {
        if self.0.is_held.get() && self.0.allowance_bytes.get().is_some_and(|allowance| allowance < SLOW_BYTES) {
            self.set(Some(SLOW_BYTES));
        }
    }

    /// Ends the current body, so that reading continues without a limit.
    pub(super) fn end_body(&self) {
        if self.0.is_held.replace(false) {
            self.set(None);
        }
    }

    fn is_metered(&self) -> bool {
        self.0.read_ahead.is_some() && self.0.grant.get().is_none()
    }

    /// Reads as much as is allowed. Pending until something is allowed.
    pub(super) fn poll_read(
        &self,
        stream: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let allowance = self.0.allowance_bytes.get();
        if allowance == Some(0) {
            self.0.reader.set(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        let (before, room) = (buf.filled().len(), buf.remaining());
        let mut stream = stream.take(read_at_once(buf.remaining(), allowance));
        let polled = Pin::new(&mut stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        self.0.allowance_bytes.set(allowance.map(|allowance| allowance.saturating_sub(read)));
        if matches!(polled, Poll::Ready(_)) && read == 0 && room > 0 {
            self.0.has_ended.set(true);
            if let Some(end_waiter) = self.0.end_waiter.take() {
                end_waiter.wake();
            }
        }
        polled
    }

    /// Waits until the peer has closed its side of the connection, as far as that has been read.
    pub(crate) async fn ended(&self) {
        std::future::poll_fn(|cx| {
            if self.0.has_ended.get() {
                return Poll::Ready(());
            }
            self.0.end_waiter.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Returns how many of the bytes that were already read may be passed on. Pending until some may.
    pub(super) fn poll_allowed(&self, cx: &Context<'_>) -> Poll<usize> {
        match self.0.allowance_bytes.get() {
            None => Poll::Ready(usize::MAX),
            Some(0) => {
                self.0.reader.set(Some(cx.waker().clone()));
                Poll::Pending
            }
            Some(bytes) => Poll::Ready(bytes),
        }
    }

    /// Subtracts bytes that were passed on from the allowance.
    pub(super) fn took(&self, bytes: usize) {
        self.0.allowance_bytes.set(self.0.allowance_bytes.get().map(|allowance| allowance.saturating_sub(bytes)));
    }

    fn set(&self, allowance_bytes: Option<usize>) {
        self.0.allowance_bytes.set(allowance_bytes);
        if allowance_bytes != Some(0)
            && let Some(reader) = self.0.reader.take()
        {
            reader.wake();
        }
    }
}

impl ReadLimit {
    /// Allows the next `bytes` bytes to be read, or fewer at a time if the connection has no grant.
    pub fn allow(&self, bytes: usize) {
        let most = if self.0.is_metered() { SLOW_BYTES } else { usize::MAX };
        self.0.set(Some(bytes.min(most)));
    }
}

impl Drop for ReadLimit {
    fn drop(&mut self) {
        let is_metered = self.0.is_metered();
        self.0.0.is_held.set(is_metered);
        self.0.set(is_metered.then_some(SLOW_BYTES));
    }
}

/// Returns how much of the `room` in the HTTP layer's buffer one read may fill.
///
/// The buffer doubles, and keeps its size, when the bytes just read do not fit into the free capacity beside
/// them. This is good for a fast upload. For a slow one it would be half of all the memory that it needs.
fn read_at_once(room: usize, allowance_bytes: Option<usize>) -> u64 {
    let slow = allowance_bytes.is_some_and(|bytes| bytes <= SLOW_BYTES);
    let most = match room {
        _ if !slow => room,
        _ if room >= 2 * LOW_ROOM_BYTES => room - LOW_ROOM_BYTES,
        _ => (room / 2).max(1),
    };
    most as u64
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use futures::FutureExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// A stream that is read as far as it is allowed.
    struct Metered<S> {
        stream: S,
        inflow: Inflow,
    }

    impl<S> Metered<S> {
        fn new(stream: S) -> Self {
            Self { stream, inflow: Inflow::default() }
        }
    }

    impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let this = &mut *self;
            this.inflow.poll_read(Pin::new(&mut this.stream), cx, buf)
        }
    }

    #[test]
    fn no_more_is_read_than_allowed_and_one_read_beyond() {
        let mut stream = Metered::new(&[7_u8; 100_000][..]);
        let mut buffer = [0; 6_000];
        assert_eq!(stream.read(&mut buffer).now_or_never().map(Result::ok), Some(Some(6_000)), "there is no limit yet");
        let read_limit = stream.inflow.limit_reads();
        assert!(stream.read(&mut buffer).now_or_never().is_none());
        read_limit.allow(10_000);
        for left in [4_000, 0] {
            assert!(stream.read(&mut buffer).now_or_never().is_some(), "{left} are left");
        }
        assert!(stream.read(&mut buffer).now_or_never().is_none());
        drop(read_limit);
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).now_or_never().is_some());
        assert_eq!(rest.len(), 100_000 - 6_000 - 6_000 - (6_000 - LOW_ROOM_BYTES));
    }

    /// Reads the small pieces of a slow upload as actix-http does, and returns the largest size of its
    /// buffer.
    async fn buffer_after(drop_bytes: usize, slow: bool) -> usize {
        const BUFFER_BYTES: usize = 8 * 1024;
        let (mut near, far) = tokio::io::duplex(BUFFER_BYTES);
        let mut stream = Metered::new(far);
        let read_limit = stream.inflow.limit_reads();
        let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
        let mut largest = 0;
        for _ in 0..100 {
            // The runtime limits the number of reads of a task before it must yield.
            tokio::task::yield_now().await;
            near.write_all(&vec![7; drop_bytes]).await.unwrap();
            read_limit.allow(if slow { SLOW_BYTES } else { BUFFER_BYTES });
            loop {
                let room = buffer.capacity() - buffer.len();
                if room < LOW_ROOM_BYTES {
                    buffer.reserve(BUFFER_BYTES - room);
                }
                largest = largest.max(buffer.capacity());
                if stream.read_buf(&mut buffer).now_or_never().is_none() {
                    break;
                }
            }
            assert_eq!(buffer.split().freeze().len(), drop_bytes);
        }
        largest
    }

    #[tokio::test]
    async fn the_buffer_of_a_slow_upload_does_not_grow() {
        for drop_bytes in [1, 100, 999, 1_000, 1_024] {
            assert_eq!(buffer_after(drop_bytes, true).await, 8 * 1024, "{drop_bytes}");
        }
        assert!(buffer_after(1_000, false).await > 8 * 1024, "otherwise there is nothing to avoid");
    }

    #[test]
    fn a_connection_without_a_grant_is_read_as_it_is_asked_for() {
        let read_ahead = ReadAhead::new(GRANT_BYTES);
        let body = vec![7_u8; 100_000];
        let connection = || Metered { stream: &body[..], inflow: Inflow::metered(read_ahead.clone()) };
        let mut buffer = vec![0; 50_000];
        let mut first = connection();
        first.inflow.begin_body(0);
        assert_eq!(first.read(&mut buffer).now_or_never().map(Result::ok), Some(Some(50_000)), "it has the only grant");

        let mut second = connection();
        second.inflow.begin_body(10);
        let mut read = 0;
        while let Some(Ok(more)) = second.read(&mut buffer[..6_000]).now_or_never() {
            read += more;
        }
        assert!((1..=2 * SLOW_BYTES).contains(&read), "{read}");
        second.inflow.want_body();
        assert!(second.read(&mut buffer[..6_000]).now_or_never().is_some(), "a handler waits for it");

        let read_limit = second.inflow.limit_reads();
        read_limit.allow(50_000);
        assert!(second.read(&mut buffer[..6_000]).now_or_never().is_some());
        assert!(second.read(&mut buffer[..6_000]).now_or_never().is_none(), "a little at a time");
        drop(read_limit);
        second.inflow.end_body();
        assert_eq!(second.read(&mut buffer).now_or_never().map(Result::ok), Some(Some(50_000)), "there is no body");

        drop(first);
        let mut third = connection();
        third.inflow.begin_body(0);
        assert_eq!(third.read(&mut buffer).now_or_never().map(Result::ok), Some(Some(50_000)), "it was given back");
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let mut stream = Metered::new(&b"bytes"[..]);
        let read_limit = stream.inflow.limit_reads();
        let mut buffer = [0; 10];
        let (read, ()) = tokio::join!(stream.read(&mut buffer), async {
            tokio::task::yield_now().await;
            read_limit.allow(1);
        });
        assert_eq!(read.ok(), Some(5));
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_heard_of_by_whoever_waits() {
        let (mut peer, stream) = tokio::io::duplex(64);
        let inflow = Inflow::default();
        let mut metered = Metered { stream, inflow: inflow.clone() };
        let mut gone = std::pin::pin!(inflow.ended());
        let mut read = [0; 16];
        peer.write_all(b"more").await.unwrap();
        assert_eq!(tokio::io::AsyncReadExt::read(&mut metered, &mut read).await.unwrap(), 4);
        assert!(gone.as_mut().now_or_never().is_none());
        drop(peer);
        assert_eq!(tokio::io::AsyncReadExt::read(&mut metered, &mut read).await.unwrap(), 0);
        assert!(gone.as_mut().now_or_never().is_some());
        assert!(inflow.ended().now_or_never().is_some(), "also for a later caller");
    }
}
