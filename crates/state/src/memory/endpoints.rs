//! Endpoints, and events about delivery itself.

use std::collections::BTreeSet;

use crate::memory::Tables;
use crate::memory::backlog::{BacklogJobKind, is_cancelling};
use crate::memory::deliveries::NewDelivery;
use crate::memory::log::LogEntry;
use crate::{ConfigurationStanding, EndpointConfiguration};
use domain::delivery::{AttemptTrigger, DeliveryClass, DeliveryState};
use domain::endpoint::{Endpoint, EndpointId, EndpointState, Origin, differs_from};
use domain::event::EventKind;
use domain::health::HealthChange;
use domain::id::{DeliveryId, EventId, InstanceId};
use domain::lane::{self, EndpointAvailability};
use domain::log::EventPosition;
use domain::notice::Notice;
use domain::principal::{TenantId, TenantScope};
use domain::replay::ReplayState;
use domain::time::Timestamp;

/// An endpoint with the decisions about its deliveries.
#[derive(Debug)]
pub(super) struct StoredEndpoint {
    pub(super) endpoint: Endpoint,
    /// False for an endpoint that was removed from the configuration.
    pub(super) is_present: bool,
    /// The number of the latest job for all of its deliveries.
    pub(super) generation: i64,
    pub(super) resumed_at: Timestamp,
    /// The nodes whose configuration names it.
    named_by: BTreeSet<InstanceId>,
}

impl Tables {
    pub(super) fn present(&self) -> impl Iterator<Item = &StoredEndpoint> {
        self.endpoints.values().filter(|kept| kept.is_present)
    }

    pub(super) fn availability(&self, kept: &StoredEndpoint) -> EndpointAvailability {
        EndpointAvailability {
            is_present: kept.is_present,
            is_enabled: kept.endpoint.state.is_enabled(),
            is_cancelling: is_cancelling(&self.jobs, &kept.endpoint.id).is_some(),
            resumed_at: kept.resumed_at,
        }
    }

    pub(super) fn configure(
        &mut self,
        node: InstanceId,
        configuration: EndpointConfiguration,
        now: Timestamp,
    ) -> ConfigurationStanding {
        self.reclaim(now);
        let EndpointConfiguration { epoch, endpoints: configured } = configuration;
        if epoch < self.config_epoch {
            return ConfigurationStanding::Outdated { newest: self.config_epoch };
        }
        let replaces_all = epoch > self.config_epoch;
        self.config_epoch = epoch;
        let differs = self.name_endpoints(node, &configured, replaces_all);
        for endpoint in configured {
            let found = self.endpoints.get(&endpoint.id).map(|kept| kept.endpoint.clone());
            let written = self.write_endpoint(endpoint.configured_over(found.as_ref()));
            if let Some(kept) = self.endpoints.get_mut(&written.id) {
                kept.named_by.insert(node);
            }
            match found {
                Some(before) if before.tenant == written.tenant => self.adjust_backlog(&before, &written, now),
                // Deliveries not sent to another tenant's endpoint of this name do not go to this one.
                Some(_) => self.begin_job(&written.id, BacklogJobKind::Cancel, now),
                None => {}
            }
        }
        self.made_ready = true;
        if differs { ConfigurationStanding::Differs } else { ConfigurationStanding::Applied }
    }

    /// Records the endpoints that this node's configuration names. Endpoints that no live node's
    /// configuration names are no longer present. Returns true if other live nodes name other endpoints.
    fn name_endpoints(&mut self, node: InstanceId, configured: &[Endpoint], replaces_all: bool) -> bool {
        let alive: BTreeSet<InstanceId> = self.nodes.keys().copied().filter(|node| self.is_alive(*node)).collect();
        for kept in self.endpoints.values_mut() {
            kept.named_by.retain(|by| !replaces_all && *by != node && alive.contains(by));
        }
        let named = self.endpoints.values().filter(|kept| !kept.named_by.is_empty());
        let differs = differs_from(configured, &named.map(|kept| kept.endpoint.clone()).collect::<Vec<_>>());
        for kept in self.endpoints.values_mut() {
            if configured.iter().any(|endpoint| endpoint.id == kept.endpoint.id) {
                kept.named_by.insert(node);
            }
            kept.is_present &= kept.endpoint.origin != Origin::Config || !kept.named_by.is_empty();
        }
        differs
    }

    /// Reclaims deliveries that lost nodes have claimed.
    fn reclaim(&mut self, now: Timestamp) {
        let leased = self.deliveries.values().filter(|delivery| delivery.state == DeliveryState::Leased);
        let lost = leased.filter(|delivery| delivery.claimed_by.is_none_or(|by| !self.is_alive(by)));
        let leased: Vec<DeliveryId> = lost.map(|delivery| delivery.id).collect();
        for id in leased {
            let Some(delivery) = self.deliveries.get(&id) else { continue };
            let state = lane::reclaim(DeliveryClass::of(delivery.kind));
            if state.is_finished() {
                self.end(id, state, now);
                continue;
            }
            self.change(id, |delivery| {
                delivery.state = state;
                delivery.next_at = lane::due_when_released(delivery.next_at, now);
                (delivery.lease, delivery.lease_until) = (None, None);
            });
        }
    }

    /// Writes an endpoint; its version is the version it was read at plus one.
    fn write_endpoint(&mut self, endpoint: Endpoint) -> Endpoint {
        let written = Endpoint { version: endpoint.version + 1, ..endpoint };
        let before = self.endpoints.remove(&written.id);
        let (generation, resumed_at, named_by) = before
            .map_or((0, Timestamp::from_unix_ms(0), BTreeSet::new()), |kept| {
                (kept.generation, kept.resumed_at, kept.named_by)
            });
        let kept = StoredEndpoint { endpoint: written.clone(), is_present: true, generation, resumed_at, named_by };
        self.endpoints.insert(written.id.clone(), kept);
        written
    }

    /// Applies changes of an endpoint to its deliveries. Stopping the endpoint changes none of them.
    fn adjust_backlog(&mut self, before: &Endpoint, after: &Endpoint, now: Timestamp) {
        if after.state.is_enabled() && !before.state.is_enabled() {
            if let Some(kept) = self.endpoints.get_mut(&after.id) {
                kept.resumed_at = now;
            }
            self.begin_job(&after.id, BacklogJobKind::Hasten, now);
        }
        if after.terms.ordering != before.terms.ordering {
            self.begin_job(&after.id, BacklogJobKind::Release, now);
        }
    }

    /// Counts the endpoints of a tenant that were created through the API.
    pub(super) fn count_created(&self, tenant: TenantId) -> usize {
        let created = |endpoint: &Endpoint| endpoint.origin == Origin::Api && endpoint.tenant == tenant;
        self.present().filter(|kept| created(&kept.endpoint)).count()
    }

    /// Writes an endpoint if it was not changed since it was read.
    pub(super) fn put_endpoint(&mut self, endpoint: Endpoint, now: Timestamp) -> Option<Endpoint> {
        let found = self.endpoints.get(&endpoint.id);
        if found.is_some_and(|kept| kept.endpoint.tenant != endpoint.tenant) {
            return None;
        }
        let before = found.filter(|kept| kept.is_present).map(|kept| kept.endpoint.clone());
        if before.as_ref().map_or(0, |before| before.version) != endpoint.version {
            return None;
        }
        let health = endpoint.health_over(before.as_ref());
        let written = self.write_endpoint(Endpoint { health, ..endpoint });
        match &before {
            Some(before) => self.adjust_backlog(before, &written, now),
            // Deliveries not sent to an earlier endpoint of this name, which the configuration no longer
            // names, do not go to this one.
            None => self.begin_job(&written.id, BacklogJobKind::Cancel, now),
        }
        if let EndpointState::Disabled { because, .. } = written.state
            && before.is_some_and(|before| before.state.is_enabled())
        {
            let notice = Notice::EndpointDisabled { endpoint: written.id.clone(), because };
            self.announce(written.tenant, &notice, now);
        }
        Some(written)
    }

    /// Reports whether an endpoint exists in the scope; this includes one that the configuration no longer
    /// names.
    pub(super) fn has_endpoint(&self, scope: TenantScope, id: &EndpointId) -> bool {
        self.endpoints.get(id).is_some_and(|kept| scope.covers(kept.endpoint.tenant))
    }

    pub(super) fn remove_endpoint(&mut self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> bool {
        if !self.has_endpoint(scope, id) {
            return false;
        }
        self.endpoints.remove(id);
        self.jobs.retain(|_, job| job.endpoint != *id);
        self.begin_job(id, BacklogJobKind::Cancel, now);
        for job in self.replays.values_mut().filter(|job| job.endpoint == *id && job.state == ReplayState::Running) {
            (job.state, job.finished_at) = (ReplayState::Cancelled, Some(now));
        }
        true
    }

    pub(super) fn cancel_backlog(&mut self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> bool {
        let is_there = self.has_endpoint(scope, id);
        if is_there {
            self.begin_job(id, BacklogJobKind::Cancel, now);
        }
        is_there
    }

    pub(super) fn note_health(&mut self, id: &EndpointId, change: &HealthChange) {
        if let Some(kept) = self.endpoints.get_mut(id) {
            kept.endpoint.health = kept.endpoint.health.after(change);
        }
    }

    /// Writes a notice with a delivery for every endpoint of the tenant that subscribes to it; nothing if
    /// none does.
    pub(super) fn announce(&mut self, tenant: TenantId, notice: &Notice, now: Timestamp) {
        let kind = notice.kind();
        let wants = |endpoint: &Endpoint| {
            endpoint.tenant == tenant && endpoint.terms.filter.wants(kind) && notice.is_for(&endpoint.id)
        };
        let interested = self.present().map(|kept| &kept.endpoint).filter(|endpoint| wants(endpoint));
        let interested: Vec<EndpointId> = interested.map(|endpoint| endpoint.id.clone()).collect();
        if interested.is_empty() {
            return;
        }
        let position = self.append_notice(tenant, kind, (self.bodies.notice)(notice, now), now);
        for endpoint in &interested {
            self.join(NewDelivery { position, endpoint, trigger: AttemptTrigger::Auto, now });
        }
    }

    /// Writes a test event with a delivery to one endpoint, if it is present.
    pub(super) fn add_ping(&mut self, to: &EndpointId, now: Timestamp) -> Option<DeliveryId> {
        let tenant = self.endpoints.get(to).filter(|kept| kept.is_present)?.endpoint.tenant;
        let position = self.append_notice(tenant, EventKind::Ping, (self.bodies.ping)(to, now), now);
        self.join(NewDelivery { position, endpoint: to, trigger: AttemptTrigger::Test, now })
    }

    fn append_notice(&mut self, tenant: TenantId, kind: EventKind, body: String, at: Timestamp) -> EventPosition {
        let id = EventId::new(at, self.draw_id_part());
        self.append(LogEntry { id, tenant, upload: None, sequence: 0, kind, at, body: body.into() })
    }
}
