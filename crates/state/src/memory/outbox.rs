//! The ports of the outbox, implemented by the tables.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::memory::MemoryState;
use crate::{
    BacklogLimits, Claim, ConfigurationStanding, Deliveries, Dispatch, EndpointConfiguration, Endpoints, Error,
    Notices, Replays, Result, Retention, RetentionHorizon, SettlementBatch,
};
use domain::delivery::{Backlog, DeliveryRecord, ReplayOutcome};
use domain::endpoint::{Endpoint, EndpointId};
use domain::id::{DeliveryId, InstanceId, ReplayId, UploadId};
use domain::lane::ClaimLimits;
use domain::notice::Notice;
use domain::principal::{TenantId, TenantScope};
use domain::query::{DeliveryPage, DeliveryQuery};
use domain::replay::ReplayJob;
use domain::time::Timestamp;

#[async_trait]
impl Endpoints for MemoryState {
    async fn configure(
        &self,
        node: InstanceId,
        configuration: EndpointConfiguration,
        now: Timestamp,
    ) -> Result<ConfigurationStanding> {
        self.write("open the outbox", |tables| tables.configure(node, configuration, now))
    }

    async fn endpoints(&self, scope: TenantScope) -> Result<Vec<Endpoint>> {
        let tables = self.read("list endpoints")?;
        let found = tables.present().filter(|kept| scope.covers(kept.endpoint.tenant));
        Ok(found.map(|kept| kept.endpoint.clone()).collect())
    }

    async fn put_endpoint(&self, endpoint: Endpoint, now: Timestamp) -> Result<Endpoint> {
        let id = endpoint.id.clone();
        let written = self.write("record an endpoint", |tables| tables.put_endpoint(endpoint, now))?;
        written.ok_or(Error::EndpointConflict(id))
    }

    async fn add_endpoint(&self, endpoint: Endpoint, most: u32, now: Timestamp) -> Result<Option<Endpoint>> {
        let id = endpoint.id.clone();
        let added = self.write("record an endpoint", |tables| {
            let is_full = tables.count_created(endpoint.tenant) >= most as usize;
            if is_full { None } else { Some(tables.put_endpoint(endpoint, now)) }
        })?;
        added.map(|written| written.ok_or(Error::EndpointConflict(id))).transpose()
    }

    async fn remove_endpoint(&self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> Result<bool> {
        self.write("remove an endpoint", |tables| tables.remove_endpoint(scope, id, now))
    }

    async fn cancel_backlog(&self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> Result<bool> {
        self.write("cancel deliveries", |tables| tables.cancel_backlog(scope, id, now))
    }

    async fn advance_backlog(&self, limit: u32, now: Timestamp) -> Result<bool> {
        self.write("continue with a backlog", |tables| tables.advance_backlog(limit, now))
    }
}

#[async_trait]
impl Dispatch for MemoryState {
    async fn claim_due(
        &self,
        node: InstanceId,
        limits: &[(EndpointId, ClaimLimits)],
        now: Timestamp,
        lease: Duration,
    ) -> Result<Vec<Claim>> {
        self.write("claim due deliveries", |tables| tables.claim_due(node, limits, now, lease))
    }

    async fn settle(&self, settled: SettlementBatch, now: Timestamp) -> Result<()> {
        self.write("record delivery attempts", |tables| tables.settle(settled, now))
    }

    async fn renew_leases(&self, node: InstanceId, until: Timestamp) -> Result<()> {
        self.write("renew leases", |tables| tables.renew_leases(node, until))
    }

    async fn restart_waits(&self, now: Timestamp) -> Result<u64> {
        self.write("make deliveries due after the clock was set back", |tables| tables.restart_waits(now))
    }

    async fn next_due(&self, endpoints: &[EndpointId]) -> Result<Option<Timestamp>> {
        Ok(self.read("find when a delivery is due")?.next_due(endpoints))
    }

    async fn test_endpoint(
        &self,
        scope: TenantScope,
        node: InstanceId,
        id: &EndpointId,
        now: Timestamp,
        lease: Duration,
    ) -> Result<Option<Claim>> {
        self.write("record a test event", |tables| tables.test_endpoint(scope, node, id, now, lease))
    }

    fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }
}

#[async_trait]
impl Deliveries for MemoryState {
    async fn deliveries(&self, scope: TenantScope, query: &DeliveryQuery) -> Result<DeliveryPage> {
        Ok(self.read("list deliveries")?.list_deliveries(scope, query))
    }

    async fn delivery(&self, scope: TenantScope, id: DeliveryId) -> Result<Option<DeliveryRecord>> {
        Ok(self.read("find a delivery")?.find_delivery(scope, id))
    }

    async fn backlog(&self, scope: TenantScope, endpoint: Option<&EndpointId>) -> Result<Backlog> {
        Ok(self.read("count unfinished deliveries")?.backlog(scope, endpoint))
    }

    async fn replay(&self, scope: TenantScope, id: DeliveryId, force: bool, now: Timestamp) -> Result<ReplayOutcome> {
        self.write("send a delivery again", |tables| tables.replay(scope, id, force, now))
    }
}

#[async_trait]
impl Notices for MemoryState {
    async fn announce(&self, tenant: TenantId, notice: Notice, now: Timestamp) -> Result<()> {
        self.write("record a notice", |tables| tables.announce(tenant, &notice, now))
    }
}

#[async_trait]
impl Replays for MemoryState {
    async fn begin_replay(&self, job: ReplayJob) -> Result<ReplayJob> {
        self.write("record a replay", |tables| tables.begin_replay(job))
    }

    async fn replay_jobs(&self, scope: TenantScope) -> Result<Vec<ReplayJob>> {
        Ok(self.read("list replays")?.replay_jobs(scope))
    }

    async fn advance_replay(&self, id: ReplayId, limit: u32, now: Timestamp) -> Result<Option<ReplayJob>> {
        self.write("continue a replay", |tables| tables.advance_replay(id, limit, now))
    }

    async fn cancel_replay(&self, scope: TenantScope, id: ReplayId, now: Timestamp) -> Result<bool> {
        self.write("stop a replay", |tables| tables.cancel_replay(scope, id, now))
    }
}

#[async_trait]
impl Retention for MemoryState {
    async fn expire(&self, begun_before: Timestamp, limit: u32, now: Timestamp) -> Result<u64> {
        self.write("expire deliveries", |tables| tables.expire(begun_before, limit, now))
    }

    async fn drop_excess(&self, limits: BacklogLimits, limit: u32, now: Timestamp) -> Result<Vec<(EndpointId, u64)>> {
        let dropped =
            self.write("cancel deliveries beyond the backlog limits", |tables| tables.drop_excess(limits, limit, now))?;
        Ok(dropped.into_iter().collect())
    }

    async fn prune(&self, horizon: RetentionHorizon, limit: u32) -> Result<u64> {
        self.write("remove old records", |tables| tables.prune(horizon, limit))
    }

    async fn expunge(&self, scope: TenantScope, upload: UploadId) -> Result<u64> {
        self.write("remove the metadata and texts of an upload from its events", |tables| tables.expunge(scope, upload))
    }

    fn superseded(&self) -> u64 {
        self.memory.tables().superseded - self.superseded_before
    }
}
