//! Endpoints: written by operators and by the sender, read before every event that may be for them.

use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::params;

use crate::domain::endpoint::DisabledBecause;
use crate::domain::endpoint::Endpoint;
use crate::domain::endpoint::EndpointId;
use crate::domain::endpoint::EndpointState;
use crate::domain::endpoint::EndpointTerms;
use crate::domain::endpoint::Health;
use crate::domain::endpoint::Ordering;
use crate::domain::endpoint::Origin;
use crate::domain::time::Timestamp;
use crate::state::Notice;
use crate::state::sqlite::lanes;
use crate::state::sqlite::notices;
use crate::state::sqlite::rows::Columns;
use crate::state::sqlite::rows::integer;
use crate::state::sqlite::writer::Desk;
use crate::state::sqlite::writer::Work;
use crate::state::terms_json::terms_json;

/// The columns of `endpoints`, as [`endpoint`] reads them.
macro_rules! endpoint_columns {
    () => {
        "id, origin, terms, sealed, state, state_since_ms, disabled_because, consecutive_failures, failing_since_ms,
         exhausted, open_until_ms, warned_percent, version, created_at_ms, updated_at_ms"
    };
}

pub(super) const ALL: &str = concat!("SELECT ", endpoint_columns!(), " FROM endpoints WHERE present = 1 ORDER BY id");

const ONE: &str = concat!("SELECT ", endpoint_columns!(), " FROM endpoints WHERE id = ?1");

/// Reads an endpoint from the columns of [`endpoint_columns`].
pub(super) fn endpoint(row: &Row<'_>) -> rusqlite::Result<Endpoint> {
    let mut columns = Columns::of(row);
    Ok(Endpoint {
        id: columns.endpoint()?,
        origin: columns.named(Origin::by_name)?,
        terms: columns.terms()?,
        sealed: columns.next()?,
        state: state(&mut columns)?,
        health: Health {
            consecutive_failures: columns.next()?,
            failing_since: columns.maybe_instant()?,
            exhausted: columns.next()?,
            open_until: columns.maybe_instant()?,
            warned_percent: columns.next()?,
        },
        version: columns.count()?,
        created_at: columns.instant()?,
        updated_at: columns.instant()?,
    })
}

fn state(columns: &mut Columns<'_>) -> rusqlite::Result<EndpointState> {
    let (name, since): (String, Option<Timestamp>) = (columns.next()?, columns.maybe_instant()?);
    let because: Option<String> = columns.next()?;
    let because = because.as_deref().and_then(DisabledBecause::by_name);
    match (name.as_str(), since, because) {
        ("enabled", None, None) => Ok(EndpointState::Enabled),
        ("paused", Some(since), None) => Ok(EndpointState::Paused { since }),
        ("disabled", Some(since), Some(because)) => Ok(EndpointState::Disabled { since, because }),
        _ => Err(columns.unreadable()),
    }
}

pub(super) struct OpenFor {
    pub(super) configured: Vec<Endpoint>,
    pub(super) now: Timestamp,
}

impl Work for OpenFor {
    const OPERATION: &'static str = "open the outbox";
    type Output = ();

    fn run(&self, desk: &mut Desk) -> rusqlite::Result<()> {
        desk.execute(
            "UPDATE deliveries SET state = 'cancelled', finished_at_ms = ?1, lease = NULL, lease_until_ms = NULL
             WHERE state = 'leased' AND kind = 'webhook.ping'",
            [self.now.unix_ms()],
        )?;
        desk.execute(
            "UPDATE deliveries SET next_at_ms = ?1, lease = NULL, lease_until_ms = NULL,
                 state = CASE WHEN EXISTS (SELECT 1 FROM endpoints
                     WHERE endpoints.id = deliveries.endpoint AND endpoints.state <> 'enabled') THEN 'paused' ELSE 'ready' END
             WHERE state = 'leased'",
            [self.now.unix_ms()],
        )?;
        desk.execute("UPDATE endpoints SET present = 0 WHERE origin = 'config'", [])?;
        for endpoint in &self.configured {
            let before = find(desk, &endpoint.id)?;
            let state = match before.as_ref().map(|before| before.state) {
                Some(paused @ EndpointState::Paused { .. }) => paused,
                Some(EndpointState::Enabled | EndpointState::Disabled { .. }) | None => EndpointState::Enabled,
            };
            // Who gets another chance begins anew.
            let health = before.filter(|it| it.state.is_enabled()).map_or(endpoint.health, |it| it.health);
            write(desk, &Endpoint { state, health, ..endpoint.clone() })?;
            lanes::follow(desk, &endpoint.id, state.is_enabled(), endpoint.terms.ordering, self.now)?;
        }
        desk.subscribers = None;
        desk.made_ready = true;
        Ok(())
    }
}

/// One that is there, or was before the configuration stopped naming it.
fn find(desk: &Desk, id: &EndpointId) -> rusqlite::Result<Option<Endpoint>> {
    // A row that an older version left has no terms to read; it is as good as none.
    let mut statement = desk.connection.prepare_cached(ONE)?;
    match statement.query_one([id.as_str()], endpoint).optional() {
        Err(rusqlite::Error::FromSqlConversionFailure(..)) => Ok(None),
        found => found,
    }
}

/// Writes a whole row; its version is one more than the endpoint was read at.
fn write(desk: &Desk, endpoint: &Endpoint) -> rusqlite::Result<()> {
    let (since, because) = match endpoint.state {
        EndpointState::Enabled => (None, None),
        EndpointState::Paused { since } => (Some(since), None),
        EndpointState::Disabled { since, because } => (Some(since), Some(because.name())),
    };
    let health = endpoint.health;
    desk.execute(
        "INSERT OR REPLACE INTO endpoints (id, origin, present, terms, sealed, state, state_since_ms, disabled_because,
             consecutive_failures, failing_since_ms, exhausted, open_until_ms, warned_percent, version, created_at_ms,
             updated_at_ms)
         VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        params![
            endpoint.id.as_str(),
            endpoint.origin.name(),
            terms_json(&endpoint.terms).to_string(),
            endpoint.sealed,
            endpoint.state.name(),
            since.map(Timestamp::unix_ms),
            because,
            health.consecutive_failures,
            health.failing_since.map(Timestamp::unix_ms),
            health.exhausted,
            health.open_until.map(Timestamp::unix_ms),
            health.warned_percent,
            integer(endpoint.version + 1),
            endpoint.created_at.unix_ms(),
            endpoint.updated_at.unix_ms(),
        ],
    )
    .map(drop)
}

/// Says whether nobody has written the endpoint since it was read. If somebody has, nothing is changed.
pub(super) struct PutEndpoint {
    pub(super) endpoint: Endpoint,
    pub(super) now: Timestamp,
}

impl Work for PutEndpoint {
    const OPERATION: &'static str = "record an endpoint";
    type Output = bool;

    fn run(&self, desk: &mut Desk) -> rusqlite::Result<bool> {
        let endpoint = &self.endpoint;
        let present = desk
            .connection
            .prepare_cached("SELECT version FROM endpoints WHERE id = ?1 AND present = 1")?
            .query_one([endpoint.id.as_str()], |row| Columns::of(row).count())
            .optional()?;
        if present.unwrap_or(0) != endpoint.version {
            return Ok(false);
        }
        if present.is_none() {
            // What an endpoint of this name was not sent, which the configuration does not name any more, is not for this.
            lanes::cancel(desk, &endpoint.id, self.now)?;
        }
        let was_enabled = desk.subscribers()?.iter().any(|one| one.id == endpoint.id && one.is_enabled);
        write(desk, endpoint)?;
        desk.subscribers = None;
        lanes::follow(desk, &endpoint.id, endpoint.state.is_enabled(), endpoint.terms.ordering, self.now)?;
        if let EndpointState::Disabled { because, .. } = endpoint.state
            && was_enabled
        {
            notices::log(desk, &Notice::EndpointDisabled { endpoint: endpoint.id.clone(), because }, self.now)?;
        }
        Ok(true)
    }
}

pub(super) struct RemoveEndpoint {
    pub(super) id: EndpointId,
    pub(super) now: Timestamp,
}

impl Work for RemoveEndpoint {
    const OPERATION: &'static str = "remove an endpoint";
    type Output = bool;

    fn run(&self, desk: &mut Desk) -> rusqlite::Result<bool> {
        let removed = desk.execute("DELETE FROM endpoints WHERE id = ?1", [self.id.as_str()])?;
        if removed == 0 {
            return Ok(false);
        }
        lanes::cancel(desk, &self.id, self.now)?;
        desk.execute(
            "UPDATE replay_jobs SET state = 'cancelled', finished_at_ms = ?2 WHERE endpoint = ?1 AND state = 'running'",
            params![self.id.as_str(), self.now.unix_ms()],
        )?;
        desk.subscribers = None;
        Ok(true)
    }
}

pub(super) struct CancelBacklog {
    pub(super) id: EndpointId,
    pub(super) now: Timestamp,
}

impl Work for CancelBacklog {
    const OPERATION: &'static str = "cancel deliveries";
    type Output = ();

    fn run(&self, desk: &mut Desk) -> rusqlite::Result<()> {
        lanes::cancel(desk, &self.id, self.now)
    }
}

/// Writes how an endpoint is doing.
pub(super) fn note_health(desk: &Desk, id: &EndpointId, health: Health) -> rusqlite::Result<()> {
    desk.execute(
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

/// An endpoint as the writer needs it for every event.
#[derive(Debug, Clone)]
pub(super) struct Subscriber {
    pub(super) id: EndpointId,
    pub(super) terms: EndpointTerms,
    pub(super) is_enabled: bool,
}

/// Reads who gets deliveries of new events.
pub(super) fn subscribers(connection: &Connection) -> rusqlite::Result<Arc<[Subscriber]>> {
    let subscriber = |row: &Row<'_>| {
        let found = endpoint(row)?;
        Ok(Subscriber { is_enabled: found.state.is_enabled(), id: found.id, terms: found.terms })
    };
    connection.prepare_cached(ALL)?.query_map([], subscriber)?.collect()
}

impl Desk {
    /// Who gets deliveries of new events.
    pub(super) fn subscribers(&mut self) -> rusqlite::Result<Arc<[Subscriber]>> {
        if let Some(known) = &self.subscribers {
            return Ok(Arc::clone(known));
        }
        let found = subscribers(&self.connection)?;
        self.subscribers = Some(Arc::clone(&found));
        Ok(found)
    }

    /// The order an endpoint gets its deliveries in. One that is not there has nothing to order.
    pub(super) fn ordering_of(&mut self, endpoint: &str) -> rusqlite::Result<Ordering> {
        let subscribers = self.subscribers()?;
        let found = subscribers.iter().find(|subscriber| subscriber.id.as_str() == endpoint);
        Ok(found.map_or(Ordering::PerUpload, |subscriber| subscriber.terms.ordering))
    }
}
