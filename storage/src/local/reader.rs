//! Reads a file in order, one piece ahead of the consumer while memory is plentiful.
//!
//! A piece that was handed out counts as held until the next one is requested, because the consumer has
//! copied it to where it waits for the client. When the pool runs low, pieces are small and do not use the
//! pool, and none is read ahead. So even if readers that take nothing exhaust the pool, the others continue.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::task::JoinHandle;

use super::blocking;
use crate::{BlobKey, ByteStream, Error};
use pool::{Buffer, Pool, Reservation};

const LARGE_BYTES: usize = 256 << 10;

/// Size of the pieces outside the pool. Small enough that thousands of them need little memory.
const SMALL_BYTES: usize = 16 << 10;

/// Returns the bytes of `file` within `range`. The open file stays readable when its name is moved or removed
/// meanwhile.
pub(super) fn stream(key: BlobKey, file: File, range: Range<u64>, pool: Pool) -> ByteStream {
    let reader = Reader { file: Arc::new(file), left: range, pool, in_hand: None };
    let pieces = stream::unfold((reader, None), |(mut reader, coming)| async {
        let piece = blocking::outcome(coming.or_else(|| reader.start_next())?).await;
        if piece.is_err() {
            // An error is the last item.
            reader.left.start = reader.left.end;
        }
        let ahead = reader.start_ahead();
        Some((piece, (reader, ahead)))
    });
    pieces.map(move |piece| piece.map_err(|source| Error::new("read", &key, source))).boxed()
}

struct Reader {
    file: Arc<File>,
    left: Range<u64>,
    pool: Pool,
    /// Reserves memory for the piece that was handed out last, if it was a large one.
    in_hand: Option<Reservation>,
}

impl Reader {
    /// Starts reading the piece that is requested now.
    fn start_next(&mut self) -> Option<JoinHandle<io::Result<Bytes>>> {
        let left = self.left.end - self.left.start;
        if left == 0 {
            return None;
        }
        let large = if left > SMALL_BYTES as u64 { self.pool.try_take(0, LARGE_BYTES) } else { None };
        let in_hand = large.as_ref().and_then(|_| self.in_hand.take().or_else(|| self.pool.try_reserve(LARGE_BYTES)));
        self.in_hand = in_hand;
        Some(self.start(large.filter(|_| self.in_hand.is_some())))
    }

    /// Starts reading the next piece, if the last one was large and there is a large buffer for it.
    fn start_ahead(&mut self) -> Option<JoinHandle<io::Result<Bytes>>> {
        if self.left.is_empty() || self.in_hand.is_none() {
            return None;
        }
        let buffer = self.pool.try_take(0, LARGE_BYTES)?;
        Some(self.start(Some(buffer)))
    }

    fn start(&mut self, large: Option<Buffer>) -> JoinHandle<io::Result<Bytes>> {
        let most_bytes = if large.is_some() { LARGE_BYTES } else { SMALL_BYTES };
        let start = self.left.start;
        let end = start.saturating_add(most_bytes as u64).min(self.left.end);
        self.left.start = end;
        let file = Arc::clone(&self.file);
        blocking::start(move || match large {
            Some(buffer) => read_into(buffer, &file, start..end),
            None => read_small(&file, start..end),
        })
    }
}

fn read_into(mut buffer: Buffer, file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let size = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let room = buffer.unfilled_mut().get_mut(..size).ok_or(io::ErrorKind::InvalidInput)?;
    read_exact_at(file, room, range.start)?;
    buffer.advance(size);
    Ok(buffer.freeze())
}

fn read_small(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let size = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    read_exact_at(file, &mut bytes, range.start)?;
    Ok(bytes.into())
}

fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let at = start + filled as u64;
        match rustix::io::pread(file, &mut bytes[filled..], at) {
            Ok(0) => {
                let short = format!("it ends at byte {at}, before the end of the requested range");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, short));
            }
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MIB: usize = 1 << 20;

    fn content() -> Vec<u8> {
        (0..3 * MIB + 5).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    fn file() -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content()).unwrap();
        file
    }

    fn read(file: &File, pool: &Pool) -> ByteStream {
        let (key, file) = (BlobKey::new("2026/11/29/x").unwrap(), file.try_clone().unwrap());
        let size = file.metadata().unwrap().len();
        stream(key, file, 0..size, pool.clone())
    }

    async fn rest(stream: ByteStream) -> Vec<u8> {
        stream.map(Result::unwrap).collect::<Vec<_>>().await.concat()
    }

    #[tokio::test]
    async fn a_reader_that_stops_holds_one_piece_and_one_ahead_of_the_pool() {
        let pool = Pool::new(64 * MIB as u64);
        let (total, file) = (pool.free_bytes(), file());
        let mut reading = read(&file, &pool);
        assert_eq!(total - pool.free_bytes(), 0, "nothing is read before it is requested");
        let first = reading.next().await.unwrap().unwrap();
        assert_eq!(first.len(), LARGE_BYTES);
        drop(first);
        // The piece handed out, which counts until the next request, and the one read ahead.
        assert_eq!(total - pool.free_bytes(), 2 * LARGE_BYTES);
        assert!(rest(reading).await == content()[LARGE_BYTES..]);
        assert_eq!(pool.free_bytes(), total);
    }

    #[tokio::test]
    async fn readers_go_on_in_small_pieces_when_others_hold_the_pool() {
        let pool = Pool::new(32 * MIB as u64);
        let (file, mut stopped) = (file(), Vec::new());
        for _ in 0..50 {
            let mut reading = read(&file, &pool);
            reading.next().await.unwrap().unwrap();
            stopped.push(reading);
        }
        assert!(pool.free_bytes() >= 15 * MIB, "{} bytes are left for others", pool.free_bytes());
        let mut reading = read(&file, &pool);
        let first = reading.next().await.unwrap().unwrap();
        assert_eq!(first.len(), SMALL_BYTES);
        assert!(rest(reading).await == content()[SMALL_BYTES..]);
        stopped.clear();
        assert!(rest(read(&file, &pool)).await == content());
    }
}
