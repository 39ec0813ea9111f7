//! Scenario 10: from the last byte of an upload to the arrival of the message that it is complete.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;

use crate::lab::Lab;
use crate::lab::Notebook;
use crate::results::Metric;
use crate::results::Values;
use crate::server::Running;
use crate::server::Setup;
use crate::subject::Subject;

const SUBJECTS: [Subject; 2] = [Subject::Longshore, Subject::Tusd];

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    book.note(
        "tusd's post-finish hook is shown for comparison; it computes no digest, syncs nothing and remembers no message. \
         @tus/server sends no messages; rustus as published on crates.io is built without them.",
    );
    lab.take_turns(&SUBJECTS, u32::MAX, book, |subject, round, book| {
        let outcome = measure(lab, subject, book);
        book.keep(subject, "", round, outcome);
    });
    Ok(())
}

fn measure(lab: &Lab, subject: Subject, book: &mut Notebook) -> anyhow::Result<Values> {
    let receiver = Receiver::start()?;
    let setup = Setup { hook: Some(receiver.address), sha256: true, ..Setup::default() };
    let server = lab.start(subject, &setup, book)?;
    let sent = upload(lab, &server)?;
    let arrived = receiver.arrivals.recv_timeout(PATIENCE).context("no message came")?;
    Ok(Values::from([(Metric::MessageMs, arrived.saturating_duration_since(sent).as_secs_f64() * 1000.0)]))
}

/// Gives the moment at which the kernel had taken the last byte.
fn upload(lab: &Lab, server: &Running) -> anyhow::Result<Instant> {
    let size = lab.plan.big;
    let mut client = server.client();
    let path = client.create(size)?;
    let wire = client.begin(&path, 0, size)?;
    wire.send_payload(&lab.payload, size)?;
    let sent = Instant::now();
    wire.answer("PATCH")?.expect(&[200, 204])?;
    Ok(sent)
}

/// Takes messages and notes when each came. It ends with its channel.
struct Receiver {
    address: SocketAddr,
    arrivals: mpsc::Receiver<Instant>,
}

impl Receiver {
    fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (tell, arrivals) = mpsc::channel();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(socket) = socket else { return };
                let tell = tell.clone();
                // A sender that hangs up is an ordinary ending.
                thread::spawn(move || answer_all(&socket, &tell).ok());
            }
        });
        Ok(Self { address, arrivals })
    }
}

fn answer_all(socket: &TcpStream, tell: &mpsc::Sender<Instant>) -> anyhow::Result<()> {
    let mut reader = BufReader::new(socket);
    loop {
        let mut size = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some((name, value)) =
                line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            {
                size = value.trim().parse().with_context(|| format!("{name} is not a number"))?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; size];
        reader.read_exact(&mut body)?;
        tell.send(Instant::now())?;
        // tusd wants JSON; Longshore is content with any success.
        let mut out = socket;
        out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")?;
    }
}
