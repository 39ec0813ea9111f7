//! Background work of an open store: it holds the lock of the store, measures the server's time, and creates
//! and drops partitions.
//!
//! A store that runs alone holds the lock exclusively, so that a second server that uses the same database by
//! mistake does not start. Stores of one cluster share the lock. The lock is released with its connection.

use std::time::{Duration, Instant};

use crate::clock::{MEASURE_EVERY, ServerTime};
use crate::days;
use crate::fault::Fault;
use crate::params::params;
use crate::session::{Connector, Purpose, Session};
use crate::transaction::one;

/// The advisory lock of an open store.
const OPEN_LOCK: i64 = 0x4c6f_6e64_0000_0000;

/// The maximum time that a start waits for the server to notice that the previous process has ended.
const PREDECESSOR_ENDS_WITHIN: Duration = Duration::from_secs(15);

const TRY_AGAIN: Duration = Duration::from_millis(250);

const MAKE_DAYS_EVERY: Duration = Duration::from_hours(1);

/// Connects and takes the lock of an open store.
pub(crate) async fn begin(connector: &Connector, alone: bool) -> Result<Session, Fault> {
    let session = connector.connect(Purpose::Write).await?;
    let began = Instant::now();
    let mut was_told = false;
    while !lock(&session, alone).await? {
        if began.elapsed() >= PREDECESSOR_ENDS_WITHIN {
            return Err(Fault::Unusable(
                "another server has this database open; stop it, or configure another database".to_owned(),
            ));
        }
        if !was_told {
            tracing::info!("another server still has the database open; waiting for it to stop");
            was_told = true;
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
    Ok(session)
}

async fn lock(session: &Session, alone: bool) -> Result<bool, Fault> {
    let sql = if alone { "SELECT pg_try_advisory_lock($1)" } else { "SELECT pg_try_advisory_lock_shared($1)" };
    Ok(one(&session.query(sql, params![OPEN_LOCK]).await?)?.try_get(0)?)
}

/// Runs until it is aborted.
pub(crate) async fn serve(connector: Connector, alone: bool, first: Session, time: ServerTime) {
    let mut session = Some(first);
    let mut made_days_at = Instant::now();
    loop {
        tokio::time::sleep(MEASURE_EVERY).await;
        let kept_up = async {
            let session = match &session {
                Some(usable) if usable.is_usable() => usable,
                Some(_) | None => session.insert(begin(&connector, alone).await?),
            };
            time.measure(session).await?;
            if made_days_at.elapsed() >= MAKE_DAYS_EVERY {
                days::make_ahead(session, time.now()).await?;
                let dropped = days::drop_empty(session, time.now()).await?;
                if dropped > 0 {
                    tracing::info!(dropped, "dropped the partitions of empty days");
                }
                made_days_at = Instant::now();
            }
            Ok::<_, Fault>(())
        };
        if let Err(fault) = kept_up.await {
            tracing::warn!(
                error = &fault as &dyn std::error::Error,
                "could not measure the time of the database server"
            );
            session = None;
        }
    }
}
