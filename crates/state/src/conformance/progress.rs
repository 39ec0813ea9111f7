//! Guarantees of every adapter of [`LiveProgress`].

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{LiveProgress, ProgressReading, WriterCounters};

#[derive(Debug, Default)]
struct Received(AtomicU64);

impl WriterCounters for Received {
    fn read(&self) -> ProgressReading {
        ProgressReading { received_bytes: self.0.load(Ordering::Relaxed), bytes_per_second: 0, age: Duration::ZERO }
    }
}

/// Reads until the expected values appear: an adapter may lag, but not forever.
async fn shows(progress: &dyn LiveProgress, uploads: &[UploadId], expected: &[Option<u64>]) {
    let read = async || {
        let readings = progress.of(uploads).await;
        readings.into_iter().map(|reading| reading.map(|reading| reading.received_bytes)).collect::<Vec<_>>()
    };
    let catching_up = async {
        while read().await != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(30), catching_up).await.is_err() {
        assert_eq!(read().await, expected);
    }
}

pub async fn a_reading_follows_its_writer(progress: &dyn LiveProgress) {
    let uploads = [1, 2, 3].map(|number| new_upload(number).id());
    let [one, two, three] = uploads;
    shows(progress, &uploads, &[None; 3]).await;
    let (first, second) = (Arc::new(Received::default()), Arc::new(Received::default()));
    let published: [Arc<dyn WriterCounters>; 2] = [Arc::clone(&first) as _, Arc::clone(&second) as _];
    progress.publish(one, Arc::clone(&published[0]));
    progress.publish(three, Arc::clone(&published[1]));
    first.0.store(5, Ordering::Relaxed);
    shows(progress, &[three, two, one], &[Some(0), None, Some(5)]).await;
    first.0.store(9, Ordering::Relaxed);
    shows(progress, &[one], &[Some(9)]).await;
    progress.withdraw(one, &published[0]);
    shows(progress, &uploads, &[None, None, Some(0)]).await;
    shows(progress, &[], &[]).await;
}

/// Writers succeed each other, and the earlier one may end after the next has begun.
pub async fn the_end_of_a_writer_takes_nothing_from_the_next(progress: &dyn LiveProgress) {
    let upload = new_upload(1).id();
    let [first, second]: [Arc<dyn WriterCounters>; 2] =
        [5, 7].map(|received| Arc::new(Received(AtomicU64::new(received))) as Arc<dyn WriterCounters>);
    progress.publish(upload, Arc::clone(&first));
    progress.publish(upload, Arc::clone(&second));
    progress.withdraw(upload, &first);
    shows(progress, &[upload], &[Some(7)]).await;
    progress.withdraw(upload, &second);
    shows(progress, &[upload], &[None]).await;
}
