//! A deadline for request heads over HTTP/2.
//!
//! The h2 library has no deadline for a head that begins and does not end, within one frame or over many (RFC
//! 9113, 4.3 and 6.10). All frames pass through this layer, which detects a head that takes too long.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::listen::deadline::Deadline;

/// The connection preface of a peer (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;

const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A connection that enforces a deadline on each head.
pub(super) struct HeadTimeout<S> {
    wire: S,
    frames: Frames,
    timeout: Duration,
    deadline: Deadline,
}

impl<S> HeadTimeout<S> {
    pub(super) fn new(wire: S, timeout: Duration) -> Self {
        Self { wire, frames: Frames::default(), timeout, deadline: Deadline::none() }
    }
}

/// The boundaries of frames.
#[derive(Debug)]
struct Frames {
    /// The bytes left of the current frame's payload.
    left: usize,
    head: [u8; FRAME_HEAD_BYTES],
    head_bytes: usize,
    /// True if the current frame is the last one of a head.
    ends_head: bool,
    /// True if a head has begun and not ended.
    in_head: bool,
    /// The number of heads that have begun.
    heads: u64,
}

impl Default for Frames {
    fn default() -> Self {
        Self { left: PREFACE_BYTES, head: [0; 9], head_bytes: 0, ends_head: false, in_head: false, heads: 0 }
    }
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let payload = self.left.min(bytes.len());
            self.left -= payload;
            bytes = &bytes[payload..];
            if self.left > 0 {
                return;
            }
            self.end_frame();
            let head = (FRAME_HEAD_BYTES - self.head_bytes).min(bytes.len());
            self.head[self.head_bytes..self.head_bytes + head].copy_from_slice(&bytes[..head]);
            self.head_bytes += head;
            bytes = &bytes[head..];
            if self.head_bytes == FRAME_HEAD_BYTES {
                self.begin_frame();
            }
        }
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.head_bytes = 0;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if kind == HEADERS {
            self.in_head = true;
            self.heads += 1;
        }
        self.ends_head = matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0;
        if self.left == 0 {
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        if std::mem::take(&mut self.ends_head) {
            self.in_head = false;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadTimeout<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut this.wire).poll_read(cx, buf) else {
            ready!(this.deadline.poll_passed(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        let waited_for = (this.frames.in_head, this.frames.heads);
        this.frames.pass(&buf.filled()[before..]);
        if !this.frames.in_head {
            this.deadline.clear();
        } else if waited_for != (true, this.frames.heads) {
            this.deadline.set(Instant::now() + this.timeout);
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 1][..], payload].concat()
    }

    #[test]
    fn a_head_is_under_way_from_its_first_frame_to_the_end_of_its_last() {
        let parts = [
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), false),
            (frame(4, 0, b"settings"), false),
            (frame(HEADERS, END_HEADERS, b"whole"), false),
            (frame(0, 1, b"some data"), false),
            (frame(HEADERS, 0, b""), true),
            (frame(CONTINUATION, 0, b"more"), true),
            (frame(CONTINUATION, END_HEADERS, b""), false),
            (frame(HEADERS, 1, b"begins"), true),
        ];
        let (mut whole, mut singly) = (Frames::default(), Frames::default());
        for (part, in_head) in &parts {
            whole.pass(part);
            part.iter().for_each(|byte| singly.pass(&[*byte]));
            assert_eq!((whole.in_head, singly.in_head), (*in_head, *in_head), "{part:?}");
        }
        assert_eq!((whole.heads, singly.heads), (3, 3));
        let mut frames = Frames::default();
        let cut = [parts[0].0.clone(), frame(HEADERS, END_HEADERS, b"cut")].concat();
        frames.pass(&cut[..cut.len() - 1]);
        assert!(frames.in_head, "its last byte is missing");
    }
}
