//! Background work of an open store: it holds the lock of the store, measures the server's time, and creates
//! and drops partitions.
//!
//! A store that runs alone holds the lock exclusively, so that a second server that uses the same database by
//! mistake does not start. Stores of one cluster share the lock. The lock is released with its connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clock::{MEASURE_EVERY, ServerTime};
use crate::days;
use crate::fault::{Fault, described};
use crate::horizon;
use crate::log;
use crate::migrate;
use crate::params::params;
use crate::past_days;
use crate::schema::Schema;
use crate::session::{Connector, Purpose, Session};
use crate::transaction::{Shared, one};
use crate::unfinished;
use domain::time::Timestamp;

/// The advisory lock of an open store.
const OPEN_LOCK: i64 = 0x4c6f_6e64_0000_0000;

/// The maximum time that a start waits for the server to notice that the previous process has ended.
const PREDECESSOR_ENDS_WITHIN: Duration = Duration::from_secs(15);

const TRY_AGAIN: Duration = Duration::from_millis(250);

const MAKE_DAYS_EVERY: Duration = Duration::from_hours(1);

/// Connects for the first time, and waits for a server that is starting, that refuses connections, or that is
/// not promoted yet.
pub(crate) async fn connect_first(connector: &Connector, purpose: Purpose, most: Duration) -> Result<Session, Fault> {
    let began = Instant::now();
    let mut reported = String::new();
    loop {
        match connector.connect(purpose).await {
            Err(fault) if fault.is_of_start() && began.elapsed() < most => {
                let why = described(&fault);
                if reported != why {
                    let database = connector.address();
                    tracing::warn!(%database, timeout_s = most.as_secs(), "waiting for the database: {why}");
                    reported = why;
                }
                tokio::time::sleep(TRY_AGAIN).await;
            }
            connected => return connected,
        }
    }
}

/// Connects again and takes the lock of an open store.
async fn begin_again(connector: &Connector, alone: bool, schema: Schema) -> Result<Session, Fault> {
    begin(connector.connect(Purpose::Write).await?, alone, schema).await
}

/// Takes the lock of an open store, and shows which schema this program knows.
pub(crate) async fn begin(session: Session, alone: bool, schema: Schema) -> Result<Session, Fault> {
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
    migrate::show_known(&session, schema).await?;
    Ok(session)
}

/// Reads which days there are, raises the bounds of unfinished work, and makes finished days past, if they
/// are at least `least_past`.
pub(crate) async fn pass_finished_days(
    session: &Session,
    shared: &Shared,
    now: Timestamp,
    least_past: usize,
) -> Result<(), Fault> {
    shared.days.remember(days::first_ids(session).await?);
    unfinished::raise(session, &shared.days, now).await?;
    past_days::pass(session, &shared.days, now, least_past).await?;
    measure_days(session, shared, now).await
}

/// Reads which days there are, and counts the rows of other days.
pub(crate) async fn read_days(session: &Session, shared: &Shared, now: Timestamp) -> Result<(), Fault> {
    shared.days.remember(days::first_ids(session).await?);
    measure_days(session, shared, now).await
}

async fn measure_days(session: &Session, shared: &Shared, now: Timestamp) -> Result<(), Fault> {
    shared.measures.partitions(days::end(session, now).await?, days::count_other(session).await?);
    Ok(())
}

/// Creates and drops partitions, and raises the bounds of unfinished work; a store that only reads looks at
/// them.
async fn keep_days(session: &Session, shared: &Shared, now: Timestamp) -> Result<(), Fault> {
    if shared.only_reads {
        return read_days(session, shared, now).await;
    }
    days::make_ahead(session, now).await?;
    let dropped = days::drop_empty(session, now).await?;
    if dropped > 0 {
        tracing::info!(dropped, "dropped the partitions of empty days");
    }
    pass_finished_days(session, shared, now, 1).await
}

async fn lock(session: &Session, alone: bool) -> Result<bool, Fault> {
    let sql = if alone { "SELECT pg_try_advisory_lock($1)" } else { "SELECT pg_try_advisory_lock_shared($1)" };
    Ok(one(&session.query(sql, params![OPEN_LOCK]).await?)?.try_get(0)?)
}

/// Runs until it is aborted.
///
/// A server that runs alone writes nothing while it does not hold the lock. If another server has used the
/// database in the meantime, it has ended the leases of this one, which then writes nothing until it is
/// restarted.
pub(crate) async fn serve(
    connector: Connector,
    alone: bool,
    schema: Schema,
    first: Session,
    time: ServerTime,
    shared: Arc<Shared>,
) {
    let mut session = Some(first);
    let mut made_days_at = Instant::now();
    let mut known_nodes = None;
    let mut reported = String::new();
    loop {
        rest(session.as_ref()).await;
        let kept_up = async {
            let session = match &session {
                Some(usable) if usable.is_usable() => usable,
                Some(_) | None => {
                    shared.is_unlocked.store(alone, Ordering::Release);
                    let new = begin_again(&connector, alone, schema).await?;
                    if alone && known_nodes.is_some() && known_nodes != nodes(&new).await? {
                        return Err(Fault::Unlocked);
                    }
                    shared.is_unlocked.store(false, Ordering::Release);
                    session.insert(new)
                }
            };
            time.measure(session).await?;
            horizon::measure(session, &shared).await?;
            if shared.only_reads {
                // Another node raises it after a restore.
                shared.position_base.store(log::read_base(session).await?, Ordering::Relaxed);
            }
            if alone {
                known_nodes = nodes(session).await?;
            }
            if made_days_at.elapsed() >= MAKE_DAYS_EVERY {
                keep_days(session, &shared, time.now()).await?;
                made_days_at = Instant::now();
            }
            Ok::<_, Fault>(())
        };
        let kept_up = kept_up.await;
        let Err(fault) = kept_up else {
            reported.clear();
            continue;
        };
        session = None;
        if matches!(fault, Fault::Unlocked) {
            tracing::error!(
                "another server has used this database; this server changes nothing any more until it is restarted"
            );
            return;
        }
        if reported != fault.to_string() {
            reported = fault.to_string();
            let error = &fault as &dyn std::error::Error;
            tracing::warn!(error, "could not keep the lock of the database, or measure its time; will retry");
        }
    }
}

/// Waits for the next measurement, or until the session has broken.
async fn rest(session: Option<&Session>) {
    let began = Instant::now();
    tokio::time::sleep(TRY_AGAIN).await;
    while session.is_some_and(Session::is_usable) && began.elapsed() < MEASURE_EVERY {
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// Returns the identifiers of the registered nodes, or `None` if there is none.
async fn nodes(session: &Session) -> Result<Option<String>, Fault> {
    let sql = "SELECT string_agg(instance::text, ' ' ORDER BY instance) FROM nodes";
    Ok(one(&session.query(sql, &[]).await?)?.try_get(0)?)
}
