//! Examines the content of an upload, once all its bytes are durable and before its completion is published.
//!
//! Finding the type takes one small read. The headers of a media file take a few more: as many as their
//! reader requests, within the configured limits. The work is done in the task of this upload. The number of
//! files read at once is limited, and waiting for a permit does not count toward the timeout.

use std::ops::Range;
use std::time::Duration;

use futures::StreamExt;

use crate::Inner;
use domain::facts::Facts;
use domain::policy::ContentPolicy;
use domain::upload::Upload;
use media::read::{ReadOutcome, read, typed};
use media::sniff::{Sniffed, sniff};
use media::window::{ParseStop, Window};

/// Settings for the examination of complete uploads, and the policy for their content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaSettings {
    /// Maximum number of bytes read of one upload for this.
    pub read_limit_bytes: u64,
    /// Maximum time for reading the headers; an upload that takes longer has no facts but its type.
    pub timeout: Duration,
    /// Maximum number of media files read at once, at least 1.
    pub max_at_once: usize,
    pub policy: ContentPolicy,
}

impl Inner {
    /// Verifies an upload that has all its bytes: by the digests declared for them, and by their content.
    pub(super) async fn verify(&self, upload: &mut Upload) -> storage::Result<()> {
        let mut objection = None;
        if upload.broken_promise().is_none()
            && let Some(media) = &self.settings.media
        {
            let facts = self.examine(upload, media).await?;
            objection = media.policy.failure_of(&facts, upload.offset().get());
            upload.set_facts(facts);
        }
        match objection {
            Some(failure) => upload.fail(failure, self.now()),
            None => upload.verify(self.now()),
        }
        Ok(())
    }

    async fn examine(&self, upload: &Upload, media: &MediaSettings) -> storage::Result<Facts> {
        let mut window = Window::new(upload.offset().get(), media.read_limit_bytes);
        if let Err(ParseStop::Needs(head)) = window.head() {
            self.fetch(upload, head, &mut window).await?;
        }
        let sniffed = window.head().map_or(sniff(&[]), |head| sniff(&head));
        if sniffed.container.is_none() {
            return Ok(typed(sniffed));
        }
        let _turn = self.examiners.acquire().await;
        let headers = self.read_headers(upload, sniffed, window);
        tokio::time::timeout(media.timeout, headers).await.unwrap_or_else(|_| {
            tracing::warn!(upload = %upload.id(), "reading the headers of a media file timed out");
            Ok(typed(sniffed))
        })
    }

    async fn read_headers(&self, upload: &Upload, sniffed: Sniffed, mut window: Window) -> storage::Result<Facts> {
        loop {
            // Outside the async tasks: a malicious file can keep a processor busy for some milliseconds.
            let looking = tokio::task::spawn_blocking(move || (read(sniffed, &window), window));
            match looking.await {
                Ok((ReadOutcome::Done(facts), _)) => return Ok(facts),
                Ok((ReadOutcome::Needs(range), so_far)) => {
                    window = so_far;
                    self.fetch(upload, range, &mut window).await?;
                }
                // The runtime shuts down, and this task with it.
                Err(_) => return Ok(typed(sniffed)),
            }
        }
    }

    async fn fetch(&self, upload: &Upload, range: Range<u64>, window: &mut Window) -> storage::Result<()> {
        let at = range.start;
        let mut stream = self.read_bytes(upload, range).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        window.insert(at, bytes.into());
        Ok(())
    }
}
