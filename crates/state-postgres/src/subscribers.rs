//! Subscribers: the data of endpoints that commits and claims need.
//!
//! Every commit with events reads them, and they rarely change. They are therefore cached with their version,
//! which every change increments in its own transaction.

use std::sync::{Arc, LazyLock, Mutex};

use state_rows::{EndpointRow, sql};
use tokio_postgres::Row;

use crate::fault::Fault;
use crate::lock::lock;
use crate::rows::{self, Columns};
use crate::session::Session;
use domain::endpoint::{EndpointId, EndpointTerms};
use domain::lane::EndpointAvailability;
use domain::principal::TenantId;
use domain::time::Timestamp;

/// A present endpoint, as far as its deliveries are concerned.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber {
    pub(crate) id: EndpointId,
    pub(crate) tenant: TenantId,
    pub(crate) terms: EndpointTerms,
    pub(crate) version: u64,
    pub(crate) is_enabled: bool,
    /// The generation of new deliveries: the number of the latest job that affects the whole backlog.
    pub(crate) generation: i64,
    /// Deliveries of a generation before this one are being cancelled.
    pub(crate) cancelled_before: Option<i64>,
    /// The time of the last resumption; the beginning of time if the endpoint was never stopped.
    pub(crate) resumed_at: Timestamp,
}

impl Subscriber {
    pub(crate) fn availability(&self) -> EndpointAvailability {
        EndpointAvailability {
            is_present: true,
            is_enabled: self.is_enabled,
            is_cancelling: self.cancelled_before.is_some(),
            resumed_at: self.resumed_at,
        }
    }

    /// Reports whether a delivery of this generation is being cancelled.
    pub(crate) fn is_cancelling(&self, generation: i64) -> bool {
        self.cancelled_before.is_some_and(|cancelled| generation < cancelled)
    }
}

/// The cached endpoints and their version.
#[derive(Debug, Default)]
pub(crate) struct KnownSubscribers(Mutex<Option<(i64, Arc<[Subscriber]>)>>);

impl KnownSubscribers {
    pub(crate) fn at(&self, version: i64) -> Option<Arc<[Subscriber]>> {
        lock(&self.0).as_ref().filter(|(known, _)| *known == version).map(|(_, found)| Arc::clone(found))
    }

    pub(crate) fn remember(&self, version: i64, found: &Arc<[Subscriber]>) {
        let mut known = lock(&self.0);
        if known.as_ref().is_none_or(|(older, _)| *older < version) {
            *known = Some((version, Arc::clone(found)));
        }
    }
}

pub(crate) static SUBSCRIBERS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {}, generation,
             (SELECT max(number) FROM backlog_jobs WHERE backlog_jobs.endpoint = endpoints.id AND kind = 'cancel'),
             coalesce(resumed_at_ms, 0)
         FROM endpoints WHERE present ORDER BY id",
        sql::columns::<EndpointRow>()
    )
});

/// Reads all present endpoints.
pub(crate) async fn read(session: &Session) -> Result<Arc<[Subscriber]>, Fault> {
    of_rows(&session.query(&SUBSCRIBERS, &[]).await?)
}

/// Reads endpoints from the rows of [`SUBSCRIBERS`].
pub(crate) fn of_rows(found: &[Row]) -> Result<Arc<[Subscriber]>, Fault> {
    let subscriber = |row| {
        let mut columns = Columns::of(row);
        let found = rows::endpoint(&mut columns)?;
        Ok(Subscriber {
            is_enabled: found.state.is_enabled(),
            id: found.id,
            tenant: found.tenant,
            terms: found.terms,
            version: found.version,
            generation: columns.next()?,
            cancelled_before: columns.next()?,
            resumed_at: columns.next()?,
        })
    };
    found.iter().map(subscriber).collect()
}
