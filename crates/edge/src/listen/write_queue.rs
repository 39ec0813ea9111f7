//! The response bytes of one connection that its socket has not accepted yet.
//!
//! HTTP/2 queues them for each stream, as much as the peer's window allows, and a peer may open its window
//! and then not read. The responses of a connection therefore share a limit on the queued bytes.

use std::cell::Cell;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// While this many bytes are queued, none are added.
const MOST_BYTES: usize = 128 << 10;

/// The queue of one connection. Clones refer to the same queue.
#[derive(Clone, Default)]
pub(super) struct WriteQueue(Rc<State>);

#[derive(Default)]
struct State {
    bytes: Cell<usize>,
    /// True while the socket accepts nothing.
    is_blocked: Cell<bool>,
    has_capacity: Notify,
}

impl WriteQueue {
    /// Waits until there is capacity. A caller that adds bytes without another await keeps to the limit.
    pub(super) async fn wait_for_capacity(&self) {
        while self.0.bytes.get() >= MOST_BYTES {
            // No change can occur between the check and the wait, because everything is on one thread.
            self.0.has_capacity.notified().await;
        }
    }

    pub(super) fn add(&self, bytes: usize) {
        self.0.bytes.set(self.0.bytes.get() + bytes);
    }

    /// Records that the socket has accepted this many bytes, of responses and of protocol overhead.
    fn written(&self, bytes: usize) {
        self.set(self.0.bytes.get().saturating_sub(bytes));
    }

    /// Records that the protocol has nothing to do. If it does not wait for the socket, everything is
    /// written, so bytes that were dropped with their stream stop counting.
    pub(super) fn is_idle(&self) {
        if !self.0.is_blocked.get() {
            self.set(0);
        }
    }

    fn set(&self, left: usize) {
        let before = self.0.bytes.replace(left);
        if before >= MOST_BYTES && left < MOST_BYTES {
            self.0.has_capacity.notify_waiters();
        }
    }
}

/// A stream whose written bytes are counted.
pub(super) struct CountedStream<S> {
    stream: S,
    queue: WriteQueue,
}

impl<S> CountedStream<S> {
    pub(super) fn new(stream: S, queue: WriteQueue) -> Self {
        Self { stream, queue }
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.queue.0.is_blocked.set(written.is_pending());
        if let Poll::Ready(Ok(bytes)) = &written {
            self.queue.written(*bytes);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.queue.0.is_blocked.set(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn nobody_adds_to_a_full_queue_until_its_socket_has_taken_some() {
        let (near, mut far) = tokio::io::duplex(30_000);
        let queue = WriteQueue::default();
        let mut wire = CountedStream::new(near, queue.clone());
        assert!(queue.wait_for_capacity().now_or_never().is_some());
        queue.add(MOST_BYTES);
        let (mut first, mut second) = (Box::pin(queue.wait_for_capacity()), Box::pin(queue.wait_for_capacity()));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        wire.write_all(&[7; 100]).await.unwrap();
        assert!(first.now_or_never().is_some());
        queue.add(100);
        assert!((&mut second).now_or_never().is_none(), "the first was faster");
        far.read_exact(&mut [0; 100]).await.unwrap();
        // Protocol overhead does not free more capacity than there is.
        wire.write_all(&[7; 20_000]).await.unwrap();
        assert!(second.now_or_never().is_some());
        queue.add(2 * MOST_BYTES);
        assert!(tokio::time::timeout(std::time::Duration::ZERO, wire.write_all(&[7; 20_000])).await.is_err());
        queue.is_idle();
        assert!(queue.wait_for_capacity().now_or_never().is_none(), "the socket has taken nothing");
        far.read_exact(&mut [0; 20_000]).await.unwrap();
        wire.write_all(&[7; 10]).await.unwrap();
        assert!(queue.wait_for_capacity().now_or_never().is_none());
        queue.is_idle();
        assert!(queue.wait_for_capacity().now_or_never().is_some(), "bytes that are dropped unwritten no longer count");
    }
}
