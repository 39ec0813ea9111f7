//! Bells: wake-ups without content for tasks that wait for changes of uploads. A change rings, and the woken
//! task reads the state.
//!
//! Rings provide speed; reading the state provides correctness. An adapter that reaches other nodes may
//! therefore lose a ring, provided that it sets an interval at which its bells ring without a change.
//! [`LocalBells`] reaches only its own process and loses no rings.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use crate::lock::lock;
use domain::id::UploadId;

/// Wakes tasks that wait for changes of uploads.
pub trait Bells: fmt::Debug + Send + Sync + 'static {
    /// Rings for an upload. Called after each of its commits; never waits.
    fn changed(&self, upload: UploadId);

    /// Makes a bell for one upload. Changes after this call are not missed, so callers make the bell before
    /// they read the state.
    fn of_upload(&self, upload: UploadId) -> Bell;

    /// Makes a bell for all uploads, with the same guarantee.
    fn of_all(&self) -> Bell;
}

type UploadBells = Arc<Mutex<HashMap<UploadId, watch::Sender<()>>>>;

/// The bells of one process: bells for single uploads, kept only while a task listens, and one for all
/// uploads.
#[derive(Debug)]
pub struct LocalBells {
    uploads: UploadBells,
    all: watch::Sender<()>,
    poll_interval: Option<Duration>,
}

/// A bell that rings after every commit. It is armed when it is made: a change between its creation and the
/// wait is not missed.
#[derive(Debug)]
pub struct Bell {
    /// Set until the bell is dropped.
    ring: Option<watch::Receiver<()>>,
    upload: Option<(UploadId, UploadBells)>,
    poll_interval: Option<Duration>,
}

impl Default for LocalBells {
    fn default() -> Self {
        Self { uploads: Arc::default(), all: watch::Sender::new(()), poll_interval: None }
    }
}

impl LocalBells {
    /// Makes bells for an adapter whose rings come from other nodes and may be lost. They also ring at this
    /// interval without a change.
    pub fn with_poll_interval(every: Duration) -> Self {
        Self { poll_interval: Some(every), ..Self::default() }
    }

    /// Rings every bell: another node has changed uploads, and it is not known which.
    pub fn ring_all(&self) {
        self.all.send_replace(());
        for ring in lock(&self.uploads).values() {
            ring.send_replace(());
        }
    }
}

impl Bells for LocalBells {
    fn changed(&self, upload: UploadId) {
        self.all.send_replace(());
        if let Some(ring) = lock(&self.uploads).get(&upload) {
            ring.send_replace(());
        }
    }

    fn of_upload(&self, upload: UploadId) -> Bell {
        let mut uploads = lock(&self.uploads);
        let ring = uploads.entry(upload).or_insert_with(|| watch::Sender::new(())).subscribe();
        let upload = Some((upload, Arc::clone(&self.uploads)));
        Bell { ring: Some(ring), upload, poll_interval: self.poll_interval }
    }

    fn of_all(&self) -> Bell {
        Bell { ring: Some(self.all.subscribe()), upload: None, poll_interval: self.poll_interval }
    }
}

impl Bell {
    /// Waits for a change since the previous call, or for the poll interval to pass.
    pub async fn rung(&mut self) {
        match self.poll_interval {
            None => self.changed().await,
            Some(every) => tokio::time::timeout(every, self.changed()).await.unwrap_or_default(),
        }
    }

    async fn changed(&mut self) {
        if let Some(ring) = &mut self.ring
            && ring.changed().await.is_ok()
        {
            return;
        }
        // The sender is gone, so nothing will change any more.
        std::future::pending().await
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if let Some((id, uploads)) = &self.upload {
            let mut uploads = lock(uploads);
            self.ring = None;
            if uploads.get(id).is_some_and(|ring| ring.receiver_count() == 0) {
                uploads.remove(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;
    use domain::time::Timestamp;

    #[tokio::test(start_paused = true)]
    async fn local_bells_keep_the_promises_of_the_port() {
        conformance::bells::a_change_rings_its_own_bell_and_the_common_one(&LocalBells::default()).await;
        conformance::bells::a_change_before_the_waiting_is_not_missed(&LocalBells::default()).await;
        conformance::bells::a_change_before_the_waiting_is_not_missed(&LocalBells::with_poll_interval(
            Duration::from_hours(1),
        ))
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_bell_whose_rings_may_be_lost_rings_at_intervals() {
        let bells = LocalBells::with_poll_interval(Duration::from_secs(2));
        let began = tokio::time::Instant::now();
        bells.of_all().rung().await;
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        let never =
            tokio::time::timeout(Duration::from_hours(1), async { LocalBells::default().of_all().rung().await });
        assert!(never.await.is_err(), "where no ring is lost, no task polls");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_an_unknown_upload_rings_every_bell() {
        let bells = LocalBells::default();
        let mut of_one = bells.of_upload(UploadId::new(Timestamp::from_unix_ms(1), [1; 10]));
        let mut of_all = bells.of_all();
        bells.ring_all();
        of_one.rung().await;
        of_all.rung().await;
    }

    #[test]
    fn a_bell_nobody_listens_to_is_put_away() {
        let bells = LocalBells::default();
        let id = UploadId::new(Timestamp::from_unix_ms(1), [1; 10]);
        let (first, second) = (bells.of_upload(id), bells.of_upload(id));
        drop(first);
        assert_eq!(lock(&bells.uploads).len(), 1);
        drop(second);
        assert!(lock(&bells.uploads).is_empty());
    }
}
