//! Nodes, and their leases on uploads. The time here is that of the database, so one clock judges all nodes.
//!
//! A new holder gets a higher epoch than any earlier one, including those whose leases a failover has lost:
//! see `lineage`.

use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Row;

use crate::PostgresStore;
use crate::bucket::bucket_of;
use crate::fault::Fault;
use crate::params::params;
use crate::rows::Columns;
use crate::transaction::{AfterLostAnswer, Transaction, Work};
use domain::id::{InstanceId, UploadId};
use domain::node::{Epoch, Lease, Node, NodeName, NodeRole};
use state::{LEFT_NODES_KEPT, Leases, Membership, Result};

/// The condition that the row of a node counts as alive.
macro_rules! is_alive {
    () => {
        "(nodes.left_at IS NULL AND (nodes.alive_until IS NULL OR nodes.alive_until > clock_timestamp()))"
    };
}

pub(crate) use is_alive;

/// The least epoch of the history that the database continues: a lost history has given none from here on.
macro_rules! least_epoch {
    () => {
        "(SELECT (before + timeline) << 32 FROM lineage)"
    };
}

/// The epoch of a lease that is being taken.
macro_rules! next_epoch {
    () => {
        concat!("greatest(epoch + 1, ", least_epoch!(), ")")
    };
}

/// The beginning of a statement that takes a lease for the node `$3`; the generation of the lease follows.
macro_rules! take {
    () => {
        concat!("UPDATE upload_progress SET holder = $3, epoch = ", next_epoch!(), ", lease_generation = ")
    };
}

/// The condition that the last holder of an upload has closed its blob, and no lost history can have had
/// another one.
macro_rules! was_handed_over {
    () => {
        concat!(
            "(upload_progress.holder IS NULL OR EXISTS (SELECT 1 FROM nodes
                 WHERE nodes.instance = upload_progress.holder AND nodes.left_at IS NOT NULL)) AND epoch >= ",
            least_epoch!()
        )
    };
}

/// Excludes uploads held by another live node; the statement appends this node's identifier.
pub(crate) const NOT_ELSEWHERE: &str = concat!(
    " AND NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = upload_progress.holder AND ",
    is_alive!(),
    " AND nodes.instance <> "
);

#[async_trait]
impl Leases for PostgresStore {
    async fn join(&self, node: &Node, membership: Membership, lasts: Option<Duration>) -> Result<()> {
        self.write(Join { node: node.clone(), membership, lasts_ms: lasts.map(milliseconds) }).await
    }

    async fn renew(&self, node: InstanceId, lasts: Duration) -> Result<bool> {
        self.write(Renew { node, lasts_ms: milliseconds(lasts) }).await
    }

    async fn nodes(&self) -> Result<Vec<Node>> {
        const OPERATION: &str = "list the nodes";
        let found = self.readers.query(OPERATION, NODES, &[]).await?;
        let nodes: std::result::Result<_, Fault> = found.iter().map(node).collect();
        nodes.map_err(|fault| fault.into_error(OPERATION))
    }

    async fn drain(&self, node: InstanceId) -> Result<bool> {
        self.write(Drain(node)).await
    }

    async fn leave(&self, node: InstanceId) -> Result<()> {
        self.write(Leave(node)).await
    }

    async fn acquire(&self, upload: UploadId, by: InstanceId) -> Result<Option<Lease>> {
        self.write(Acquire { upload, by }).await
    }

    async fn seize(&self, upload: UploadId, seen: Lease, by: InstanceId) -> Result<Option<Lease>> {
        self.write(Seize { upload, seen, by }).await
    }

    async fn release(&self, upload: UploadId, held: Lease) -> Result<()> {
        self.write(Release { upload, held }).await
    }
}

/// Converts a duration to milliseconds, limited to what an interval of the database can represent.
pub(crate) fn milliseconds(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX).min(1 << 45)
}

struct Join {
    node: Node,
    membership: Membership,
    lasts_ms: Option<i64>,
}

impl Work for Join {
    const OPERATION: &'static str = "register a node";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = ();

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<(), Fault> {
        let is_known_alive = self.membership == Membership::Others;
        if !tx.shared.only_reads {
            let sql = concat!(
                "DELETE FROM nodes WHERE NOT ($1 AND ",
                is_alive!(),
                ") AND (left_at IS NULL OR left_at <= clock_timestamp() - $2::bigint * interval '1 ms')"
            );
            tx.execute(sql, params![is_known_alive, milliseconds(LEFT_NODES_KEPT)]).await?;
        }
        tx.execute(
            "INSERT INTO nodes (instance, name, alive_until, role, version, peer_url, draining)
             VALUES ($1, $2, clock_timestamp() + $3::bigint * interval '1 ms', $4, $5, $6, $7)
             ON CONFLICT (instance) DO UPDATE SET name = excluded.name, alive_until = excluded.alive_until,
                 role = excluded.role, version = excluded.version, peer_url = excluded.peer_url,
                 draining = excluded.draining, left_at = NULL",
            params![
                self.node.instance,
                self.node.name.as_str().to_owned(),
                self.lasts_ms,
                self.node.role.name(),
                self.node.version.clone(),
                self.node.peer_url.clone(),
                self.node.is_draining,
            ],
        )
        .await
        .map(drop)
    }
}

struct Renew {
    node: InstanceId,
    lasts_ms: i64,
}

impl Work for Renew {
    const OPERATION: &'static str = "renew the heartbeat of a node";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = bool;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<bool, Fault> {
        let renewed = tx
            .execute(
                concat!(
                    "UPDATE nodes SET alive_until = clock_timestamp() + $2::bigint * interval '1 ms'
                     WHERE instance = $1 AND ",
                    is_alive!()
                ),
                params![self.node, self.lasts_ms],
            )
            .await?;
        Ok(renewed > 0)
    }
}

const NODES: &str = concat!(
    "SELECT instance, name, role, version, peer_url, draining FROM nodes WHERE ",
    is_alive!(),
    " ORDER BY instance"
);

fn node(row: &Row) -> std::result::Result<Node, Fault> {
    let mut columns = Columns::of(row);
    Ok(Node {
        instance: columns.next()?,
        name: columns.named(NodeName::new)?,
        role: columns.named(NodeRole::by_name)?,
        version: columns.next()?,
        peer_url: columns.next()?,
        is_draining: columns.next()?,
    })
}

struct Drain(InstanceId);

impl Work for Drain {
    const OPERATION: &'static str = "drain a node";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = bool;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<bool, Fault> {
        let sql = concat!("UPDATE nodes SET draining = true WHERE instance = $1 AND ", is_alive!());
        Ok(tx.execute(sql, params![self.0]).await? > 0)
    }
}

struct Leave(InstanceId);

impl Work for Leave {
    const OPERATION: &'static str = "unregister a node";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = ();

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<(), Fault> {
        let sql = concat!("UPDATE nodes SET left_at = clock_timestamp() WHERE instance = $1 AND ", is_alive!());
        tx.execute(sql, params![self.0]).await.map(drop)
    }
}

struct Acquire {
    upload: UploadId,
    by: InstanceId,
}

impl Work for Acquire {
    const OPERATION: &'static str = "take the lease of an upload";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = Option<Lease>;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<Option<Lease>, Fault> {
        let bucket = bucket_of(self.upload.as_bytes());
        tx.execute(
            concat!(
                take!(),
                "CASE WHEN ",
                was_handed_over!(),
                " THEN lease_generation ELSE ",
                next_epoch!(),
                " END
                 WHERE bucket = $1 AND id = $2 AND holder IS DISTINCT FROM $3
                     AND EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = $3 AND ",
                is_alive!(),
                ") AND NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = upload_progress.holder AND ",
                is_alive!(),
                ")"
            ),
            params![bucket, self.upload, self.by],
        )
        .await?;
        lease_of(tx, self.upload).await
    }
}

async fn lease_of(tx: &Transaction<'_>, upload: UploadId) -> std::result::Result<Option<Lease>, Fault> {
    let sql = "SELECT holder, epoch, lease_generation FROM upload_progress WHERE bucket = $1 AND id = $2";
    let found = tx.query_opt(sql, params![bucket_of(upload.as_bytes()), upload]).await?;
    let lease = |row| {
        let mut columns = Columns::of(row);
        let holder = columns.next()?;
        Ok(Lease { holder, epoch: Epoch::new(columns.next()?), generation: Epoch::new(columns.next()?) })
    };
    found.as_ref().map(lease).transpose()
}

struct Seize {
    upload: UploadId,
    seen: Lease,
    by: InstanceId,
}

impl Work for Seize {
    const OPERATION: &'static str = "take the lease of an upload from another node";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = Option<Lease>;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<Option<Lease>, Fault> {
        tx.execute(
            concat!(
                take!(),
                next_epoch!(),
                "
                 WHERE bucket = $1 AND id = $2 AND holder IS NOT DISTINCT FROM $4 AND epoch = $5
                     AND holder IS DISTINCT FROM $3
                     AND EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = $3 AND ",
                is_alive!(),
                ")"
            ),
            params![bucket_of(self.upload.as_bytes()), self.upload, self.by, self.seen.holder, self.seen.epoch.get(),],
        )
        .await?;
        lease_of(tx, self.upload).await
    }
}

struct Release {
    upload: UploadId,
    held: Lease,
}

impl Work for Release {
    const OPERATION: &'static str = "release the lease of an upload";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = ();

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<(), Fault> {
        let values = params![bucket_of(self.upload.as_bytes()), self.upload, self.held.holder, self.held.epoch.get()];
        tx.execute(
            "UPDATE upload_progress SET holder = NULL
             WHERE bucket = $1 AND id = $2 AND holder IS NOT DISTINCT FROM $3 AND epoch = $4",
            values,
        )
        .await
        .map(drop)
    }
}
