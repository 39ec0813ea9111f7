//! The time until another node accepts bytes of an upload, if its node is healthy, silent, killed or cut off.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::lab::{Lab, Notebook};
use crate::payload::Payload;
use crate::postgres::Database;
use crate::results::{Metric, Values};
use crate::scenario::cluster::SUBJECT;
use crate::scenario::cluster::nodes::{Cluster, Node};
use crate::stats::Times;
use crate::tus::Client;
use crate::wire::Wire;

pub(crate) const HEALTHY: &str = "takeover from a healthy node";
pub(crate) const SILENT: &str = "takeover from a frozen node";
pub(crate) const KILLED: &str = "takeover from a killed node";
pub(crate) const CUT_OFF: &str = "takeover from a killed and cut off node";

/// The bytes that one request sends.
const PIECE: u64 = 64 << 10;

/// The size of an upload. It does not become complete.
const SIZE: u64 = 16 << 20;

/// The uploads that a node has when it fails.
const HELD: usize = 8;

/// The time after which a client repeats a request that was not accepted.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// A timeout: a node that fails is replaced long before.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time between the end of one failure and the next one.
const RECOVERY: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Failure {
    Silent,
    Killed,
    CutOff,
}

pub(super) fn measure(lab: &Lab, database: &Database, variant: fn(&str) -> String, book: &mut Notebook) {
    let mut cluster = match Cluster::start(lab, database, book) {
        Ok(cluster) => cluster,
        Err(error) => return book.keep(SUBJECT, &variant(HEALTHY), 1, Err(error)),
    };
    let outcome = from_healthy(lab, &cluster);
    book.keep(SUBJECT, &variant(HEALTHY), 1, outcome);
    for (name, failure) in [(SILENT, Failure::Silent), (KILLED, Failure::Killed), (CUT_OFF, Failure::CutOff)] {
        let outcome = from_failing(lab, &mut cluster, failure);
        book.keep(SUBJECT, &variant(name), 1, outcome);
    }
}

/// Moves one upload after the other from each node to another one.
fn from_healthy(lab: &Lab, cluster: &Cluster) -> anyhow::Result<Values> {
    let mut times = Times::default();
    for number in 0..lab.plan.takeovers {
        let (holder, other) = (number % cluster.nodes.len(), (number + 1) % cluster.nodes.len());
        let held = Held::begin(lab, &cluster.nodes[holder], &cluster.nodes[other])?;
        times.add(held.resume(&lab.payload, Instant::now())?);
    }
    Ok(values(&mut times))
}

/// Makes a node fail that has some uploads, whose clients then send to the other nodes.
fn from_failing(lab: &Lab, cluster: &mut Cluster, failure: Failure) -> anyhow::Result<Values> {
    let mut times = Times::default();
    for trial in 0..lab.plan.failures {
        thread::sleep(RECOVERY);
        let count = cluster.nodes.len();
        let failing = trial % count;
        let held = (0..HELD).map(|number| {
            let other = (failing + 1 + number % (count - 1)) % count;
            Held::begin(lab, &cluster.nodes[failing], &cluster.nodes[other])
        });
        let held = held.collect::<anyhow::Result<Vec<_>>>()?;
        let began = Instant::now();
        fail(&mut cluster.nodes[failing], failure)?;
        let resumed = resume_all(held, &lab.payload, began);
        recover(&mut cluster.nodes[failing], failure)?;
        times.extend(resumed?);
    }
    Ok(values(&mut times))
}

fn fail(node: &mut Node, failure: Failure) -> anyhow::Result<()> {
    match failure {
        Failure::Silent => node.freeze(true)?,
        Failure::Killed => node.kill(),
        Failure::CutOff => {
            // The line is cut first, so that nobody notices the end of a connection.
            node.host.connect(false)?;
            node.kill();
        }
    }
    Ok(())
}

fn recover(node: &mut Node, failure: Failure) -> anyhow::Result<()> {
    match failure {
        Failure::Silent => node.freeze(false),
        Failure::Killed => node.start(),
        Failure::CutOff => {
            node.host.connect(true)?;
            node.start()
        }
    }
}

fn resume_all(held: Vec<Held>, payload: &Payload, began: Instant) -> anyhow::Result<Times> {
    thread::scope(|scope| {
        let threads: Vec<_> = held.into_iter().map(|held| scope.spawn(move || held.resume(payload, began))).collect();
        let mut times = Times::default();
        for thread in threads {
            times.add(thread.join().expect("a client does not panic")?);
        }
        Ok(times)
    })
}

/// An upload with an open request at one node, and a client that has a connection to another one.
struct Held {
    path: String,
    elsewhere: Client,
    /// Keeps the request open.
    _request: Wire,
}

impl Held {
    /// Begins an upload of which `PIECE` bytes are committed.
    fn begin(lab: &Lab, holder: &Node, other: &Node) -> anyhow::Result<Self> {
        let mut client = holder.client();
        let path = client.create(SIZE)?;
        let wire = client.begin(&path, 0, SIZE)?;
        wire.send(lab.payload.head(usize::try_from(PIECE)?))?;
        let request = client.detach().context("it has begun a request")?;
        let mut elsewhere = other.client();
        let until = Instant::now() + PATIENCE;
        while elsewhere.offset(&path)? < PIECE {
            ensure!(Instant::now() < until, "the bytes of an upload were not committed");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { path, elsewhere, _request: request })
    }

    /// Sends the next bytes until they are accepted. Returns the time since `began`.
    fn resume(mut self, payload: &Payload, began: Instant) -> anyhow::Result<Duration> {
        let piece = payload.head(usize::try_from(PIECE)?);
        loop {
            match self.elsewhere.try_append(&self.path, PIECE, piece) {
                Ok(answer) if (200..300).contains(&answer.status) => return Ok(began.elapsed()),
                Ok(answer) => ensure!(began.elapsed() < PATIENCE, "still answered {}", answer.status),
                Err(error) => ensure!(began.elapsed() < PATIENCE, "still not answered: {error:#}"),
            }
            thread::sleep(RETRY_AFTER);
        }
    }
}

fn values(times: &mut Times) -> Values {
    Values::from([
        (Metric::P50Ms, times.quantile_ms(500)),
        (Metric::P99Ms, times.quantile_ms(990)),
        (Metric::MaxMs, times.quantile_ms(1000)),
        (Metric::Requests, times.count() as f64),
    ])
}
