//! Assigns a request with bytes to a writer: to a new one, to a live one that can take it, or to one that
//! takes over from the previous request.

use tokio::time::Instant;

use crate::command::{Append, EngineError, Unavailable, WritePosition};
use crate::feed::Feed;
use crate::peers::YieldCondition;
use crate::writer::Writer;
use crate::writer_requests::NotJoined;
use crate::{Engine, Inner};
use domain::principal::TenantScope;
use domain::rejection::Rejection;
use domain::upload::Upload;
use domain::write_rules::WriteOrder;

impl Engine {
    /// Begins an append. Checks everything that does not depend on the bytes; a request that is rejected here
    /// changes nothing.
    pub async fn append(&self, command: Append) -> Result<Feed, EngineError> {
        // Boxed: it takes four times the memory of sending bytes, and its caller may send for hours.
        Box::pin(self.begin(command)).await
    }

    async fn begin(&self, mut command: Append) -> Result<Feed, EngineError> {
        let inner = &self.0;
        inner.check_running()?;
        // A request that takes over a live upload does not add one.
        let one_more = inner.leases.holder(command.id).is_none();
        if one_more && inner.leases.count() >= inner.settings.max_active_uploads {
            return Err(EngineError::Unavailable(Unavailable::Busy));
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
                    return self.begin_comparing(&command).await;
                }
                let (at, there) = (found.offset(), found.record().received.clone());
                let admitted = inner.admit(found, &command, &there, there.end())?;
                if admitted.upload.write_order() == WriteOrder::InOrder {
                    let taken = inner.leases.take(command.id, Some(at), patience).await;
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
                Some(Ok(feed)) => return Ok(feed),
                Some(Err(NotJoined::Rejected(error))) => return Err(error),
                Some(Err(NotJoined::InOrder)) => command.position = command.position.in_order(),
                None => {}
            }
        };
        let found = inner.find(command.principal.scope(), command.id).await?;
        if command.repeats(&found) {
            drop(held);
            return self.begin_comparing(&command).await;
        }
        let found = inner.obtain_for(&command, found, deadline).await?;
        let admitted = inner.admit(found.clone(), &command, &found.record().received, found.reach())?;
        let mut writer = Writer::open(inner, held, found).await?;
        let feed = writer.add(&command, admitted).await?;
        self.spawn(writer.run());
        Ok(feed)
    }
}

impl Inner {
    /// Returns the upload once this node may write it. A request that would be rejected anyway takes over no
    /// lease.
    async fn obtain_for(&self, command: &Append, mut found: Upload, deadline: Instant) -> Result<Upload, EngineError> {
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
            found = match Box::pin(self.obtain(found, when, rejection)).await {
                // A request that may begin before the offset continues at the offset, wherever that is by
                // now.
                Err(EngineError::Rejected(Rejection::WrongOffset { .. }))
                    if matches!(command.position, WritePosition::From(_)) && Instant::now() < deadline =>
                {
                    self.find(TenantScope::All, id).await?
                }
                obtained => obtained?,
            };
        }
        Ok(found)
    }
}
