//! Fitting the server into the number of files the system lets it have open.
//!
//! A process that runs out of descriptors can neither accept a connection nor open a file, and an upload fails that
//! was promised a place. So the limits are made to fit at the start, and told.

use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;

use crate::app::listeners::worker_count;
use crate::config::Config;
use crate::engine::MAX_PARKED;
use crate::http::listen::TURNED_AWAY_AT_ONCE;

/// Standard streams, the lock, the log, looking into folders, and some to spare.
const ALWAYS: u64 = 64;

/// Of one thread that serves connections: its poll, its wake-up, a file it reads.
const OF_A_WORKER: u64 = 6;

/// Of one connection to the database: the file, its log and its shared memory.
const OF_A_DATABASE_CONNECTION: u64 = 3;

/// Of one client's connection: the socket, and the file it may be reading.
const OF_A_CONNECTION: u64 = 2;

/// Of one upload: its file, and once more for writes past the page cache.
const OF_AN_UPLOAD: u64 = 2;

/// Of uploads that are kept open for their next request, of concatenations (a part and what it goes into, two at a
/// time), and of media files whose headers are read.
const OF_OTHER_BLOBS: u64 = OF_AN_UPLOAD * MAX_PARKED as u64 + 4;

/// What may be open at once, by what it is for: how many descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    connections: u64,
    read_connections: u64,
    uploads: u64,
}

/// Raises the limit as far as it goes, and lowers what does not fit into it.
pub(super) fn fit(config: &mut Config) {
    let limit = raise();
    let wanted = Share {
        connections: number(config.limits.max_connections).saturating_mul(OF_A_CONNECTION),
        read_connections: config
            .server
            .read_listen
            .map_or(0, |_| number(config.limits.max_read_connections).saturating_mul(OF_A_CONNECTION)),
        uploads: number(config.limits.max_active_uploads).saturating_mul(OF_AN_UPLOAD),
    };
    let reserve = reserve(config);
    let Some(fits) = wanted.within(limit.saturating_sub(reserve)) else { return };
    let needed = wanted.sum().saturating_add(reserve);
    let (wanted, fits) = (wanted.counts(), fits.counts());
    tracing::warn!(
        limit,
        needed,
        "the limit of open files is {limit}, too low for what is configured: limits.max_connections is {} now instead \
         of {}, {}limits.max_active_uploads {} instead of {}; raise the limit (ulimit -n, or LimitNOFILE= of the \
         service), or lower these keys",
        fits.connections,
        wanted.connections,
        match wanted.read_connections {
            0 => String::new(),
            wanted => format!("limits.max_read_connections {} instead of {wanted}, ", fits.read_connections),
        },
        fits.uploads,
        wanted.uploads,
    );
    let count = |number: u64| usize::try_from(number).expect("it is not more than it was");
    config.limits.max_connections = count(fits.connections);
    config.limits.max_active_uploads = count(fits.uploads);
    if wanted.read_connections > 0 {
        config.limits.max_read_connections = count(fits.read_connections);
    }
}

impl Share {
    fn sum(self) -> u64 {
        self.connections.saturating_add(self.read_connections).saturating_add(self.uploads)
    }

    /// How many connections and uploads that is; never none.
    fn counts(self) -> Self {
        Self {
            connections: (self.connections / OF_A_CONNECTION).max(1),
            read_connections: self.read_connections.div_ceil(OF_A_CONNECTION),
            uploads: (self.uploads / OF_AN_UPLOAD).max(1),
        }
    }

    /// The same share for each; who wants less than that leaves the rest to the others. `None` if all fit already.
    fn within(self, available: u64) -> Option<Self> {
        if self.sum() <= available {
            return None;
        }
        let mut fits = self;
        let mut parts = [&mut fits.connections, &mut fits.read_connections, &mut fits.uploads];
        parts.sort();
        let mut left = available;
        for (part, sharing) in parts.into_iter().zip([3, 2, 1]) {
            // It serves somebody, whatever the limit is.
            *part = (*part).min((left / sharing).max(1));
            left = left.saturating_sub(*part);
        }
        Some(fits)
    }
}

/// The limit of open files, after raising it as far as the system allows.
fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::debug!(error = %error, "could not raise the limit of open files");
            limit.current.unwrap_or(u64::MAX)
        }
    }
}

/// What is open beside connections and uploads.
fn reserve(config: &Config) -> u64 {
    let workers = |asked| number(worker_count(asked));
    let mut of_threads = workers(config.server.workers);
    let mut turned_away = number(TURNED_AWAY_AT_ONCE);
    if config.server.read_listen.is_some() {
        of_threads += workers(config.server.read_workers);
        turned_away *= 2;
    }
    let database = u64::from(config.database.read_connections + crate::state::LOOKUP_CONNECTIONS) + 1;
    let webhooks = &config.webhooks;
    let endpoints = number(webhooks.endpoints.len());
    let sending = u64::from(webhooks.max_in_flight).min(endpoints * u64::from(webhooks.max_in_flight_per_endpoint));
    let blobs = OF_OTHER_BLOBS + number(config.media.max_at_once);
    ALWAYS + OF_A_WORKER * of_threads + turned_away + OF_A_DATABASE_CONNECTION * database + sending + blobs
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_left_alone_and_what_does_not_shares_equally() {
        let share = |connections, read_connections, uploads| Share { connections, read_connections, uploads };
        let wanted = share(20_000, 0, 10_000);
        assert_eq!(wanted.within(30_000), None);
        assert_eq!(wanted.within(29_000), Some(share(19_000, 0, 10_000)));
        assert_eq!(wanted.within(900), Some(share(450, 0, 450)));
        assert_eq!(share(20_000, 0, 2).within(900), Some(share(898, 0, 2)), "small numbers stay");
        assert_eq!(share(1_000, 200, 1_000).within(900), Some(share(350, 200, 350)));
        assert_eq!(share(1_000, 1_000, 1_000).within(900), Some(share(300, 300, 300)));
        assert_eq!(share(5, 5, 5).within(0), Some(share(1, 1, 1)));
        assert_eq!(share(5, 0, 5).within(0), Some(share(1, 0, 1)));
    }
}
