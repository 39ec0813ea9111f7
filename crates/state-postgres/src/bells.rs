//! Bells that ring for commits of all nodes.
//!
//! After its commits a node sends `NOTIFY`, outside any transaction and at most every 20 ms: a notification
//! inside a transaction would serialize all commits of the database. The payload says only that something has
//! changed. A notification can be lost, together with its connection or behind a connection pooler, so every
//! bell also rings at least once a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::fault::Fault;
use crate::pooler::process_of;
use crate::session::{Connector, Purpose};
use domain::id::UploadId;
use state::{Bell, Bells, LocalBells};

/// The interval at which a waiting task reads the state without a ring.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The minimum time between two notifications of a node.
const NOTIFY_EVERY: Duration = Duration::from_millis(20);

/// The delay before a node listens again after it lost its connection.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

const LISTEN: &str = "LISTEN longshore";

/// The payload is the number of the shard; there is only one.
const NOTIFY: &str = "NOTIFY longshore, '0'";

/// Bells of uploads on this node and on others.
#[derive(Debug)]
pub(crate) struct SharedBells {
    local: LocalBells,
    /// Rings when other nodes must be notified.
    wake_others: Arc<Notify>,
}

impl SharedBells {
    pub(crate) fn new(wake_others: Arc<Notify>) -> Self {
        Self { local: LocalBells::with_poll_interval(POLL_INTERVAL), wake_others }
    }
}

impl Bells for SharedBells {
    fn changed(&self, upload: UploadId) {
        self.local.changed(upload);
        self.wake_others.notify_one();
    }

    fn of_upload(&self, upload: UploadId) -> Bell {
        self.local.of_upload(upload)
    }

    fn of_all(&self) -> Bell {
        self.local.of_all()
    }
}

/// Listens for notifications of other nodes and sends those of this node. Runs until it is aborted.
pub(crate) async fn serve(connector: Connector, bells: Arc<SharedBells>, deliveries_bell: Arc<Notify>) {
    loop {
        let Err(fault) = listen(&connector, &bells, &deliveries_bell).await;
        tracing::warn!(
            error = &fault as &dyn std::error::Error,
            "lost the connection for notifications from other nodes; will reconnect"
        );
        tokio::time::sleep(LISTEN_AGAIN_AFTER).await;
    }
}

async fn listen(
    connector: &Connector,
    bells: &Arc<SharedBells>,
    deliveries_bell: &Arc<Notify>,
) -> Result<std::convert::Infallible, Fault> {
    let own = Arc::new(AtomicI32::new(0));
    let heard = {
        let (own, bells, deliveries_bell) = (Arc::clone(&own), Arc::clone(bells), Arc::clone(deliveries_bell));
        move |notification: &tokio_postgres::Notification| {
            if notification.process_id() != own.load(Ordering::Relaxed) {
                bells.local.ring_all();
                deliveries_bell.notify_one();
            }
        }
    };
    let session = connector.connect_with(Purpose::Listen, heard).await?;
    own.store(process_of(&session).await?, Ordering::Relaxed);
    session.batch(LISTEN).await?;
    // Commits made while this node was not listening.
    bells.local.ring_all();
    deliveries_bell.notify_one();
    loop {
        // After a long time without a ring, the statement is repeated to detect a connection that has died.
        let woken = tokio::time::timeout(POLL_INTERVAL * 10, bells.wake_others.notified()).await;
        session.batch(if woken.is_ok() { NOTIFY } else { LISTEN }).await?;
        tokio::time::sleep(NOTIFY_EVERY).await;
    }
}
