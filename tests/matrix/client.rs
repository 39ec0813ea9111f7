//! Clients: each request is a task that follows its script, and reports its answer to the court.

use std::time::Duration;

use domain::checksum::{Algorithm, Digest};
use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::metadata::Metadata;
use domain::principal::Principal;
use domain::rejection::Rejection;
use domain::size::{Length, Offset};
use domain::upload::{Role, Upload};
use engine::command::{Append, BodyEnd, Cancel, CompletesUpload, Create, EngineError, Overflow, WritePosition};
use engine::concatenate::Concatenate;
use engine::feed::Feed;
use engine::{Engine, Fence};
use sha2::Digest as _;
use tokio::sync::mpsc;

use crate::court::Court;
use crate::model::{Asked, Known, Promised, places};
use crate::script::{At, Body, Checksum, Content, Name, Plan, Promise, RequestName};

/// An order of the script to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Send(u64),
    End,
    Fall,
    Vanish,
}

/// The clients of one node.
#[derive(Debug, Clone)]
pub struct Clients {
    pub engine: Engine,
    pub court: Court,
    pub seed: u64,
    /// `None` for a node that is alone.
    pub fence: Option<Fence>,
}

impl Clients {
    /// Creates an upload, and waits for the answer.
    pub async fn create(self, name: Name, plan: Plan) {
        let _waiting = self.court.waits(format!("the creation of {name}"));
        let mut known = Known::new(name, plan, nobody(), self.seed);
        let size = usize::try_from(plan.size).expect("files are small");
        let file = &known.file.bytes(Content::File)[..size];
        let promised = match plan.promise {
            Promise::None => None,
            Promise::Right => Some(sha2::Sha256::digest(file)),
            Promise::Wrong => Some(sha2::Sha256::digest(b"another file")),
        };
        let sha256 = |value: &[u8]| Digest::new(Algorithm::Sha256, value.to_vec()).expect("it has 32 bytes");
        let command = Create {
            principal: Principal::server(),
            dialect: plan.dialect,
            write_rules: plan.write_rules(),
            role: if plan.partial { Role::Partial } else { Role::Single },
            length: plan.says_size.then(|| length(plan.size)),
            metadata: Metadata::default(),
            metadata_as_sent: None,
            wanted_digests: Vec::new(),
            promised_digests: promised.iter().map(|value| sha256(value)).collect(),
            caller: None,
        };
        if let Ok(upload) = self.request(self.engine.create(command)).await {
            known.id = upload.id();
            self.court.bench().model.add(known);
            self.court.hear(name, &upload, 0);
        }
    }

    /// Concatenates uploads into another one.
    pub async fn concatenate(self, name: Name, parts: Vec<Name>) {
        let ids: Vec<UploadId> = {
            let bench = self.court.bench();
            parts.iter().filter_map(|part| bench.model.get(*part)).map(|known| known.id).collect()
        };
        let joined = self.parts_at_rest(&ids);
        let _waiting = self.court.waits(format!("the concatenation of {name}"));
        let command = Concatenate {
            principal: Principal::server(),
            dialect: Dialect::named("tus"),
            parts: ids,
            as_sent: "final".to_owned(),
            metadata: Metadata::default(),
            metadata_as_sent: None,
            wanted_digests: Vec::new(),
            promised_digests: Vec::new(),
            caller: None,
        };
        if let Ok(upload) = self.engine.concatenate(command).await {
            let size = upload.offset().get();
            let mut known = Known::new(name, Plan::of(Dialect::named("tus"), size), upload.id(), self.seed);
            known.joined = joined;
            self.court.bench().model.add(known);
            self.court.hear(name, &upload, 0);
        }
    }

    /// Returns the bytes of partial uploads, if none of them is being written.
    fn parts_at_rest(&self, ids: &[UploadId]) -> Option<Vec<u8>> {
        let bench = self.court.bench();
        let mut joined = Vec::new();
        for id in ids {
            let row = bench.audit.row(*id).filter(|row| row.is_partial() && row.is_settled())?;
            if row.offset() > Offset::ZERO {
                joined.extend_from_slice(&bench.audit.durable(*id)?.1);
            }
        }
        Some(joined)
    }

    /// Requests the offset of an upload, as `HEAD` does.
    pub async fn inspect(self, name: Name) {
        let Some((id, floor)) = self.believed(name) else { return };
        let _waiting = self.court.waits(format!("a HEAD of {name}"));
        if let Ok(found) = self.request(self.engine.inspect(&Principal::server(), id)).await
            && found.gone.is_none()
        {
            self.court.hear(name, &found.upload, floor);
        }
    }

    pub async fn cancel(self, name: Name) {
        let Some((id, _)) = self.believed(name) else { return };
        let _waiting = self.court.waits(format!("a DELETE of {name}"));
        if let Some(known) = self.court.bench().model.get_mut(name) {
            known.cancelled = true;
        }
        if self.engine.cancel(Cancel { principal: Principal::server(), id, caller: None }).await.is_ok() {
            self.court.hear_of_the_end(name);
        }
    }

    /// Deletes an upload as an operator does.
    pub async fn delete(self, name: Name) {
        let Some((id, _)) = self.believed(name) else { return };
        let _waiting = self.court.waits(format!("the deletion of {name} by an operator"));
        if let Some(known) = self.court.bench().model.get_mut(name) {
            known.deleted = true;
        }
        if self.engine.delete(&Principal::server(), id).await.is_ok() {
            self.court.hear_of_the_deletion(name);
        }
    }

    /// Makes a request. A node that has no contact to the state when it is made must not accept it.
    async fn request<T>(&self, made: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
        let is_fenced = self.fence.as_ref().is_some_and(Fence::is_closed);
        let answer = made.await;
        if is_fenced && answer.is_ok() {
            let how = "a request was accepted by a node without contact to the state";
            self.court.bench().model.breaks(Promised::FencedNodesAreSilent, how);
        }
        answer
    }

    fn believed(&self, name: Name) -> Option<(UploadId, u64)> {
        self.court.bench().model.get(name).map(|known| (known.id, known.offset))
    }

    /// Prepares a request. Returns `None` if there is no such upload.
    pub fn prepare(&self, request: RequestName, name: Name, body: &Body) -> Option<Request> {
        let mut bench = self.court.bench();
        let known = bench.model.get_mut(name)?;
        let range = range_of(known, body);
        let bytes = known.file.bytes(body.content)[places(range.clone())].to_vec();
        let command = command_of(known, body, range.clone(), &bytes);
        let end = range.end;
        known.may_be_too_long |= body.fatal;
        known.deviates |= body.last && end != known.plan.size;
        known.deviates |= body.length.is_some_and(|length| length != known.plan.size);
        known.ask(request, Asked::new(range.clone(), body.content, body.checksum));
        let floor = known.offset;
        Some(Request { clients: self.clone(), request, name, command, bytes, body: *body, start: range.start, floor })
    }
}

/// Returns an id for the upload of a client that has no answer yet.
fn nobody() -> UploadId {
    UploadId::from_bytes([0; 16])
}

pub fn length(bytes: u64) -> Length {
    Length::new(bytes).expect("files are small")
}

fn range_of(known: &Known, body: &Body) -> std::ops::Range<u64> {
    let most = crate::content::MOST_BYTES as u64;
    match body.at {
        At::Place(start) => start.min(most)..(start + body.size).min(most),
        At::Offset => {
            let rest = known.plan.size.saturating_sub(known.offset);
            let size = if body.fatal { body.size } else { body.size.min(rest) };
            known.offset.min(most)..(known.offset + size).min(most)
        }
    }
}

fn command_of(known: &Known, body: &Body, range: std::ops::Range<u64>, bytes: &[u8]) -> Append {
    let dialect = known.plan.dialect;
    let at = Offset::new(range.start).expect("files are small");
    let right = crc32c::crc32c(bytes);
    let crc = |crc: u32| Digest::new(Algorithm::Crc32c, crc.to_be_bytes().to_vec()).expect("it has four bytes");
    Append {
        principal: Principal::server(),
        id: known.id,
        dialect,
        position: match dialect.name() {
            "google" => WritePosition::From(at),
            "ranged" => WritePosition::Anywhere(at),
            _ => WritePosition::At(at),
        },
        count: body.says_size.then_some(range.end - range.start),
        length: body.length.map(length),
        ends: match (body.last, dialect.name()) {
            (true, _) => CompletesUpload::Here,
            (false, "ietf" | "google") => CompletesUpload::Later,
            (false, _) => CompletesUpload::WhenFull,
        },
        checksum: match body.checksum {
            Checksum::None => None,
            Checksum::Right => Some(crc(right)),
            Checksum::Wrong => Some(crc(!right)),
        },
        promised_digests: Vec::new(),
        overflow: if body.fatal { Overflow::Fatal } else { Overflow::Refused },
        caller: None,
    }
}

/// A request that is ready to be made.
#[derive(Debug)]
pub struct Request {
    clients: Clients,
    request: RequestName,
    name: Name,
    command: Append,
    bytes: Vec<u8>,
    body: Body,
    start: u64,
    /// The offset that its client knew when the request was made.
    floor: u64,
}

impl Request {
    /// Makes the request, and follows its orders. If the sender of the orders is gone, the client has
    /// disconnected.
    pub async fn run(self, orders: mpsc::UnboundedReceiver<Order>) -> Option<Result<Upload, EngineError>> {
        let court = self.clients.court.clone();
        let _waiting = court.waits(format!("{}, for {}", self.request, self.name));
        self.make(orders).await
    }

    async fn make(self, mut orders: mpsc::UnboundedReceiver<Order>) -> Option<Result<Upload, EngineError>> {
        let feed = match self.clients.request(self.clients.engine.append(self.command.clone())).await {
            Ok(feed) => feed,
            Err(error) => {
                self.answered(false);
                self.hear_rejection(&error);
                return Some(Err(error));
            }
        };
        let mut sending = Sending { feed, bytes: &self.bytes, sent: 0, ended: false };
        let end = sending.follow(&mut orders).await?;
        let Sending { feed, sent, ended, .. } = sending;
        let is_all = sent == self.bytes.len();
        // A body that ends before its announced size was cut.
        let end = if end == BodyEnd::Complete && self.body.says_size && !is_all { BodyEnd::Cut } else { end };
        // If no request has declared the length of the file, it ends with the last body.
        if end == BodyEnd::Complete && self.body.last && !is_all {
            self.deviates();
        }
        let outcome = feed.finish(end).await;
        if let (Ok(upload), BodyEnd::Complete, false) = (&outcome, end, ended) {
            self.hear(upload, sent as u64);
        } else {
            self.answered(false);
            outcome.as_ref().err().inspect(|error| self.hear_rejection(error));
        }
        Some(outcome)
    }

    /// Checks an answer that reports that all bytes were received.
    fn hear(&self, upload: &Upload, sent: u64) {
        let (request, name) = (self.request, self.name);
        let (start, end) = (self.start, self.start + sent);
        let received = upload.record().received.spans(start, end);
        let all_there = received.iter().all(|stretch| stretch.there);
        {
            let mut bench = self.clients.court.bench();
            if self.body.checksum == Checksum::Wrong && sent > 0 {
                let how = format!("{request} had a wrong checksum, and was answered with success");
                bench.model.breaks(Promised::WrongRequestsAreRefused, how);
            } else if !all_there {
                let pairs = upload.record().received.pairs();
                let how = format!(
                    "{request} sent {start} to {end} of {name} and was answered with success; stored is {pairs:?}"
                );
                bench.model.breaks(Promised::NothingAcknowledgedIsLost, how);
            }
        }
        let is_whole = end == self.start + self.bytes.len() as u64;
        self.answered(all_there && is_whole);
        self.clients.court.hear(name, upload, self.floor);
    }

    fn hear_rejection(&self, error: &EngineError) {
        if let EngineError::Rejected(Rejection::WrongOffset { ours, .. }) = error {
            self.clients.court.hear_of_another_offset(self.name, *ours, self.floor);
        }
    }

    /// Records that the upload is no longer the planned file.
    fn deviates(&self) {
        if let Some(known) = self.clients.court.bench().model.get_mut(self.name) {
            known.deviates = true;
        }
    }

    fn answered(&self, all_there: bool) {
        if let Some(known) = self.clients.court.bench().model.get_mut(self.name) {
            known.answered(self.request, all_there);
        }
    }
}

/// The body of a request that is in progress.
struct Sending<'a> {
    feed: Feed,
    bytes: &'a [u8],
    sent: usize,
    /// Set when the engine accepts no more bytes.
    ended: bool,
}

impl Sending<'_> {
    /// Follows its orders until the body is over. Returns `None` when the client has disconnected.
    async fn follow(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>) -> Option<BodyEnd> {
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Send(bytes)) => self.send(bytes).await,
                    Some(Order::End) => return Some(BodyEnd::Complete),
                    Some(Order::Fall) => return Some(BodyEnd::Cut),
                    Some(Order::Vanish) | None => return None,
                },
                () = self.feed.ended() => self.ended = true,
                () = self.feed.flush_due() => self.feed.flush(),
            }
            if self.ended {
                return Some(BodyEnd::Cut);
            }
        }
    }

    async fn send(&mut self, bytes: u64) {
        let count = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.bytes.len() - self.sent);
        let next = &self.bytes[self.sent..self.sent + count];
        self.sent += count;
        self.ended = self.feed.push(next).await.is_err();
    }
}

/// The wait of a client before it retries.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
