//! Deadlines for a peer that reads nothing of its response.
//!
//! A download may wait for as long as a player is paused. Every other response stays in memory until it is
//! read, so its reader must make progress: it has a deadline, and the bytes that it reads extend the deadline
//! by the time they take at the minimum rate.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep};

/// The minimum average rate at which a response that is not a download must be read. A page of 1 MiB may take
/// four minutes.
const LEAST_BYTES_PER_SECOND: u32 = 4 << 10;

/// The longest time for which a reader may read nothing, by the kind of response.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReaderTimeouts {
    pub(super) download: Duration,
    pub(super) answer: Duration,
}

/// The deadline of one reader, from the moment when it was found to read nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReaderDeadline {
    most: Duration,
    is_download: bool,
    deadline: Instant,
}

impl ReaderDeadline {
    pub(super) fn new(readers: ReaderTimeouts, is_download: bool) -> Self {
        let most = if is_download { readers.download } else { readers.answer };
        Self { most, is_download, deadline: Instant::now() + most }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Extends the deadline after the reader has accepted `bytes` bytes.
    pub(super) fn has_taken(&mut self, bytes: usize) {
        let latest = Instant::now() + self.most;
        if self.is_download {
            self.deadline = latest;
            return;
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.deadline = latest.min(self.deadline + Duration::from_secs(1) * bytes / LEAST_BYTES_PER_SECOND);
    }
}

/// The bytes written to one connection. Clones refer to the same connection.
#[derive(Clone)]
pub(super) struct Outflow(Rc<RefCell<State>>);

struct State {
    readers: ReaderTimeouts,
    is_download: bool,
    /// Set from the moment when a write is blocked until everything is written.
    stuck: Option<Stalled>,
}

struct Stalled {
    deadline: ReaderDeadline,
    timer: Pin<Box<Sleep>>,
}

impl Outflow {
    pub(super) fn new(readers: ReaderTimeouts) -> Self {
        Self(Rc::new(RefCell::new(State { readers, is_download: false, stuck: None })))
    }

    /// Sets the kind of response that is written next.
    pub(super) fn begin(&self, is_download: bool) {
        self.0.borrow_mut().is_download = is_download;
    }

    pub(super) fn poll_write(
        &self,
        stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.borrow_mut();
        match stream.poll_write(cx, bytes) {
            Poll::Ready(written) => {
                if let (Some(stuck), Ok(count)) = (&mut state.stuck, &written) {
                    stuck.deadline.has_taken(*count);
                }
                Poll::Ready(written)
            }
            Poll::Pending => state.poll_impatient(cx).map(Err),
        }
    }

    pub(super) fn poll_flush(&self, stream: Pin<&mut impl AsyncWrite>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        match stream.poll_flush(cx) {
            Poll::Ready(flushed) => {
                state.stuck = None;
                Poll::Ready(flushed)
            }
            Poll::Pending => state.poll_impatient(cx).map(Err),
        }
    }
}

impl State {
    /// Ready when the deadline of the reader has passed.
    fn poll_impatient(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let (readers, is_download) = (self.readers, self.is_download);
        let stuck = self.stuck.get_or_insert_with(|| {
            let deadline = ReaderDeadline::new(readers, is_download);
            Stalled { deadline, timer: Box::pin(tokio::time::sleep_until(deadline.deadline)) }
        });
        if stuck.timer.deadline() != stuck.deadline.deadline {
            stuck.timer.as_mut().reset(stuck.deadline.deadline);
        }
        ready!(stuck.timer.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client read nothing of the response for too long"))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, DuplexStream};

    use super::*;

    const READERS: ReaderTimeouts =
        ReaderTimeouts { download: Duration::from_secs(600), answer: Duration::from_secs(30) };

    /// Writes endlessly to a peer that reads `bytes` after each `pause`. Returns the seconds until the
    /// deadline passes; `None` if it does not pass within an hour.
    async fn lasts(is_download: bool, bytes: usize, pause: Duration) -> Option<u64> {
        let (mut near, far): (DuplexStream, DuplexStream) = tokio::io::duplex(64 << 10);
        let (outflow, began) = (Outflow::new(READERS), Instant::now());
        outflow.begin(is_download);
        let write = async {
            loop {
                let written = poll_fn(|cx| outflow.poll_write(Pin::new(&mut near), cx, &[7; 4096])).await;
                match written {
                    Ok(_) => poll_fn(|cx| outflow.poll_flush(Pin::new(&mut near), cx)).await.unwrap(),
                    Err(error) => return error.kind(),
                }
            }
        };
        let read = async {
            let (mut far, mut piece) = (far, vec![0; bytes]);
            loop {
                tokio::time::sleep(pause).await;
                far.read_exact(&mut piece).await.unwrap();
            }
        };
        tokio::select! {
            kind = write => {
                assert_eq!(kind, io::ErrorKind::TimedOut);
                Some(began.elapsed().as_secs())
            }
            () = read => unreachable!("the stream never ends"),
            () = tokio::time::sleep(Duration::from_secs(3_600)) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_waited_for_by_what_it_reads() {
        let never = Duration::from_secs(100_000);
        assert_eq!((lasts(false, 1, never).await, lasts(true, 1, never).await), (Some(30), Some(600)));
        assert_eq!(lasts(true, 1, Duration::from_secs(500)).await, None, "a download that goes on at all goes on");
    }

    #[test]
    fn drops_do_not_keep_an_answer_waiting() {
        let mut deadline = ReaderDeadline::new(READERS, false);
        let first = deadline.deadline();
        deadline.has_taken(4096);
        assert!(deadline.deadline() >= first && deadline.deadline() <= Instant::now() + READERS.answer);
        deadline.deadline -= Duration::from_secs(20);
        let before = deadline.deadline();
        deadline.has_taken(1024);
        assert_eq!(deadline.deadline() - before, Duration::from_millis(250));
    }
}
