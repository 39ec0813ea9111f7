//! The requests of clients and their answers: the model that the content of the stores is compared with.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::ranges::ReceivedRanges;
use domain::stage::Stage;
use domain::upload::Upload;

use crate::content::{File, MOST_BYTES, May};
use crate::dice::mix;
use crate::script::{Checksum, Content, Name, Plan, Promise, RequestName};

/// A promise of the server that a run can show to be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promised {
    NothingAcknowledgedIsLost,
    OffsetsNeverFall,
    CompleteIsComplete,
    BytesAreThoseSent,
    DigestsAreRight,
    WrongRequestsAreRefused,
    NothingWaitsForEver,
    NothingLeaks,
    TheLogTellsAll,
    FullUploadsAreFinished,
    EverythingCanBeResumed,
    EndsHaveAReason,
    ZombiesCommitNothing,
    LiveHoldersAreAsked,
    ReleasedUploadsAreClosed,
    FencedNodesAreSilent,
    NothingPanics,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub promise: Promised,
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.how)
    }
}

/// All clients.
#[derive(Debug, Default)]
pub struct Model {
    uploads: BTreeMap<Name, Known>,
    pub broken: Vec<Broken>,
    /// The waits of clients, by number.
    pub waiting: BTreeMap<u64, String>,
}

/// The combined knowledge that all clients have of one upload.
#[derive(Debug)]
pub struct Known {
    pub name: Name,
    pub plan: Plan,
    pub id: UploadId,
    pub file: File,
    /// The contents that may be at each position, if it holds any.
    pub may: Vec<May>,
    /// The bytes that were acknowledged to a client.
    acked: ReceivedRanges,
    /// The last reported offset, which is also the highest.
    pub offset: u64,
    pub was_complete: bool,
    /// A client has requested its termination.
    pub cancelled: bool,
    /// An operator has requested its deletion, or that of its file.
    pub deleted: bool,
    /// It may fail because of the bytes that its clients have sent.
    pub may_be_too_long: bool,
    /// Its bytes may differ from those of its file, or be fewer.
    pub deviates: bool,
    /// The concatenated bytes of a final upload.
    pub joined: Option<Vec<u8>>,
    open: BTreeMap<RequestName, Asked>,
}

/// A request as it was made.
#[derive(Debug, Clone)]
pub struct Asked {
    pub range: Range<u64>,
    pub content: Content,
    pub checksum: Checksum,
    /// Requests that verified their bytes with a checksum while this one was in progress: their bytes may
    /// have been written last.
    pub rivals: Vec<(Range<u64>, Content)>,
}

impl Asked {
    pub fn new(range: Range<u64>, content: Content, checksum: Checksum) -> Self {
        Self { range, content, checksum, rivals: Vec::new() }
    }

    fn proof(&self) -> Option<(Range<u64>, Content)> {
        (self.checksum == Checksum::Right).then(|| (self.range.clone(), self.content))
    }
}

impl Model {
    pub fn add(&mut self, known: Known) {
        self.uploads.insert(known.name, known);
    }

    pub fn get(&self, name: Name) -> Option<&Known> {
        self.uploads.get(&name)
    }

    pub fn get_mut(&mut self, name: Name) -> Option<&mut Known> {
        self.uploads.get_mut(&name)
    }

    pub fn by_id(&self, id: UploadId) -> Option<&Known> {
        self.uploads.values().find(|known| known.id == id)
    }

    pub fn names(&self) -> Vec<Name> {
        self.uploads.keys().copied().collect()
    }

    /// Records that a promise was broken.
    pub fn breaks(&mut self, promise: Promised, how: impl Into<String>) {
        self.broken.push(Broken { promise, how: how.into() });
    }

    /// The process has died, and all requests with it.
    pub fn forget_requests(&mut self) {
        self.waiting.clear();
        for known in self.uploads.values_mut() {
            known.open.clear();
        }
    }

    /// Records the answer to a request about an upload. `floor` is the offset that had been reported when the
    /// request was made.
    pub fn hear(&mut self, name: Name, upload: &Upload, floor: u64) {
        let Some(known) = self.uploads.get_mut(&name) else { return };
        let offset = upload.offset().get();
        let ended = matches!(upload.stage(), Stage::Ended(_));
        if offset < floor && !ended {
            let how = format!("{name} was reported at offset {offset}, after {floor} before");
            self.broken.push(Broken { promise: Promised::OffsetsNeverFall, how });
            return;
        }
        if ended {
            return;
        }
        known.offset = known.offset.max(offset);
        known.was_complete |= upload.stage() == Stage::Completed;
        for (start, end) in upload.record().received.pairs() {
            known.acked.insert(*start, *end);
        }
    }
}

impl Known {
    pub fn new(name: Name, plan: Plan, id: UploadId, seed: u64) -> Self {
        Self {
            name,
            plan,
            id,
            file: File::new(mix(&[seed, u64::from(name.0)])),
            may: vec![May::default(); MOST_BYTES],
            acked: ReceivedRanges::default(),
            offset: 0,
            was_complete: false,
            cancelled: false,
            deleted: false,
            may_be_too_long: false,
            deviates: plan.promise == Promise::Wrong,
            joined: None,
            open: BTreeMap::new(),
        }
    }

    pub fn acked(&self) -> &ReceivedRanges {
        &self.acked
    }

    /// Records a request before it is made.
    pub fn ask(&mut self, request: RequestName, mut asked: Asked) {
        self.deviates |= asked.content == Content::Other;
        match asked.checksum {
            // Its bytes must never count.
            Checksum::Wrong => {}
            // Stored bytes are kept.
            Checksum::None => {
                let missing: Vec<_> = self.acked.spans(asked.range.start, asked.range.end);
                for stretch in missing.into_iter().filter(|stretch| !stretch.there) {
                    self.allow(stretch.start..stretch.end, asked.content);
                }
            }
            Checksum::Right => self.allow(asked.range.clone(), asked.content),
        }
        asked.rivals.extend(self.open.values().filter_map(Asked::proof));
        for other in self.open.values_mut() {
            other.rivals.extend(asked.proof());
        }
        self.open.insert(request, asked);
    }

    /// Records that a request was answered, and whether all its bytes are stored now.
    pub fn answered(&mut self, request: RequestName, all_there: bool) {
        let Some(asked) = self.open.remove(&request) else { return };
        if !all_there || asked.checksum == Checksum::Wrong {
            return;
        }
        self.acked.insert(asked.range.start, asked.range.end);
        if self.plan.dialect == Dialect::named("google") {
            // Bytes that were already stored were skipped, whatever their content.
            return;
        }
        self.may[places(asked.range.clone())].fill(May::only(asked.content));
        for (range, content) in asked.rivals {
            let (start, end) = (range.start.max(asked.range.start), range.end.min(asked.range.end));
            if start < end {
                self.allow(start..end, content);
            }
        }
    }

    fn allow(&mut self, range: Range<u64>, content: Content) {
        for may in &mut self.may[places(range)] {
            *may = may.or(content);
        }
    }
}

/// Returns a range of positions in a file, as indices.
pub fn places(range: Range<u64>) -> Range<usize> {
    let index = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(MOST_BYTES);
    index(range.start)..index(range.end)
}
