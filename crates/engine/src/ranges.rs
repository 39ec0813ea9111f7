//! Bytes in any order, from several requests at once, into one blob.
//!
//! One task holds the lease of the upload and takes the bytes of all requests that write to it; a request that comes
//! while it runs joins it. So there is still one writer, one version to commit, and one sync for all of them. It ends
//! when the upload is whole, or when no request is left.
//!
//! - What is there is not written again. Bytes that come for it must be the same; the first that differs ends its
//!   request, and what came first is kept.
//! - A request with a checksum counts all at once or not at all. Until it has matched, its bytes for places that are
//!   empty lie there uncounted, and those that differ from what is there are kept in memory, of which all uploads together
//!   have a share of the pool. Then it wins.
//! - Of two requests for the same places, the newer ends the older.
//! - A request that is refused leaves the others alone. A write, a sync or a commit that fails ends them all: what it was
//!   to cover is in no record, whoever brought it.
//!
//! What if it dies here? Bytes that are not committed are not there. Bytes that were being replaced may be the old or
//! the new ones; that their digest is unknown is committed before the first of them is touched, so it is computed from
//! what is there in the end.

use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::append::{Begun, come};
use crate::command::{Append, BodyEnd, Ends, EngineError, Unavailable};
use crate::commit::{Broken, Call, Committer, Covering};
use crate::compare::Repeated;
use crate::digest::Hasher;
use crate::feed::{Fed, Feed, Intake};
use crate::hooks::Behalf;
use crate::lease::Held;
use crate::orders::{Fate, NotJoined, Order};
use crate::pieces::{Piece, Pieces};
use crate::settle::unless_failed;
use crate::{Engine, Inner};
use domain::checksum::Digest;
use domain::hook::Caller;
use domain::ranges::ReceivedRanges;
use domain::rejection::Rejection;
use domain::size::Offset;
use domain::stage::Stage;
use domain::upload::{Inconsistent, Upload};

impl Engine {
    /// Begins to take bytes for the place `at`, beside whatever is being taken for the same upload.
    pub(super) async fn begin_anywhere(&self, command: &Append, at: Offset) -> Result<Begun, EngineError> {
        let inner = &self.0;
        let deadline = Instant::now() + inner.settings.takeover_timeout;
        loop {
            if let Some(held) = inner.leases.try_take(command.id) {
                let upload = inner.find(command.principal.scope(), command.id).await?;
                if command.repeats(&upload) {
                    return Ok(Begun::Repeating);
                }
                if !upload.dialect().takes_any_order() {
                    return Ok(Begun::InOrder);
                }
                let mut assembly = Assembly::new(Arc::clone(inner), held, upload);
                let feed = assembly.join(command, at).await?;
                self.spawn(assembly.run());
                return Ok(Begun::Feeding(feed));
            }
            let Some(live) = inner.leases.live(command.id) else { continue };
            let joined = tokio::time::timeout_at(deadline, live.join(command.clone()));
            match joined.await.map_err(|_| EngineError::Unavailable(Unavailable::Held))? {
                Some(Ok(feed)) => return Ok(Begun::Feeding(feed)),
                Some(Err(NotJoined::InOrder)) => return Ok(Begun::InOrder),
                Some(Err(NotJoined::Refused(error))) => return Err(error),
                None => {}
            }
        }
    }
}

/// An upload while requests fill it.
struct Assembly {
    committer: Committer,
    /// What is there: committed, or written and about to be.
    there: ReceivedRanges,
    /// What of it no checkpoint covers yet.
    fresh: ReceivedRanges,
    /// What was written and cannot be read back yet, counted or not: since the last checkpoint began, and before.
    unlanded: [ReceivedRanges; 2],
    /// The digests of what is there.
    pieces: Pieces,
    lanes: Vec<Lane>,
    /// Whose turn it is to be asked for bytes first.
    turn: usize,
    /// How many checkpoints were begun, and how many of them are done.
    begun: u64,
    done: u64,
    /// Something was declared that no checkpoint covers yet.
    declared: bool,
    /// Of the request that came last.
    caller: Option<Arc<Caller>>,
    /// When `fresh` began to gather.
    gathering_since: Instant,
    bytes_came_at: Instant,
    /// Since when nobody has sent anything, and the upload is only kept open.
    parked_since: Option<Instant>,
}

/// One request.
struct Lane {
    /// `None` once its body is over.
    fed: Option<mpsc::Receiver<Fed>>,
    outcome: oneshot::Sender<Result<Upload, EngineError>>,
    /// Where its first byte went.
    start: u64,
    /// Where its next byte goes.
    at: u64,
    /// Where it is to end, where it said so. Excluded.
    end: Option<u64>,
    ends: Ends,
    checked: Option<Checked>,
    /// The checkpoint that covers all of it, once its body is over.
    covered_by: u64,
}

/// The bytes of a request with a checksum, before it has matched.
struct Checked {
    expected: Digest,
    hasher: Hasher,
    /// Written where nothing was.
    staged: Pieces,
    /// Other than what is there, and where they go.
    replacing: Vec<(u64, Bytes)>,
}

/// Why a request gets no further.
#[derive(Debug)]
enum Trouble {
    /// It is refused. The others, and the upload, are none the worse for it.
    Refused(EngineError),
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

impl From<Trouble> for EngineError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(error) => error,
            Trouble::Broken(broken) => broken.into(),
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "one lives at a time, on the stack; boxing would allocate for nothing")]
enum Step {
    Call(Call),
    Fed(usize, Option<Fed>),
    Due(Duty),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    Checkpoint,
    /// No byte for so long that others should know.
    Stall,
    /// No request for so long that the next may open the upload anew.
    Leave,
}

enum Ending {
    /// Every byte is there.
    Whole,
    /// No request is left.
    Idle,
    Stop,
    /// The upload is to be ended, or written otherwise.
    Yield(oneshot::Sender<Result<(), Offset>>, Option<Fate>),
    Broken(Broken),
}

impl Lane {
    fn is_open(&self) -> bool {
        self.fed.is_some()
    }

    fn answer(self, outcome: Result<Upload, EngineError>) {
        // A caller that is gone needs no answer.
        let _ = self.outcome.send(outcome);
    }

    /// Whether it may still write between `start` and `end`, or has uncounted bytes there.
    fn claims(&self, start: u64, end: u64) -> bool {
        let ahead = self.is_open() && self.at < end && self.end.is_some_and(|own_end| start < own_end);
        ahead || self.has_staged(start, end)
    }

    fn has_staged(&self, start: u64, end: u64) -> bool {
        let staged = self.checked.iter().flat_map(|checked| checked.staged.iter());
        staged.into_iter().any(|piece| piece.start < end && start < piece.end)
    }
}

impl Assembly {
    fn new(inner: Arc<Inner>, held: Held<Order>, upload: Upload) -> Self {
        let pieces = Pieces::resume(&upload.record().running_digests).unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(upload = %upload.id(), error, "the digests are computed from the stored bytes in the end");
            Pieces::default()
        });
        let now = Instant::now();
        Self {
            there: upload.record().received.clone(),
            committer: Committer::new(inner, held, upload),
            fresh: ReceivedRanges::default(),
            unlanded: Default::default(),
            pieces,
            lanes: Vec::new(),
            turn: 0,
            begun: 0,
            done: 0,
            declared: false,
            caller: None,
            gathering_since: now,
            bytes_came_at: now,
            parked_since: None,
        }
    }

    /// Takes one more request, if it is in order.
    async fn join(&mut self, command: &Append, at: Offset) -> Result<Feed, Trouble> {
        let inner = Arc::clone(&self.committer.inner);
        let (now, max_bytes) = (inner.now(), inner.settings.max_upload_bytes);
        let mut upload = inner.extended(self.committer.declared_upload());
        command.check_reach(&upload)?;
        upload.check_range(at, Some(0), max_bytes, now)?;
        inner.declare(&mut upload, command, self.taken())?;
        upload.check_range(at, command.count, max_bytes, now)?;
        let (start, end) = (at.get(), command.count.map(|count| at.get().saturating_add(count)));
        self.check_shape(start, end, &upload)?;
        if command.count != Some(0) {
            if self.lanes.iter().filter(|lane| lane.is_open()).count() >= inner.settings.ranges.max_parallel {
                return Err(Trouble::Refused(EngineError::Unavailable(Unavailable::Busy)));
            }
            inner.check_room_for(&upload, command.count.unwrap_or(0)).await.map_err(Trouble::Refused)?;
        }
        self.declared |= self.committer.declare(&upload);
        self.parked_since = None;
        self.caller.clone_from(&command.caller);
        self.committer.unpark();
        self.supersede(|lane| lane.claims(start, end.unwrap_or(start)));
        let (feed, intake) = Feed::new(inner.pool.clone(), start, command.count, self.committer.progress());
        let Intake { pieces, outcome } = intake;
        let checked = command.checksum.clone().map(|expected| {
            let (expected, hasher) = Hasher::towards(expected);
            Checked { expected, hasher, staged: Pieces::default(), replacing: Vec::new() }
        });
        self.lanes.push(Lane {
            fed: Some(pieces),
            outcome,
            start,
            at: start,
            end,
            ends: command.ends,
            checked,
            covered_by: 0,
        });
        Ok(feed)
    }

    /// Where the last byte ends that was taken from a request, whether it counts or not.
    fn taken(&self) -> Offset {
        let staged = self.lanes.iter().flat_map(|lane| lane.checked.iter().map(|checked| checked.staged.end()));
        staged.filter_map(Offset::new).fold(self.there.end(), Offset::max)
    }

    /// Whether bytes from `start` to `end` leave the upload in a shape that can be kept and written on.
    fn check_shape(&self, start: u64, end: Option<u64>, upload: &Upload) -> Result<(), Rejection> {
        let ranges = self.committer.inner.settings.ranges;
        let alignment = ranges.alignment_bytes;
        let last = upload.length().map(|length| length.get());
        let fits = |place: u64| place.is_multiple_of(alignment) || Some(place) == last || self.there.touches(place);
        if !fits(start) || end.is_some_and(|end| !fits(end)) {
            return Err(Rejection::Misaligned { alignment });
        }
        let count = self.there.count_with(start, end.unwrap_or(start).max(start + 1));
        if count > self.there.pairs().len() && count > usize::try_from(ranges.max_ranges).unwrap_or(usize::MAX) {
            return Err(Rejection::TooManyRanges(ranges.max_ranges));
        }
        Ok(())
    }

    /// Ends requests that a newer one has made stale. What counted of them stays.
    fn supersede(&mut self, is_stale: impl Fn(&Lane) -> bool) {
        for lane in self.lanes.extract_if(.., |lane| is_stale(lane)) {
            lane.answer(Err(EngineError::Unavailable(Unavailable::Superseded)));
        }
    }

    async fn run(mut self) {
        let ending = self.receive().await;
        let lanes = std::mem::take(&mut self.lanes);
        let inner = Arc::clone(&self.committer.inner);
        // Boxed: it takes far more than receiving does.
        let outcome = Box::pin(self.end(ending)).await;
        let complete = outcome.as_ref().ok().filter(|upload| upload.stage() == Stage::Completed);
        let complete = complete.and_then(|upload| Some((upload, upload.length()?)));
        let mut repeating = Vec::new();
        for mut lane in lanes {
            match (complete, lane.fed.take()) {
                // What it still sends is there already. It is compared as if it had come a moment later.
                (Some((upload, length)), Some(fed)) => {
                    let repeated = Repeated::rest_of(upload.clone(), length, lane.at, lane.end, lane.ends);
                    repeating.push(repeated.answer(&inner, fed, lane.outcome));
                }
                (Some(_) | None, Some(_) | None) => lane.answer(outcome.clone()),
            }
        }
        futures::future::join_all(repeating).await;
    }

    /// Takes in what comes until there is a reason to stop.
    async fn receive(&mut self) -> Ending {
        loop {
            if let Err(broken) = self.answer_covered() {
                return Ending::Broken(broken);
            }
            let unsure = self.lanes.iter().any(|lane| lane.is_open() && lane.checked.is_some());
            if self.is_whole() && !unsure {
                return Ending::Whole;
            }
            if self.commit_is_wanted()
                && let Err(broken) = self.start_checkpoint().await
            {
                return Ending::Broken(broken);
            }
            if self.lanes.is_empty() && !self.committer.is_pending() && !self.park() {
                return Ending::Idle;
            }
            let done = match self.next_step().await {
                Step::Call(Call::Stop) => return Ending::Stop,
                Step::Call(Call::Committed(committed)) => self.on_committed(committed),
                // Nobody waits for it any more: a request that is gone must not end those that are there.
                Step::Call(Call::Order(order)) if order.is_given_up() => Ok(()),
                Step::Call(Call::Order(Order::Checkpoint(done))) => self.on_inspection(done).await,
                Step::Call(Call::Order(Order::Join { command, answer })) => {
                    let (joined, done) = match self.join(&command, command.place.offset()).await {
                        Ok(feed) => (Ok(feed), Ok(())),
                        Err(Trouble::Refused(error)) => (Err(error), Ok(())),
                        Err(Trouble::Broken(broken)) => (Err(broken.clone().into()), Err(broken)),
                    };
                    // Whoever asked may have gone; then its lane finds that nothing comes.
                    let _ = answer.send(joined.map_err(NotJoined::Refused));
                    done
                }
                // Nothing is handed over: it can be joined.
                Step::Call(Call::Order(Order::Resume(_))) => Ok(()),
                Step::Call(Call::Order(Order::Yield { at, fate, answer })) => match self.on_yield(at).await {
                    Ok(Ok(())) => return Ending::Yield(answer, fate),
                    Ok(Err(ours)) => {
                        // Whoever asked may have gone.
                        let _ = answer.send(Err(ours));
                        Ok(())
                    }
                    Err(broken) => Err(broken),
                },
                Step::Fed(index, item) => self.take(index, item).await,
                Step::Due(Duty::Checkpoint) => self.start_checkpoint().await,
                Step::Due(Duty::Stall) => {
                    self.committer.begin_stall();
                    Ok(())
                }
                Step::Due(Duty::Leave) => return Ending::Idle,
            };
            if let Err(broken) = done {
                return Ending::Broken(broken);
            }
        }
    }

    async fn next_step(&mut self) -> Step {
        let duty = self.next_duty();
        let Self { committer, lanes, turn, .. } = self;
        tokio::select! {
            biased;
            call = committer.call() => Step::Call(call),
            duty = come(duty) => Step::Due(duty),
            (index, item) = next_fed(lanes, turn) => Step::Fed(index, item),
        }
    }

    fn is_whole(&self) -> bool {
        self.committer.length().is_some_and(|length| length.is_reached_by(self.there.contiguous()))
    }

    /// Whether a checkpoint is to begin now: somebody waits for one, or much has gathered.
    fn commit_is_wanted(&self) -> bool {
        let something = !self.fresh.is_empty() || self.declared;
        if !something || self.committer.is_pending() || self.is_whole() {
            return false;
        }
        let awaited = self.lanes.is_empty() || self.lanes.iter().any(|lane| !lane.is_open());
        awaited || self.fresh.total_bytes() >= self.committer.inner.settings.checkpoint_bytes
    }

    /// Whether the upload is kept open for the next request.
    fn park(&mut self) -> bool {
        if self.parked_since.is_none() && self.committer.park() {
            self.parked_since = Some(Instant::now());
        }
        self.parked_since.is_some()
    }

    fn next_duty(&self) -> Option<(Instant, Duty)> {
        if let Some(since) = self.parked_since {
            return Some((since + self.committer.inner.settings.keep_open, Duty::Leave));
        }
        let upload = &self.committer.upload;
        if self.committer.is_pending() || self.is_whole() {
            return None;
        }
        if !self.fresh.is_empty() {
            let due = self.gathering_since + self.committer.inner.checkpoint_after(upload);
            return Some((due, Duty::Checkpoint));
        }
        let may_stall = upload.stage() == Stage::Receiving;
        may_stall.then(|| (self.bytes_came_at + self.committer.inner.settings.stall_after, Duty::Stall))
    }

    /// Deals with what came for a request.
    async fn take(&mut self, index: usize, item: Option<Fed>) -> Result<(), Broken> {
        let mut lane = self.lanes.swap_remove(index);
        let done = match item {
            Some(Fed::Piece(piece)) => self.take_piece(&mut lane, piece).await,
            Some(Fed::End) => self.end_lane(&mut lane, BodyEnd::Complete).await,
            None => self.end_lane(&mut lane, BodyEnd::Cut).await,
        };
        match done {
            Ok(()) => self.lanes.push(lane),
            Err(Trouble::Refused(error)) => lane.answer(Err(error)),
            Err(Trouble::Broken(broken)) => {
                self.lanes.push(lane);
                return Err(broken);
            }
        }
        Ok(())
    }

    /// Takes the bytes of a request to where they belong.
    async fn take_piece(&mut self, lane: &mut Lane, piece: Bytes) -> Result<(), Trouble> {
        let (start, end) = (lane.at, self.end_of(lane, piece.len() as u64)?);
        self.bytes_came_at = Instant::now();
        if let Some(checked) = &mut lane.checked {
            checked.hasher.update(&piece);
        }
        // Whoever has uncounted bytes here would otherwise count what it did not write.
        self.supersede(|other| other.has_staged(start, end));
        for stretch in self.there.stretches(start, end) {
            let part = part_of(&piece, stretch.start - start, stretch.end - start);
            if stretch.there {
                self.compare(lane, stretch.start, part).await?;
                continue;
            }
            let summed = Piece::of(stretch.start, &part);
            self.write(stretch.start, part).await?;
            match &mut lane.checked {
                Some(checked) => checked.staged.add(summed),
                None => self.count(summed),
            }
        }
        lane.at = end;
        self.committer.note_progress(self.there.total_bytes(), piece.len() as u64);
        Ok(())
    }

    async fn write(&mut self, at: u64, bytes: Bytes) -> Result<(), Broken> {
        let end = at + bytes.len() as u64;
        self.committer.write(at, bytes).await?;
        self.unlanded[0].insert(at, end);
        Ok(())
    }

    /// Where `count` more bytes of a request end, if they may be there.
    fn end_of(&self, lane: &Lane, count: u64) -> Result<u64, Rejection> {
        let end = lane.at.saturating_add(count);
        let max_bytes = self.committer.upload.most_bytes(self.committer.inner.settings.max_upload_bytes);
        match (lane.end, self.committer.length()) {
            (Some(own_end), _) if end > own_end => Err(Rejection::BeyondRange { end: own_end }),
            (_, Some(length)) if end > length.get() => Err(Rejection::BeyondLength(length)),
            _ if end > max_bytes => Err(Rejection::OverLimit(max_bytes)),
            _ => Ok(end),
        }
    }

    /// Counts bytes that were written where nothing was, or that have replaced others.
    fn count(&mut self, piece: Piece) {
        if self.fresh.is_empty() {
            self.gathering_since = Instant::now();
        }
        self.pieces.add(piece);
        self.there.insert(piece.start, piece.end);
        self.fresh.insert(piece.start, piece.end);
    }

    /// Compares bytes with those that are there. Others are refused, or held until their checksum has matched.
    async fn compare(&mut self, lane: &mut Lane, start: u64, part: Bytes) -> Result<(), Trouble> {
        let Some(differs_at) = self.find_difference(start, &part).await? else { return Ok(()) };
        let Some(checked) = &mut lane.checked else { return Err(Rejection::DifferentBytes { at: differs_at }.into()) };
        let Inner { pool, settings, .. } = &*self.committer.inner;
        let limit = settings.ranges.max_replaced_bytes.min(pool.most_kept_bytes() as u64);
        let kept: u64 = checked.replacing.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        if kept + part.len() as u64 > limit {
            return Err(Rejection::TooMuchToReplace(limit).into());
        }
        // Kept for as long as its client takes to send the rest: never waited for, or all might wait for each other.
        let memory = pool.try_keep(&part).ok_or(Trouble::Refused(EngineError::Unavailable(Unavailable::Full)))?;
        checked.replacing.push((start, memory));
        Ok(())
    }

    /// The first place, from `start` on, where the bytes that are there differ from `bytes`.
    async fn find_difference(&mut self, start: u64, bytes: &[u8]) -> Result<Option<u64>, Broken> {
        let end = start + bytes.len() as u64;
        if self.unlanded.iter().any(|unlanded| unlanded.has_some(start, end)) {
            // They are made readable, not committed: with them the record might be full, and its seal has to wait for
            // whoever may still replace some of them.
            self.committer.land().await?;
            self.unlanded = Default::default();
        }
        let (inner, id) = (&self.committer.inner, self.committer.upload.id());
        match inner.first_difference(id, start, bytes).await {
            Ok(place) => Ok(place),
            Err(error) => Err(inner.explain(id, error).await.into()),
        }
    }

    /// Notes that the body of a request is over: what of it counts is covered by the next checkpoint.
    async fn end_lane(&mut self, lane: &mut Lane, end: BodyEnd) -> Result<(), Trouble> {
        lane.fed = None;
        if let Some(checked) = lane.checked.take() {
            let all_here = end == BodyEnd::Complete && lane.end.is_none_or(|own_end| lane.at == own_end);
            if !all_here || checked.hasher.finish() != checked.expected {
                return Err(Rejection::ChecksumMismatch(checked.expected.algorithm()).into());
            }
            self.replace(checked.replacing).await?;
            for piece in checked.staged.iter() {
                self.count(piece);
            }
        }
        if lane.ends == Ends::Here && end == BodyEnd::Complete && self.committer.upload.stage().takes_bytes() {
            let mut view = self.committer.declared_upload();
            self.committer.inner.check_end(&mut view, Offset::new(lane.at), self.taken())?;
            self.declared |= self.committer.declare(&view);
        }
        let uncovered = !self.fresh.is_empty() || self.declared;
        lane.covered_by = self.begun + u64::from(uncovered);
        Ok(())
    }

    /// Puts bytes whose checksum has matched in the place of others.
    async fn replace(&mut self, parts: Vec<(u64, Bytes)>) -> Result<(), Broken> {
        if parts.is_empty() {
            return Ok(());
        }
        for (start, bytes) in &parts {
            self.pieces.forget(*start, start + bytes.len() as u64);
        }
        self.await_pending().await?;
        self.committer.begin_forgetting_digests();
        self.await_pending().await?;
        for (start, bytes) in parts {
            let summed = Piece::of(start, &bytes);
            tracing::info!(upload = %self.committer.upload.id(), start, end = summed.end, "bytes with a checksum replace others");
            self.write(start, bytes).await?;
            self.count(summed);
        }
        Ok(())
    }

    async fn start_checkpoint(&mut self) -> Result<(), Broken> {
        self.committer.begin(self.covering(None)).await?;
        // Only now is it sure to begin.
        self.begun += 1;
        self.declared = false;
        self.fresh.clear();
        self.unlanded.swap(0, 1);
        Ok(())
    }

    /// Everything that counts and is not committed.
    fn covering(&self, seal: Option<Vec<Digest>>) -> Covering {
        Covering { ranges: self.fresh.pairs().to_vec(), running_digests: self.pieces.state(), seal }
    }

    fn on_committed(&mut self, committed: Result<Upload, EngineError>) -> Result<(), Broken> {
        self.committer.on_committed(committed)?;
        self.note_committed();
        Ok(())
    }

    async fn await_pending(&mut self) -> Result<(), Broken> {
        self.committer.await_pending().await?;
        self.note_committed();
        Ok(())
    }

    fn note_committed(&mut self) {
        self.done = self.begun;
        self.unlanded[1].clear();
    }

    /// Answers the requests whose bytes are all committed.
    fn answer_covered(&mut self) -> Result<(), Broken> {
        if self.is_whole() {
            // They are told when it is completed, or why not.
            return Ok(());
        }
        let done = self.done;
        let upload = &self.committer.upload;
        for lane in self.lanes.extract_if(.., |lane| !lane.is_open() && lane.covered_by <= done) {
            if !upload.record().received.has_all(lane.start, lane.at) {
                let broken = Broken::inconsistent(Inconsistent::NotReceived { start: lane.start, end: lane.at });
                lane.answer(Err(broken.clone().into()));
                return Err(broken);
            }
            lane.answer(Ok(upload.clone()));
        }
        Ok(())
    }

    async fn on_inspection(&mut self, done: oneshot::Sender<()>) -> Result<(), Broken> {
        if self.committer.is_pending() || (!self.fresh.is_empty() && !self.is_whole()) {
            self.committer.inspect_after_commit(done);
            return if self.committer.is_pending() { Ok(()) } else { self.start_checkpoint().await };
        }
        // Whoever asked may have gone.
        let _ = done.send(());
        Ok(())
    }

    /// Whether this ends for a request that wants to go on at `at`; if not, the offset it would have to name.
    async fn on_yield(&mut self, at: Option<Offset>) -> Result<Result<(), Offset>, Broken> {
        self.committer.await_commit_under_way().await?;
        let ours = self.committer.upload.offset();
        Ok(if at.is_none_or(|at| at == ours) { Ok(()) } else { Err(ours) })
    }

    /// Ends the writer; gives what the requests that are left are told.
    async fn end(mut self, ending: Ending) -> Result<Upload, EngineError> {
        match ending {
            Ending::Whole => self.conclude().await,
            Ending::Idle => self.conclude().await,
            Ending::Stop => {
                self.conclude().await?;
                Err(EngineError::Unavailable(Unavailable::ShuttingDown))
            }
            Ending::Yield(answer, fate) => {
                tracing::info!(upload = %self.committer.upload.id(), "a newer request takes over");
                self.committer.abandon().await;
                // The newer request waits for the lease anyway.
                let _ = answer.send(Ok(()));
                drop(self);
                Err(Fate::answer_to(fate).await)
            }
            Ending::Broken(broken) => {
                self.committer.abandon().await;
                self.committer.drop_leftovers().await;
                Err(broken.into())
            }
        }
    }

    /// Keeps what counts, and carries a whole upload through to its end.
    async fn conclude(mut self) -> Result<Upload, EngineError> {
        if let Err(broken) = self.commit_rest().await {
            self.committer.abandon().await;
            self.committer.drop_leftovers().await;
            return Err(broken.into());
        }
        self.committer.close().await;
        let (inner, held, upload) = self.committer.into_parts();
        tracing::debug!(upload = %upload.id(), received_bytes = upload.received_bytes(), "no more ranges for now");
        let settled = inner.settle(upload, &Behalf::Client(self.caller)).await.and_then(unless_failed);
        drop(held);
        settled
    }

    async fn commit_rest(&mut self) -> Result<(), Broken> {
        self.await_pending().await?;
        let whole = self.is_whole();
        let something = !self.fresh.is_empty() || self.declared || whole;
        if !something || !self.committer.upload.stage().takes_bytes() {
            return Ok(());
        }
        let length_bytes = self.there.contiguous().get();
        let seal = whole.then(|| self.pieces.whole(length_bytes).into_iter().collect());
        let covering = self.covering(seal);
        self.committer.commit_last(covering).await
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

/// A part of a piece, without copying it.
fn part_of(piece: &Bytes, start: u64, end: u64) -> Bytes {
    let index = |at: u64| usize::try_from(at).expect("it lies within a piece");
    piece.slice(index(start)..index(end))
}
