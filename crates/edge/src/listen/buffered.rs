//! Buffered reading below TLS.
//!
//! rustls reads 4 KiB at a time, which costs a fast upload five system calls for each record. This layer
//! reads more from the kernel when more is available, and holds no buffer when nothing is: a slow connection
//! costs no memory.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// The size that rustls reads at a time.
const LEAST: usize = 4 * 1024;
const MOST: usize = 256 * 1024;

/// A stream that reads more from the kernel than its reader requests.
#[derive(Debug)]
pub(super) struct BufferedStream {
    stream: TcpStream,
    read: BytesMut,
    /// The size of the next read: larger than what the last one returned.
    size: usize,
}

impl BufferedStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, read: BytesMut::new(), size: LEAST }
    }
}

impl AsyncRead for BufferedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read.is_empty() {
            this.read.reserve(this.size);
            match poll_read_buf(Pin::new(&mut this.stream), cx, &mut this.read) {
                Poll::Ready(count) => this.size = next_size(this.size, count?),
                Poll::Pending => {
                    this.read = BytesMut::new();
                    return Poll::Pending;
                }
            }
        }
        let count = this.read.len().min(buf.remaining());
        buf.put_slice(&this.read[..count]);
        this.read.advance(count);
        Poll::Ready(Ok(()))
    }
}

/// Doubles the size if the last read filled the buffer, and halves it if the read filled less than a quarter.
fn next_size(size: usize, filled: usize) -> usize {
    match filled {
        _ if filled >= size => (size * 2).min(MOST),
        _ if filled < size / 4 => (size / 2).max(LEAST),
        _ => size,
    }
}

impl AsyncWrite for BufferedStream {
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_size_follows_what_comes() {
        assert_eq!(next_size(LEAST, LEAST), 2 * LEAST);
        assert_eq!(next_size(MOST, MOST), MOST);
        assert_eq!(next_size(MOST, MOST / 2), MOST);
        assert_eq!(next_size(MOST, 100), MOST / 2);
        assert_eq!(next_size(LEAST, 1), LEAST);
    }

    #[tokio::test]
    async fn every_byte_is_handed_on_once_and_nothing_is_held_when_nothing_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut ahead = BufferedStream::new(listener.accept().await.unwrap().0);
        let sent: Vec<u8> = (0..3_000_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let expected = sent.clone();
        let sending = tokio::spawn(async move {
            peer.write_all(&sent).await.unwrap();
            peer
        });
        let mut heard = vec![0; expected.len()];
        for part in heard.chunks_mut(1_000) {
            ahead.read_exact(part).await.unwrap();
        }
        assert!(heard == expected);
        let _peer = sending.await.unwrap();
        assert!(ahead.size > LEAST, "it asked for more as more came");
        let nothing = futures::poll!(std::pin::pin!(ahead.read_u8()));
        assert!(nothing.is_pending());
        assert_eq!(ahead.read.capacity(), 0);
    }
}
