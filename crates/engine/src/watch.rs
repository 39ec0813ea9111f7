//! Who wants to know of changes. Nobody is sent anything here: a change rings, and whoever waits looks for itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use domain::id::UploadId;

type Rings = Arc<Mutex<HashMap<UploadId, watch::Sender<()>>>>;

/// Bells for single uploads, kept only while somebody listens, and one for all of them.
#[derive(Debug)]
pub(super) struct Watch {
    uploads: Rings,
    all: watch::Sender<()>,
}

/// Rings after every commit. Armed when made: a change between making it and waiting is not missed.
#[derive(Debug)]
pub struct Bell {
    /// Taken only when dropped.
    ring: Option<watch::Receiver<()>>,
    listening_to: Option<(UploadId, Rings)>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { uploads: Arc::default(), all: watch::Sender::new(()) }
    }
}

impl Watch {
    pub(super) fn changed(&self, id: UploadId) {
        self.all.send_replace(());
        if let Some(ring) = lock(&self.uploads).get(&id) {
            ring.send_replace(());
        }
    }

    pub(super) fn upload(&self, id: UploadId) -> Bell {
        let mut uploads = lock(&self.uploads);
        let ring = uploads.entry(id).or_insert_with(|| watch::Sender::new(())).subscribe();
        Bell { ring: Some(ring), listening_to: Some((id, Arc::clone(&self.uploads))) }
    }

    pub(super) fn all(&self) -> Bell {
        Bell { ring: Some(self.all.subscribe()), listening_to: None }
    }
}

impl Bell {
    /// Waits for a change since the last time this was asked.
    pub async fn rang(&mut self) {
        if let Some(ring) = &mut self.ring
            && ring.changed().await.is_ok()
        {
            return;
        }
        // The engine is gone: nothing will change any more.
        std::future::pending().await
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if let Some((id, uploads)) = &self.listening_to {
            let mut uploads = lock(uploads);
            self.ring = None;
            if uploads.get(id).is_some_and(|ring| ring.receiver_count() == 0) {
                uploads.remove(id);
            }
        }
    }
}

fn lock(rings: &Rings) -> MutexGuard<'_, HashMap<UploadId, watch::Sender<()>>> {
    rings.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::time::Timestamp;

    #[tokio::test]
    async fn a_change_rings_its_own_bell_and_the_common_one() {
        let watch = Watch::default();
        let [one, two] = [1, 2].map(|byte| UploadId::new(Timestamp::from_unix_ms(1), [byte; 10]));
        let (mut first, mut second, mut other, mut all) =
            (watch.upload(one), watch.upload(one), watch.upload(two), watch.all());
        watch.changed(one);
        first.rang().await;
        second.rang().await;
        all.rang().await;
        assert!(futures::FutureExt::now_or_never(other.rang()).is_none());
    }

    #[test]
    fn a_bell_nobody_listens_to_is_put_away() {
        let watch = Watch::default();
        let id = UploadId::new(Timestamp::from_unix_ms(1), [1; 10]);
        let (first, second) = (watch.upload(id), watch.upload(id));
        drop(first);
        assert_eq!(lock(&watch.uploads).len(), 1);
        drop(second);
        assert!(lock(&watch.uploads).is_empty());
    }
}
