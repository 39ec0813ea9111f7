//! Endpoints: written by operators and by the sender, read before every event that may be for them.
//!
//! A transaction that changes the endpoints keeps commits and claims out until it is committed. Therefore no
//! event is written without the delivery to an endpoint that was present, and no delivery is claimed for an
//! endpoint that was stopped.

use std::sync::LazyLock;

use async_trait::async_trait;
use state_rows::sql::Placeholders;
use state_rows::{EndpointRow, sql};
use tokio_postgres::Row;

use crate::PostgresStore;
use crate::backlog::{self, Advance, BacklogJobKind, EndCancel};
use crate::bucket::{SourceId, all_buckets};
use crate::fault::Fault;
use crate::lanes::{DeliveryKey, keys};
use crate::leases::is_alive;
use crate::params::{Param, params};
use crate::query::tenants;
use crate::rows::{self, Columns};
use crate::session::Planning;
use crate::transaction::{AfterLostAnswer, Transaction, Work, one};
use domain::delivery::DeliveryClass;
use domain::endpoint::{Endpoint, EndpointId, EndpointState, differs_from};
use domain::event::EventKind;
use domain::id::{DeliveryId, InstanceId};
use domain::lane;
use domain::notice::Notice;
use domain::principal::TenantScope;
use domain::time::Timestamp;
use state::{ConfigurationStanding, EndpointConfiguration, Endpoints, Error, Result};

static IN_SCOPE: LazyLock<String> = LazyLock::new(|| {
    let columns = sql::columns::<EndpointRow>();
    format!("SELECT {columns} FROM endpoints WHERE present AND tenant BETWEEN $1 AND $2 ORDER BY id")
});

/// Selects an endpoint that is present or was removed from the configuration, with a flag for the former.
static ONE: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {}, present FROM endpoints WHERE id = $1", sql::columns::<EndpointRow>()));

/// Writes a whole row; its version is the version the endpoint was read at plus one.
static WRITE: LazyLock<String> = LazyLock::new(|| sql::upsert::<EndpointRow>(Placeholders::Dollar));

#[async_trait]
impl Endpoints for PostgresStore {
    async fn configure(
        &self,
        node: InstanceId,
        configuration: EndpointConfiguration,
        now: Timestamp,
    ) -> Result<ConfigurationStanding> {
        self.write(Configure { node, configuration, now }).await
    }

    async fn endpoints(&self, scope: TenantScope) -> Result<Vec<Endpoint>> {
        const OPERATION: &str = "list endpoints";
        let (least, most) = tenants(scope);
        let values = params![least, most];
        let found = self.readers.query_as(OPERATION, &IN_SCOPE, Planning::Once(None), values).await?;
        let endpoint = |row: &Row| rows::endpoint(&mut Columns::of(row));
        found
            .iter()
            .map(endpoint)
            .collect::<std::result::Result<_, Fault>>()
            .map_err(|fault| fault.into_error(OPERATION))
    }

    async fn put_endpoint(&self, endpoint: Endpoint, now: Timestamp) -> Result<Endpoint> {
        let id = endpoint.id.clone();
        match self.write(PutEndpoint { endpoint, most: None, now }).await? {
            Put::Written(written) => Ok(*written),
            Put::Conflict | Put::TooMany => Err(Error::EndpointConflict(id)),
        }
    }

    async fn add_endpoint(&self, endpoint: Endpoint, most: u32, now: Timestamp) -> Result<Option<Endpoint>> {
        let id = endpoint.id.clone();
        match self.write(PutEndpoint { endpoint, most: Some(most), now }).await? {
            Put::Written(written) => Ok(Some(*written)),
            Put::Conflict => Err(Error::EndpointConflict(id)),
            Put::TooMany => Ok(None),
        }
    }

    async fn remove_endpoint(&self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> Result<bool> {
        self.write(RemoveEndpoint { scope, id: id.clone(), now }).await
    }

    async fn cancel_backlog(&self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> Result<bool> {
        self.write(CancelBacklog { scope, id: id.clone(), now }).await
    }

    async fn advance_backlog(&self, limit: u32, now: Timestamp) -> Result<bool> {
        const OPERATION: &str = "find a backlog to process";
        let oldest = "SELECT number FROM backlog_jobs ORDER BY number LIMIT 1";
        let found = self.readers.query_as(OPERATION, oldest, Planning::Once(None), &[]).await?;
        let number = found.first().map(|row| Columns::of(row).next()).transpose();
        let Some(number) = number.map_err(|fault: Fault| fault.into_error(OPERATION))? else { return Ok(false) };
        if self.write(Advance { number, limit, now }).await? {
            self.write(EndCancel { number }).await?;
        }
        Ok(true)
    }
}

struct Configure {
    node: InstanceId,
    configuration: EndpointConfiguration,
    now: Timestamp,
}

impl Work for Configure {
    const OPERATION: &'static str = "open the outbox";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = ConfigurationStanding;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<ConfigurationStanding, Fault> {
        tx.change_endpoints().await?;
        self.reclaim(tx).await?;
        let epoch = tx.query("SELECT config_epoch FROM endpoints_version", &[]).await?;
        let newest: u64 = Columns::of(one(&epoch)?).next()?;
        if self.configuration.epoch < newest {
            return Ok(ConfigurationStanding::Outdated { newest });
        }
        let differs = self.name_endpoints(tx, self.configuration.epoch > newest).await?;
        for endpoint in &self.configuration.endpoints {
            let found = find(tx, &endpoint.id).await?.map(|(found, _)| found);
            let written = endpoint.clone().configured_over(found.as_ref());
            write(tx, &written).await?;
            match found {
                Some(before) if before.tenant == endpoint.tenant => {
                    adjust_backlog(tx, &before, &written, self.now).await?;
                }
                // Deliveries not sent to another tenant's endpoint of this name do not go to this one.
                Some(_) => backlog::begin(tx, &endpoint.id, BacklogJobKind::Cancel, self.now).await?,
                None => {}
            }
        }
        tx.forget_subscribers();
        tx.made_ready = true;
        Ok(if differs { ConfigurationStanding::Differs } else { ConfigurationStanding::Applied })
    }
}

/// Selects and locks deliveries claimed by a node that does not count as alive.
const LOST: &str = concat!(
    "SELECT source_id, id, kind, next_at_ms FROM deliveries
     WHERE state = 'leased' AND bucket = ANY($1::bigint[]) AND source_id >= $2 AND (claimed_by IS NULL
         OR NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = claimed_by AND ",
    is_alive!(),
    ")) FOR UPDATE OF deliveries"
);

/// Reclaims deliveries; the keys come first.
const TAKE_BACK: &str = "UPDATE deliveries SET state = lost.state, next_at_ms = lost.next_at_ms,
         finished_at_ms = lost.finished_at_ms, lease = NULL, lease_until_ms = NULL, claimed_by = NULL
     FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $6::text[], $7::bigint[], $8::bigint[])
         AS lost (bucket, source_id, id, state, next_at_ms, finished_at_ms)
     WHERE deliveries.bucket = lost.bucket AND deliveries.source_id = lost.source_id AND deliveries.id = lost.id
         AND deliveries.source_id BETWEEN $4 AND $5 AND deliveries.state = 'leased'";

const FORGET_NAMES: &str = concat!(
    "DELETE FROM node_endpoints WHERE instance = $1 OR $2
         OR NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = node_endpoints.instance AND ",
    is_alive!(),
    ")"
);

/// Selects the endpoints that the configurations of other live nodes name.
static NAMED: LazyLock<String> = LazyLock::new(|| {
    let columns = sql::columns::<EndpointRow>();
    format!("SELECT {columns} FROM endpoints WHERE id IN (SELECT endpoint FROM node_endpoints)")
});

impl Configure {
    /// Reclaims deliveries that lost nodes have claimed. Their number is limited by the deliveries in flight.
    async fn reclaim(&self, tx: &mut Transaction<'_>) -> std::result::Result<(), Fault> {
        let (mut lost, mut states, mut due_at, mut finished_at) = (vec![], vec![], vec![], vec![]);
        let from = tx.unfinished_from().await?.deliveries;
        for row in tx.query(LOST, params![all_buckets(), from]).await? {
            let mut columns = Columns::of(&row);
            let (source, id): (SourceId, DeliveryId) = (columns.next()?, columns.next()?);
            let (kind, next_at): (EventKind, Timestamp) = (columns.next()?, columns.next()?);
            let state = lane::reclaim(DeliveryClass::of(kind));
            lost.push(DeliveryKey { source, id });
            states.push(state.name().to_owned());
            due_at.push(lane::due_when_released(next_at, self.now).unix_ms());
            finished_at.push(state.is_finished().then_some(self.now.unix_ms()));
        }
        if lost.is_empty() {
            return Ok(());
        }
        let mut values = keys(&lost);
        values.extend([Param::from(states), Param::from(due_at), Param::Integers(finished_at)]);
        tx.execute(TAKE_BACK, &values).await.map(drop)
    }

    /// Records the endpoints that this node's configuration names. Endpoints that no live node's
    /// configuration names are no longer present. Returns true if other live nodes name other endpoints.
    async fn name_endpoints(&self, tx: &Transaction<'_>, replaces_all: bool) -> std::result::Result<bool, Fault> {
        let EndpointConfiguration { epoch, endpoints: configured } = &self.configuration;
        tx.execute(FORGET_NAMES, params![self.node, replaces_all]).await?;
        let named = tx.query(&NAMED, &[]).await?;
        let named: Vec<Endpoint> = named.iter().filter_map(|row| rows::endpoint(&mut Columns::of(row)).ok()).collect();
        let names: Vec<String> = configured.iter().map(|endpoint| endpoint.id.as_str().to_owned()).collect();
        tx.execute(
            "INSERT INTO node_endpoints (instance, endpoint) SELECT $1, * FROM unnest($2::text[])
             ON CONFLICT DO NOTHING",
            params![self.node, names],
        )
        .await?;
        let sql = "UPDATE endpoints SET present = false
             WHERE origin = 'config' AND present AND id NOT IN (SELECT endpoint FROM node_endpoints)";
        tx.execute(sql, &[]).await?;
        tx.execute("UPDATE endpoints_version SET config_epoch = $1", params![*epoch]).await?;
        Ok(differs_from(configured, &named))
    }
}

/// Finds an endpoint that is present or was removed from the configuration. Returns true with a present one.
async fn find(tx: &Transaction<'_>, id: &EndpointId) -> std::result::Result<Option<(Endpoint, bool)>, Fault> {
    let found = tx.query_opt(&ONE, params![id]).await?;
    let read = |row: &Row| {
        let mut columns = Columns::of(row);
        Ok((rows::endpoint(&mut columns)?, columns.next()?))
    };
    // A row that cannot be read counts as missing.
    match found.as_ref().map(read).transpose() {
        Err(Fault::Unreadable(_)) => Ok(None),
        found => found,
    }
}

async fn write(tx: &Transaction<'_>, endpoint: &Endpoint) -> std::result::Result<(), Fault> {
    tx.execute(&WRITE, &rows::values::<EndpointRow>(&EndpointRow::cells(endpoint))).await.map(drop)
}

/// Applies changes of an endpoint to its deliveries. Stopping the endpoint changes none of them.
async fn adjust_backlog(
    tx: &mut Transaction<'_>,
    before: &Endpoint,
    after: &Endpoint,
    now: Timestamp,
) -> std::result::Result<(), Fault> {
    if after.state.is_enabled() && !before.state.is_enabled() {
        tx.execute("UPDATE endpoints SET resumed_at_ms = $2 WHERE id = $1", params![&after.id, now]).await?;
        backlog::begin(tx, &after.id, BacklogJobKind::Hasten, now).await?;
    }
    if after.terms.ordering != before.terms.ordering {
        backlog::begin(tx, &after.id, BacklogJobKind::Release, now).await?;
    }
    Ok(())
}

const COUNT_CREATED: &str = "SELECT count(*) FROM endpoints WHERE present AND origin = 'api' AND tenant = $1";

/// The outcome of writing an endpoint.
#[derive(Debug)]
enum Put {
    /// It was written, with this version.
    Written(Box<Endpoint>),
    Conflict,
    TooMany,
}

/// Writes an endpoint if it was not changed since it was read. Otherwise nothing is changed.
struct PutEndpoint {
    endpoint: Endpoint,
    /// The number of endpoints created through the API that the tenant may have with this one.
    most: Option<u32>,
    now: Timestamp,
}

impl Work for PutEndpoint {
    const OPERATION: &'static str = "record an endpoint";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Report;
    type Output = Put;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<Put, Fault> {
        tx.change_endpoints().await?;
        let endpoint = &self.endpoint;
        let count = tx.query(COUNT_CREATED, params![endpoint.tenant.number()]).await?;
        let count: u32 = Columns::of(one(&count)?).next()?;
        if self.most.is_some_and(|most| count >= most) {
            return Ok(Put::TooMany);
        }
        let found = find(tx, &endpoint.id).await?;
        if found.as_ref().is_some_and(|(found, _)| found.tenant != endpoint.tenant) {
            return Ok(Put::Conflict);
        }
        let before = found.and_then(|(found, is_present)| is_present.then_some(found));
        if before.as_ref().map_or(0, |before| before.version) != endpoint.version {
            return Ok(Put::Conflict);
        }
        let endpoint = &Endpoint { health: endpoint.health_over(before.as_ref()), ..endpoint.clone() };
        write(tx, endpoint).await?;
        tx.forget_subscribers();
        match &before {
            Some(before) => adjust_backlog(tx, before, endpoint, self.now).await?,
            // Deliveries not sent to an earlier endpoint of this name, which the configuration no longer
            // names, do not go to this one.
            None => backlog::begin(tx, &endpoint.id, BacklogJobKind::Cancel, self.now).await?,
        }
        if let EndpointState::Disabled { because, .. } = endpoint.state
            && before.is_some_and(|before| before.state.is_enabled())
        {
            let notice = Notice::EndpointDisabled { endpoint: endpoint.id.clone(), because };
            tx.log_notice(endpoint.tenant, &notice, self.now).await?;
        }
        Ok(Put::Written(Box::new(Endpoint { version: endpoint.version + 1, ..endpoint.clone() })))
    }
}

struct RemoveEndpoint {
    scope: TenantScope,
    id: EndpointId,
    now: Timestamp,
}

impl Work for RemoveEndpoint {
    const OPERATION: &'static str = "remove an endpoint";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Report;
    type Output = bool;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<bool, Fault> {
        tx.change_endpoints().await?;
        let (least, most) = tenants(self.scope);
        let sql = "DELETE FROM endpoints WHERE id = $1 AND tenant BETWEEN $2 AND $3";
        let removed = tx.execute(sql, params![&self.id, least, most]).await?;
        if removed == 0 {
            return Ok(false);
        }
        tx.execute("DELETE FROM backlog_jobs WHERE endpoint = $1", params![&self.id]).await?;
        backlog::begin(tx, &self.id, BacklogJobKind::Cancel, self.now).await?;
        tx.execute(
            "UPDATE replay_jobs SET state = 'cancelled', finished_at_ms = $2 WHERE endpoint = $1 AND state = 'running'",
            params![&self.id, self.now],
        )
        .await?;
        tx.forget_subscribers();
        Ok(true)
    }
}

struct CancelBacklog {
    scope: TenantScope,
    id: EndpointId,
    now: Timestamp,
}

impl Work for CancelBacklog {
    const OPERATION: &'static str = "cancel deliveries";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Report;
    type Output = bool;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<bool, Fault> {
        tx.change_endpoints().await?;
        let is_there = is_there(tx, self.scope, &self.id).await?;
        if is_there {
            backlog::begin(tx, &self.id, BacklogJobKind::Cancel, self.now).await?;
        }
        Ok(is_there)
    }
}

/// Reports whether an endpoint exists in the scope; this includes one that the configuration no longer names.
pub(crate) async fn is_there(
    tx: &Transaction<'_>,
    scope: TenantScope,
    id: &EndpointId,
) -> std::result::Result<bool, Fault> {
    let (least, most) = tenants(scope);
    let sql = "SELECT 1::bigint FROM endpoints WHERE id = $1 AND tenant BETWEEN $2 AND $3";
    Ok(tx.query_opt(sql, params![id, least, most]).await?.is_some())
}
