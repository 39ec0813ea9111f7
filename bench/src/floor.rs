//! The baselines: a server with just enough tus that discards the bytes, and one that also writes them
//! directly.
//!
//! One thread per connection, plain `recv` into a large buffer, through TLS if there is a certificate. They
//! check nothing and keep no state, so no real server can be faster on the same machine by more than chance.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use anyhow::Context;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::wire;

/// The amount that is received before it is discarded or written.
const BUFFER: usize = 1 << 20;

/// Direct writes need addresses and lengths that are multiples of this; no disk requires more.
const ALIGNMENT: usize = 4096;

/// Concurrent writes.
const IN_FLIGHT: usize = 3;

/// Listens until the process is killed. Without a folder it discards the bytes.
pub(crate) fn serve(port: u16, folder: Option<PathBuf>, tls: Option<Arc<ServerConfig>>) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("could not listen")?;
    let folder = folder.map(Arc::new);
    let created = Arc::new(AtomicU64::new(0));
    for socket in listener.incoming() {
        let (socket, folder, created) = (socket?, folder.clone(), Arc::clone(&created));
        socket.set_nodelay(true)?;
        let tls = tls.clone();
        // A broken connection is an ordinary end.
        thread::spawn(move || match tls.map(ServerConnection::new) {
            None => Connection { socket, pending: Vec::new(), folder, created }.serve().ok(),
            Some(session) => {
                let socket = StreamOwned::new(session.ok()?, socket);
                Connection { socket, pending: Vec::new(), folder, created }.serve().ok()
            }
        });
    }
    Ok(())
}

/// Returns the settings of a TLS server with this certificate.
pub(crate) fn tls(certificate: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

struct Connection<S> {
    socket: S,
    pending: Vec<u8>,
    folder: Option<Arc<PathBuf>>,
    created: Arc<AtomicU64>,
}

impl<S: Read + Write> Connection<S> {
    fn serve(mut self) -> anyhow::Result<()> {
        while let Some(head) = self.head()? {
            let number = |name| wire::header(&head, name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            let (body, offset) = (number("content-length"), number("upload-offset"));
            let mut words = head.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let answer = match method {
                "POST" => {
                    let id = self.created.fetch_add(1, Ordering::Relaxed);
                    self.create(id, number("upload-length"))?;
                    self.body(&format!("/files/{id}"), 0, body)?;
                    format!(
                        "HTTP/1.1 201 Created\r\nLocation: /files/{id}\r\nUpload-Offset: {body}\r\nContent-Length: 0\r\n\r\n"
                    )
                }
                "PATCH" => {
                    self.body(path, offset, body)?;
                    format!("HTTP/1.1 204 No Content\r\nUpload-Offset: {}\r\n\r\n", offset + body)
                }
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
            };
            self.socket.write_all(answer.as_bytes())?;
        }
        Ok(())
    }

    fn head(&mut self) -> anyhow::Result<Option<String>> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(end) = wire::find(&self.pending, b"\r\n\r\n") {
                let rest = self.pending.split_off(end + 4);
                let head = std::mem::replace(&mut self.pending, rest);
                return Ok(Some(String::from_utf8(head)?));
            }
            match self.socket.read(&mut buffer)? {
                0 => return Ok(None),
                count => self.pending.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn create(&self, id: u64, length: u64) -> anyhow::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let file = File::create(folder.join(id.to_string()))?;
        if length > 0 {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length)?;
        }
        Ok(())
    }

    fn body(&mut self, path: &str, offset: u64, size: u64) -> anyhow::Result<()> {
        match self.folder.clone() {
            Some(folder) if size > 0 => {
                let name = path.rsplit('/').next().unwrap_or_default();
                self.store(&folder.join(name), offset, size)
            }
            _ => self.discard(size),
        }
    }

    fn discard(&mut self, size: u64) -> anyhow::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut left = size;
        while left > 0 {
            left -= self.receive(&mut buffer, left)? as u64;
        }
        Ok(())
    }

    /// Receives into a few buffers in rotation, while threads write the full ones; then makes the file
    /// durable.
    fn store(&mut self, path: &Path, offset: u64, size: u64) -> anyhow::Result<()> {
        let file = Arc::new(File::from(rustix::fs::open(path, OFlags::WRONLY | OFlags::DIRECT, Mode::empty())?));
        let (full_in, full_out) = mpsc::channel::<(Aligned, usize, u64)>();
        let (empty_in, empty_out) = mpsc::channel();
        for _ in 0..=IN_FLIGHT {
            empty_in.send(Aligned::new())?;
        }
        let full_out = Arc::new(Mutex::new(full_out));
        let writers: Vec<_> = (0..IN_FLIGHT)
            .map(|_| {
                let (file, full, empty) = (Arc::clone(&file), Arc::clone(&full_out), empty_in.clone());
                thread::spawn(move || write_all(&file, &full, &empty))
            })
            .collect();
        drop(empty_in);
        let (mut at, mut left) = (offset, size);
        while left > 0 {
            let mut buffer = empty_out.recv().context("a write failed")?;
            let mut filled = 0;
            while filled < BUFFER && left > 0 {
                let count = self.receive(&mut buffer.bytes()[filled..], left)?;
                filled += count;
                left -= count as u64;
            }
            full_in.send((buffer, filled, at))?;
            at += filled as u64;
        }
        drop(full_in);
        for writer in writers {
            writer.join().expect("a writer does not panic")?;
        }
        file.sync_data()?;
        Ok(())
    }

    fn receive(&mut self, into: &mut [u8], left: u64) -> anyhow::Result<usize> {
        let most = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if self.pending.is_empty() {
            let count = self.socket.read(&mut into[..most])?;
            anyhow::ensure!(count > 0, "the client went away");
            return Ok(count);
        }
        let count = most.min(self.pending.len());
        into[..count].copy_from_slice(&self.pending[..count]);
        self.pending.drain(..count);
        Ok(count)
    }
}

/// Writes a buffer. A tail is padded to the alignment; the bytes after it are written later, or were never
/// acknowledged.
fn write_all(
    file: &File,
    full: &Mutex<mpsc::Receiver<(Aligned, usize, u64)>>,
    empty: &mpsc::Sender<Aligned>,
) -> std::io::Result<()> {
    loop {
        let next = full.lock().expect("no writer panics with the lock").recv();
        let Ok((mut buffer, filled, at)) = next else { return Ok(()) };
        let padded = filled.next_multiple_of(ALIGNMENT);
        file.write_all_at(&buffer.bytes()[..padded], at)?;
        // The receiving side is gone once everything has been received.
        empty.send(buffer).ok();
    }
}

/// A buffer with the alignment that direct writes need.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new() -> Self {
        let memory = vec![0; BUFFER + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + BUFFER]
    }
}
