//! How parts and tails become an object.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tokio::sync::SemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, FailureKind};
use crate::open_part::known;
use crate::parts::{Multipart, Part};
use crate::patience::Patience;
use crate::store::Inner;
use crate::token::{Stored, Token, read_list};
use storage::adapter::check_size;
use storage::{BlobKey, Resume};

/// Failures of one completion that name a part that is not stored. Stores that list parts late show them as
/// well.
const MOST_INVALID: u32 = 3;

impl Inner {
    pub(crate) fn patience(&self, ended: &CancellationToken) -> Patience {
        Patience { give_up_after: self.settings.give_up_after, ended: ended.clone() }
    }

    /// Returns the patience of work that nobody ends earlier.
    pub(crate) fn unending(&self) -> Patience {
        self.patience(&CancellationToken::new())
    }

    /// Returns what a token says, with the parts from its list.
    pub(crate) async fn load(&self, key: &BlobKey, token: Token) -> io::Result<Stored> {
        let Some(list) = token.list else { return Ok(token.stored) };
        let object = self.names.extra(key, list.name);
        let patience = self.unending();
        let bytes = patience.retry(|| self.s3.get(&object, 0)).await.map_err(Failure::into_io)?;
        let mut parts = read_list(&bytes)?;
        let listed_bytes: u64 = parts.iter().map(|part| part.length_bytes).sum();
        if (parts.len(), listed_bytes) != (list.count, token.listed_bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the list of parts is not the one the token names"));
        }
        parts.extend(token.stored.parts);
        Ok(Stored { parts, ..token.stored })
    }

    /// Makes an object of what a token says, unless that was done.
    pub(crate) async fn seal(&self, key: &BlobKey, from: Option<&Resume>, size_bytes: u64) -> io::Result<()> {
        let token = Token::decode(from)?;
        let (object, patience) = (self.names.object(key), self.unending());
        match patience.retry(|| self.s3.size(&object)).await.map_err(Failure::into_io)? {
            Some(known) if known == size_bytes => return Ok(()),
            Some(other) => {
                return Err(io::Error::other(format!("it is sealed with {other} bytes, not with {size_bytes}")));
            }
            None => check_size(token.end(), size_bytes)?,
        }
        let stored = self.load(key, token).await?;
        let made = match (&stored.upload, stored.tails.as_slice()) {
            (Some(upload), _) => self.complete(key, upload, &stored, &patience).await,
            (None, [tail]) => {
                let tail = self.names.extra(key, tail.name);
                patience.retry(|| self.s3.copy(&tail, &object, size_bytes)).await
            }
            (None, _) => self.put_tails(key, &stored, &patience).await,
        };
        made.map_err(Failure::into_io)
    }

    /// Completes a multipart upload, with the tails as its last part. Whether it is completed is judged by
    /// the object and never by the answer (scale-out O10).
    async fn complete(
        &self,
        key: &BlobKey,
        upload: &Multipart,
        stored: &Stored,
        patience: &Patience,
    ) -> Result<(), Failure> {
        let object = self.names.object(key);
        let mut parts: Vec<Part> = stored.parts.clone();
        if !stored.tails.is_empty() {
            let (_room, pieces) = self.tails_of(key, stored, patience).await?;
            parts.push(self.put_part(key, (upload, parts.len() + 1), &pieces, patience).await?);
        }
        let size_bytes = stored.end();
        let timeout = self.settings.complete_timeout;
        let patience = Patience { give_up_after: timeout, ..patience.clone() };
        let invalid = AtomicU32::new(0);
        let attempt = async || {
            let answer = self.s3.complete(&object, &upload.id, &parts, timeout).await;
            match self.s3.size(&object).await? {
                Some(size) if size == size_bytes => return Ok(()),
                Some(size) => {
                    let other = format!("it is complete with {size} bytes, not with {size_bytes}");
                    return Err(Failure::new(FailureKind::Refused, other));
                }
                None => {}
            }
            let failure = answer.err().unwrap_or_else(|| Failure::new(FailureKind::Transient, "it is not there yet"));
            if failure.kind == FailureKind::InvalidPart && invalid.fetch_add(1, Ordering::Relaxed) + 1 < MOST_INVALID {
                return Err(Failure::new(FailureKind::Transient, failure.to_string()));
            }
            Err(failure)
        };
        patience.retry(attempt).await
    }

    /// Stores an object that has no part.
    async fn put_tails(&self, key: &BlobKey, stored: &Stored, patience: &Patience) -> Result<(), Failure> {
        let (_room, pieces) = self.tails_of(key, stored, patience).await?;
        let object = self.names.object(key);
        patience.retry(|| self.s3.put(&object, &pieces)).await
    }

    async fn tails_of(
        &self,
        key: &BlobKey,
        stored: &Stored,
        patience: &Patience,
    ) -> Result<(Option<SemaphorePermit<'_>>, Vec<Bytes>), Failure> {
        let tails = stored.tails.iter().copied().map(known).collect();
        self.read_back(key, tails, stored.tails_bytes(), patience).await
    }

    /// Removes the small objects beside a blob.
    pub(crate) async fn remove_extras(&self, key: &BlobKey, patience: &Patience) -> Result<(), Failure> {
        let folder = self.names.folder(key);
        patience
            .retry(async || {
                let extras = self.s3.names_in(&folder).await?;
                if extras.is_empty() { Ok(()) } else { self.s3.delete(extras).await }
            })
            .await
    }

    /// Removes everything of a blob, also multipart uploads that no token names: the answers to their
    /// creation were lost.
    pub(crate) async fn remove(
        &self,
        key: &BlobKey,
        upload_id: Option<&str>,
        patience: &Patience,
    ) -> Result<(), Failure> {
        let object = self.names.object(key);
        let mut uploads: Vec<String> = upload_id.into_iter().map(str::to_owned).collect();
        for found in patience.retry(|| self.s3.uploads_of(&object)).await? {
            if !uploads.contains(&found) {
                uploads.push(found);
            }
        }
        for upload_id in &uploads {
            // A part that arrives while the upload is aborted may be stored nevertheless (scale-out O13).
            patience
                .retry(async || {
                    self.s3.abort(&object, upload_id).await?;
                    match self.s3.parts(&object, upload_id, true).await? {
                        None => Ok(()),
                        Some(_) => Err(Failure::new(FailureKind::Transient, "an aborted upload still has parts")),
                    }
                })
                .await?;
        }
        patience.retry(|| self.s3.delete(vec![object.clone()])).await?;
        self.remove_extras(key, patience).await
    }
}
