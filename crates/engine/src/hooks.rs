//! Asking the application before an upload is created, finished or ended.
//!
//! It is asked outside of any transaction and holds up nobody but the upload in question; the commit
//! afterwards checks the version as any other. What it said is written down before anything comes of it.
//! Without a verdict nothing moves: the client is told to come back, and an upload that waits to be
//! finished is asked about again by the sweeper.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::command::{EngineError, Unavailable};
use crate::{Engine, Inner};
use domain::failure::RejectionKind;
use domain::hook::{Caller, Hook, HookCall, HookRequest, HookResult, UploadOverrides, Verdict};
use domain::rejection::Rejection;
use domain::removal::DeletedBy;
use domain::stage::Stage;
use domain::upload::{NewUpload, Upload, UploadTerms};

/// The way to the application.
#[async_trait]
pub trait HookPort: fmt::Debug + Send + Sync + 'static {
    /// Whether it wants to be asked this.
    fn wants(&self, hook: Hook) -> bool;

    /// Asks. Comes back within a bounded time, with a verdict or without one.
    async fn call(&self, request: HookRequest) -> HookResult;
}

/// On whose behalf an upload is carried on.
#[derive(Debug, Clone)]
pub(super) enum Initiator {
    Client(Option<Arc<Caller>>),
    Sweeper,
    /// The start of the program, which waits for nobody outside of it.
    Recovery,
}

/// The application has given a new upload the identifier of another.
#[derive(Debug, thiserror::Error)]
#[error("the id chosen by the application belongs to another upload")]
pub(super) struct IdIsTaken;

impl Engine {
    /// Has the application asked from now on.
    #[must_use]
    pub fn with_hooks(mut self, hooks: Arc<dyn HookPort>) -> Self {
        Arc::get_mut(&mut self.0).expect("an engine is given its hooks before it is shared").hooks = Some(hooks);
        self
    }
}

impl Inner {
    fn hooks_for(&self, hook: Hook) -> Option<&Arc<dyn HookPort>> {
        self.hooks.as_ref().filter(|hooks| hooks.wants(hook))
    }

    /// What becomes of a new upload when the application was asked about it.
    pub(super) async fn permit(&self, new: NewUpload, caller: Option<&Caller>) -> Result<NewUpload, EngineError> {
        let Some(hooks) = self.hooks_for(Hook::PreCreate) else { return Ok(new) };
        let proposed = Upload::create(new.clone(), self.now());
        let overrides = self.call_hook(hooks, Hook::PreCreate, &proposed, caller).await?;
        self.granted(new, overrides)
    }

    fn granted(&self, mut new: NewUpload, overrides: UploadOverrides) -> Result<NewUpload, EngineError> {
        if let (Some(length), Some(most)) = (new.length, overrides.max_bytes)
            && length.get() > most
        {
            return Err(Rejection::OverLimit(most).into());
        }
        let now = self.now();
        new.id = overrides.id.unwrap_or(new.id);
        new.metadata = overrides.metadata.unwrap_or(new.metadata);
        new.terms = UploadTerms {
            max_bytes: overrides.max_bytes,
            expires_by: overrides.expires_after.map(|after| now.plus(after)),
        };
        Ok(new)
    }

    /// Whether an upload whose bytes are all verified still waits for the application's word.
    pub(super) fn awaits_verdict(&self, upload: &Upload) -> bool {
        let undecided = upload.stage() == Stage::Verified && upload.record().accepted_at.is_none();
        undecided && self.hooks_for(Hook::PreFinish).is_some()
    }

    /// Asks whether a verified upload may be finished, and commits the verdict: it is asked about only once.
    pub(super) async fn decide(&self, mut upload: Upload, initiator: &Initiator) -> Result<Upload, EngineError> {
        let Some(hooks) = self.hooks_for(Hook::PreFinish) else { return Ok(upload) };
        let asked = match initiator {
            Initiator::Client(caller) => self.call_hook(hooks, Hook::PreFinish, &upload, caller.as_deref()).await,
            Initiator::Sweeper => self.call_hook(hooks, Hook::PreFinish, &upload, None).await,
            Initiator::Recovery => Err(EngineError::Unavailable(Unavailable::Undecided)),
        };
        match asked {
            Ok(_) => upload.accept(self.now()),
            Err(EngineError::Rejected(Rejection::Refused(failure))) => upload.fail(failure, self.now()),
            Err(error) => {
                self.undecided.notify_one();
                return Err(error);
            }
        }
        self.commit(upload).await
    }

    /// Whether a client may end an upload.
    pub(super) async fn permit_ending(&self, upload: &Upload, caller: Option<&Caller>) -> Result<(), EngineError> {
        let Some(hooks) = self.hooks_for(Hook::PreTerminate) else { return Ok(()) };
        // There is nothing to ask about one that has ended.
        upload.clone().terminate(DeletedBy::Client, self.now())?;
        self.call_hook(hooks, Hook::PreTerminate, upload, caller).await.map(drop)
    }

    async fn call_hook(
        &self,
        hooks: &Arc<dyn HookPort>,
        hook: Hook,
        upload: &Upload,
        caller: Option<&Caller>,
    ) -> Result<UploadOverrides, EngineError> {
        let request = HookRequest::new(hook, upload, caller.cloned(), self.now(), (self.randomness)());
        let HookResult { verdict, call } = hooks.call(request).await;
        if let Some(call) = call {
            self.note_call(call).await;
        }
        match verdict {
            Some(Verdict::Accepted(overrides)) => Ok(overrides),
            Some(Verdict::Rejected(failure)) => {
                tracing::info!(upload = %upload.id(), hook = hook.name(), rejection = failure.rejection.map(RejectionKind::name), "a hook rejected a request");
                Err(Rejection::Refused(failure).into())
            }
            None => Err(EngineError::Unavailable(Unavailable::Undecided)),
        }
    }

    /// The verdict counts also when it could not be written down:
    /// whatever it leads to needs the same database.
    async fn note_call(&self, call: HookCall) {
        let (upload, hook) = (call.upload, call.hook.name());
        if let Err(error) = self.uploads.record_hook_call(call).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%upload, hook, error, "could not record a hook call");
        }
    }
}
