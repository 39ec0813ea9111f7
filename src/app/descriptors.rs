//! Fits the server into the limit of open files.
//!
//! A process that runs out of descriptors can neither accept connections nor open files, and an accepted
//! upload would fail. Therefore the limits are fitted at the start, and the result is logged.
//!
//! A connection uses one descriptor, and so does a slow upload. Descriptors that only some clients need have
//! separate limits, so that more connections fit: a download reads a file (`limits.max_downloads`), and a
//! fast upload opens its file twice, to bypass the page cache. Uploads that get no second descriptor work
//! without it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::app::listeners::worker_count;
use crate::config::Config;
use edge::listen::MAX_SHED_AT_ONCE;
use engine::lease::MAX_PARKED;

/// Standard streams, the lock, the log, listing folders, and a reserve.
const ALWAYS: u64 = 64;

/// Descriptors of one thread that serves connections: its poll, its wake-up, a file that it reads.
const OF_A_WORKER: u64 = 6;

/// Descriptors of one database connection: the file, its log and its shared memory.
const OF_A_DATABASE_CONNECTION: u64 = 3;

/// Descriptors of uploads that are kept open for their next request, of concatenations (a part and its
/// target, two at a time), and of media files whose headers are read.
const OF_OTHER_BLOBS: u64 = MAX_PARKED as u64 + 4;

/// Maximum number of files that are opened a second time for direct writes. More uploads are not fast at the
/// same time.
const MAX_DIRECT: u64 = 1024;

/// Numbers of descriptors by use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DescriptorShare {
    connections: u64,
    read_connections: u64,
    uploads: u64,
    downloads: u64,
}

/// Number of connections and uploads from which lowered defaults are logged only at info level.
const PLENTY: u64 = 1_000;

/// The result of fitting the server into the limit.
#[derive(Debug)]
pub(super) struct DescriptorFit {
    /// Maximum number of files that may be opened a second time for direct writes.
    pub(super) direct_files: usize,
    lowered: Option<Lowered>,
}

/// Limits that were lowered to fit.
#[derive(Debug, Clone, Copy)]
struct Lowered {
    limit: u64,
    needed: u64,
    wanted: DescriptorShare,
    fits: DescriptorShare,
    /// Set if one of the lowered limits was configured explicitly.
    was_set: bool,
}

impl DescriptorFit {
    /// Logs the lowered limits, as a warning where it matters.
    pub(super) fn log(&self) {
        let Some(Lowered { limit, needed, wanted, fits, was_set }) = self.lowered else { return };
        let reads = match wanted.read_connections {
            0 => String::new(),
            wanted => format!("limits.max_read_connections to {} from {wanted}, ", fits.read_connections),
        };
        if was_set || fits.connections.min(fits.uploads) < PLENTY {
            tracing::warn!(
                limit,
                needed,
                "the limit of open files ({limit}) is too low for the configuration; reduced limits.max_connections to \
                 {} from {}, {reads}limits.max_active_uploads to {} from {}, limits.max_downloads to {} from {}; raise \
                 the limit (ulimit -n, or LimitNOFILE= of the service), or lower these keys",
                fits.connections,
                wanted.connections,
                fits.uploads,
                wanted.uploads,
                fits.downloads,
                wanted.downloads,
            );
        } else {
            tracing::info!(
                limit,
                "the limit of open files allows at most {} connections, {} uploads and {} downloads; to serve more, \
                 raise it (ulimit -n, or LimitNOFILE= of the service)",
                fits.connections,
                fits.uploads,
                fits.downloads,
            );
        }
    }
}

/// Raises the limit of open files as far as possible, and lowers the configured limits that do not fit into
/// it.
pub(super) fn fit(config: &mut Config) -> DescriptorFit {
    let limit = raise();
    let wanted = DescriptorShare {
        connections: number(config.limits.max_connections),
        read_connections: config.server.read_listen.map_or(0, |_| number(config.limits.max_read_connections)),
        uploads: number(config.engine.max_active_uploads),
        downloads: number(config.engine.max_downloads),
    };
    let direct = MAX_DIRECT.min(wanted.uploads.saturating_add(MAX_PARKED as u64)).min(limit / 16);
    let reserve = reserve(config).saturating_add(direct);
    let direct_files = count(direct);
    let Some(fits) = wanted.within(limit.saturating_sub(reserve)) else {
        return DescriptorFit { direct_files, lowered: None };
    };
    let needed = wanted.sum().saturating_add(reserve);
    let is_set = |key: &str, wanted: u64, fits: u64| fits < wanted && !config.unset.contains(key);
    let was_set = is_set("limits.max_connections", wanted.connections, fits.connections)
        || is_set("limits.max_read_connections", wanted.read_connections, fits.read_connections)
        || is_set("limits.max_active_uploads", wanted.uploads, fits.uploads)
        || is_set("limits.max_downloads", wanted.downloads, fits.downloads);
    config.engine.max_downloads = count(fits.downloads);
    config.limits.max_connections = count(fits.connections);
    config.engine.max_active_uploads = count(fits.uploads);
    if wanted.read_connections > 0 {
        config.limits.max_read_connections = count(fits.read_connections);
    }
    DescriptorFit { direct_files, lowered: Some(Lowered { limit, needed, wanted, fits, was_set }) }
}

impl DescriptorShare {
    fn sum(self) -> u64 {
        let Self { connections, read_connections, uploads, downloads } = self;
        connections.saturating_add(read_connections).saturating_add(uploads).saturating_add(downloads)
    }

    /// Distributes the available descriptors; returns `None` if all limits fit already. Downloads get at most
    /// an eighth, because this is a server for uploads. The rest is shared equally; a limit below its share
    /// leaves the remainder to the others.
    fn within(self, available: u64) -> Option<Self> {
        if self.sum() <= available {
            return None;
        }
        let mut fits = self;
        // Each limit is at least one, however low the system's limit is.
        fits.downloads = fits.downloads.min((available / 8).max(1));
        let mut left = available.saturating_sub(fits.downloads);
        let mut parts = [&mut fits.connections, &mut fits.read_connections, &mut fits.uploads];
        parts.sort();
        for (part, sharing) in parts.into_iter().zip([3, 2, 1]) {
            *part = (*part).min((left / sharing).max(1));
            left = left.saturating_sub(*part);
        }
        Some(fits)
    }
}

/// Raises the limit of open files as far as the system allows, and returns it.
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

/// Returns the number of descriptors needed besides connections, uploads and downloads.
fn reserve(config: &Config) -> u64 {
    let workers = |asked| number(worker_count(asked));
    let mut of_threads = workers(config.server.workers);
    let mut turned_away = number(MAX_SHED_AT_ONCE);
    if config.server.read_listen.is_some() {
        of_threads += workers(config.server.read_workers);
        turned_away *= 2;
    }
    let database = match &config.postgres {
        None => u64::from(config.database.read_connections + config.database.lookup_connections) + 1,
        Some(postgres) => u64::from(postgres.connections()),
    };
    let sending = &config.webhooks.sending;
    let endpoints = number(config.webhooks.endpoints.len());
    let sending = number(sending.max_in_flight).min(endpoints * u64::from(sending.max_in_flight_per_endpoint));
    let blobs = OF_OTHER_BLOBS + config.engine.media.as_ref().map_or(0, |media| number(media.max_at_once));
    ALWAYS + OF_A_WORKER * of_threads + turned_away + OF_A_DATABASE_CONNECTION * database + sending + blobs
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_left_alone_and_what_does_not_shares_equally() {
        let share = |connections, read_connections, uploads, downloads| DescriptorShare {
            connections,
            read_connections,
            uploads,
            downloads,
        };
        let wanted = share(20_000, 0, 10_000, 0);
        assert_eq!(wanted.within(30_000), None);
        assert_eq!(wanted.within(29_000), Some(share(19_000, 0, 10_000, 0)));
        assert_eq!(wanted.within(900), Some(share(450, 0, 450, 0)));
        assert_eq!(share(20_000, 0, 2, 0).within(900), Some(share(898, 0, 2, 0)), "small numbers stay");
        assert_eq!(share(1_000, 200, 1_000, 0).within(900), Some(share(350, 200, 350, 0)));
        assert_eq!(share(1_000, 1_000, 1_000, 0).within(900), Some(share(300, 300, 300, 0)));
        assert_eq!(share(400, 400, 400, 400).within(1_600), None);
        assert_eq!(share(1_000, 1_000, 1_000, 1_000).within(800), Some(share(233, 233, 234, 100)), "an eighth");
        assert_eq!(share(1_000, 0, 1_000, 10).within(1_000), Some(share(495, 0, 495, 10)));
        assert_eq!(share(5, 5, 5, 5).within(0), Some(share(1, 1, 1, 1)));
        assert_eq!(share(5, 0, 5, 5).within(0), Some(share(1, 0, 1, 1)));
    }
}
