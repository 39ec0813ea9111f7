//! The one task that moves the bytes of an upload.
//!
//! A writer holds the lease of an upload, its blob and its digests, and takes the bytes of every request that writes to
//! it: bytes in order come in one [`Lane`] with a strict cursor, bytes in any order in as many as there are requests. So
//! there is one writer, one version to commit, and one sync for all of them. It ends when the upload is whole, when no
//! request is left and nobody comes for a moment, when a newer request takes over, or when something breaks.
//!
//! The caller pumps bytes into a [`Feed`]; so a caller that vanishes, as a request handler does when its peer resets the
//! connection, is an ordinary ending: what arrived is kept, made durable and committed.
//!
//! - A write, a sync or a commit that fails ends every request: what it was to cover is in no record, whoever brought it.
//! - What a refused request in any order has brought so far is kept. One in order leaves nothing that no commit has.
//! - A request is answered with what the record says after the commit that covers it.
//!
//! What if it dies here?
//! - Before a checkpoint is durable: the bytes are above the committed offset, or in no committed range, and nobody was
//!   told of them.
//! - Durable but not committed: the same; the next writer drops them.
//! - Committed: the truth, with the events it caused.
//! - Sealed but not settled: the sweeper carries on at the next start.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::Inner;
use crate::admission::Admitted;
use crate::command::{Append, BodyEnd, Ends, EngineError, Overflow, Unavailable};
use crate::commit::{Broken, Call, Committer};
use crate::compare::Repeated;
use crate::feed::{Fed, Feed};
use crate::hooks::Behalf;
use crate::lane::Lane;
use crate::lease::Held;
use crate::ledger::Ledger;
use crate::orders::{Fate, NotJoined, Order};
use crate::settle::unless_failed;
use crate::sums::Sums;
use domain::filling::Completion;
use domain::hook::Caller;
use domain::rejection::Rejection;
use domain::size::Offset;
use domain::stage::Stage;
use domain::upload::{Inconsistent, Upload};

/// The first bytes are committed, and so announced, this soon.
const FIRST_CHECKPOINT_AFTER: Duration = Duration::from_millis(100);

/// After telling the offset of an upload in order to somebody who asked, nothing more is committed for this long: if it
/// was the client coming back, its next append finds the offset it was told, whatever the old connection still delivers.
const HOLD_AFTER_INSPECTION: Duration = Duration::from_secs(1);

/// An upload while requests fill it.
pub(super) struct Writer {
    ledger: Ledger,
    sums: Sums,
    /// At most one where bytes come in order.
    lanes: Vec<Lane>,
    /// Whose turn it is to be asked for bytes first.
    turn: usize,
    /// Of the request that came last.
    caller: Option<Arc<Caller>>,
    bytes_came_at: Instant,
    hold_until: Instant,
    /// Since when nobody has sent anything, and the upload is only kept open.
    parked_since: Option<Instant>,
}

/// Why a request gets no further.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is refused. The others, and the upload, are none the worse for it.
    Refused(EngineError),
    /// It was cut before its checksum could match. It is not refused, it only brought nothing.
    BroughtNothing,
    /// The writer ends, for everybody in it.
    Broken(Broken),
}

impl From<Rejection> for Trouble {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(rejection.into())
    }
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

#[expect(clippy::large_enum_variant, reason = "one lives at a time, on the stack; boxing would allocate for nothing")]
enum Step {
    Call(Call),
    Fed(usize, Option<Fed>),
    Due(Duty),
}

/// What is to be done when its time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    Checkpoint,
    /// No byte for so long that others should know.
    Stall,
    /// What was held back for somebody who asked may go on.
    EndHold,
    /// No request for so long that the next may open the upload anew.
    Leave,
}

enum Ending {
    /// Every byte is there, or no request is left.
    Over,
    Stop,
    /// A newer request takes over, or ends the upload.
    Yield(oneshot::Sender<Result<(), Offset>>, Option<Fate>),
    /// The only request, in order, leaves nothing behind.
    Undone(Result<(), EngineError>),
    /// The only request, in order, has brought more than the upload can have, and the upload fails.
    Overflow(EngineError),
    Broken(Broken),
}

impl Writer {
    /// A writer for whoever holds the lease of `upload`, which is as committed.
    pub(super) async fn open(inner: &Arc<Inner>, held: Held<Order>, upload: Upload) -> Result<Self, EngineError> {
        let sums = Sums::resume(inner, &upload).await?;
        let now = Instant::now();
        Ok(Self {
            ledger: Ledger::new(Committer::new(Arc::clone(inner), held, upload)),
            sums,
            lanes: Vec::new(),
            turn: 0,
            caller: None,
            bytes_came_at: now,
            hold_until: now,
            parked_since: None,
        })
    }

    /// Takes one more request that was admitted, unless there is no room for it.
    pub(super) async fn add(&mut self, command: &Append, admitted: Admitted) -> Result<Feed, EngineError> {
        let inner = Arc::clone(&self.ledger.committer.inner);
        let Admitted { upload, start, known_bytes, count } = admitted;
        let in_order = self.sums.is_in_order();
        if count != Some(0) {
            let open = self.lanes.iter().filter(|lane| lane.is_open()).count();
            if !in_order && open >= inner.settings.ranges.max_parallel {
                return Err(EngineError::Unavailable(Unavailable::Busy));
            }
            inner.check_room_for(&upload, count.unwrap_or(0)).await?;
        }
        let is_new = self.ledger.committer.declare(&upload);
        let mut end = None;
        if in_order {
            self.lanes.reserve_exact(1);
            // The hold was for whoever asked before; this is who came.
            self.hold_until = Instant::now();
        } else {
            end = count.map(|count| start.saturating_add(count));
            self.ledger.news |= is_new;
            self.supersede(|lane| lane.claims(start, end.unwrap_or(start)));
        }
        if self.lanes.is_empty() {
            self.bytes_came_at = Instant::now();
        }
        self.parked_since = None;
        self.ledger.committer.unpark();
        self.caller.clone_from(&command.caller);
        let (feed, intake) = Feed::new(inner.pool.clone(), start, count, self.ledger.committer.progress());
        self.lanes.push(Lane::new(command, intake, start, end));
        Ok(feed.passing_over(known_bytes))
    }

    /// Takes one more request, if it is in order and the writer can.
    async fn join(&mut self, command: &Append) -> Result<Feed, NotJoined> {
        if self.sums.is_in_order() && !self.lanes.is_empty() {
            return Err(NotJoined::InOrder);
        }
        let committer = &self.ledger.committer;
        let upload = committer.inner.extended(committer.declared_upload());
        let admitted = committer.inner.admit(upload, command, &self.ledger.there, self.taken());
        let admitted = admitted.map_err(|rejection| NotJoined::Refused(rejection.into()))?;
        self.add(command, admitted).await.map_err(NotJoined::Refused)
    }

    /// Where the last byte ends that was taken from a request, whether it counts or not.
    fn taken(&self) -> Offset {
        let staged = self.lanes.iter().flat_map(|lane| lane.checked.iter().map(|checked| checked.staged.end()));
        staged.filter_map(Offset::new).fold(self.ledger.there.end(), Offset::max)
    }

    /// Ends requests that a newer one has made stale. What counted of them stays.
    fn supersede(&mut self, is_stale: impl Fn(&Lane) -> bool) {
        for lane in self.lanes.extract_if(.., |lane| is_stale(lane)) {
            lane.answer(Err(EngineError::Unavailable(Unavailable::Superseded)));
        }
    }

    pub(super) async fn run(mut self) {
        let ending = self.receive().await;
        let stops = matches!(ending, Ending::Stop);
        let completes = self.completes_when_full();
        let lanes = std::mem::take(&mut self.lanes);
        // Boxed: it takes far more than receiving does, and thousands may be receiving.
        Box::pin(async move {
            let inner = Arc::clone(&self.ledger.committer.inner);
            let outcome = self.end(ending, completes).await;
            answer(&inner, lanes, &outcome, stops).await;
        })
        .await;
    }

    /// Takes in what comes until there is a reason to stop.
    async fn receive(&mut self) -> Ending {
        loop {
            match self.look_around().await {
                Ok(true) => return Ending::Over,
                Ok(false) => {}
                Err(broken) => return Ending::Broken(broken),
            }
            let done = match self.next_step().await {
                Step::Call(Call::Stop) => return Ending::Stop,
                Step::Call(Call::Committed(committed)) => self.on_committed(committed),
                // Nobody waits for it any more: a request that is gone must not end those that are there.
                Step::Call(Call::Order(order)) if order.is_given_up() => Ok(()),
                Step::Call(Call::Order(Order::Checkpoint(done))) => self.on_inspection(done).await,
                Step::Call(Call::Order(Order::Join { command, answer })) => {
                    // Boxed: it takes more than sending bytes does. Whoever asked may have gone; then its lane finds that
                    // nothing comes.
                    let _ = answer.send(Box::pin(self.join(&command)).await);
                    Ok(())
                }
                Step::Call(Call::Order(Order::Yield { at, fate, answer })) => {
                    match Box::pin(self.on_yield(at)).await {
                        Ok(Ok(())) => return Ending::Yield(answer, fate),
                        Ok(Err(ours)) => {
                            // Whoever asked may have gone.
                            let _ = answer.send(Err(ours));
                            Ok(())
                        }
                        Err(broken) => Err(broken),
                    }
                }
                Step::Fed(index, item) => match self.take(index, item).await {
                    Ok(()) => Ok(()),
                    Err(Trouble::Refused(error)) => return self.refuse(error),
                    Err(Trouble::BroughtNothing) => return Ending::Undone(Ok(())),
                    Err(Trouble::Broken(broken)) => Err(broken),
                },
                Step::Due(Duty::Checkpoint) => self.start_checkpoint().await,
                Step::Due(Duty::Stall) => {
                    self.ledger.committer.begin_stall();
                    Ok(())
                }
                Step::Due(Duty::EndHold) => Ok(()),
                Step::Due(Duty::Leave) => return Ending::Over,
            };
            if let Err(broken) = done {
                return Ending::Broken(broken);
            }
        }
    }

    /// How the writer ends when its only request is refused.
    fn refuse(&self, error: EngineError) -> Ending {
        let overflows = matches!(error, EngineError::Rejected(Rejection::BeyondLength(_) | Rejection::OverLimit(_)));
        let is_fatal = self.lanes.iter().any(|lane| lane.overflow == Overflow::Fatal);
        if overflows && is_fatal { Ending::Overflow(error) } else { Ending::Undone(Err(error)) }
    }

    async fn next_step(&mut self) -> Step {
        let duty = self.next_duty();
        let Self { ledger, lanes, turn, .. } = self;
        tokio::select! {
            biased;
            call = ledger.committer.call() => Step::Call(call),
            duty = come(duty) => Step::Due(duty),
            (index, item) = next_fed(lanes, turn) => Step::Fed(index, item),
        }
    }

    /// Does what needs no waiting for: answers, begins a checkpoint, parks. Says whether the writer is at its end.
    async fn look_around(&mut self) -> Result<bool, Broken> {
        self.check_covered()?;
        let is_whole = self.is_whole();
        if is_whole && !self.lanes.iter().any(|lane| self.delays_the_end(lane)) {
            return Ok(true);
        }
        if self.commit_is_wanted() {
            self.start_checkpoint().await?;
        }
        let done = self.ledger.done();
        let is_anyone_left = self.lanes.iter().any(|lane| !lane.is_covered(done));
        if !is_anyone_left && !self.ledger.committer.is_pending() && !self.park() {
            return Ok(true);
        }
        // Of a whole upload they are told when it is completed, or why not.
        if !is_whole {
            self.answer_covered();
        }
        Ok(false)
    }

    /// Whether a whole upload has to wait for a request: it may still bring too much, replace what is there, or be held.
    fn delays_the_end(&self, lane: &Lane) -> bool {
        match self.sums.is_in_order() {
            true => lane.is_open() || (lane.cut && self.is_held()),
            false => lane.is_open() && lane.checked.is_some(),
        }
    }

    fn is_held(&self) -> bool {
        Instant::now() < self.hold_until
    }

    /// Whether every byte is there and the upload completes with that.
    fn is_whole(&self) -> bool {
        self.ledger.is_full() && self.completes_when_full()
    }

    fn completes_when_full(&self) -> bool {
        match self.ledger.committer.upload.completion() {
            Completion::WhenFull => true,
            Completion::WhenSaid => self.lanes.iter().any(|lane| lane.is_last),
        }
    }

    /// Whether a checkpoint in the middle of things is free to start. The last byte is committed only together with the
    /// seal, once nobody can bring more: a full upload that is not sealed would be nobody's to finish.
    fn may_commit(&self) -> bool {
        let more_to_come = || self.lanes.iter().any(Lane::is_open);
        let is_last = || self.ledger.is_full() && (more_to_come() || self.completes_when_full());
        self.ledger.has_uncovered() && !self.ledger.committer.is_pending() && !is_last()
    }

    /// Whether a checkpoint is to begin now: somebody waits for one, or much has gathered.
    fn commit_is_wanted(&self) -> bool {
        if !self.may_commit() {
            return false;
        }
        let large = self.ledger.fresh.total_bytes() >= self.ledger.committer.inner.settings.checkpoint_bytes;
        let awaited = self.lanes.is_empty() || self.lanes.iter().any(Lane::is_done);
        awaited || ((large || self.lanes.iter().any(|lane| lane.cut)) && !self.is_held())
    }

    /// Whether the upload is kept open for the next request. One in order that was cut is not: what it has declared is
    /// not kept without its bytes.
    fn park(&mut self) -> bool {
        let may_park = !self.sums.is_in_order() || self.lanes.iter().all(Lane::is_done);
        if self.parked_since.is_none() && may_park && self.ledger.committer.park() {
            self.parked_since = Some(Instant::now());
        }
        self.parked_since.is_some()
    }

    fn next_duty(&self) -> Option<(Instant, Duty)> {
        let committer = &self.ledger.committer;
        if let Some(since) = self.parked_since {
            return Some((since + committer.inner.settings.keep_open, Duty::Leave));
        }
        if committer.is_pending() {
            return None;
        }
        if self.is_held() && self.lanes.iter().any(|lane| lane.cut) {
            return Some((self.hold_until, Duty::EndHold));
        }
        if !self.ledger.fresh.is_empty() {
            let due = self.ledger.gathering_since + committer.inner.checkpoint_after(&committer.upload);
            return self.may_commit().then_some((due.max(self.hold_until), Duty::Checkpoint));
        }
        let may_stall = committer.upload.stage() == Stage::Receiving;
        may_stall.then(|| (self.bytes_came_at + committer.inner.settings.stall_after, Duty::Stall))
    }

    /// Deals with what came for a request. In any order, one that gets no further ends alone.
    async fn take(&mut self, index: usize, item: Option<Fed>) -> Result<(), Trouble> {
        let mut lane = self.lanes.swap_remove(index);
        let done = match item {
            Some(Fed::Piece(piece)) => self.take_piece(&mut lane, piece).await,
            Some(Fed::End) => self.end_lane(&mut lane, BodyEnd::Complete).await,
            None => self.end_lane(&mut lane, BodyEnd::Cut).await,
        };
        match done {
            Err(Trouble::Refused(error)) if !self.sums.is_in_order() => lane.answer(Err(error)),
            Err(Trouble::BroughtNothing) if !self.sums.is_in_order() => {
                lane.answer(Ok(self.ledger.committer.upload.clone()));
            }
            done => {
                self.lanes.push(lane);
                return done;
            }
        }
        Ok(())
    }

    async fn take_piece(&mut self, lane: &mut Lane, piece: Bytes) -> Result<(), Trouble> {
        let (start, count) = (lane.at, piece.len() as u64);
        let end = self.end_of(lane, count)?;
        self.bytes_came_at = Instant::now();
        if let Some(checked) = &mut lane.checked {
            checked.hasher.update(&piece);
        }
        let accepted_bytes = match &mut self.sums {
            Sums::InOrder(running) => {
                running.update(&piece);
                self.ledger.write(start, piece).await?;
                if lane.checked.is_none() {
                    self.ledger.count(start, end);
                }
                end
            }
            Sums::Scattered(scattered) => {
                // Whoever has uncounted bytes here would otherwise count what it did not write.
                for stale in self.lanes.extract_if(.., |other| other.has_staged(start, end)) {
                    stale.answer(Err(EngineError::Unavailable(Unavailable::Superseded)));
                }
                scattered.place(&mut self.ledger, lane, start, piece).await?;
                self.ledger.there.total_bytes()
            }
        };
        lane.at = end;
        self.ledger.committer.note_progress(accepted_bytes, count);
        Ok(())
    }

    /// Where `count` more bytes of a request end, if they may be there.
    fn end_of(&self, lane: &Lane, count: u64) -> Result<u64, Rejection> {
        let committer = &self.ledger.committer;
        let end = lane.at.saturating_add(count);
        let max_bytes = committer.upload.most_bytes(committer.inner.settings.max_upload_bytes);
        match (lane.end, committer.length()) {
            (Some(own_end), _) if end > own_end => Err(Rejection::BeyondRange { end: own_end }),
            (_, Some(length)) if end > length.get() => Err(Rejection::BeyondLength(length)),
            (_, None) if end > max_bytes => Err(Rejection::OverLimit(max_bytes)),
            (Some(_) | None, Some(_) | None) => Ok(end),
        }
    }

    /// Notes that the body of a request is over: what of it counts is covered by the next checkpoint.
    async fn end_lane(&mut self, lane: &mut Lane, end: BodyEnd) -> Result<(), Trouble> {
        lane.close(end);
        if let Some(checked) = lane.checked.take() {
            if lane.cut {
                return Err(Trouble::BroughtNothing);
            }
            // tus 1.0, Checksum: bytes that do not match, or not all of them, leave no trace.
            let (staged, replacing) = checked.check(lane.end.is_none_or(|own_end| lane.at == own_end))?;
            match &mut self.sums {
                Sums::InOrder(_) => self.ledger.count(lane.start, lane.at),
                Sums::Scattered(scattered) => {
                    scattered.count_matched(&mut self.ledger, &staged, replacing).await?;
                }
            }
        }
        if lane.is_done() && self.ledger.committer.upload.stage().takes_bytes() {
            if lane.ends == Ends::Here {
                self.end_here(lane);
            }
            // In order, a request that has ended as it should is news, be it without a byte.
            self.ledger.news |= self.sums.is_in_order();
        }
        lane.covered_by = self.ledger.covering_checkpoint();
        Ok(())
    }

    /// Ends the upload with the last byte of a request. If it cannot end there, what arrived stays: it is a correct
    /// beginning.
    fn end_here(&mut self, lane: &mut Lane) {
        let taken = self.taken();
        let committer = &mut self.ledger.committer;
        let mut view = committer.declared_upload();
        match committer.inner.check_end(&mut view, Offset::new(lane.at), taken) {
            Ok(()) => {
                lane.is_last = true;
                self.ledger.news |= committer.declare(&view);
            }
            Err(rejection) => lane.refusal = Some(Box::new(rejection)),
        }
    }

    async fn start_checkpoint(&mut self) -> Result<(), Broken> {
        self.ledger.start_checkpoint(self.sums.state()).await?;
        self.sums.on_begun();
        Ok(())
    }

    fn on_committed(&mut self, committed: Result<Upload, EngineError>) -> Result<(), Broken> {
        if self.ledger.committer.has_inspectors() {
            self.hold();
        }
        self.ledger.on_committed(committed)?;
        self.sums.on_committed();
        Ok(())
    }

    /// Holds further commits back, for somebody who is told an offset.
    fn hold(&mut self) {
        if self.sums.is_in_order() {
            self.hold_until = Instant::now() + HOLD_AFTER_INSPECTION;
        }
    }

    async fn await_pending(&mut self) -> Result<(), Broken> {
        self.ledger.await_pending().await?;
        self.sums.on_committed();
        Ok(())
    }

    /// Whether the record has all that it is to have of the requests that are about to be answered.
    fn check_covered(&self) -> Result<(), Broken> {
        let (done, received) = (self.ledger.done(), &self.ledger.committer.upload.record().received);
        for lane in self.lanes.iter().filter(|lane| lane.is_covered(done)) {
            if !received.has_all(lane.start, lane.at) {
                return Err(Broken::inconsistent(Inconsistent::NotReceived { start: lane.start, end: lane.at }));
            }
        }
        Ok(())
    }

    /// Answers the requests whose bytes are all committed.
    fn answer_covered(&mut self) {
        let (done, upload) = (self.ledger.done(), &self.ledger.committer.upload);
        for lane in self.lanes.extract_if(.., |lane| lane.is_covered(done)) {
            lane.answer(Ok(upload.clone()));
        }
    }

    async fn on_inspection(&mut self, done: oneshot::Sender<()>) -> Result<(), Broken> {
        let is_pending = self.ledger.committer.is_pending();
        let nothing_new = !is_pending && !self.may_commit();
        if nothing_new || self.is_held() {
            if nothing_new {
                self.hold();
            }
            // Whoever asked may have gone.
            let _ = done.send(());
            return Ok(());
        }
        self.ledger.committer.inspect_after_commit(done);
        if is_pending { Ok(()) } else { self.start_checkpoint().await }
    }

    /// Whether this writer ends for a request that wants to go on at `at`; if not, the offset it would have to name. A
    /// request that has sent everything is not ended any more: it is committed and answered first.
    async fn on_yield(&mut self, at: Option<Offset>) -> Result<Result<(), Offset>, Broken> {
        if self.lanes.iter().any(Lane::is_done) {
            self.await_pending().await?;
            if self.commit_is_wanted() {
                self.start_checkpoint().await?;
                self.await_pending().await?;
            }
            self.check_covered()?;
            if !self.is_whole() {
                self.answer_covered();
            }
        } else {
            self.ledger.await_commit_under_way().await?;
        }
        let ours = self.ledger.committer.upload.offset();
        Ok(if at.is_none_or(|at| at == ours) { Ok(()) } else { Err(ours) })
    }

    /// Ends the writer; gives what the requests that are left are told. `completes`: the upload does when it is full.
    async fn end(mut self, ending: Ending, completes: bool) -> Result<Upload, EngineError> {
        let committer = &mut self.ledger.committer;
        match ending {
            Ending::Over | Ending::Stop => self.conclude(completes).await,
            Ending::Yield(answer, fate) => {
                let upload = &committer.upload;
                tracing::info!(upload = %upload.id(), offset = upload.offset().get(), "a newer request takes over");
                committer.abandon().await;
                // The newer request waits for the lease anyway.
                let _ = answer.send(Ok(()));
                drop(self);
                Err(Fate::answer_to(fate).await)
            }
            Ending::Undone(outcome) => {
                committer.abandon().await;
                committer.drop_leftovers().await;
                outcome.map(|()| self.ledger.committer.upload)
            }
            Ending::Overflow(error) => {
                committer.abandon().await;
                Err(committer.fail_for_overflow().await.err().unwrap_or(error))
            }
            Ending::Broken(broken) => {
                committer.abandon().await;
                committer.drop_leftovers().await;
                Err(broken.into())
            }
        }
    }

    /// Keeps what counts, and carries a whole upload through to its end.
    async fn conclude(mut self, completes: bool) -> Result<Upload, EngineError> {
        if let Err(broken) = self.commit_rest(completes).await {
            let committer = &mut self.ledger.committer;
            committer.abandon().await;
            committer.drop_leftovers().await;
            return Err(broken.into());
        }
        self.ledger.committer.close().await;
        let (inner, held, upload) = self.ledger.committer.into_parts();
        tracing::debug!(upload = %upload.id(), received_bytes = upload.received_bytes(), "no more bytes for now");
        let settled = inner.settle(upload, &Behalf::Client(self.caller)).await.and_then(unless_failed);
        drop(held);
        settled
    }

    async fn commit_rest(&mut self, completes: bool) -> Result<(), Broken> {
        self.await_pending().await?;
        let is_whole = completes && self.ledger.is_full();
        if !self.ledger.committer.upload.stage().takes_bytes() || !(self.ledger.has_uncovered() || is_whole) {
            return Ok(());
        }
        let seal = is_whole.then(|| self.sums.whole(self.ledger.there.contiguous().get()));
        self.ledger.commit_last(self.sums.state(), seal).await
    }
}

impl Inner {
    /// How long the bytes of a live upload may gather before they are committed.
    fn checkpoint_after(&self, upload: &Upload) -> Duration {
        let every = self.settings.checkpoint_every;
        // Many slow uploads take turns: what each could lose is little, and so are the bytes a sync of each would keep.
        let crowd = self.leases.count() as f64 / f64::from(self.settings.checkpoint_rate);
        if crowd > 1.0 {
            return every.mul_f64(crowd);
        }
        match upload.stage() {
            Stage::Created | Stage::Stalled => FIRST_CHECKPOINT_AFTER.min(every),
            Stage::Receiving
            | Stage::Received
            | Stage::Verified
            | Stage::Stored
            | Stage::Completed
            | Stage::Ended(_) => every,
        }
    }
}

/// Tells the requests that are left what came of the upload. What they still send to a complete one is there already: it
/// is compared as if it had come a moment later.
async fn answer(inner: &Inner, lanes: Vec<Lane>, outcome: &Result<Upload, EngineError>, stops: bool) {
    let complete = outcome.as_ref().ok().filter(|upload| upload.stage() == Stage::Completed);
    let complete = complete.and_then(|upload| Some((upload, upload.length()?)));
    let mut repeating = Vec::new();
    for lane in lanes {
        if !lane.is_open() {
            lane.answer(outcome.clone());
            continue;
        }
        if stops {
            lane.answer(outcome.clone().and(Err(EngineError::Unavailable(Unavailable::ShuttingDown))));
            continue;
        }
        let Some((upload, length)) = complete else {
            lane.answer(outcome.clone());
            continue;
        };
        let repeated = Repeated::rest_of(upload.clone(), length, lane.at, lane.end, lane.ends);
        repeating.extend(lane.into_intake().map(|intake| repeated.answer(inner, intake)));
    }
    futures::future::join_all(repeating).await;
}

/// Waits until the time of a duty has come.
async fn come(duty: Option<(Instant, Duty)>) -> Duty {
    match duty {
        Some((at, duty)) => {
            tokio::time::sleep_until(at).await;
            duty
        }
        None => std::future::pending().await,
    }
}

/// Waits for what comes next of the open requests. Each gets its turn.
async fn next_fed(lanes: &mut [Lane], turn: &mut usize) -> (usize, Option<Fed>) {
    std::future::poll_fn(|cx| {
        for step in 0..lanes.len() {
            let index = (*turn + step) % lanes.len();
            if let Some(fed) = &mut lanes[index].fed
                && let Poll::Ready(item) = fed.poll_recv(cx)
            {
                *turn = index + 1;
                return Poll::Ready((index, item));
            }
        }
        Poll::Pending
    })
    .await
}
