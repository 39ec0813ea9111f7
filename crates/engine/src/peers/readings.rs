//! The progress of uploads that other nodes write.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::PeerAccess;
use super::metrics::MeasuredCall;
use crate::Inner;
use crate::lock::lock;
use domain::id::{InstanceId, UploadId};
use domain::upload::Upload;
use state::ProgressReading;

/// A reading that nobody has requested for this time is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// The last readings of other nodes' writers, by upload.
#[derive(Debug, Default)]
pub(crate) struct PeerReadings(Mutex<HashMap<UploadId, KnownReading>>);

#[derive(Debug, Clone, Copy)]
struct KnownReading {
    holder: InstanceId,
    taken: Instant,
    /// `None` if the holder does not write the upload, or has not answered.
    reading: Option<ProgressReading>,
}

impl KnownReading {
    fn now(&self) -> Option<ProgressReading> {
        let aged = |reading: ProgressReading| ProgressReading { age: reading.age + self.taken.elapsed(), ..reading };
        self.reading.map(aged)
    }
}

impl Inner {
    /// Reads the progress of uploads as they were found: from the local writers, and from the nodes that hold
    /// the others.
    pub(crate) async fn live_of(&self, found: &[Upload]) -> Vec<Option<ProgressReading>> {
        let ids: Vec<UploadId> = found.iter().map(Upload::id).collect();
        let mut live = self.progress.of(&ids).await;
        let Some(peers) = &self.peers else { return live };
        let elsewhere = |(place, upload): (usize, &Upload)| {
            let (_, holder) = self.other_holder(upload).filter(|_| live[place].is_none())?;
            Some((place, upload.id(), holder))
        };
        let wanted: Vec<(usize, UploadId, InstanceId)> = found.iter().enumerate().filter_map(elsewhere).collect();
        let asked: Vec<(UploadId, InstanceId)> = wanted.iter().map(|(_, id, holder)| (*id, *holder)).collect();
        for ((place, ..), reading) in wanted.into_iter().zip(self.readings_of(peers, &asked).await) {
            live[place] = reading;
        }
        live
    }

    /// Reads the progress of an upload whose record was read a moment ago, or is not known.
    pub(crate) async fn live_again(&self, id: UploadId) -> Option<ProgressReading> {
        let local = self.progress.of(&[id]).await.into_iter().next().flatten();
        match &self.peers {
            Some(peers) if local.is_none() => {
                let holder = peers.readings.holder_of(id)?;
                self.readings_of(peers, &[(id, holder)]).await.into_iter().next().flatten()
            }
            Some(_) | None => local,
        }
    }

    /// Reads the progress of uploads of these holders, with one call to each of them.
    async fn readings_of(&self, peers: &PeerAccess, wanted: &[(UploadId, InstanceId)]) -> Vec<Option<ProgressReading>> {
        let mut missing: HashMap<InstanceId, Vec<UploadId>> = HashMap::new();
        for (upload, holder) in peers.readings.outdated(wanted, peers.limits.progress_reuse) {
            missing.entry(holder).or_default().push(upload);
        }
        join_all(missing.into_iter().map(|(holder, uploads)| self.read(peers, holder, uploads))).await;
        peers.readings.of(wanted)
    }

    async fn read(&self, peers: &PeerAccess, holder: InstanceId, uploads: Vec<UploadId>) {
        let call = peers.calls.progress(holder, &uploads);
        let answer = self.measure(MeasuredCall::Progress, peers.limits.progress_timeout, call).await;
        let mut readings = answer.unwrap_or_default();
        readings.resize(uploads.len(), None);
        peers.readings.keep(holder, uploads.into_iter().zip(readings));
    }
}

impl PeerReadings {
    fn outdated(&self, wanted: &[(UploadId, InstanceId)], reuse: Duration) -> Vec<(UploadId, InstanceId)> {
        let known = lock(&self.0);
        let is_recent = |(upload, holder): &&(UploadId, InstanceId)| {
            known.get(upload).is_some_and(|known| known.holder == *holder && known.taken.elapsed() < reuse)
        };
        wanted.iter().filter(|wanted| !is_recent(wanted)).copied().collect()
    }

    fn keep(&self, holder: InstanceId, readings: impl Iterator<Item = (UploadId, Option<ProgressReading>)>) {
        let taken = Instant::now();
        let mut known = lock(&self.0);
        known.retain(|_, known| known.taken.elapsed() < FORGOTTEN_AFTER);
        known.extend(readings.map(|(upload, reading)| (upload, KnownReading { holder, taken, reading })));
    }

    fn of(&self, wanted: &[(UploadId, InstanceId)]) -> Vec<Option<ProgressReading>> {
        let known = lock(&self.0);
        let reading = |(upload, holder): &(UploadId, InstanceId)| {
            known.get(upload).filter(|known| known.holder == *holder).and_then(KnownReading::now)
        };
        wanted.iter().map(reading).collect()
    }

    fn holder_of(&self, upload: UploadId) -> Option<InstanceId> {
        lock(&self.0).get(&upload).map(|known| known.holder)
    }
}
