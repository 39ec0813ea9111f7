//! What clients have asked and were told: the oracle that the truth below is held against.

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

/// What the server owes, and a run can show broken.
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
    /// What somebody waits for, by number.
    pub waiting: BTreeMap<u64, String>,
}

/// What is known of one upload by its clients together.
#[derive(Debug)]
pub struct Known {
    pub name: Name,
    pub plan: Plan,
    pub id: UploadId,
    pub file: File,
    /// Which contents may stand in each place, if anything does.
    pub may: Vec<May>,
    /// What somebody was told is there.
    acked: ReceivedRanges,
    /// The offset that was told last of all, and the highest.
    pub offset: u64,
    pub was_complete: bool,
    /// Somebody has asked for its end.
    pub cancelled: bool,
    /// An operator has asked for its end, or that of its file.
    pub deleted: bool,
    /// It may fail for what its clients have sent.
    pub may_be_too_long: bool,
    /// Its bytes may be others than its file's, or fewer.
    pub deviates: bool,
    /// What was put together, of a final upload.
    pub joined: Option<Vec<u8>>,
    open: BTreeMap<RequestName, Asked>,
}

/// A request as it was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub range: Range<u64>,
    pub content: Content,
    pub checksum: Checksum,
    /// Those that proved their bytes by a checksum while this one was
    /// under way: they may have had the last word.
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

    /// Notes that a promise was broken.
    pub fn breaks(&mut self, promise: Promised, how: impl Into<String>) {
        self.broken.push(Broken { promise, how: how.into() });
    }

    /// The process is gone, and with it all requests.
    pub fn forget_requests(&mut self) {
        self.waiting.clear();
        for known in self.uploads.values_mut() {
            known.open.clear();
        }
    }

    /// Takes what somebody was told of an upload. `floor` is the offset that had been told when they asked.
    pub fn hear(&mut self, name: Name, upload: &Upload, floor: u64) {
        let Some(known) = self.uploads.get_mut(&name) else { return };
        let offset = upload.offset().get();
        let ended = matches!(upload.stage(), Stage::Ended(_));
        if offset < floor && !ended {
            let how = format!("{name} was told to stand at {offset}, and at {floor} before");
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

    /// Takes note of a request before it is made.
    pub fn ask(&mut self, request: RequestName, mut asked: Asked) {
        self.deviates |= asked.content == Content::Other;
        match asked.checksum {
            // Its bytes are never to count.
            Checksum::Wrong => {}
            // What is there already is kept.
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

    /// Takes note that a request was answered, and whether all its bytes are there now.
    pub fn answered(&mut self, request: RequestName, all_there: bool) {
        let Some(asked) = self.open.remove(&request) else { return };
        if !all_there || asked.checksum == Checksum::Wrong {
            return;
        }
        self.acked.insert(asked.range.start, asked.range.end);
        if self.plan.dialect == Dialect::named("google") {
            // What was there already was passed over, whatever it is.
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

/// A range of places in a file, as indices.
pub fn places(range: Range<u64>) -> Range<usize> {
    let index = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(MOST_BYTES);
    index(range.start)..index(range.end)
}
