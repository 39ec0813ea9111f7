//! Three nodes whose lines have a limited bandwidth, compared with one of them.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crate::lab::{Lab, Notebook, mb_per_second};
use crate::postgres::Database;
use crate::results::{Metric, Values};
use crate::scenario::cluster::SUBJECT;
use crate::scenario::cluster::nodes::{Cluster, Node};

pub(crate) const CAPPED_ONE: &str = "limited lines, one node takes uploads";
pub(crate) const CAPPED_ALL: &str = "limited lines, three nodes take uploads";

/// The limit of each line, in bytes per second: 320 Mbit/s. Three of them need less than the two cores can
/// do, so that the lines are the limit.
const BYTES_PER_SECOND: u64 = 40_000_000;

/// The uploads that each node takes at the same time.
const UPLOADS: usize = 4;

/// The bytes that one request sends.
const CHUNK: u64 = 8 << 20;

const MOST_ROUNDS: u32 = 3;

pub(super) fn measure(lab: &Lab, database: &Database, book: &mut Notebook) {
    book.note(format!(
        "Limited lines: each node receives at most {} MB/s (`tbf`), headers included. {UPLOADS} clients of each node \
         send one upload each in PATCHes of {} MiB. All three nodes run in both cases.",
        BYTES_PER_SECOND / 1_000_000,
        CHUNK >> 20
    ));
    let cluster = match Cluster::start(lab, database, book) {
        Ok(cluster) => cluster,
        Err(error) => return book.keep(SUBJECT, CAPPED_ONE, 1, Err(error)),
    };
    for round in 1..=lab.rounds.min(MOST_ROUNDS) {
        for (name, count) in [(CAPPED_ONE, 1), (CAPPED_ALL, cluster.nodes.len())] {
            let outcome = limit(&cluster).and_then(|()| upload(lab, &cluster.nodes[..count]));
            book.keep(SUBJECT, name, round, outcome);
        }
    }
}

fn limit(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.nodes.iter().try_for_each(|node| node.host.limit_rate(BYTES_PER_SECOND))
}

/// Uploads to each of these nodes at once. Returns the rate of all.
fn upload(lab: &Lab, nodes: &[Node]) -> anyhow::Result<Values> {
    let start = Barrier::new(nodes.len() * UPLOADS + 1);
    let one = |node: &Node| {
        let mut client = node.client();
        let path = client.create(lab.plan.capped);
        start.wait();
        let (path, mut offset) = (path?, 0);
        while offset < lab.plan.capped {
            let count = CHUNK.min(lab.plan.capped - offset);
            offset = client.append(&path, offset, &lab.payload, count)?;
        }
        anyhow::Ok(())
    };
    thread::scope(|scope| {
        let one = &one;
        let clients = nodes.iter().flat_map(|node| std::iter::repeat_n(node, UPLOADS));
        let threads: Vec<_> = clients.map(|node| scope.spawn(move || one(node))).collect();
        start.wait();
        let began = Instant::now();
        let count = threads.len() as u64;
        for thread in threads {
            thread.join().expect("an upload does not panic")?;
        }
        Ok(Values::from([(Metric::MbPerSecond, mb_per_second(lab.plan.capped * count, began))]))
    })
}
