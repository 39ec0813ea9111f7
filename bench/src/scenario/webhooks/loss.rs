//! Messages that arrive when the receiver is slow or dead, or when the server dies: Longshore's webhooks
//! compared with tusd's hooks.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::Context;

use crate::lab::{Lab, Notebook};
use crate::receiver;
use crate::receiver::{Mood, News, Receiver};
use crate::results::{Metric, Values};
use crate::server::{Hook, Running, Setup};
use crate::stats::Times;
use crate::subject::Subject;
use crate::tus::Client;

pub(crate) const WELL: &str = "receiver well";
pub(crate) const SLOW: &str = "receiver slow";
pub(crate) const DEAD: &str = "receiver dead";
const DEAD_PATIENT: &str = "receiver dead, 20 tries";
pub(crate) const KILLED: &str = "server killed";

const SUBJECTS: [Subject; 2] = [Subject::Longshore, Subject::Tusd];
const EVENTS: &[&str] = &["upload.created", "upload.completed"];

/// The default waits grow to minutes, so a receiver that returns would be retried too late to be measured
/// here.
const SCHEDULE: &[&str] = &["1s", "2s", "4s", "8s", "15s", "15s", "15s", "30s", "30s"];

const DELAY: Duration = Duration::from_secs(2);
/// The interval between two uploads.
const PACE: Duration = Duration::from_millis(100);
const SIZE: u64 = 64 << 10;

/// The number of connections that share the uploads.
const CONNECTIONS: u32 = 8;

/// The time to wait for duplicates when nothing fails.
const TWICE: Duration = Duration::from_secs(3);

const MOST_ROUNDS: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    None,
    Slow,
    Dead,
    /// The same, with enough retries that tusd uses all the time it has for a hook.
    DeadPatient,
    Killed,
}

impl Trouble {
    const APART: [Self; 4] = [Self::Slow, Self::Dead, Self::DeadPatient, Self::Killed];

    fn name(self) -> &'static str {
        match self {
            Self::None => WELL,
            Self::Slow => SLOW,
            Self::Dead => DEAD,
            Self::DeadPatient => DEAD_PATIENT,
            Self::Killed => KILLED,
        }
    }

    fn concerns(self, subject: Subject) -> bool {
        self != Self::DeadPatient || subject == Subject::Tusd
    }
}

pub(super) fn run(lab: &Lab, book: &mut Notebook) {
    explain(lab, book);
    lab.take_turns(&SUBJECTS, MOST_ROUNDS, book, |subject, round, book| {
        let outcome = in_a_folder(lab, subject, Trouble::None, Some(book));
        book.keep(subject, WELL, round, outcome);
    });
    let subjects = lab.present(&SUBJECTS, book);
    let every = |trouble| subjects.iter().map(move |subject| (trouble, *subject));
    let concerned = |(trouble, subject): &(Trouble, Subject)| trouble.concerns(*subject);
    let cases: Vec<_> = Trouble::APART.into_iter().flat_map(every).filter(concerned).collect();
    // The runs mostly wait, so they can run concurrently.
    let outcomes: Vec<_> = thread::scope(|scope| {
        let begin = |&(trouble, subject)| scope.spawn(move || in_a_folder(lab, subject, trouble, None));
        let threads: Vec<_> = cases.iter().map(begin).collect();
        threads.into_iter().map(|thread| thread.join().expect("a case does not panic")).collect()
    });
    for ((trouble, subject), outcome) in cases.into_iter().zip(outcomes) {
        book.keep(subject, trouble.name(), 1, outcome);
    }
}

fn explain(lab: &Lab, book: &mut Notebook) {
    let plan = &lab.plan;
    book.note(format!(
        "Loss: {} uploads, ten a second, each created and then sent. Two messages of each are expected, identified \
         by upload and event, until {} s after the last upload. Slow: every response takes {} s. Dead: in the \
         middle, connections are refused for {} s. Killed: as many uploads as fast as {CONNECTIONS} connections can, \
         kill -9 when the last response has arrived, and the server is started again. The median delay is from \
         sending a request to the arrival of its message. All but the first case run at the same time.",
        uploads(lab),
        plan.patience.as_secs(),
        DELAY.as_secs(),
        plan.outage.as_secs(),
    ));
    book.note(format!(
        "Longshore retries after {}, and sends at most 16 messages at a time to one endpoint, as by default; tusd \
         makes three attempts one second apart, as by default. In a separate row it may make 20, which fill the time \
         that it allows for a hook.",
        SCHEDULE.join(", ")
    ));
    if lab.kit.knows("webhooks.breaker_pause") {
        book.note(
            "Longshore's circuit breaker is on, as by default: after ten failures in a row it stops calls to an \
         endpoint for 30 to 60 s, which is most of the delay where the receiver was down.",
        );
    }
}

fn in_a_folder(lab: &Lab, subject: Subject, trouble: Trouble, book: Option<&mut Notebook>) -> anyhow::Result<Values> {
    let folder = lab.kit.empty_folder(subject)?;
    let outcome = measure(lab, subject, trouble, &folder, book);
    fs::remove_dir_all(&folder)?;
    outcome
}

fn measure(
    lab: &Lab,
    subject: Subject,
    trouble: Trouble,
    folder: &Path,
    book: Option<&mut Notebook>,
) -> anyhow::Result<Values> {
    let receiver = Receiver::start(if trouble == Trouble::Slow { Mood::Slow(DELAY) } else { Mood::Well })?;
    let setup = Setup {
        hooks: vec![Hook { name: "bench", address: receiver.address, events: EVENTS }],
        retry_schedule: Some(SCHEDULE),
        tusd_tries: (trouble == Trouble::DeadPatient).then_some(20),
        data: Some(folder.to_owned()),
        ..Setup::default()
    };
    let mut server = Running::start(&lab.kit, subject, &setup)?;
    if let Some(book) = book {
        book.saw(&server);
    }
    let sent = Sent::default();
    match trouble {
        Trouble::Killed => {
            upload(lab, &server, &sent, Duration::ZERO)?;
            // Dropping kills at once; the folder stays because this function owns it.
            drop(server);
            server = Running::start(&lab.kit, subject, &setup)?;
        }
        Trouble::Dead | Trouble::DeadPatient => upload_around_an_outage(lab, &server, &receiver, &sent)?,
        Trouble::None | Trouble::Slow => upload(lab, &server, &sent, PACE)?,
    }
    let until = Instant::now() + lab.plan.patience;
    let sent = sent.0.into_inner().expect("no task panics while it holds the list");
    let complete = receiver.wait_for(sent.len(), until);
    // After a failure the whole time is used: duplicates may arrive late.
    let enough = if complete && (lab.plan.quick || trouble == Trouble::None) { Instant::now() + TWICE } else { until };
    thread::sleep(enough.saturating_duration_since(Instant::now()));
    drop(server);
    tally(&sent, &receiver)
}

/// The time at which the request that causes a message was sent.
#[derive(Default)]
struct Sent(Mutex<HashMap<(u128, News), Instant>>);

impl Sent {
    /// Sends one upload in two requests. A request without success is not expected to cause a message.
    fn upload(&self, lab: &Lab, client: &mut Client) -> anyhow::Result<()> {
        let began = Instant::now();
        let path = client.create(SIZE)?;
        let id = path.rsplit('/').next().unwrap_or_default();
        let upload = receiver::upload_number(id).with_context(|| format!("no upload identifier in {path}"))?;
        self.note(upload, News::Created, began);
        let began = Instant::now();
        client.append(&path, 0, &lab.payload, SIZE)?;
        self.note(upload, News::Completed, began);
        Ok(())
    }

    fn note(&self, upload: u128, news: News, at: Instant) {
        self.0.lock().expect("no task panics while it holds the list").insert((upload, news), at);
    }
}

/// Sends all uploads, each `gap` after the scheduled time of the one before.
fn upload(lab: &Lab, server: &Running, sent: &Sent, gap: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    let one = |connection: u32| {
        let mut client = server.client();
        for number in (connection..uploads(lab)).step_by(CONNECTIONS as usize) {
            thread::sleep((began + gap * number).saturating_duration_since(Instant::now()));
            sent.upload(lab, &mut client)?;
        }
        anyhow::Ok(())
    };
    thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..CONNECTIONS).map(|connection| scope.spawn(move || one(connection))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("an upload does not panic"))
    })
}

fn uploads(lab: &Lab) -> u32 {
    u32::try_from(lab.plan.telling.as_millis() / PACE.as_millis()).expect("a plan is short")
}

fn upload_around_an_outage(lab: &Lab, server: &Running, receiver: &Receiver, sent: &Sent) -> anyhow::Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep((lab.plan.telling - lab.plan.outage) / 2);
            receiver.feel(Mood::Dead);
            thread::sleep(lab.plan.outage);
            receiver.feel(Mood::Well);
        });
        upload(lab, server, sent, PACE)
    })
}

fn tally(sent: &HashMap<(u128, News), Instant>, receiver: &Receiver) -> anyhow::Result<Values> {
    let mut first = HashMap::new();
    let mut twice = 0_u32;
    for arrival in receiver.arrivals()? {
        let Some(upload) = arrival.upload else { continue };
        let Some(began) = sent.get(&(upload, arrival.news)) else { continue };
        match first.entry((upload, arrival.news)) {
            Entry::Vacant(place) => drop(place.insert(arrival.at.saturating_duration_since(*began))),
            Entry::Occupied(_) => twice += 1,
        }
    }
    let arrived = first.len();
    let mut delays = Times::default();
    first.into_values().for_each(|delay| delays.add(delay));
    let mut values = Values::from([
        (Metric::Expected, sent.len() as f64),
        (Metric::Arrived, arrived as f64),
        (Metric::Lost, (sent.len() - arrived) as f64),
        (Metric::Duplicates, f64::from(twice)),
    ]);
    if arrived > 0 {
        values.insert(Metric::DelayMs, delays.quantile_ms(500));
    }
    Ok(values)
}
