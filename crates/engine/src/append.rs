//! Assigns a request with bytes to a writer: to a new one, to a live one that can take it, or to one that
//! takes over from the previous request.

use tokio::time::Instant;

use crate::command::{Append, EngineError, Unavailable, WritePosition};
use crate::feed::Feed;
use crate::lease::LeaseHolder;
use crate::peers::{Obtained, YieldCondition};
use crate::writer::Writer;
use crate::writer_requests::NotJoined;
use crate::{Engine, Inner};
use domain::id::{InstanceId, UploadId};
use domain::principal::TenantScope;
use domain::rejection::Rejection;
use domain::upload::Upload;
use domain::write_rules::WriteOrder;

/// A request that has been assigned to a writer.
pub(super) enum Begun {
    /// A writer of this node takes its bytes.
    Here(Feed),
    /// This node receives bytes of the upload, and would take these.
    Elsewhere(Box<Append>, InstanceId),
}

impl Engine {
    /// Begins an append. Checks everything that does not depend on the bytes; a request that is rejected here
    /// changes nothing.
    pub async fn append(&self, command: Append) -> Result<Feed, EngineError> {
        // Boxed: it takes four times the memory of sending bytes, and its caller may send for hours.
        match Box::pin(self.begin(command)).await? {
            Begun::Here(feed) => Ok(feed),
            Begun::Elsewhere(command, holder) => self.forward(*command, holder),
        }
    }

    /// Begins an append on this node, or returns the node that receives bytes of the upload.
    pub(super) async fn begin(&self, mut command: Append) -> Result<Begun, EngineError> {
        let inner = &self.0;
        // Watched from before the record is read: another node may take over as soon as contact is lost.
        let contact = inner.watch_contact();
        inner.check_running()?;
        let holder = inner.leases.holder(command.id);
        if holder.as_ref().is_none_or(LeaseHolder::is_parked) {
            inner.check_keeps_uploads()?;
        }
        // A request that takes over a live upload does not add one.
        let one_more = holder.is_none();
        if one_more {
            inner.check_active_uploads(inner.leases.count())?;
        }
        let patience = inner.settings.takeover_timeout;
        let deadline = Instant::now() + patience;
        let held = loop {
            if let Some(held) = inner.leases.try_take(command.id) {
                break held;
            }
            let Some(holder) = inner.leases.holder(command.id) else { continue };
            if !holder.is_parked() && !matches!(command.position, WritePosition::Anywhere(_)) {
                // A request that would be rejected anyway must not disturb the writer.
                let found = inner.find(command.principal.scope(), command.id).await?;
                if command.repeats(&found) {
                    return self.begin_comparing(&command).await.map(Begun::Here);
                }
                let (at, there) = (found.offset(), found.record().received.clone());
                let admitted = inner.admit(found, &command, &there, there.end())?;
                if admitted.upload.write_order() == WriteOrder::InOrder {
                    let mut taken = inner.leases.take(command.id, Some(at), patience).await;
                    if matches!(taken, Err(EngineError::Rejected(Rejection::WrongOffset { ours, .. })) if ours < at) {
                        // Another node has taken the upload over, and this writer has not noticed.
                        taken = inner.leases.take(command.id, None, patience).await;
                    }
                    // A request that may begin before the offset continues at the offset, wherever that is by
                    // now.
                    let has_moved = matches!(taken, Err(EngineError::Rejected(Rejection::WrongOffset { .. })));
                    if has_moved && matches!(command.position, WritePosition::From(_)) && Instant::now() < deadline {
                        continue;
                    }
                    break taken?;
                }
            }
            let joined = tokio::time::timeout_at(deadline, holder.join(command.clone())).await;
            match joined.map_err(|_| EngineError::Unavailable(Unavailable::Held))? {
                Some(Ok(feed)) => return Ok(Begun::Here(feed)),
                Some(Err(NotJoined::Rejected(error))) if inner.is_outdated(command.id, &error).await? => {
                    break inner.leases.take(command.id, None, patience).await?;
                }
                Some(Err(NotJoined::Rejected(error))) => return Err(error),
                Some(Err(NotJoined::InOrder)) => command.position = command.position.in_order(),
                None => {}
            }
        };
        let found = inner.find(command.principal.scope(), command.id).await?;
        if command.repeats(&found) {
            drop(held);
            return self.begin_comparing(&command).await.map(Begun::Here);
        }
        let found = match inner.obtain_for(&command, found, deadline).await? {
            Obtained::Here(found) => found,
            Obtained::Elsewhere(holder) => return Ok(Begun::Elsewhere(Box::new(command), holder)),
        };
        let admitted = inner.admit(found.clone(), &command, &found.record().received, found.reach())?;
        let mut writer = Writer::open(inner, held, found, contact).await?;
        let feed = writer.add(&command, admitted).await?;
        self.spawn(writer.run());
        Ok(Begun::Here(feed))
    }
}

impl Inner {
    /// Reports whether a writer of this node has rejected a request because of an offset below the recorded
    /// one: another node has taken the upload over, and may have reported its own offset.
    async fn is_outdated(&self, id: UploadId, rejection: &EngineError) -> Result<bool, EngineError> {
        let EngineError::Rejected(Rejection::WrongOffset { ours, .. }) = rejection else { return Ok(false) };
        Ok(*ours < self.find(TenantScope::All, id).await?.offset())
    }

    /// Returns the upload once this node may write it, or the node that goes on writing it. A request that
    /// would be rejected anyway takes over no lease.
    async fn obtain_for(
        &self,
        command: &Append,
        mut found: Upload,
        deadline: Instant,
    ) -> Result<Obtained, EngineError> {
        while !self.holds(&found) {
            let goes_anywhere = matches!(command.position, WritePosition::Anywhere(_));
            let (at, rejection) = match self.admit(found.clone(), command, &found.record().received, found.reach()) {
                Ok(_) if command.position.offset() <= found.offset() => (found.offset(), None),
                Ok(_) => (command.position.offset(), None),
                // The node that writes the bytes may have committed more of them by now.
                Err(rejection @ Rejection::WrongOffset { .. }) => (command.position.offset(), Some(rejection)),
                Err(rejection) => return Err(rejection.into()),
            };
            let when = match found.write_order() {
                WriteOrder::Any if goes_anywhere => YieldCondition::Idle,
                WriteOrder::Any | WriteOrder::InOrder => YieldCondition::At(at),
            };
            let id = found.id();
            // Boxed: this path is rare.
            found = match Box::pin(self.obtain_or_find_holder(found, when, rejection)).await {
                // A request that may begin before the offset continues at the offset, wherever that is by
                // now.
                Err(EngineError::Rejected(Rejection::WrongOffset { ours, .. }))
                    if matches!(command.position, WritePosition::From(at) if at <= ours)
                        && Instant::now() < deadline =>
                {
                    self.find(TenantScope::All, id).await?
                }
                Ok(Obtained::Here(obtained)) => obtained,
                elsewhere_or_failed => return elsewhere_or_failed,
            };
        }
        Ok(Obtained::Here(found))
    }
}
