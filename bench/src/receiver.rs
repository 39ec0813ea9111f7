//! The receiver of Longshore's webhooks and tusd's hooks. It records which message arrived when.
//!
//! A scenario makes it answer at once, answer late, or disappear. One thread serves all connections and keeps
//! them open. Its memory is bounded: a small note of each message, up to a maximum number, and no body.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::{process, wire};

/// Messages beyond this number are counted and not recorded.
const MOST_NOTES: usize = 4_000_000;

const MAX_HEAD: usize = 64 << 10;
const MAX_BODY: usize = 256 << 10;

/// The number of connections that may wait to be accepted.
const BACKLOG: u32 = 1_024;

/// The interval at which a waiting scenario polls.
const LOOK: Duration = Duration::from_millis(2);

/// tusd requires JSON; Longshore accepts any success.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mood {
    Well,
    /// Answers only after this time.
    Slow(Duration),
    /// Connections end and new ones are rejected.
    Dead,
}

/// The event that a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum News {
    Created,
    Completed,
    Other,
}

/// One message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    pub(crate) news: News,
    /// The upload's identifier, see [`upload_number`].
    pub(crate) upload: Option<u128>,
    /// The time since the event, according to the message. Both use the same clock, and the message has
    /// milliseconds.
    pub(crate) age: Option<Duration>,
}

/// A running receiver. It ends when dropped, with its connections.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    mood: watch::Sender<Mood>,
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    arrivals: Vec<Arrival>,
    beyond: usize,
}

impl Receiver {
    pub(crate) fn start(mood: Mood) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let place = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = place.local_addr()?;
        let (mood, mine) = watch::channel(mood);
        let log = Arc::<Mutex<Log>>::default();
        let door = Door { _place: place, address, mood: mine, log: Arc::clone(&log) };
        let listener = door.open(&runtime)?;
        thread::spawn(move || {
            process::nice(process::URGENT);
            if let Err(error) = runtime.block_on(door.serve(listener)) {
                eprintln!("  the receiver failed: {error:#}");
            }
        });
        Ok(Self { address, mood, log })
    }

    pub(crate) fn feel(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Returns the number of messages so far.
    pub(crate) fn count(&self) -> usize {
        let log = self.log();
        log.arrivals.len() + log.beyond
    }

    /// Waits until `count` messages have arrived or the moment has passed. Reports whether they have arrived.
    pub(crate) fn wait_for(&self, count: usize, until: Instant) -> bool {
        loop {
            if self.count() >= count {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(LOOK);
        }
    }

    /// Returns the messages so far, in the order of their arrival.
    pub(crate) fn arrivals(&self) -> anyhow::Result<Vec<Arrival>> {
        let log = self.log();
        ensure!(log.beyond == 0, "more than {MOST_NOTES} messages came");
        Ok(log.arrivals.clone())
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("no task panics while it holds the log")
    }
}

/// The task's side of the receiver.
struct Door {
    /// Never listens. It reserves the port while the receiver is not listening.
    _place: TcpSocket,
    address: SocketAddr,
    mood: watch::Receiver<Mood>,
    log: Arc<Mutex<Log>>,
}

impl Door {
    fn open(&self, runtime: &Runtime) -> anyhow::Result<Option<TcpListener>> {
        let _inside = runtime.enter();
        let closed = *self.mood.borrow() == Mood::Dead;
        if closed { Ok(None) } else { listen(self.address).map(Some) }
    }

    async fn serve(mut self, mut listener: Option<TcpListener>) -> anyhow::Result<()> {
        loop {
            if let Some(open) = &listener {
                tokio::select! {
                    socket = open.accept() => {
                        let (mood, log) = (self.mood.clone(), Arc::clone(&self.log));
                        let (socket, _) = socket.context("could not take a connection")?;
                        // A sender that disconnects is an ordinary end.
                        tokio::spawn(async move { answer_all(socket, mood, &log).await.ok() });
                        continue;
                    }
                    changed = self.mood.changed() => if changed.is_err() { return Ok(()) },
                }
            } else if self.mood.changed().await.is_err() {
                return Ok(());
            }
            let closed = *self.mood.borrow_and_update() == Mood::Dead;
            listener = match listener {
                _ if closed => None,
                Some(open) => Some(open),
                None => Some(listen(self.address)?),
            };
        }
    }
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("could not bind {address}"))?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    bind(address)?.listen(BACKLOG).context("could not listen")
}

async fn answer_all(mut socket: TcpStream, mut mood: watch::Receiver<Mood>, log: &Mutex<Log>) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let mut pending = Vec::new();
    loop {
        let size = tokio::select! {
            size = next_message(&mut socket, &mut pending) => size?,
            () = dies(&mut mood) => return Ok(()),
        };
        let Some((head, size)) = size else { return Ok(()) };
        note(log, &pending[head..head + size]);
        pending.drain(..head + size);
        let now = *mood.borrow();
        if let Mood::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        socket.write_all(ANSWER).await?;
    }
}

async fn dies(mood: &mut watch::Receiver<Mood>) {
    // An error means that the receiver was dropped, which has the same effect on a connection.
    drop(mood.wait_for(|mood| *mood == Mood::Dead).await);
}

/// Reads a whole message. Returns the sizes of its head and its body.
async fn next_message(socket: &mut TcpStream, pending: &mut Vec<u8>) -> anyhow::Result<Option<(usize, usize)>> {
    let mut sizes = None;
    loop {
        if sizes.is_none()
            && let Some(end) = wire::find(pending, b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&pending[..end]);
            let length = wire::header(&head, "content-length").context("a message has no Content-Length")?;
            sizes = Some((end + 4, length.parse::<usize>()?));
        }
        if let Some((head, body)) = sizes {
            ensure!(body <= MAX_BODY, "a message is too large");
            if pending.len() >= head + body {
                return Ok(sizes);
            }
        }
        ensure!(pending.len() < MAX_HEAD + MAX_BODY, "the head of a message is too large");
        if socket.read_buf(pending).await? == 0 {
            return Ok(None);
        }
    }
}

/// The fields that are read from a message, of either sender.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(rename = "type", alias = "Type")]
    kind: &'a str,
    timestamp: Option<&'a str>,
    #[serde(borrow)]
    data: Option<Data<'a>>,
    #[serde(rename = "Event")]
    event: Option<HookEvent<'a>>,
}

#[derive(Deserialize)]
struct Data<'a> {
    upload_id: Option<&'a str>,
}

#[derive(Deserialize)]
struct HookEvent<'a> {
    #[serde(rename = "Upload", borrow)]
    upload: HookUpload<'a>,
}

#[derive(Deserialize)]
struct HookUpload<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
}

fn note(log: &Mutex<Log>, body: &[u8]) {
    let (at, now) = (Instant::now(), jiff::Timestamp::now());
    let message = serde_json::from_slice::<Message<'_>>(body).ok();
    let arrival = Arrival {
        at,
        news: message.as_ref().map_or(News::Other, |message| news(message.kind)),
        upload: message.as_ref().and_then(upload),
        age: message.and_then(|message| age(message.timestamp?, now)),
    };
    let mut log = log.lock().expect("no task panics while it holds the log");
    if log.arrivals.len() < MOST_NOTES { log.arrivals.push(arrival) } else { log.beyond += 1 }
}

fn news(kind: &str) -> News {
    match kind {
        "upload.created" | "post-create" => News::Created,
        "upload.completed" | "post-finish" => News::Completed,
        _ => News::Other,
    }
}

fn upload(message: &Message<'_>) -> Option<u128> {
    let own = message.data.as_ref().and_then(|data| data.upload_id);
    upload_number(own.or(message.event.as_ref().map(|event| event.upload.id))?)
}

/// Returns an identifier as a number: those of both servers are 128 bits in hexadecimal digits, one with
/// hyphens.
pub(crate) fn upload_number(id: &str) -> Option<u128> {
    u128::from_str_radix(&id.replace('-', ""), 16).ok()
}

/// Returns the age of a timestamp, or `None` if the text is not one. A timestamp that was rounded up into the
/// future has the age zero.
fn age(timestamp: &str, now: jiff::Timestamp) -> Option<Duration> {
    let happened: jiff::Timestamp = timestamp.parse().ok()?;
    Some(Duration::try_from(now.duration_since(happened)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const OWN: &str = r#"{"type":"upload.created","timestamp":"2026-11-21T22:31:30.123Z","data":{"upload_id":
        "01a2003c-6e4b-7707-8707-070707070707","sequence":1}}"#;
    const TUSD: &str =
        r#"{"Type":"post-finish","Event":{"Upload":{"ID":"01a2003c6e4b77078707070707070707","Size":5}}}"#;

    fn tell(to: SocketAddr, body: &str) -> std::io::Result<()> {
        let mut socket = std::net::TcpStream::connect(to)?;
        write!(socket, "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        socket.read_exact(&mut vec![0; ANSWER.len()])
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn messages_of_both_senders_are_understood() {
        let receiver = Receiver::start(Mood::Well).unwrap();
        tell(receiver.address, OWN).unwrap();
        tell(receiver.address, TUSD).unwrap();
        let arrivals = receiver.arrivals().unwrap();
        assert_eq!(arrivals.iter().map(|one| one.news).collect::<Vec<_>>(), [News::Created, News::Completed]);
        assert_eq!(arrivals[0].upload, Some(0x01a2_003c_6e4b_7707_8707_0707_0707_0707));
        assert_eq!(arrivals[0].upload, arrivals[1].upload);
        assert!(arrivals[0].age.is_some() && arrivals[1].age.is_none());
    }

    #[test]
    fn the_dead_refuse_and_come_back_at_the_same_place() {
        let receiver = Receiver::start(Mood::Well).unwrap();
        tell(receiver.address, OWN).unwrap();
        receiver.feel(Mood::Dead);
        let until = soon();
        while tell(receiver.address, OWN).is_ok() {
            assert!(Instant::now() < until, "it still answers");
        }
        let heard = receiver.count();
        assert!(tell(receiver.address, OWN).is_err());
        assert_eq!(receiver.count(), heard);
        receiver.feel(Mood::Well);
        while tell(receiver.address, OWN).is_err() {
            assert!(Instant::now() < until, "it did not come back");
        }
        assert!(receiver.wait_for(heard + 1, soon()));
    }

    #[test]
    fn an_age_is_never_negative() {
        let now: jiff::Timestamp = "2026-11-21T22:31:30.100Z".parse().unwrap();
        assert_eq!(age("2026-11-21T22:31:30.075Z", now), Some(Duration::from_millis(25)));
        assert_eq!(age("2026-11-21T22:31:30.101Z", now), Some(Duration::ZERO));
        assert_eq!(age("yesterday", now), None);
    }
}
