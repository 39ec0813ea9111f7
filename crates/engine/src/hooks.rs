//! Calls to the application before an upload is created, finished or terminated.
//!
//! The application is called outside of any transaction, and only the upload in question waits; the commit
//! afterwards checks the version like any other. The call is recorded before its verdict takes effect.
//! Without a verdict nothing changes: the client is asked to retry, and for an upload that waits to be
//! finished the sweeper repeats the call.

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

/// The port for calls to the application.
#[async_trait]
pub trait HookPort: fmt::Debug + Send + Sync + 'static {
    /// Reports whether this hook is configured.
    fn wants(&self, hook: Hook) -> bool;

    /// Calls the application. Returns within a bounded time, with a verdict or without one.
    async fn call(&self, request: HookRequest) -> HookResult;
}

/// The party on whose behalf an upload is completed.
#[derive(Debug, Clone)]
pub(super) enum Initiator {
    Client(Option<Arc<Caller>>),
    Sweeper,
    /// The start of the program, which waits for no verdict.
    Recovery,
}

/// The application has chosen an id for a new upload that another upload has.
#[derive(Debug, thiserror::Error)]
#[error("the id chosen by the application belongs to another upload")]
pub(super) struct IdIsTaken;

impl Engine {
    /// Calls the application through `hooks` from now on.
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

    /// Calls the application for a new upload, and returns it with the overrides of the verdict.
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

    /// Reports whether a verified upload still waits for the verdict of the application.
    pub(super) fn awaits_verdict(&self, upload: &Upload) -> bool {
        let undecided = upload.stage() == Stage::Verified && upload.record().accepted_at.is_none();
        undecided && self.hooks_for(Hook::PreFinish).is_some()
    }

    /// Calls the application for a verified upload and commits the verdict, so that it is requested only
    /// once.
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

    /// Checks that a client may end an upload.
    pub(super) async fn permit_ending(&self, upload: &Upload, caller: Option<&Caller>) -> Result<(), EngineError> {
        let Some(hooks) = self.hooks_for(Hook::PreTerminate) else { return Ok(()) };
        // No call is needed for an upload that has ended.
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

    /// Records a call. The verdict counts even if that fails: its consequences need the same database.
    async fn note_call(&self, call: HookCall) {
        let (upload, hook) = (call.upload, call.hook.name());
        if let Err(error) = self.uploads.record_hook_call(call).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%upload, hook, error, "could not record a hook call");
        }
    }
}
