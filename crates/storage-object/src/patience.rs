//! How requests are repeated: the only retries there are, as those of the libraries are off (scale-out O16).

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, FailureKind};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// The slowest transfer that is not abandoned, in bytes per second, and the time that a request has besides.
const SLOWEST_BYTES_PER_S: u64 = 256 << 10;
const ALLOWANCE: Duration = Duration::from_secs(10);

/// Returns the time that one request with this many bytes may take.
pub(crate) fn deadline(bytes: u64) -> Duration {
    ALLOWANCE + Duration::from_millis(bytes * 1_000 / SLOWEST_BYTES_PER_S)
}

/// The time for which an operation is repeated, and an earlier end.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    pub(crate) give_up_after: Duration,
    pub(crate) ended: CancellationToken,
}

impl Patience {
    /// Makes a request until it succeeds, fails for good, or the time is over. A request in progress is never
    /// interrupted: the store might still carry it out.
    pub(crate) async fn retry<T, F>(&self, mut request: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let began = Instant::now();
        let mut longest = FIRST_PAUSE;
        loop {
            if self.ended.is_cancelled() {
                return Err(Failure::new(FailureKind::Ended, "the blob was opened, sealed or removed meanwhile"));
            }
            let failure = match request().await {
                Err(failure) if failure.kind == FailureKind::Transient => failure,
                done => return done,
            };
            let pause = longest.mul_f64(rand::random_range(0.5..1.0));
            if began.elapsed() + pause > self.give_up_after {
                return Err(failure);
            }
            tracing::debug!(%failure, ?pause, "a request to the object store will be repeated");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.ended.cancelled() => {}
            }
            longest = (longest * 2).min(LONGEST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn patience(seconds: u64) -> Patience {
        Patience { give_up_after: Duration::from_secs(seconds), ended: CancellationToken::new() }
    }

    fn failed(kind: FailureKind) -> Failure {
        Failure::new(kind, "no")
    }

    #[tokio::test(start_paused = true)]
    async fn only_transient_failures_are_repeated() {
        let count = Cell::new(0);
        let request = |fails: u32, kind| {
            count.set(0);
            let count = &count;
            move || {
                count.set(count.get() + 1);
                std::future::ready(if count.get() <= fails { Err(failed(kind)) } else { Ok(()) })
            }
        };
        assert!(patience(60).retry(request(5, FailureKind::Transient)).await.is_ok());
        assert_eq!(count.get(), 6);
        for kind in [FailureKind::NotFound, FailureKind::NoSuchUpload, FailureKind::Refused, FailureKind::NoSpace] {
            assert_eq!(patience(60).retry(request(5, kind)).await.unwrap_err().kind, kind);
            assert_eq!(count.get(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_in_time_and_when_somebody_ends_it() {
        let began = Instant::now();
        let always = || std::future::ready(Err::<(), _>(failed(FailureKind::Transient)));
        assert_eq!(patience(60).retry(always).await.unwrap_err().kind, FailureKind::Transient);
        assert!((30..=60).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());

        let patience = patience(3_600);
        let ended = patience.ended.clone();
        let end = async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            ended.cancel();
        };
        let began = Instant::now();
        let (failure, ()) = tokio::join!(patience.retry(always), end);
        assert_eq!(failure.unwrap_err().kind, FailureKind::Ended);
        assert_eq!(began.elapsed().as_secs(), 40);
    }
}
