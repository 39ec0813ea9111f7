//! Writing one blob: bytes are gathered in memory until a part is full, and parts are sent while more bytes
//! arrive.
//!
//! Bytes behind the last part become durable as a tail, a small object, when somebody requests a checkpoint.
//! They are also kept in memory, so that the part they belong to need not be read back (scale-out O5).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::SemaphorePermit;

use crate::failure::{Failure, FailureKind};
use crate::open_part::{Extras, Gathered, Registered, Requested, known, request};
use crate::parts::{Extra, MOST_PARTS, Multipart, Part, Tail};
use crate::patience::Patience;
use crate::store::Inner;
use crate::token::{PartList, Stored, list_of};
use crate::turns::Turn;
use storage::{BlobKey, BlobWriter, Checkpoint, Error, Result, Resume};

type Outcome<T> = std::result::Result<T, Failure>;

/// The writer of one blob.
#[derive(Debug)]
pub(crate) struct ObjectWriter {
    inner: Arc<Inner>,
    turn: Turn,
    part_bytes: u64,
    /// The size of the whole blob, if it is known: the part that ends there is full.
    size_bytes: Option<u64>,
    upload: Option<Requested<Multipart>>,
    parts: Vec<Part>,
    /// The parts behind them that are being sent, in order.
    sending: VecDeque<Requested<Part>>,
    open: Registered,
}

impl ObjectWriter {
    /// Continues a blob behind what is stored.
    pub(crate) fn new(
        inner: Arc<Inner>,
        key: BlobKey,
        turn: Turn,
        (stored, list): (Stored, Option<PartList>),
        size_bytes: Option<u64>,
    ) -> Self {
        let gathered = Gathered::behind(stored.parts_bytes(), stored.tails);
        let open = Registered::new(Arc::clone(&inner), key, turn.clone(), Extras::new(list), gathered);
        Self {
            inner,
            turn,
            part_bytes: stored.part_bytes,
            size_bytes,
            upload: stored.upload.map(known),
            parts: stored.parts,
            sending: VecDeque::new(),
            open,
        }
    }

    fn key(&self) -> &BlobKey {
        &self.open.part.key
    }

    fn end(&self) -> u64 {
        let gathered = self.open.part.gathered();
        gathered.open_at + gathered.end
    }

    fn check_turn(&self) -> io::Result<()> {
        if self.turn.ended.is_cancelled() {
            return Err(io::Error::other("the blob was reopened, sealed, finished or removed concurrently"));
        }
        Ok(())
    }

    /// Waits until another part may be held in memory.
    async fn wait_for_room(&mut self) -> Outcome<()> {
        while let Some(first) = self.sending.front() {
            if self.sending.len() < self.inner.settings.upload_parts_in_flight && first.peek().is_none() {
                return Ok(());
            }
            let part = first.clone().await?;
            self.sending.pop_front();
            self.parts.push(part);
        }
        Ok(())
    }

    /// Adds bytes to the open part, and sends each part that becomes full.
    fn take(&mut self, mut chunk: Bytes) -> io::Result<()> {
        while !chunk.is_empty() {
            let room = self.room();
            let length = usize::try_from(room).unwrap_or(usize::MAX).min(chunk.len());
            self.open.part.push(&self.inner, chunk.split_to(length));
            if length as u64 == room {
                self.send_part()?;
            }
        }
        self.inner.open_parts.relieve(&self.inner);
        Ok(())
    }

    /// Returns how many bytes the open part still takes. The last part of a blob of known size is shorter,
    /// but a blob of a single part is no multipart upload at all.
    fn room(&self) -> u64 {
        let gathered = self.open.part.gathered();
        let left = self.size_bytes.filter(|_| gathered.open_at > 0).map(|size| size.saturating_sub(gathered.open_at));
        let full = left.filter(|left| *left > gathered.end).map_or(self.part_bytes, |left| left.min(self.part_bytes));
        full - gathered.end
    }

    /// Sends the open part, which is full, and begins the next.
    fn send_part(&mut self) -> io::Result<()> {
        let number = self.parts.len() + self.sending.len() + 1;
        if number > MOST_PARTS {
            let full = format!("it has {MOST_PARTS} parts of {} bytes, and cannot have more", self.part_bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, full));
        }
        let gathered = self.open.part.take(&self.inner);
        let upload = self.upload();
        let (inner, key, patience) = (Arc::clone(&self.inner), self.key().clone(), self.patience());
        self.sending.push_back(request(&self.turn, async move {
            let upload = upload.await?;
            let (held_from, held) = (gathered.held_from, gathered.held);
            let (_room, mut pieces) = inner.read_back(&key, gathered.tails, held_from, &patience).await?;
            pieces.extend(held);
            inner.put_part(&key, (&upload, number), &pieces, &patience).await
        }));
        Ok(())
    }

    /// Returns the multipart upload, and begins it if there is none.
    fn upload(&mut self) -> Requested<Multipart> {
        if let Some(known) = &self.upload {
            return known.clone();
        }
        let (inner, key, patience) = (Arc::clone(&self.inner), self.key().clone(), self.patience());
        let requested = request(&self.turn, async move {
            let has_checksums = inner.s3.sends_checksums();
            inner.begin_upload(&key, has_checksums, &patience).await
        });
        self.upload.insert(requested).clone()
    }

    fn patience(&self) -> Patience {
        self.inner.patience(&self.turn.ended)
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> Error {
        Error::new(operation, self.key(), source)
    }
}

#[async_trait]
impl BlobWriter for ObjectWriter {
    async fn write(&mut self, offset: u64, chunk: Bytes) -> Result<()> {
        self.check_turn().map_err(|source| self.failed("write", source))?;
        if offset != self.end() {
            let elsewhere = format!("bytes come in order, at byte {} and not at {offset}", self.end());
            return Err(self.failed("write", io::Error::new(io::ErrorKind::InvalidInput, elsewhere)));
        }
        self.wait_for_room().await.map_err(|failure| self.failed("write", failure.into_io()))?;
        self.take(chunk).map_err(|source| self.failed("write", source))
    }

    async fn checkpoint(&mut self, end: u64) -> Result<Checkpoint> {
        self.check_turn().map_err(|source| self.failed("sync", source))?;
        if end != self.end() {
            let elsewhere = format!("a checkpoint reaches to byte {} and not to {end}", self.end());
            return Err(self.failed("sync", io::Error::new(io::ErrorKind::InvalidInput, elsewhere)));
        }
        let part = Arc::clone(&self.open.part);
        let tails = {
            let mut gathered = part.gathered();
            if gathered.has_unsaved() {
                part.save_tail(&self.inner, &mut gathered);
            }
            gathered.tails.clone()
        };
        let (inner, patience) = (Arc::clone(&self.inner), self.patience());
        let mut stored = Stored { part_bytes: self.part_bytes, parts: self.parts.clone(), ..Stored::default() };
        let (sending, upload) = (self.sending.clone(), self.upload.clone());
        let key = self.key().clone();
        let promise = async move {
            for part in sending {
                stored.parts.push(part.await?);
            }
            for tail in tails {
                stored.tails.push(tail.await?);
            }
            if let Some(upload) = upload
                && !stored.parts.is_empty()
            {
                stored.upload = Some(upload.await?);
            }
            inner.token(&part.key, &stored, &part.extras, &patience).await
        };
        Ok(promise.map(move |done| done.map_err(|failure| Error::new("sync", &key, failure.into_io()))).boxed())
    }

    async fn close(self: Box<Self>) {
        self.turn.tasks.close();
        self.turn.tasks.wait().await;
        self.inner.turns.forget(self.key(), &self.turn);
    }
}

impl Inner {
    /// Begins a multipart upload.
    pub(crate) async fn begin_upload(
        &self,
        key: &BlobKey,
        has_checksums: bool,
        patience: &Patience,
    ) -> Outcome<Multipart> {
        let object = self.names.object(key);
        let attempts = AtomicU32::new(0);
        let create = || {
            attempts.fetch_add(1, Ordering::Relaxed);
            self.s3.create(&object, has_checksums)
        };
        let upload = patience.retry(create).await?;
        if attempts.load(Ordering::Relaxed) > 1 {
            self.abort_others(key, &upload.id, patience).await?;
        }
        Ok(upload)
    }

    /// Aborts multipart uploads of a blob that nobody knows: the answers to their creation were lost.
    pub(crate) async fn abort_others(&self, key: &BlobKey, ours: &str, patience: &Patience) -> Outcome<()> {
        let object = self.names.object(key);
        for other in patience.retry(|| self.s3.uploads_of(&object)).await? {
            if other != ours {
                patience.retry(|| self.s3.abort(&object, &other)).await?;
            }
        }
        Ok(())
    }

    /// Sends a part, as soon as the store may be sent one.
    pub(crate) async fn put_part(
        &self,
        key: &BlobKey,
        (upload, number): (&Multipart, usize),
        pieces: &[Bytes],
        patience: &Patience,
    ) -> Outcome<Part> {
        let object = self.names.object(key);
        self.sent(patience, || self.s3.put_part(&object, upload, number, pieces)).await
    }

    /// Stores a small object beside a blob.
    pub(crate) async fn put_extra(
        &self,
        key: &BlobKey,
        name: Extra,
        pieces: &[Bytes],
        patience: &Patience,
    ) -> Outcome<()> {
        let object = self.names.extra(key, name);
        self.sent(patience, || self.s3.put(&object, pieces)).await
    }

    /// Sends bytes, as soon as the store may be sent some more.
    async fn sent<T, F>(&self, patience: &Patience, send: impl Fn() -> F) -> Outcome<T>
    where
        F: Future<Output = Outcome<T>>,
    {
        let attempt = async || {
            let _permit = self.in_flight.permit().await;
            let sent = send().await;
            match &sent {
                Ok(_) => self.in_flight.note_success(),
                Err(failure) if failure.kind == FailureKind::Transient => self.in_flight.note_overload(),
                Err(_) => {}
            }
            sent
        };
        patience.retry(attempt).await
    }

    /// Reads the tails of an open part, which have its first `held_from` bytes, if those are not in memory.
    /// Only a few are read at once, until the permit is dropped: their memory is outside all limits.
    pub(crate) async fn read_back(
        &self,
        key: &BlobKey,
        tails: Vec<Requested<Tail>>,
        held_from: u64,
        patience: &Patience,
    ) -> Outcome<(Option<SemaphorePermit<'_>>, Vec<Bytes>)> {
        if held_from == 0 {
            return Ok((None, Vec::new()));
        }
        let room = self.reading_back.acquire().await.ok();
        let (mut pieces, mut at) = (Vec::new(), 0);
        for tail in tails {
            if at >= held_from {
                break;
            }
            let tail = tail.await?;
            let bytes = self.read_tail(key, tail, patience).await?;
            // A merged tail also has bytes that are in memory.
            let missing = usize::try_from(held_from - at).unwrap_or(usize::MAX).min(bytes.len());
            pieces.push(bytes.slice(..missing));
            at += tail.length_bytes;
        }
        Ok((room, pieces))
    }

    /// Reads one tail.
    pub(crate) async fn read_tail(&self, key: &BlobKey, tail: Tail, patience: &Patience) -> Outcome<Bytes> {
        let object = self.names.extra(key, tail.name);
        let bytes = patience.retry(|| self.s3.get(&object, tail.length_bytes)).await?;
        if bytes.len() as u64 != tail.length_bytes {
            let differs = format!("a tail has {} bytes, not {}", bytes.len(), tail.length_bytes);
            return Err(Failure::new(FailureKind::TooShort, differs));
        }
        Ok(bytes)
    }

    /// Returns the token of what is stored, and writes the list of its parts if the token would be too long
    /// with them.
    pub(crate) async fn token(
        &self,
        key: &BlobKey,
        stored: &Stored,
        extras: &Extras,
        patience: &Patience,
    ) -> Outcome<Resume> {
        if let Some(token) = stored.token(extras.list_within(stored.parts.len())) {
            return Ok(token);
        }
        let list = PartList { name: extras.name(), count: stored.parts.len() };
        self.put_extra(key, list.name, &[Bytes::from(list_of(&stored.parts))], patience).await?;
        extras.keep_list(list);
        stored.token(Some(list)).ok_or_else(|| Failure::new(FailureKind::Refused, "the resume token is too long"))
    }
}
