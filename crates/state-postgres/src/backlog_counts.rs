//! Counts of unfinished deliveries.

use state::Result;

use crate::PostgresStore;
use crate::bucket::all_buckets;
use crate::fault::{Fault, Remedy};
use crate::params::{Param, params};
use crate::query::tenants;
use crate::rows::Columns;
use crate::session::Session;
use crate::transaction::one;
use crate::unfinished;
use domain::delivery::Backlog;
use domain::endpoint::EndpointId;
use domain::principal::TenantScope;
use domain::time::Timestamp;

impl PostgresStore {
    /// Counts unfinished deliveries, see [`read_backlog`].
    pub(crate) async fn count_backlog(
        &self,
        scope: TenantScope,
        endpoint: Option<&EndpointId>,
        most: u32,
    ) -> Result<Backlog> {
        let first = self.try_count(scope, endpoint, most).await;
        let counted = match first {
            Err(fault) if fault.remedy() == Remedy::Reconnect => {
                self.readers.forget_idle();
                self.try_count(scope, endpoint, most).await
            }
            first => first,
        };
        counted.map_err(|fault| fault.into_error("count deliveries"))
    }

    async fn try_count(
        &self,
        scope: TenantScope,
        endpoint: Option<&EndpointId>,
        most: u32,
    ) -> std::result::Result<Backlog, Fault> {
        let session = self.readers.get().await?;
        read_backlog(&session, scope, endpoint, most).await
    }
}

const ENDPOINTS: &str = "SELECT id, present, state = 'enabled' FROM endpoints
     WHERE ($1::text IS NULL OR id = $1) AND tenant BETWEEN $2 AND $3";

/// Counts the deliveries of an endpoint in one state, up to a limit, in the index of the state.
macro_rules! count_in {
    ($state:literal, $most:literal) => {
        concat!(
            "(SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE endpoint = $1 AND state = '",
            $state,
            "' AND bucket = ANY($5::bigint[]) AND source_id >= $6 LIMIT ",
            $most,
            ") AS counted)"
        )
    };
}

const COUNTS: &str = concat!(
    "SELECT ",
    count_in!("leased", "$2"),
    ", ",
    count_in!("waiting", "$3"),
    ", ",
    count_in!("ready", "$4"),
    ", (SELECT next_at_ms FROM deliveries WHERE endpoint = $1 AND state = 'ready' AND bucket = ANY($5::bigint[])
         AND source_id >= $6 ORDER BY next_at_ms LIMIT 1)"
);

/// Counts unfinished deliveries by endpoint: every count is the size of a part of a partial index. At most
/// `most` of each kind are counted.
pub(crate) async fn read_backlog(
    session: &Session,
    scope: TenantScope,
    endpoint: Option<&EndpointId>,
    most: u32,
) -> std::result::Result<Backlog, Fault> {
    let enough = u64::from(most) + 1;
    let mut backlog = Backlog::default();
    let name = endpoint.map(Param::from);
    let (least, greatest) = tenants(scope);
    let from = unfinished::read(session).await?.deliveries;
    let values = [name.unwrap_or(Param::Text(None)), Param::from(least), Param::from(greatest)];
    for row in session.query(ENDPOINTS, &values).await? {
        let mut columns = Columns::of(&row);
        let id: String = columns.next()?;
        let (is_present, is_enabled): (bool, bool) = (columns.next()?, columns.next()?);
        let left = |so_far: u64| enough.saturating_sub(so_far);
        let (waiting, ready) =
            if is_enabled { (backlog.waiting, backlog.ready) } else { (backlog.paused, backlog.paused) };
        let values = params![id, left(backlog.leased), left(waiting), left(ready), all_buckets(), from];
        let counted = session.query(COUNTS, values).await?;
        let mut columns = Columns::of(one(&counted)?);
        let (leased, waiting, ready): (u64, u64, u64) = (columns.next()?, columns.next()?, columns.next()?);
        backlog.leased += leased;
        if is_enabled {
            backlog.waiting += waiting;
            backlog.ready += ready;
        } else {
            backlog.paused += waiting + ready;
        }
        if is_enabled && (is_present || endpoint.is_some()) {
            let due: Option<Timestamp> = columns.next()?;
            backlog.oldest_due = backlog.oldest_due.into_iter().chain(due).min();
        }
    }
    for count in [&mut backlog.waiting, &mut backlog.ready, &mut backlog.leased, &mut backlog.paused] {
        backlog.has_more |= *count > u64::from(most);
        *count = (*count).min(u64::from(most));
    }
    Ok(backlog)
}
