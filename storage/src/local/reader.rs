//! Reads a file in order, a chunk ahead of whoever takes the bytes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use tokio::task::JoinHandle;

use super::blocking;
use crate::BlobKey;
use crate::ByteStream;
use crate::Error;

const CHUNK_BYTES: u64 = 256 << 10;

/// The bytes of `file` within `range`. The open file stays readable when its name is moved or removed meanwhile.
pub(super) fn stream(key: BlobKey, file: File, range: Range<u64>) -> ByteStream {
    let mut reader = Reader { file: Arc::new(file), left: range };
    let first = reader.start_next();
    let chunks = stream::unfold((reader, first), |(mut reader, coming)| async {
        let chunk = blocking::outcome(coming?).await;
        // An error is the last item.
        let next = if chunk.is_ok() { reader.start_next() } else { None };
        Some((chunk, (reader, next)))
    });
    chunks.map(move |chunk| chunk.map_err(|source| Error::new("read", &key, source))).boxed()
}

struct Reader {
    file: Arc<File>,
    left: Range<u64>,
}

impl Reader {
    fn start_next(&mut self) -> Option<JoinHandle<io::Result<Bytes>>> {
        if self.left.is_empty() {
            return None;
        }
        let start = self.left.start;
        let end = start.saturating_add(CHUNK_BYTES).min(self.left.end);
        self.left.start = end;
        let file = Arc::clone(&self.file);
        Some(blocking::start(move || read_at(&file, start..end)))
    }
}

fn read_at(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let size = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let at = range.start + bytes.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => {
                let short = format!("it ends at byte {at}, before what was asked for");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, short));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(size);
    Ok(bytes.into())
}
