//! Transaction poolers, such as PgBouncer with `pool_mode = transaction`, between this program and the
//! server.
//!
//! Locks that show which nodes have the database open, notifications and migrations need a dedicated server
//! connection. They use the direct address of the server; everything else may go through the pooler.
//!
//! The protocol does not reveal a pooler, but sessions show it: with a dedicated server connection, a session
//! always has the same server process, and no other session has it meanwhile. A pooler gives an idle server
//! connection to the next transaction of any session. Depending on its order, one of two sessions then finds
//! another process than before, or the process of the other.

use std::time::Duration;

use crate::fault::Fault;
use crate::params::params;
use crate::session::{Connector, Purpose, Session};
use crate::settings::PostgresSettings;
use crate::transaction::one;
use crate::upkeep::connect_first;

/// The number of times that two sessions are compared. Other users of a pooler can make a round look as if
/// there was none.
const ROUNDS: u32 = 5;

/// Returns a connector whose sessions have dedicated server connections. Waits at most `most` for a server
/// that is not there yet.
pub(crate) async fn direct(settings: &PostgresSettings, most: Duration) -> Result<Connector, Fault> {
    let address = settings.direct_address.as_ref().unwrap_or(&settings.address);
    let connector = Connector::new(address.clone(), settings.durability)?;
    let probing = connector.without_settings();
    let first = connect_first(&probing, Purpose::Read, most).await?;
    let second = probing.connect(Purpose::Read).await?;
    if shares_processes(&first, &second).await? {
        return Err(Fault::Unusable(match settings.direct_address {
            None => "database.url leads through a connection pooler in transaction mode; set database.direct_url to \
                     the address of the server itself, or set the pooler to session mode"
                .to_owned(),
            Some(_) => "database.direct_url leads through a connection pooler in transaction mode; set it to the \
                        address of the server itself"
                .to_owned(),
        }));
    }
    if settings.direct_address.is_some() {
        refuse_other_database(&first, settings, most).await?;
    }
    Ok(connector)
}

/// Returns the connector for transactions and reads: that of the pooler, if there is one.
pub(crate) fn for_transactions(direct: &Connector, settings: &PostgresSettings) -> Result<Connector, Fault> {
    match settings.direct_address {
        None => Ok(direct.clone()),
        Some(_) => direct.through_pooler(settings.address.clone()),
    }
}

async fn shares_processes(first: &Session, second: &Session) -> Result<bool, Fault> {
    let own = process_of(first).await?;
    for _ in 0..ROUNDS {
        for (session, is_first) in [(first, true), (second, false), (first, true), (first, true)] {
            if (process_of(session).await? == own) != is_first {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

pub(crate) async fn process_of(session: &Session) -> Result<i32, Fault> {
    let rows = session.query("SELECT pg_backend_pid()", &[]).await?;
    Ok(one(&rows)?.try_get(0)?)
}

/// Fails if the pooler leads to another database than the direct address.
async fn refuse_other_database(direct: &Session, settings: &PostgresSettings, most: Duration) -> Result<(), Fault> {
    let pooled = Connector::new(settings.address.clone(), settings.durability)?.without_settings();
    let pooled = connect_first(&pooled, Purpose::Read, most).await?;
    if (pooled.system(), database_of(&pooled).await?) == (direct.system(), database_of(direct).await?) {
        return Ok(());
    }
    Err(Fault::Unusable(
        "database.url and database.direct_url lead to different databases; set one of them right".to_owned(),
    ))
}

async fn database_of(session: &Session) -> Result<i64, Fault> {
    let sql = "SELECT oid::bigint FROM pg_database WHERE datname = current_database()";
    Ok(one(&session.query(sql, params![]).await?)?.try_get(0)?)
}
