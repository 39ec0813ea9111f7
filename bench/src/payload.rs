//! The bytes that are uploaded: random, prepared once, and sent repeatedly.
//!
//! Plain connections send them with `sendfile` from a memory file, so the generator copies nothing; encrypted
//! ones read the same bytes from memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use anyhow::Context;
use bytes::Bytes;

/// Larger than the processor's caches.
const SIZE: usize = 64 << 20;

/// The bytes passed to the kernel at a time.
const PIECE: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Payload {
    file: OwnedFd,
    bytes: Bytes,
}

impl Payload {
    pub(crate) fn prepare() -> anyhow::Result<Self> {
        let mut bytes = vec![0; SIZE];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut bytes))
            .context("could not read random bytes")?;
        let file = rustix::fs::memfd_create("longshore-bench", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(file);
        file.write_all(&bytes)?;
        Ok(Self { file: file.into(), bytes: bytes.into() })
    }

    /// Returns the first bytes, for small bodies.
    pub(crate) fn head(&self, size: usize) -> &[u8] {
        &self.bytes[..size]
    }

    /// Returns at most `limit` bytes, those that follow `sent` bytes.
    pub(crate) fn piece(&self, sent: u64, limit: usize) -> Bytes {
        let at = place(sent);
        self.bytes.slice(at..at + limit.min(SIZE - at))
    }

    /// Sends `count` bytes without copying them.
    pub(crate) fn send_file(&self, socket: &TcpStream, count: u64) -> std::io::Result<()> {
        let mut sent = 0;
        while sent < count {
            let at = place(sent);
            let left = usize::try_from(count - sent).unwrap_or(usize::MAX);
            let mut position = at as u64;
            let took = rustix::fs::sendfile(socket, &self.file, Some(&mut position), left.min(PIECE).min(SIZE - at))?;
            if took == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            sent += took as u64;
        }
        Ok(())
    }

    /// Sends `count` bytes through any writer.
    pub(crate) fn send_copy(&self, out: &mut dyn Write, count: u64) -> std::io::Result<()> {
        let mut sent = 0;
        while sent < count {
            let left = usize::try_from(count - sent).unwrap_or(usize::MAX);
            let piece = self.piece(sent, left.min(PIECE));
            out.write_all(&piece)?;
            sent += piece.len() as u64;
        }
        out.flush()
    }
}

/// Returns the position of the next prepared byte after `sent` bytes.
fn place(sent: u64) -> usize {
    usize::try_from(sent % SIZE as u64).expect("it is less than SIZE")
}
