//! How much is uploaded, and for how long. The sizes of the report,
//! and small ones that show whether it works.

use std::time::Duration;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    /// One big upload (1, 2, 8, 10, 11).
    pub(crate) big: u64,
    /// Each of eight at once (3, 6).
    pub(crate) each_of_eight: u64,
    /// How long small uploads are created (4).
    pub(crate) storm: Duration,
    /// How many uploads trickle, and for how long (5).
    pub(crate) trickling: usize,
    pub(crate) trickle: Duration,
    /// How long a question is asked again and again (6, 7).
    pub(crate) asking: Duration,
    pub(crate) asking_loaded: Duration,
    /// The bystander's files, of 64 KiB each, and what is uploaded meanwhile in uploads of `big` (7).
    pub(crate) bystander_files: usize,
    pub(crate) bystander_load: u64,
    /// The memory of the small machine (7).
    pub(crate) small_machine: u64,
    /// Sent before the first cut, and before each one after it (9).
    pub(crate) first_cut: u64,
    pub(crate) next_cuts: u64,
    pub(crate) cuts: u32,
    /// The most time one kind of cut may take in all (9).
    pub(crate) cutting: Duration,
    /// One upload through the slow line (11).
    pub(crate) far: u64,
    /// Upload records in the database (12).
    pub(crate) records: [u64; 3],
    pub(crate) questions: u32,
    /// How long uploads fill the queue of messages, how long they go on, and how long messages are counted
    /// afterwards (14).
    pub(crate) filling: Duration,
    pub(crate) sustained: Duration,
    pub(crate) draining: Duration,
    /// How long events and PATCHes come at a pace (14).
    pub(crate) paced: Duration,
    /// Deliveries that cannot be sent (14).
    pub(crate) overdue: u64,
    /// Uploads that tell their progress, and for how long (14).
    pub(crate) progressing: usize,
    pub(crate) progress: Duration,
    /// How long uploads are told of, how long nobody hears it, and how
    /// long is waited for what is missing (14).
    pub(crate) telling: Duration,
    pub(crate) outage: Duration,
    pub(crate) patience: Duration,
}

impl Plan {
    pub(crate) fn full() -> Self {
        Self {
            quick: false,
            big: 2 * GIB,
            each_of_eight: GIB,
            storm: Duration::from_secs(8),
            trickling: 10_000,
            trickle: Duration::from_secs(60),
            asking: Duration::from_secs(20),
            asking_loaded: Duration::from_secs(30),
            bystander_files: 16_384,
            bystander_load: 16 * GIB,
            small_machine: 3 * GIB,
            first_cut: GIB,
            next_cuts: 2 * MIB,
            cuts: 100,
            cutting: Duration::from_secs(40),
            far: GIB / 2,
            records: [1_000, 100_000, 1_000_000],
            questions: 3_000,
            filling: Duration::from_secs(6),
            sustained: Duration::from_secs(20),
            draining: Duration::from_secs(10),
            paced: Duration::from_secs(20),
            overdue: 1_000_000,
            progressing: 2_000,
            progress: Duration::from_secs(25),
            telling: Duration::from_secs(20),
            outage: Duration::from_secs(10),
            patience: Duration::from_secs(120),
        }
    }

    pub(crate) fn quick() -> Self {
        Self {
            quick: true,
            big: 128 * MIB,
            each_of_eight: 32 * MIB,
            storm: Duration::from_secs(2),
            trickling: 500,
            trickle: Duration::from_secs(5),
            asking: Duration::from_secs(3),
            asking_loaded: Duration::from_secs(3),
            bystander_files: 1_024,
            bystander_load: 512 * MIB,
            small_machine: GIB,
            first_cut: 32 * MIB,
            next_cuts: 2 * MIB,
            cuts: 5,
            cutting: Duration::from_secs(15),
            far: 64 * MIB,
            records: [1_000, 5_000, 10_000],
            questions: 200,
            filling: Duration::from_secs(2),
            sustained: Duration::from_secs(4),
            draining: Duration::from_secs(3),
            paced: Duration::from_secs(4),
            overdue: 20_000,
            progressing: 200,
            progress: Duration::from_secs(12),
            telling: Duration::from_secs(8),
            outage: Duration::from_secs(4),
            // What a killed server had on its way is held for it for a minute.
            patience: Duration::from_secs(75),
        }
    }
}
