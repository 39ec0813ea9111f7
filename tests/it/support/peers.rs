//! Calls between the engines of one process, which can be lost on the way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use domain::id::{InstanceId, UploadId};
use engine::Engine;
use engine::peers::{NoAnswer, Peers, YieldAnswer, YieldCondition};
use state::ProgressReading;

/// The engines of a test, which reach each other.
#[derive(Debug, Default)]
pub struct TestPeers {
    engines: Mutex<HashMap<InstanceId, (Engine, Line)>>,
    pub progress_calls: AtomicUsize,
}

/// The way that calls take to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    Open,
    /// The node cannot be reached, and the caller is notified at once.
    Refused,
    /// Calls are lost without notice.
    Silent,
    /// Calls are handled, and their answers are lost.
    AnswersLost,
}

impl TestPeers {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn add(&self, node: InstanceId, engine: Engine) {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner).insert(node, (engine, Line::Open));
    }

    pub fn set(&self, node: InstanceId, line: Line) {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&node).unwrap().1 = line;
    }

    /// Returns the engine that a call reaches, and whether its answer arrives.
    async fn reach(&self, node: InstanceId) -> Result<(Engine, bool), NoAnswer> {
        let found = self.engines.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned();
        let (engine, line) = found.ok_or_else(|| NoAnswer::because("there is no such node"))?;
        match line {
            Line::Open => Ok((engine, true)),
            Line::Refused => Err(NoAnswer::because("the connection is refused")),
            Line::Silent => std::future::pending().await,
            Line::AnswersLost => Ok((engine, false)),
        }
    }
}

fn deliver<T>(answer: T, arrives: bool) -> Result<T, NoAnswer> {
    if arrives { Ok(answer) } else { Err(NoAnswer::because("the answer is lost")) }
}

#[async_trait]
impl Peers for TestPeers {
    async fn yield_upload(
        &self,
        holder: InstanceId,
        upload: UploadId,
        when: YieldCondition,
    ) -> Result<YieldAnswer, NoAnswer> {
        let (engine, arrives) = self.reach(holder).await?;
        let answer = engine.yield_upload(upload, when).await;
        deliver(answer, arrives)?.map_err(NoAnswer::because)
    }

    async fn checkpoint(&self, holder: InstanceId, upload: UploadId) -> Result<(), NoAnswer> {
        let (engine, arrives) = self.reach(holder).await?;
        engine.checkpoint(upload).await;
        deliver((), arrives)
    }

    async fn progress(
        &self,
        holder: InstanceId,
        uploads: &[UploadId],
    ) -> Result<Vec<Option<ProgressReading>>, NoAnswer> {
        self.progress_calls.fetch_add(1, Ordering::Relaxed);
        let (engine, arrives) = self.reach(holder).await?;
        deliver(engine.local_progress(uploads).await, arrives)
    }
}
