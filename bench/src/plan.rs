//! The sizes and durations of the scenarios: those of the report, and small ones for a functional check.

use std::time::Duration;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    /// One big upload (1, 2, 8, 10, 11).
    pub(crate) big: u64,
    /// The size of each of eight concurrent uploads (3, 6).
    pub(crate) each_of_eight: u64,
    /// The duration of the creation of small uploads (4).
    pub(crate) storm: Duration,
    /// The number of trickling uploads, and their duration (5).
    pub(crate) trickling: usize,
    pub(crate) trickle: Duration,
    /// The duration for which a request is repeated (6, 7).
    pub(crate) asking: Duration,
    pub(crate) asking_loaded: Duration,
    /// The number of the bystander's files, of 64 KiB each, and the amount that is uploaded meanwhile in
    /// uploads of `big` (7).
    pub(crate) bystander_files: usize,
    pub(crate) bystander_load: u64,
    /// The memory of the small machine (7).
    pub(crate) small_machine: u64,
    /// Bytes sent before the first cut, and before each later one (9).
    pub(crate) first_cut: u64,
    pub(crate) next_cuts: u64,
    pub(crate) cuts: u32,
    /// The maximum total time of one kind of cut (9).
    pub(crate) cutting: Duration,
    /// The size of one upload over the slow line (11).
    pub(crate) far: u64,
    /// Upload records in the database (12).
    pub(crate) records: [u64; 3],
    pub(crate) questions: u32,
    /// The time for which uploads fill the queue of messages, the time for which they then continue, and the
    /// time for which messages are counted afterwards (14).
    pub(crate) filling: Duration,
    pub(crate) sustained: Duration,
    pub(crate) draining: Duration,
    /// The time for which events and PATCHes occur at a fixed rate (14).
    pub(crate) paced: Duration,
    /// Deliveries that cannot be sent (14).
    pub(crate) overdue: u64,
    /// Upload records that other uploads are measured beside (15, 16).
    pub(crate) rows: u64,
    /// Uploads that are taken over from a healthy node, and failures of each kind (16).
    pub(crate) takeovers: usize,
    pub(crate) failures: usize,
    /// The size of each upload over a limited line (16).
    pub(crate) capped: u64,
    /// The number of uploads that report their progress, and their duration (14).
    pub(crate) progressing: usize,
    pub(crate) progress: Duration,
    /// The time for which uploads cause messages, the time for which the receiver is down, and the time to
    /// wait for missing messages (14).
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
            rows: 1_000_000,
            takeovers: 500,
            failures: 9,
            capped: 128 * MIB,
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
            rows: 6_000,
            takeovers: 30,
            failures: 2,
            capped: 16 * MIB,
            progressing: 200,
            progress: Duration::from_secs(12),
            telling: Duration::from_secs(8),
            outage: Duration::from_secs(4),
            // The messages that a killed server was sending stay leased to it for a minute.
            patience: Duration::from_secs(75),
        }
    }
}
