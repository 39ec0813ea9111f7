//! The engine alone, ended between the verdict of the application and its effect.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use domain::failure::{Failure, RejectionKind};
use domain::hook::{Hook, HookRequest, HookResult, UploadOverrides, Verdict};
use domain::principal::Principal;
use domain::rejection::Rejection;
use domain::report::NewReport;
use domain::stage::Stage;
use engine::command::{EngineError, Unavailable};
use engine::hooks::HookPort;
use engine::report::ReportError;
use storage::faults::Effect;
use tokio::sync::watch;

use crate::support::world::{Life, Medium, World};

/// An application whose verdict a test sets, and whose answer a test can delay.
#[derive(Debug)]
struct Application {
    asked: watch::Sender<Vec<String>>,
    verdict: Mutex<Option<Verdict>>,
    may_answer: watch::Sender<bool>,
}

impl Application {
    fn saying(verdict: Option<Verdict>) -> Arc<Self> {
        let (asked, may_answer) = (watch::Sender::default(), watch::Sender::new(false));
        Arc::new(Self { asked, verdict: Mutex::new(verdict), may_answer })
    }

    /// Returns the hooks that were called.
    fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    async fn was_asked(&self, times: usize) {
        self.asked.subscribe().wait_for(|asked| asked.len() >= times).await.unwrap();
    }

    fn answer(&self) {
        self.may_answer.send_replace(true);
    }
}

#[async_trait]
impl HookPort for Application {
    fn wants(&self, hook: Hook) -> bool {
        hook == Hook::PreFinish
    }

    async fn call(&self, question: HookRequest) -> HookResult {
        self.asked.send_modify(|asked| asked.push(question.decision));
        self.may_answer.subscribe().wait_for(|may| *may).await.unwrap();
        HookResult { verdict: self.verdict.lock().unwrap().clone(), call: None }
    }
}

fn yes() -> Verdict {
    Verdict::Accepted(UploadOverrides::default())
}

fn no() -> Verdict {
    let (code, message) = ("rejected-by-application".to_owned(), "no".to_owned());
    Verdict::Rejected(Failure { code, message, rejection: Some(RejectionKind::Forbidden) })
}

async fn live(world: &World, application: &Arc<Application>) -> Life {
    world.live_asking(Arc::<Application>::clone(application)).await
}

/// Ends a life in the commit that follows the verdict, before or after it is done, and checks the outcome in
/// the next life.
async fn killed_at_the_commit(verdict: &Verdict, when: Effect, asked_again: usize) {
    for medium in Medium::both() {
        let world = World::on(medium);
        let application = Application::saying(Some(verdict.clone()));
        let life = live(&world, &application).await;
        let id = life.create(5).await;
        let mut feed = life.begin(id, 0).await.unwrap();
        feed.push(b"hello").await.unwrap();
        let finishing = tokio::spawn(feed.finish(engine::command::BodyEnd::Complete));
        application.was_asked(1).await;
        life.records.hold(when);
        application.answer();
        life.records.reached().await;
        life.die();
        // No result was delivered.
        finishing.abort();
        let life = live(&world, &application).await;
        life.engine.recover().await;
        assert_eq!(application.asked().len(), 1, "a start asks nobody");
        life.engine.start_sweeping();
        let expected = if *verdict == yes() { "completed" } else { "failed" };
        life.wait_for_stage(id, expected).await;
        let asked = application.asked();
        assert_eq!(asked.len(), 1 + asked_again);
        assert!(asked.iter().all(|decision| *decision == asked[0]), "the same decision: {asked:?}");
        let last = life.events(id).await.pop();
        assert_eq!(last, Some(expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_that_was_not_committed_is_asked_for_again() {
    for verdict in [yes(), no()] {
        killed_at_the_commit(&verdict, Effect::Nothing, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_that_was_committed_stands() {
    for verdict in [yes(), no()] {
        killed_at_the_commit(&verdict, Effect::Done, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_verdict_the_upload_waits_and_nothing_else_does() {
    let world = World::on_disk();
    let application = Application::saying(None);
    application.answer();
    let life = live(&world, &application).await;
    let id = life.create(5).await;
    let put_off = life.append(id, 0, b"hello").await;
    assert!(matches!(put_off, Err(EngineError::Unavailable(Unavailable::Undecided))), "{put_off:?}");
    assert_eq!(life.find(id).await.stage(), Stage::Verified);
    let head = life.engine.inspect(&Principal::server(), id).await;
    assert!(matches!(head, Err(EngineError::Unavailable(Unavailable::Settling))), "{head:?}");
    life.engine.start_sweeping();
    application.was_asked(3).await;
    *application.verdict.lock().unwrap() = Some(no());
    life.wait_for_stage(id, "failed").await;
    let refused = life.append(id, 5, b"").await;
    assert!(matches!(refused, Err(EngineError::Rejected(Rejection::Refused(_)))), "{refused:?}");
    assert!(life.engine.inspect(&Principal::server(), id).await.unwrap().gone.is_some());
}

/// Its commit would delay the one of the verdict, and the hook would be called twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_at_another_node_waits_for_the_verdict() {
    let world = World::on(Medium::Memory(storage::memory::MemoryStore::new()));
    let application = Application::saying(Some(yes()));
    let life = live(&world, &application).await;
    let id = life.create(5).await;
    let mut feed = life.begin(id, 0).await.unwrap();
    feed.push(b"hello").await.unwrap();
    let finishing = tokio::spawn(feed.finish(engine::command::BodyEnd::Complete));
    application.was_asked(1).await;

    let second = world.live_beside().await;
    let report = || NewReport::new("hls".to_owned(), Some(5), None).unwrap();
    let early = second.engine.report(&Principal::server(), id, report()).await;
    assert!(matches!(&early, Err(ReportError::Engine(EngineError::Unavailable(Unavailable::Held)))), "{early:?}");
    application.answer();
    assert_eq!(finishing.await.unwrap().unwrap().stage(), Stage::Completed);
    assert_eq!(application.asked().len(), 1);
    second.engine.report(&Principal::server(), id, report()).await.unwrap();
}
