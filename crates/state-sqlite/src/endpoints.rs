//! Endpoints: written by operators and by the sender, read before every event that may be for them.

use std::sync::{Arc, LazyLock};

use rusqlite::{Connection, OptionalExtension, Row, params};
use state_rows::{EndpointRow, sql};

use crate::backlog::BacklogJobKind;
use crate::leases::is_alive;
use crate::query::tenants;
use crate::rows::{Columns, PLACEHOLDERS, bound, integer};
use crate::writer::{Work, WriteTransaction};
use crate::{backlog, notices, rows};
use domain::delivery::DeliveryClass;
use domain::endpoint::{Endpoint, EndpointId, EndpointState, EndpointTerms, Ordering, differs_from};
use domain::event::EventKind;
use domain::health::HealthChange;
use domain::id::{DeliveryId, InstanceId};
use domain::lane::{self, EndpointAvailability};
use domain::notice::Notice;
use domain::principal::{TenantId, TenantScope};
use domain::time::Timestamp;
use state::{ConfigurationStanding, EndpointConfiguration};

static COLUMNS: LazyLock<String> = LazyLock::new(sql::columns::<EndpointRow>);

pub(super) static IN_SCOPE: LazyLock<String> = LazyLock::new(|| {
    format!("SELECT {} FROM endpoints WHERE present = 1 AND tenant BETWEEN ?1 AND ?2 ORDER BY id", *COLUMNS)
});

static PRESENT: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {} FROM endpoints WHERE id = ?1 AND present = 1", *COLUMNS));

static ONE: LazyLock<String> = LazyLock::new(|| format!("SELECT {} FROM endpoints WHERE id = ?1", *COLUMNS));

/// Writes a whole row; its version is the version the endpoint was read at plus one.
static WRITE: LazyLock<String> = LazyLock::new(|| sql::upsert::<EndpointRow>(PLACEHOLDERS));

/// Reads an endpoint from [`IN_SCOPE`].
pub(super) fn endpoint(row: &Row<'_>) -> rusqlite::Result<Endpoint> {
    rows::endpoint(&mut Columns::of(row))
}

pub(super) struct Configure {
    pub(super) node: InstanceId,
    pub(super) configuration: EndpointConfiguration,
    pub(super) now: Timestamp,
}

impl Work for Configure {
    const OPERATION: &'static str = "open the outbox";
    type Output = ConfigurationStanding;

    /// A server must be able to start on an almost full disk, in order to delete uploads.
    fn frees_space(&self) -> bool {
        true
    }

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<ConfigurationStanding> {
        self.reclaim(tx)?;
        let newest: i64 = tx.connection.query_row("SELECT epoch FROM endpoint_configuration", [], |row| row.get(0))?;
        let newest = newest.unsigned_abs();
        if self.configuration.epoch < newest {
            return Ok(ConfigurationStanding::Outdated { newest });
        }
        let differs = self.name_endpoints(tx, self.configuration.epoch > newest)?;
        for endpoint in &self.configuration.endpoints {
            let found = find(tx, &endpoint.id)?;
            let written = endpoint.clone().configured_over(found.as_ref());
            write(tx, &written)?;
            match found {
                Some(before) if before.tenant == endpoint.tenant => {
                    adjust_backlog(tx, &before, &written, self.now)?;
                }
                // Deliveries not sent to another tenant's endpoint of this name do not go to this one.
                Some(_) => backlog::begin(tx, &endpoint.id, BacklogJobKind::Cancel, self.now)?,
                None => {}
            }
        }
        tx.subscribers = None;
        tx.made_ready = true;
        Ok(if differs { ConfigurationStanding::Differs } else { ConfigurationStanding::Applied })
    }
}

/// Deliveries claimed by a node that does not count as alive.
const LOST: &str = concat!(
    "SELECT id, kind, next_at_ms FROM deliveries WHERE state = 'leased' AND (claimed_by IS NULL
         OR NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = claimed_by AND ",
    is_alive!(),
    "))"
);

const TAKE_BACK: &str = "UPDATE deliveries SET state = ?2, next_at_ms = ?3, finished_at_ms = ?4, lease = NULL,
         lease_until_ms = NULL, claimed_by = NULL
     WHERE id = ?1";

const FORGET_NAMES: &str = concat!(
    "DELETE FROM node_endpoints WHERE instance = ?1 OR ?2
         OR NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = node_endpoints.instance AND ",
    is_alive!(),
    ")"
);

/// Selects the endpoints that the configurations of other live nodes name.
static NAMED: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {} FROM endpoints WHERE id IN (SELECT endpoint FROM node_endpoints)", *COLUMNS));

impl Configure {
    /// Reclaims deliveries that lost nodes have claimed. Their number is limited by the deliveries in flight.
    fn reclaim(&self, tx: &WriteTransaction) -> rusqlite::Result<()> {
        let lost = |row: &Row<'_>| {
            let mut columns = Columns::of(row);
            Ok((columns.next()?, columns.next()?, columns.next()?))
        };
        let mut statement = tx.connection.prepare_cached(LOST)?;
        let lost = statement.query_map([], lost)?;
        let lost: Vec<(DeliveryId, EventKind, Timestamp)> = lost.collect::<rusqlite::Result<_>>()?;
        for (delivery, kind, next_at) in lost {
            let state = lane::reclaim(DeliveryClass::of(kind));
            let next_at = lane::due_when_released(next_at, self.now);
            let finished_at = state.is_finished().then_some(self.now.unix_ms());
            tx.execute(TAKE_BACK, params![delivery.as_bytes(), state.name(), next_at.unix_ms(), finished_at])?;
        }
        Ok(())
    }

    /// Records the endpoints that this node's configuration names. Endpoints that no live node's
    /// configuration names are no longer present. Returns true if other live nodes name other endpoints.
    fn name_endpoints(&self, tx: &WriteTransaction, replaces_all: bool) -> rusqlite::Result<bool> {
        let EndpointConfiguration { epoch, endpoints: configured } = &self.configuration;
        tx.execute(FORGET_NAMES, params![self.node.as_bytes(), replaces_all])?;
        let mut statement = tx.connection.prepare_cached(&NAMED)?;
        let named: Vec<Endpoint> = statement.query_map([], endpoint)?.filter_map(rusqlite::Result::ok).collect();
        for endpoint in configured {
            let values = params![self.node.as_bytes(), endpoint.id.as_str()];
            tx.execute(
                "INSERT INTO node_endpoints (instance, endpoint) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                values,
            )?;
        }
        let sql = "UPDATE endpoints SET present = 0
             WHERE origin = 'config' AND id NOT IN (SELECT endpoint FROM node_endpoints)";
        tx.execute(sql, [])?;
        tx.execute("UPDATE endpoint_configuration SET epoch = ?1", [integer(*epoch)])?;
        Ok(differs_from(configured, &named))
    }
}

/// Finds an endpoint that is present or was removed from the configuration.
fn find(tx: &WriteTransaction, id: &EndpointId) -> rusqlite::Result<Option<Endpoint>> {
    // A row written by an older version has no readable terms; it counts as missing.
    let mut statement = tx.connection.prepare_cached(&ONE)?;
    match statement.query_one([id.as_str()], endpoint).optional() {
        Err(rusqlite::Error::FromSqlConversionFailure(..)) => Ok(None),
        found => found,
    }
}

fn write(tx: &WriteTransaction, endpoint: &Endpoint) -> rusqlite::Result<()> {
    tx.execute(&WRITE, bound(&EndpointRow::cells(endpoint))).map(drop)
}

/// Applies changes of an endpoint to its deliveries. Stopping the endpoint changes none of them.
fn adjust_backlog(
    tx: &mut WriteTransaction,
    before: &Endpoint,
    after: &Endpoint,
    now: Timestamp,
) -> rusqlite::Result<()> {
    if after.state.is_enabled() && !before.state.is_enabled() {
        let values = params![after.id.as_str(), now.unix_ms()];
        tx.execute("UPDATE endpoints SET resumed_at_ms = ?2 WHERE id = ?1", values)?;
        backlog::begin(tx, &after.id, BacklogJobKind::Hasten, now)?;
    }
    if after.terms.ordering != before.terms.ordering {
        backlog::begin(tx, &after.id, BacklogJobKind::Release, now)?;
    }
    Ok(())
}

const COUNT_CREATED: &str = "SELECT count(*) FROM endpoints WHERE present = 1 AND origin = 'api' AND tenant = ?1";

/// The outcome of writing an endpoint.
#[derive(Debug)]
pub(super) enum Put {
    /// It was written, with this version.
    Written(Box<Endpoint>),
    Conflict,
    TooMany,
}

/// Writes an endpoint if it was not changed since it was read. Otherwise nothing is changed.
pub(super) struct PutEndpoint {
    pub(super) endpoint: Endpoint,
    /// The number of endpoints created through the API that the tenant may have with this one.
    pub(super) most: Option<u32>,
    pub(super) now: Timestamp,
}

impl Work for PutEndpoint {
    const OPERATION: &'static str = "record an endpoint";
    type Output = Put;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<Put> {
        let endpoint = &self.endpoint;
        let count: u32 =
            tx.connection.prepare_cached(COUNT_CREATED)?.query_one([endpoint.tenant.number()], |row| row.get(0))?;
        if self.most.is_some_and(|most| count >= most) {
            return Ok(Put::TooMany);
        }
        let found = find(tx, &endpoint.id)?;
        if found.as_ref().is_some_and(|found| found.tenant != endpoint.tenant) {
            return Ok(Put::Conflict);
        }
        let before = tx.connection.prepare_cached(&PRESENT)?.query_one([endpoint.id.as_str()], self::endpoint);
        let before = before.optional()?;
        if before.as_ref().map_or(0, |before| before.version) != endpoint.version {
            return Ok(Put::Conflict);
        }
        let endpoint = &Endpoint { health: endpoint.health_over(before.as_ref()), ..endpoint.clone() };
        write(tx, endpoint)?;
        tx.subscribers = None;
        match &before {
            Some(before) => adjust_backlog(tx, before, endpoint, self.now)?,
            // Deliveries not sent to an earlier endpoint of this name, which the configuration no longer
            // names, do not go to this one.
            None => backlog::begin(tx, &endpoint.id, BacklogJobKind::Cancel, self.now)?,
        }
        if let EndpointState::Disabled { because, .. } = endpoint.state
            && before.is_some_and(|before| before.state.is_enabled())
        {
            let notice = Notice::EndpointDisabled { endpoint: endpoint.id.clone(), because };
            notices::log(tx, endpoint.tenant, &notice, self.now)?;
        }
        Ok(Put::Written(Box::new(Endpoint { version: endpoint.version + 1, ..endpoint.clone() })))
    }
}

pub(super) struct RemoveEndpoint {
    pub(super) scope: TenantScope,
    pub(super) id: EndpointId,
    pub(super) now: Timestamp,
}

impl Work for RemoveEndpoint {
    const OPERATION: &'static str = "remove an endpoint";
    type Output = bool;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<bool> {
        let (least, most) = tenants(self.scope);
        let sql = "DELETE FROM endpoints WHERE id = ?1 AND tenant BETWEEN ?2 AND ?3";
        let removed = tx.execute(sql, params![self.id.as_str(), least, most])?;
        if removed == 0 {
            return Ok(false);
        }
        tx.execute("DELETE FROM backlog_jobs WHERE endpoint = ?1", [self.id.as_str()])?;
        backlog::begin(tx, &self.id, BacklogJobKind::Cancel, self.now)?;
        tx.execute(
            "UPDATE replay_jobs SET state = 'cancelled', finished_at_ms = ?2 WHERE endpoint = ?1 AND state = 'running'",
            params![self.id.as_str(), self.now.unix_ms()],
        )?;
        tx.subscribers = None;
        Ok(true)
    }
}

pub(super) struct CancelBacklog {
    pub(super) scope: TenantScope,
    pub(super) id: EndpointId,
    pub(super) now: Timestamp,
}

impl Work for CancelBacklog {
    const OPERATION: &'static str = "cancel deliveries";
    type Output = bool;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<bool> {
        let is_there = is_there(tx, self.scope, &self.id)?;
        if is_there {
            backlog::begin(tx, &self.id, BacklogJobKind::Cancel, self.now)?;
        }
        Ok(is_there)
    }
}

/// Reports whether an endpoint exists in the scope; this includes one that the configuration no longer names.
pub(super) fn is_there(tx: &WriteTransaction, scope: TenantScope, id: &EndpointId) -> rusqlite::Result<bool> {
    let (least, most) = tenants(scope);
    let sql = "SELECT 1 FROM endpoints WHERE id = ?1 AND tenant BETWEEN ?2 AND ?3";
    tx.connection.prepare_cached(sql)?.exists(params![id.as_str(), least, most])
}

/// Applies a change to the health of an endpoint.
pub(super) fn note_health(tx: &WriteTransaction, id: &EndpointId, change: &HealthChange) -> rusqlite::Result<()> {
    let Some(found) = find(tx, id)? else { return Ok(()) };
    let health = found.health.after(change);
    tx.execute(
        "UPDATE endpoints SET consecutive_failures = ?2, failing_since_ms = ?3, exhausted = ?4, open_until_ms = ?5,
             warned_percent = ?6
         WHERE id = ?1",
        params![
            id.as_str(),
            health.consecutive_failures,
            health.failing_since.map(Timestamp::unix_ms),
            health.exhausted,
            health.open_until.map(Timestamp::unix_ms),
            health.warned_percent,
        ],
    )
    .map(drop)
}

/// The data of an endpoint that the writer needs for every event.
#[derive(Debug, Clone)]
pub(super) struct Subscriber {
    pub(super) id: EndpointId,
    pub(super) tenant: TenantId,
    pub(super) terms: EndpointTerms,
    pub(super) version: u64,
    pub(super) is_enabled: bool,
    /// The generation of new deliveries, see [`backlog`].
    pub(super) generation: i64,
    /// Deliveries of a generation before this one are being cancelled.
    pub(super) cancelled_before: Option<i64>,
    /// The time of the last resumption; the beginning of time if the endpoint was never stopped.
    pub(super) resumed_at: Timestamp,
}

impl Subscriber {
    pub(super) fn availability(&self) -> EndpointAvailability {
        EndpointAvailability {
            is_present: true,
            is_enabled: self.is_enabled,
            is_cancelling: self.cancelled_before.is_some(),
            resumed_at: self.resumed_at,
        }
    }

    /// Reports whether a delivery of this generation is being cancelled.
    pub(super) fn is_cancelling(&self, generation: i64) -> bool {
        self.cancelled_before.is_some_and(|cancelled| generation < cancelled)
    }
}

static SUBSCRIBERS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {}, generation,
             (SELECT max(number) FROM backlog_jobs WHERE backlog_jobs.endpoint = endpoints.id AND kind = 'cancel'),
             ifnull(resumed_at_ms, 0)
         FROM endpoints WHERE present = 1 ORDER BY id",
        *COLUMNS
    )
});

/// Reads the endpoints that may get deliveries of new events.
pub(super) fn subscribers(connection: &Connection) -> rusqlite::Result<Arc<[Subscriber]>> {
    let subscriber = |row: &Row<'_>| {
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
    connection.prepare_cached(&SUBSCRIBERS)?.query_map([], subscriber)?.collect()
}

impl WriteTransaction {
    /// Returns the endpoints that may get deliveries of new events.
    pub(super) fn subscribers(&mut self) -> rusqlite::Result<Arc<[Subscriber]>> {
        if let Some(known) = &self.subscribers {
            return Ok(Arc::clone(known));
        }
        let found = subscribers(&self.connection)?;
        self.subscribers = Some(Arc::clone(&found));
        Ok(found)
    }

    /// Returns the ordering of an endpoint. An absent endpoint uses the default, which does not matter.
    pub(super) fn ordering_of(&mut self, endpoint: &str) -> rusqlite::Result<Ordering> {
        let subscribers = self.subscribers()?;
        let found = subscribers.iter().find(|subscriber| subscriber.id.as_str() == endpoint);
        Ok(found.map_or(Ordering::PerUpload, |subscriber| subscriber.terms.ordering))
    }
}
