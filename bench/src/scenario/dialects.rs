//! Scenario 13: the same bytes in other dialects, and in ranges from eight connections.

use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::lab::{Lab, Notebook, mb_per_second, mib};
use crate::results::{Metric, Values};
use crate::server::{Running, Setup};
use crate::subject::Subject;
use crate::{process, tus};

pub(crate) const TUS: &str = "tus, one PATCH";
pub(crate) const IETF: &str = "IETF, one POST";
pub(crate) const RANGED: &str = "ranged, one PUT";
pub(crate) const PARALLEL: &str = "ranged, 8 at once";
pub(crate) const TUS_MD5: &str = "tus, MD5 wanted";
pub(crate) const GOOGLE: &str = "Google, one PUT";

const CONNECTIONS: usize = 8;
const RANGE: u64 = 16 << 20;

/// A creation, if the data does not create the upload itself, and the request with the data.
struct Form {
    name: &'static str,
    creation: &'static str,
    /// The method of the request with the data; its headers follow.
    method: &'static str,
    marks: &'static str,
}

const FORMS: [Form; 5] = [
    Form {
        name: TUS,
        creation: "Tus-Resumable: 1.0.0\r\nUpload-Length: {size}\r\n",
        method: "PATCH",
        marks: "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n",
    },
    Form {
        name: IETF,
        creation: "",
        method: "POST",
        marks: "Upload-Draft-Interop-Version: 8\r\nUpload-Complete: ?1\r\nContent-Type: video/mp4\r\n",
    },
    Form { name: RANGED, creation: JSON, method: "PUT", marks: "Content-Range: bytes 0-{last}/{size}\r\n" },
    Form {
        name: TUS_MD5,
        creation: "Tus-Resumable: 1.0.0\r\nUpload-Length: {size}\r\nWant-Repr-Digest: md5=1\r\n",
        method: "PATCH",
        marks: "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n",
    },
    Form {
        name: GOOGLE,
        creation: "X-Upload-Content-Type: video/mp4\r\nX-Upload-Content-Length: {size}\r\n",
        method: "PUT",
        marks: "Content-Range: bytes 0-{last}/{size}\r\n",
    },
];

const JSON: &str = "Content-Type: application/json\r\n";

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    lab.take_turns(&[Subject::Longshore], u32::MAX, book, |subject, round, book| {
        // Each round begins with another form.
        for turn in 0..=FORMS.len() {
            let form = FORMS.get((turn + round as usize) % (FORMS.len() + 1));
            let outcome = lab.start(subject, &Setup::default(), book).and_then(|server| {
                measure(lab, &server, |server| match form {
                    Some(form) => in_one(lab, server, form),
                    None => in_ranges(lab, server),
                })
            });
            book.keep(subject, form.map_or(PARALLEL, |form| form.name), round, outcome);
            rustix::fs::sync();
        }
    });
    Ok(())
}

fn measure(
    lab: &Lab,
    server: &Running,
    upload: impl FnOnce(&Running) -> anyhow::Result<Instant>,
) -> anyhow::Result<Values> {
    let size = lab.plan.big;
    process::forget_peak(server.pid())?;
    let cpu = process::cpu_seconds(server.pid())?;
    let began = upload(server)?;
    let rate = mb_per_second(size, began);
    let cpu = process::cpu_seconds(server.pid())? - cpu;
    Ok(Values::from([
        (Metric::MbPerSecond, rate),
        (Metric::CpuSecondsPerGb, cpu / (size as f64 / 1e9)),
        (Metric::PeakMib, mib(process::peak(server.pid())?)),
    ]))
}

/// Uploads in one request, and returns the moment at which the first byte of data was sent.
fn in_one(lab: &Lab, server: &Running, form: &Form) -> anyhow::Result<Instant> {
    let size = lab.plan.big;
    let fill = |text: &str| text.replace("{size}", &size.to_string()).replace("{last}", &(size - 1).to_string());
    let path = match form.creation {
        "" => "/files".to_owned(),
        JSON => create_for_ranges(server, size)?,
        creation => create(server, &fill(creation), "")?,
    };
    let began = Instant::now();
    let mut client = server.client();
    let wire = client.wire()?;
    let (method, marks) = (form.method, fill(form.marks));
    wire.send(
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n{marks}\r\n").as_bytes(),
    )?;
    wire.send_payload(&lab.payload, size)?;
    wire.answer(method)?.expect(&[200, 201, 204])?;
    Ok(began)
}

fn in_ranges(lab: &Lab, server: &Running) -> anyhow::Result<Instant> {
    let size = lab.plan.big;
    let path = create_for_ranges(server, size)?;
    let began = Instant::now();
    let done = thread::scope(|scope| {
        let lanes: Vec<_> = (0..CONNECTIONS)
            .map(|lane| {
                scope.spawn({
                    let path = &path;
                    move || send_lane(lab, server, path, lane)
                })
            })
            .collect();
        lanes.into_iter().map(|lane| lane.join().expect("a lane does not panic")).collect::<anyhow::Result<Vec<_>>>()
    })?;
    ensure!(done.contains(&true), "no answer said that the upload is complete");
    Ok(began)
}

/// Sends every eighth range. Reports whether a response said that all bytes are there.
fn send_lane(lab: &Lab, server: &Running, path: &str, lane: usize) -> anyhow::Result<bool> {
    let size = lab.plan.big;
    let mut client = server.client();
    let mut complete = false;
    for start in (0..size).step_by(usize::try_from(RANGE)?).skip(lane).step_by(CONNECTIONS) {
        let count = RANGE.min(size - start);
        let last = start + count - 1;
        let wire = client.wire()?;
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {count}\r\nContent-Range: bytes {start}-{last}/{size}\r\n\r\n"
        );
        wire.send(head.as_bytes())?;
        wire.send_payload(&lab.payload, count)?;
        complete |= wire.answer("PUT")?.expect(&[200, 202])?.status == 200;
    }
    Ok(complete)
}

fn create_for_ranges(server: &Running, size: u64) -> anyhow::Result<String> {
    create(server, JSON, &format!("{{\"size\":{size}}}"))
}

fn create(server: &Running, fields: &str, body: &str) -> anyhow::Result<String> {
    let mut client = server.client();
    let wire = client.wire()?;
    let length = body.len();
    wire.send(
        format!("POST /files HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{fields}\r\n{body}").as_bytes(),
    )?;
    let answer = wire.answer("POST")?.expect(&[200, 201])?;
    Ok(tus::path_of(answer.header("location").context("no Location in the answer")?).to_owned())
}
