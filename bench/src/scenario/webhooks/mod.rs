//! Scenario 14: webhooks. Their rate, their delay, their cost for uploads, and losses in failures.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::lab::{Lab, Notebook};
use crate::receiver::{News, Receiver};
use crate::server::{Hook, Running};

mod latency;
mod loss;
mod patching;
mod progress;
mod sustained;

pub(super) use latency::measure as delay;
pub(crate) use latency::{OVERDUE, PACED};
pub(crate) use loss::{DEAD, KILLED, SLOW, WELL};
pub(crate) use patching::{TOLD, UNTOLD};
pub(crate) use progress::PROGRESS;
pub(crate) use sustained::{DRAINING, UPLOADING};

/// Every event of uploads, progress included.
const EVERYTHING: &[&str] = &["upload.*"];

/// The size of an upload that exists only for its events.
const SMALL: usize = 4 << 10;

/// A timeout: a healthy receiver has everything long before.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    sustained::run(lab, book);
    latency::run(lab, book);
    patching::run(lab, book);
    progress::run(lab, book);
    loss::run(lab, book);
    Ok(())
}

pub(super) fn endpoint(receiver: &Receiver) -> Hook {
    Hook { name: "bench", address: receiver.address, events: EVERYTHING }
}

/// Uploads once and returns the number of messages. Afterwards all connections are open.
fn messages_of_one(lab: &Lab, server: &Running, receiver: &Receiver) -> anyhow::Result<usize> {
    let before = receiver.count();
    server.client().create_whole(&lab.payload, SMALL)?;
    let until = Instant::now() + PATIENCE;
    // The messages of an upload arrive in order, and this is the last.
    while !receiver.arrivals()?.iter().skip(before).any(|arrival| arrival.news == News::Completed) {
        ensure!(receiver.wait_for(receiver.count() + 1, until), "no message came that the upload is complete");
    }
    Ok(receiver.count() - before)
}
