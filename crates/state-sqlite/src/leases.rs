//! Nodes, and their leases on uploads.
//!
//! The time here is SQLite's `unixepoch`, so one clock judges all nodes that have the file open.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use crate::SqliteStore;
use crate::rows::{Columns, integer};
use crate::writer::{Work, WriteTransaction};
use domain::id::{InstanceId, UploadId};
use domain::node::{Epoch, Lease, Node, NodeName, NodeRole};
use state::{LEFT_NODES_KEPT, Leases, Membership, Result};

/// The condition that the row of a node counts as alive.
macro_rules! is_alive {
    () => {
        "(nodes.left_at_ms IS NULL
             AND (nodes.alive_until_ms IS NULL OR nodes.alive_until_ms > unixepoch('subsec') * 1000))"
    };
}

pub(super) use is_alive;

/// The condition that the last holder of an upload has closed its blob.
macro_rules! was_handed_over {
    () => {
        "(uploads.holder IS NULL OR EXISTS (SELECT 1 FROM nodes
             WHERE nodes.instance = uploads.holder AND nodes.left_at_ms IS NOT NULL))"
    };
}

/// Excludes uploads held by another live node; the statement appends this node's identifier.
pub(super) const NOT_ELSEWHERE: &str = concat!(
    " AND NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = uploads.holder AND ",
    is_alive!(),
    " AND nodes.instance <> "
);

#[async_trait]
impl Leases for SqliteStore {
    async fn join(&self, node: &Node, membership: Membership, lasts: Option<Duration>) -> Result<()> {
        self.writer.write(Join { node: node.clone(), membership, lasts_ms: lasts.map(milliseconds) }).await
    }

    async fn renew(&self, node: InstanceId, lasts: Duration) -> Result<bool> {
        self.writer.write(Renew { node, lasts_ms: milliseconds(lasts) }).await
    }

    async fn nodes(&self) -> Result<Vec<Node>> {
        self.readers.read("list the nodes", |connection| list_nodes(connection)).await
    }

    async fn drain(&self, node: InstanceId) -> Result<bool> {
        self.writer.write(Drain(node)).await
    }

    async fn leave(&self, node: InstanceId) -> Result<()> {
        self.writer.write(Leave(node)).await
    }

    async fn acquire(&self, upload: UploadId, by: InstanceId) -> Result<Option<Lease>> {
        self.writer.write(Acquire { upload, by }).await
    }

    async fn seize(&self, upload: UploadId, seen: Lease, by: InstanceId) -> Result<Option<Lease>> {
        self.writer.write(Seize { upload, seen, by }).await
    }

    async fn release(&self, upload: UploadId, held: Lease) -> Result<()> {
        self.writer.write(Release { upload, held }).await
    }
}

pub(super) fn milliseconds(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

struct Join {
    node: Node,
    membership: Membership,
    lasts_ms: Option<i64>,
}

impl Work for Join {
    const OPERATION: &'static str = "register a node";
    type Output = ();

    /// A server must be able to start on an almost full disk, in order to delete uploads.
    fn frees_space(&self) -> bool {
        true
    }

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<()> {
        let is_known_alive = self.membership == Membership::Others;
        tx.execute(
            concat!(
                "DELETE FROM nodes WHERE NOT (?1 AND ",
                is_alive!(),
                ") AND (left_at_ms IS NULL OR left_at_ms <= unixepoch('subsec') * 1000 - ?2)"
            ),
            params![is_known_alive, milliseconds(LEFT_NODES_KEPT)],
        )?;
        tx.execute(
            "INSERT OR REPLACE INTO nodes (instance, name, alive_until_ms, role, version, peer_url, draining)
             VALUES (?1, ?2, unixepoch('subsec') * 1000 + ?3, ?4, ?5, ?6, ?7)",
            params![
                self.node.instance.as_bytes(),
                self.node.name.as_str(),
                self.lasts_ms,
                self.node.role.name(),
                self.node.version,
                self.node.peer_url,
                self.node.is_draining
            ],
        )
        .map(drop)
    }
}

struct Renew {
    node: InstanceId,
    lasts_ms: i64,
}

impl Work for Renew {
    const OPERATION: &'static str = "renew the heartbeat of a node";
    type Output = bool;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<bool> {
        let renewed = tx.execute(
            concat!(
                "UPDATE nodes SET alive_until_ms = unixepoch('subsec') * 1000 + ?2 WHERE instance = ?1 AND ",
                is_alive!()
            ),
            params![self.node.as_bytes(), self.lasts_ms],
        )?;
        Ok(renewed > 0)
    }
}

fn list_nodes(connection: &Connection) -> rusqlite::Result<Vec<Node>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT instance, name, role, version, peer_url, draining FROM nodes WHERE ",
        is_alive!(),
        " ORDER BY instance"
    ))?;
    let nodes = statement.query_map([], |row| {
        let mut columns = Columns::of(row);
        Ok(Node {
            instance: columns.next()?,
            name: columns.named(NodeName::new)?,
            role: columns.named(NodeRole::by_name)?,
            version: columns.next()?,
            peer_url: columns.next()?,
            is_draining: columns.next()?,
        })
    });
    nodes?.collect()
}

struct Drain(InstanceId);

impl Work for Drain {
    const OPERATION: &'static str = "drain a node";
    type Output = bool;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<bool> {
        let sql = concat!("UPDATE nodes SET draining = 1 WHERE instance = ?1 AND ", is_alive!());
        Ok(tx.execute(sql, [self.0.as_bytes()])? > 0)
    }
}

struct Leave(InstanceId);

impl Work for Leave {
    const OPERATION: &'static str = "unregister a node";
    type Output = ();

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<()> {
        let sql =
            concat!("UPDATE nodes SET left_at_ms = unixepoch('subsec') * 1000 WHERE instance = ?1 AND ", is_alive!());
        tx.execute(sql, [self.0.as_bytes()]).map(drop)
    }
}

struct Acquire {
    upload: UploadId,
    by: InstanceId,
}

impl Work for Acquire {
    const OPERATION: &'static str = "take the lease of an upload";
    type Output = Option<Lease>;

    /// The deletion of an upload begins with its lease.
    fn frees_space(&self) -> bool {
        true
    }

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<Option<Lease>> {
        let values = params![self.upload.as_bytes(), self.by.as_bytes()];
        tx.execute(
            concat!(
                "UPDATE uploads SET holder = ?2, epoch = epoch + 1,
                     lease_generation = CASE WHEN ",
                was_handed_over!(),
                " THEN lease_generation ELSE epoch + 1 END
                 WHERE id = ?1 AND holder IS NOT ?2
                     AND EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = ?2 AND ",
                is_alive!(),
                ") AND NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = uploads.holder AND ",
                is_alive!(),
                ")"
            ),
            values,
        )?;
        lease_of(tx, self.upload)
    }
}

fn lease_of(tx: &WriteTransaction, upload: UploadId) -> rusqlite::Result<Option<Lease>> {
    let mut statement =
        tx.connection.prepare_cached("SELECT holder, epoch, lease_generation FROM uploads WHERE id = ?1")?;
    let lease = statement.query_one([upload.as_bytes()], |row| {
        let holder: Option<[u8; 16]> = row.get(0)?;
        let [epoch, generation] =
            [row.get::<_, i64>(1)?, row.get(2)?].map(|number: i64| Epoch::new(number.unsigned_abs()));
        Ok(Lease { holder: holder.map(InstanceId::from_bytes), epoch, generation })
    });
    lease.optional()
}

struct Seize {
    upload: UploadId,
    seen: Lease,
    by: InstanceId,
}

impl Work for Seize {
    const OPERATION: &'static str = "take the lease of an upload from another node";
    type Output = Option<Lease>;

    /// The deletion of an upload may begin with it.
    fn frees_space(&self) -> bool {
        true
    }

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<Option<Lease>> {
        let seen = self.seen.holder.map(|holder| holder.as_bytes().to_vec());
        tx.execute(
            concat!(
                "UPDATE uploads SET holder = ?2, epoch = epoch + 1, lease_generation = epoch + 1
                 WHERE id = ?1 AND holder IS ?3 AND epoch = ?4 AND holder IS NOT ?2
                     AND EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = ?2 AND ",
                is_alive!(),
                ")"
            ),
            params![self.upload.as_bytes(), self.by.as_bytes(), seen, integer(self.seen.epoch.get())],
        )?;
        lease_of(tx, self.upload)
    }
}

struct Release {
    upload: UploadId,
    held: Lease,
}

impl Work for Release {
    const OPERATION: &'static str = "release the lease of an upload";
    type Output = ();

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<()> {
        let holder = self.held.holder.map(|holder| holder.as_bytes().to_vec());
        tx.execute(
            "UPDATE uploads SET holder = NULL WHERE id = ?1 AND holder IS ?2 AND epoch = ?3",
            params![self.upload.as_bytes(), holder, integer(self.held.epoch.get())],
        )
        .map(drop)
    }
}
