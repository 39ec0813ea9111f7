//! How far a connection is read ahead of whoever takes its bytes.
//!
//! The HTTP layer reads what it can get, up to some hundred KiB that nobody may have room for yet. While a taker has set
//! an allowance, no more than that is read (and what one read brings with it), and reading goes on when more is asked
//! for. So memory for uploads is what their buffers hold; what does not fit waits in the socket, and with it the client.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use tokio::io::AsyncRead;
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

    /// Reads as much as is allowed. Pending when nothing is, until it is.
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
        let before = buf.filled().len();
        let polled = stream.poll_read(cx, buf);
        let read = buf.filled().len() - before;
        self.0.allowance_bytes.set(allowance.map(|allowance| allowance.saturating_sub(read)));
        polled
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// A stream that is read as it is allowed.
    struct Metered {
        stream: &'static [u8],
        inflow: Inflow,
    }

    impl Metered {
        fn new(stream: &'static [u8]) -> Self {
            Self { stream, inflow: Inflow::default() }
        }
    }

    impl AsyncRead for Metered {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let this = &mut *self;
            this.inflow.poll_read(Pin::new(&mut this.stream), cx, buf)
        }
    }

    #[test]
    fn no_more_is_read_than_allowed_and_one_read_beyond() {
        let mut stream = Metered::new(&[7; 100]);
        let mut buffer = [0; 10];
        assert_eq!(stream.read(&mut buffer).now_or_never().map(Result::ok), Some(Some(10)), "there is no limit yet");
        let taker = stream.inflow.take_over();
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
        let mut stream = Metered::new(b"bytes");
        let taker = stream.inflow.take_over();
        let mut buffer = [0; 10];
        let (read, ()) = tokio::join!(stream.read(&mut buffer), async {
            tokio::task::yield_now().await;
            taker.allow(1);
        });
        assert_eq!(read.ok(), Some(5));
    }
}
