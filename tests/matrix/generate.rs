//! Scripts from seeds: a few uploads, overlapping requests to them, and a few faults.

mod disturbances;

use domain::dialect::Dialect;
use domain::write_rules::WriteOrder;

use crate::dice::Dice;
use crate::faults::{Call, Fault, Planned};
use crate::script::{At, Body, Checksum, Content, Name, Plan, Promise, RequestName, Script, Step, Tuning};

/// The lengths of files, around the sizes of buffers and checkpoints.
const SIZES: [u64; 10] = [1, 100, 4_095, 4_096, 5_000, 8_192, 9_000, 16_384, 20_000, 33_000];

/// Returns the script of a seed.
pub fn script(seed: u64) -> Script {
    let mut dice = Dice::new(seed);
    let tuning = tuning(&mut dice);
    let faults = faults(&mut dice);
    let mut writer =
        Writer { dice, tuning, uploads: Vec::new(), requests: Vec::new(), next_request: 1, steps: Vec::new() };
    writer.write();
    Script { seed, tuning, steps: writer.steps, faults }
}

/// The maximum number of nodes, if `MATRIX_NODES` does not say another one.
const MOST_NODES: u8 = 3;

/// Returns the maximum number of nodes.
pub fn most_nodes() -> u8 {
    crate::number_in("MATRIX_NODES").map_or(MOST_NODES, |most| u8::try_from(most).expect("a few"))
}

fn tuning(dice: &mut Dice) -> Tuning {
    Tuning {
        keep_open_ms: dice.pick(&[0, 0, 200, 1_000]),
        checkpoint_every_ms: dice.pick(&[50, 300, 1_000]),
        checkpoint_bytes: dice.pick(&[2_048, 8_192, 1 << 20]),
        max_parallel: dice.pick(&[2, 8]),
        max_ranges: dice.pick(&[3, 64]),
        max_replaced_bytes: dice.pick(&[1_000, 1 << 20]),
        progress: dice.chance(50),
        keeps_files_ms: dice.chance(20).then(|| dice.pick(&[3_000, 15_000])),
        slow: dice.chance(80),
        nodes: dice.pick(&[1, 1, 2, 3]).min(most_nodes()),
        seals: dice.chance(25),
    }
}

fn faults(dice: &mut Dice) -> Vec<Planned> {
    let count = dice.pick(&[0, 1, 1, 1, 2, 2, 3]);
    let mut faults = Vec::new();
    while faults.len() < count {
        let call = dice.pick(&Call::ALL);
        let fault = dice.pick(&Fault::ALL);
        // Mostly one of the first calls, sometimes a late one; some kinds of calls are rare.
        let most = match call {
            Call::Insert | Call::Concatenate | Call::Seal | Call::Finish | Call::Discard | Call::Seize => 2,
            _ => dice.pick(&[2, 4, 8, 16]),
        };
        let planned = Planned { call, nth: 1 + dice.below(most), fault };
        if call.can(fault) {
            faults.push(planned);
        }
    }
    faults
}

/// Writes a script, and keeps enough of its state to continue in a meaningful way.
struct Writer {
    dice: Dice,
    tuning: Tuning,
    uploads: Vec<(Name, Plan)>,
    /// Open requests, with the rest of their bodies.
    requests: Vec<(RequestName, u64)>,
    next_request: u8,
    steps: Vec<Step>,
}

impl Writer {
    fn write(&mut self) {
        if self.dice.chance(15) {
            self.put_together();
        } else {
            self.create();
        }
        for _ in 0..3 + self.dice.below(14) {
            self.act();
        }
        // Most of the requests that have begun also end.
        while let Some((request, left)) = self.requests.pop() {
            if self.dice.chance(70) {
                self.finish(request, left);
            }
        }
    }

    fn act(&mut self) {
        if self.tuning.nodes > 1 && self.dice.chance(35) {
            return self.disturb();
        }
        match self.dice.below(100) {
            0..6 if self.uploads.len() < 4 => self.create(),
            0..36 => self.begin(),
            36..50 => self.send(),
            50..62 => self.end(),
            62..68 => self.cut(),
            68..76 => self.inspect(),
            76..91 => self.wait(),
            91..94 => self.concatenate(),
            94 => {
                let upload = self.upload().0;
                self.steps.push(Step::Cancel { upload });
            }
            95 => {
                let upload = self.upload().0;
                self.steps.push(Step::Delete { upload });
            }
            96..98 => self.restart(Step::Kill),
            _ => self.restart(Step::Stop),
        }
    }

    fn create(&mut self) {
        let dialect = self.dice.pick(&[
            Dialect::named("ranged"),
            Dialect::named("ranged"),
            Dialect::named("ranged"),
            Dialect::named("ranged"),
            Dialect::named("tus"),
            Dialect::named("tus"),
            Dialect::named("tus"),
            Dialect::named("ietf"),
            Dialect::named("google"),
        ]);
        // Such a storage takes no bytes out of order.
        let dialect = if self.tuning.seals && dialect.name() == "ranged" { Dialect::named("tus") } else { dialect };
        let upload = Name(u8::try_from(self.uploads.len()).expect("there are few"));
        let plan = Plan {
            dialect,
            partial: dialect == Dialect::named("tus") && self.dice.chance(35),
            size: self.dice.pick(&SIZES),
            says_size: self.dice.chance(60),
            promise: self.dice.pick(&[
                Promise::None,
                Promise::None,
                Promise::None,
                Promise::None,
                Promise::Right,
                Promise::Wrong,
            ]),
        };
        self.uploads.push((upload, plan));
        self.steps.push(Step::Create { upload, plan });
    }

    fn upload(&mut self) -> (Name, Plan) {
        self.dice.pick(&self.uploads)
    }

    fn begin(&mut self) {
        let (upload, plan) = self.upload();
        let request = RequestName(self.next_request);
        self.next_request += 1;
        let body = self.body(&plan);
        self.steps.push(Step::Begin { request, upload, body });
        match self.dice.below(10) {
            // A whole request at once, the most common case.
            0..4 => self.finish(request, body.size),
            4..7 => {
                let bytes = 1 + self.dice.below(body.size.max(1));
                self.steps.push(Step::Send { request, bytes });
                self.requests.push((request, body.size.saturating_sub(bytes)));
            }
            _ => self.requests.push((request, body.size)),
        }
    }

    fn body(&mut self, plan: &Plan) -> Body {
        let in_any_order = plan.write_rules().order == WriteOrder::Any;
        let (start, end) = self.range(plan.size);
        let at = if in_any_order || self.dice.chance(8) { At::Place(start) } else { At::Offset };
        let fatal = !in_any_order && self.dice.chance(4);
        let size = if fatal { plan.size + 10 } else { end - start };
        Body {
            at,
            size,
            says_size: self.dice.chance(65),
            length: self.length(plan, end),
            last: match plan.dialect.name() {
                "ietf" | "google" => end == plan.size || self.dice.chance(10),
                _ => self.dice.chance(5),
            },
            // With several nodes, the bytes of one that has lost an upload can be distinguished from those
            // of the next.
            content: match in_any_order || self.tuning.nodes > 1 {
                true if self.dice.chance(15) => Content::Other,
                true | false => Content::File,
            },
            checksum: self.dice.pick(&[
                Checksum::None,
                Checksum::None,
                Checksum::None,
                Checksum::Right,
                Checksum::Right,
                Checksum::Wrong,
            ]),
            fatal,
        }
    }

    /// Returns the bounds of a request: quarters of the file, so that requests collide, and sometimes
    /// arbitrary ones.
    fn range(&mut self, size: u64) -> (u64, u64) {
        let mut place = || match self.dice.below(10) {
            0..8 => size * self.dice.below(5) / 4,
            _ => self.dice.below(size + 1),
        };
        let (one, other) = (place(), place());
        match one.cmp(&other) {
            std::cmp::Ordering::Less => (one, other),
            std::cmp::Ordering::Greater => (other, one),
            std::cmp::Ordering::Equal => (0, size),
        }
    }

    /// Returns the length that a request declares: the true one, none, or a shorter one.
    fn length(&mut self, plan: &Plan, end: u64) -> Option<u64> {
        match self.dice.below(20) {
            0..8 => Some(plan.size),
            8 => Some(end),
            _ => None,
        }
    }

    fn send(&mut self) {
        let Some((request, left)) = self.open_request() else { return };
        let bytes = if self.dice.chance(50) { left } else { 1 + self.dice.below(left.max(1)) };
        self.steps.push(Step::Send { request, bytes });
        if let Some(open) = self.requests.iter_mut().find(|open| open.0 == request) {
            open.1 = left.saturating_sub(bytes);
        }
    }

    fn end(&mut self) {
        let Some((request, left)) = self.take_request() else { return };
        if self.dice.chance(90) {
            self.finish(request, left);
        } else {
            self.steps.push(Step::End { request });
        }
    }

    fn cut(&mut self) {
        let Some((request, _)) = self.take_request() else { return };
        self.steps.push(if self.dice.chance(50) { Step::Vanish { request } } else { Step::Fall { request } });
    }

    fn finish(&mut self, request: RequestName, left: u64) {
        if left > 0 {
            self.steps.push(Step::Send { request, bytes: left });
        }
        self.steps.push(Step::End { request });
    }

    fn open_request(&mut self) -> Option<(RequestName, u64)> {
        (!self.requests.is_empty()).then(|| self.dice.pick(&self.requests))
    }

    fn take_request(&mut self) -> Option<(RequestName, u64)> {
        let taken = self.open_request()?;
        self.requests.retain(|open| open.0 != taken.0);
        Some(taken)
    }

    fn inspect(&mut self) {
        let upload = self.upload().0;
        self.steps.push(Step::Inspect { upload });
    }

    fn wait(&mut self) {
        let ms = match self.dice.below(20) {
            0..10 => 1 + self.dice.below(30),
            10..16 => 50 + self.dice.below(250),
            16..18 => 1_000 + self.dice.below(2_500),
            18 => 5_000 + self.dice.below(10_000),
            _ => self.dice.pick(&[20_000, 70_000]),
        };
        self.steps.push(Step::Wait { ms });
    }

    fn concatenate(&mut self) {
        let partial: Vec<Name> = self.uploads.iter().filter(|(_, plan)| plan.partial).map(|(name, _)| *name).collect();
        if partial.is_empty() || self.uploads.len() >= 5 {
            return;
        }
        let mut part = || self.dice.chance(70).then(|| self.dice.pick(&partial));
        let parts = [part(), part(), part()];
        let upload = Name(u8::try_from(self.uploads.len()).expect("there are few"));
        self.uploads.push((upload, Plan::of(Dialect::named("tus"), 1)));
        self.steps.push(Step::Concatenate { upload, parts });
    }

    /// Creates partial uploads that have all their bytes, and a final one that consists of them.
    fn put_together(&mut self) {
        for _ in 0..2 {
            let upload = Name(u8::try_from(self.uploads.len()).expect("there are few"));
            let size = self.dice.pick(&SIZES);
            let plan = Plan { partial: true, ..Plan::of(Dialect::named("tus"), size) };
            self.uploads.push((upload, plan));
            self.steps.push(Step::Create { upload, plan });
            let request = RequestName(self.next_request);
            self.next_request += 1;
            self.steps.push(Step::Begin { request, upload, body: Body::next(size) });
            self.finish(request, size);
        }
        self.steps.push(Step::Wait { ms: self.dice.pick(&[50, 500, 3_000]) });
        self.concatenate();
    }

    fn restart(&mut self, how: Step) {
        self.requests.clear();
        self.steps.push(how);
    }
}
