//! Scenario 11: the same upload over TLS 1.3, with HTTP/1.1 and HTTP/2, near and far away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::certificate::Certificate;
use crate::lab::{Lab, Notebook, mb_per_second, mib};
use crate::results::{Metric, Values};
use crate::scenario::relay;
use crate::scenario::relay::Line;
use crate::server::{Running, Setup};
use crate::subject::Subject;
use crate::tus::{Client, Target};
use crate::{h2_client, process};

pub(crate) const H1: &str = "TLS, HTTP/1.1";
pub(crate) const H2: &str = "TLS, HTTP/2";

/// Over the distant line, HTTP/1.1 and HTTP/2: without a limit, and with a usual TCP window.
pub(crate) const FAR: [(&str, &str); 2] =
    [("50 ms, HTTP/1.1", "50 ms, HTTP/2"), ("50 ms, 6 MiB, HTTP/1.1", "50 ms, 6 MiB, HTTP/2")];

const DELAY: Duration = Duration::from_millis(25);

/// More than any of these servers accepts in 50 ms; and the Linux default for one connection (`tcp_rmem`).
const WINDOWS: [u64; 2] = [1 << 30, 6 << 20];

const SUBJECTS: [Subject; 3] = [Subject::Longshore, Subject::Tusd, Subject::TusNode];

/// The baselines, limited only by generator, TLS and disk. They support HTTP/1.1 only.
const FLOORS: [Subject; 2] = [Subject::Sink, Subject::Bare];

/// The subjects that finish on the distant line in a reasonable time.
const FAR_SUBJECTS: [Subject; 2] = [Subject::Longshore, Subject::Tusd];

const MOST_FAR_ROUNDS: u32 = 2;

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    book.note(
        "rustus speaks neither TLS nor HTTP/2. The generator encrypts, which takes processor time from the server.",
    );
    book.note(
        "@tus/server is not measured over the 50 ms link: Node's HTTP/2 window of 64 KiB per round trip of 50 ms \
         limits it to 1.3 MB/s.",
    );
    let (mut subjects, mut far_subjects) = (SUBJECTS.to_vec(), FAR_SUBJECTS.to_vec());
    if !lab.kit.knows("tls.certificate_file") {
        book.note("This build of Longshore has no TLS, so it is left out.");
        subjects.retain(|subject| *subject != Subject::Longshore);
        far_subjects.retain(|subject| *subject != Subject::Longshore);
    }
    let certificate = Arc::new(Certificate::make(lab.kit.scratch())?);
    let setup = Setup { tls: Some(Arc::clone(&certificate)), ..Setup::default() };
    for variant in [H1, H2] {
        let floors = if variant == H1 { &FLOORS[..] } else { &[] };
        lab.take_turns(&[&subjects[..], floors].concat(), u32::MAX, book, |subject, round, book| {
            let outcome = lab.start(subject, &setup, book).and_then(|server| {
                let line = Form { h2: variant == H2, through: None };
                measure(lab, &server, &certificate, &line, lab.plan.big)
            });
            book.keep(subject, variant, round, outcome);
        });
    }
    for ((h1, h2), window) in FAR.into_iter().zip(WINDOWS) {
        let line = Line { delay: DELAY, window };
        for variant in [h1, h2] {
            lab.take_turns(&far_subjects, MOST_FAR_ROUNDS, book, |subject, round, book| {
                let outcome = lab.start(subject, &setup, book).and_then(|server| {
                    let form = Form { h2: variant == h2, through: Some(line) };
                    measure(lab, &server, &certificate, &form, lab.plan.far)
                });
                book.keep(subject, variant, round, outcome);
            });
        }
    }
    Ok(())
}

/// A way to transfer the bytes.
struct Form {
    h2: bool,
    through: Option<Line>,
}

fn measure(lab: &Lab, server: &Running, certificate: &Certificate, form: &Form, size: u64) -> anyhow::Result<Values> {
    let address = match form.through {
        Some(line) => relay::start(server.target.address, line)?,
        None => server.target.address,
    };
    let target = Target { address, ..server.target.clone() };
    process::forget_peak(server.pid())?;
    let cpu = process::cpu_seconds(server.pid())?;
    let rate = if form.h2 {
        h2_client::upload(&target, certificate.h2_client(), &lab.payload, size)?
    } else {
        upload(lab, &target, size)?
    };
    let cpu = process::cpu_seconds(server.pid())? - cpu;
    Ok(Values::from([
        (Metric::MbPerSecond, rate),
        (Metric::CpuSecondsPerGb, cpu / (size as f64 / 1e9)),
        (Metric::PeakMib, mib(process::peak(server.pid())?)),
    ]))
}

fn upload(lab: &Lab, target: &Target, size: u64) -> anyhow::Result<f64> {
    let mut client = Client::new(target);
    let path = client.create(size)?;
    let began = Instant::now();
    client.append(&path, 0, &lab.payload, size)?;
    Ok(mb_per_second(size, began))
}
