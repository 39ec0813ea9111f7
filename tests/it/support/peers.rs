//! Calls between the engines of one process, which can be lost on the way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use domain::id::{InstanceId, UploadId};
use engine::Engine;
use engine::command::Append;
use engine::peers::{ForwardOutcome, ForwardedBody, NoAnswer, Peers, YieldAnswer, YieldCondition};
use state::ProgressReading;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The engines of a test, which reach each other.
#[derive(Debug, Default)]
pub struct TestPeers {
    stations: Mutex<HashMap<InstanceId, Station>>,
    pub progress_calls: AtomicUsize,
}

#[derive(Debug, Clone)]
struct Station {
    engine: Engine,
    line: Arc<LineState>,
    ended: CancellationToken,
}

#[derive(Debug)]
struct LineState {
    line: Mutex<Line>,
    /// Wakes those who wait in the order in which they came.
    changed: Notify,
}

/// The way that calls take to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    Open,
    /// The node cannot be reached, and the caller is notified at once.
    Refused,
    /// Calls and answers are lost without notice, until the line is changed.
    Silent,
    /// Calls are handled, and their answers are lost.
    AnswersLost,
    /// The process is stopped. It handles and answers calls when it continues, also those whose caller is
    /// gone.
    Stopped,
}

impl TestPeers {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds a node. When its process has `ended`, its connections break: nothing that it handles continues,
    /// and its callers are notified.
    pub fn add(&self, node: InstanceId, engine: Engine, ended: CancellationToken) {
        let line = Arc::new(LineState { line: Mutex::new(Line::Open), changed: Notify::new() });
        self.stations().insert(node, Station { engine, line, ended });
    }

    /// Changes the line to a node. Has no effect on a node that is not there.
    pub fn set(&self, node: InstanceId, line: Line) {
        if let Some(station) = self.stations().get(&node) {
            station.line.set(line);
        }
    }

    fn stations(&self) -> MutexGuard<'_, HashMap<InstanceId, Station>> {
        self.stations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a node handle a call. A call that has reached the node is handled even if its caller is gone.
    async fn call<T, W>(&self, node: InstanceId, handle: impl FnOnce(Engine) -> W) -> Result<T, NoAnswer>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let station = self.stations().get(&node).cloned();
        let Station { engine, line, ended } = station.ok_or_else(|| NoAnswer::because("there is no such node"))?;
        let node_has_ended = || NoAnswer::because("the node has ended");
        let found = ended.run_until_cancelled(line.carries()).await.ok_or_else(node_has_ended)?;
        if found == Line::Refused {
            return Err(NoAnswer::because("the connection is refused"));
        }
        let handling = handle(engine);
        let handled = tokio::spawn(async move {
            let handled = async {
                line.continues().await;
                let answer = handling.await;
                line.continues().await;
                (answer, line.carries().await)
            };
            ended.run_until_cancelled(handled).await
        });
        let handled = handled.await.map_err(NoAnswer::because)?;
        match handled.ok_or_else(node_has_ended)? {
            (answer, Line::Open | Line::Stopped) => Ok(answer),
            (_, Line::Refused | Line::AnswersLost | Line::Silent) => Err(NoAnswer::because("the answer is lost")),
        }
    }
}

impl LineState {
    fn get(&self) -> Line {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, line: Line) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = line;
        self.changed.notify_waiters();
    }

    /// Waits while the line is silent, and returns what it is then. What was lost is sent again, as by TCP.
    async fn carries(&self) -> Line {
        loop {
            let changed = self.changed.notified();
            let line = self.get();
            if line != Line::Silent {
                return line;
            }
            changed.await;
        }
    }

    /// Waits while the process at the end of the line is stopped.
    async fn continues(&self) {
        loop {
            let changed = self.changed.notified();
            if self.get() != Line::Stopped {
                return;
            }
            changed.await;
        }
    }
}

#[async_trait]
impl Peers for TestPeers {
    async fn yield_upload(
        &self,
        holder: InstanceId,
        upload: UploadId,
        when: YieldCondition,
    ) -> Result<YieldAnswer, NoAnswer> {
        let answer = self.call(holder, async move |engine| engine.yield_upload(upload, when).await).await;
        answer?.map_err(NoAnswer::because)
    }

    async fn checkpoint(&self, holder: InstanceId, upload: UploadId) -> Result<(), NoAnswer> {
        self.call(holder, async move |engine| engine.checkpoint(upload).await).await
    }

    async fn progress(
        &self,
        holder: InstanceId,
        uploads: &[UploadId],
    ) -> Result<Vec<Option<ProgressReading>>, NoAnswer> {
        self.progress_calls.fetch_add(1, Ordering::Relaxed);
        let uploads = uploads.to_vec();
        self.call(holder, async move |engine| engine.local_progress(&uploads).await).await
    }

    async fn forward(
        &self,
        holder: InstanceId,
        command: Append,
        body: ForwardedBody,
    ) -> Result<ForwardOutcome, NoAnswer> {
        self.call(holder, async move |engine| engine.accept_forwarded(command, body).await).await
    }
}
