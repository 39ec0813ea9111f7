//! How far a connection is read ahead of whoever takes its bytes.
//!
//! The HTTP layer reads what it can get, up to some hundred KiB that nobody may have room for yet. While a taker has set
//! an allowance, no more than that is read (and what one read brings with it), and reading goes on when more is asked
//! for. So memory for uploads is what their buffers hold; what does not fit waits in the socket, and with it the client.

use std::cell::Cell;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

/// What may be read of one connection. Clones speak of the same one.
#[derive(Clone, Default)]
pub(crate) struct Inflow(Rc<State>);

#[derive(Default)]
struct State {
    /// `None`: nobody has set a limit.
    allowance_bytes: Cell<Option<usize>>,
    reader: Cell<Option<Waker>>,
}

/// Somebody who takes the bytes of a connection as it has room for them. When it is gone, there is no limit.
pub(crate) struct Taker(Inflow);

impl Inflow {
    /// Nothing more is read until the taker allows it.
    pub(crate) fn take_over(&self) -> Taker {
        self.set(Some(0));
        Taker(self.clone())
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

impl Taker {
    /// Lets so many bytes be read.
    pub(crate) fn allow(&self, bytes: usize) {
        self.0.set(Some(bytes));
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

/// A connection that is read as its [`Inflow`] allows.
pub(super) struct Metered<S> {
    stream: S,
    inflow: Inflow,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, inflow: Inflow::default() }
    }

    pub(super) fn inflow(&self) -> &Inflow {
        &self.inflow
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let allowance = self.inflow.0.allowance_bytes.get();
        if allowance == Some(0) {
            self.inflow.0.reader.set(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        self.inflow.0.allowance_bytes.set(allowance.map(|allowance| allowance.saturating_sub(read)));
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn no_more_is_read_than_allowed_and_one_read_beyond() {
        let mut stream = Metered::new(&[7_u8; 100][..]);
        let mut buffer = [0; 10];
        assert_eq!(stream.read(&mut buffer).now_or_never().map(Result::ok), Some(Some(10)), "there is no limit yet");
        let taker = stream.inflow().take_over();
        assert!(stream.read(&mut buffer).now_or_never().is_none());
        taker.allow(15);
        for left in [5, 0] {
            assert!(stream.read(&mut buffer).now_or_never().is_some(), "{left} are left");
        }
        assert!(stream.read(&mut buffer).now_or_never().is_none());
        drop(taker);
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).now_or_never().is_some());
        assert_eq!(rest.len(), 70);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let mut stream = Metered::new(&b"bytes"[..]);
        let taker = stream.inflow().take_over();
        let mut buffer = [0; 10];
        let (read, ()) = tokio::join!(stream.read(&mut buffer), async {
            tokio::task::yield_now().await;
            taker.allow(1);
        });
        assert_eq!(read.ok(), Some(5));
    }
}
