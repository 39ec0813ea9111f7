//! A distant line: a TCP relay that delays every byte in both directions.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The bytes read at a time.
const PIECE: usize = 256 << 10;

/// The number of pieces that may wait for a receiver that accepts none.
const WAITING: usize = 2048;

/// The properties of the line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    /// The delay in one direction.
    pub(crate) delay: Duration,
    /// The most bytes in flight: sent, and not acknowledged yet.
    pub(crate) window: u64,
}

/// Relays connections as long as the process runs, and returns the address to connect to.
pub(crate) fn start(to: SocketAddr, line: Line) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for near in listener.incoming() {
            // The client sees a broken line, as with any other.
            let (Ok(near), Ok(far)) = (near, TcpStream::connect(to)) else { continue };
            connect(&near, &far, line).ok();
        }
    });
    Ok(address)
}

fn connect(near: &TcpStream, far: &TcpStream, line: Line) -> std::io::Result<()> {
    for (from, to) in [(near, far), (far, near)] {
        from.set_nodelay(true)?;
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        let (send, receive) = mpsc::sync_channel(WAITING);
        thread::spawn(move || read(from, line, &send).ok());
        thread::spawn(move || write(to, &receive).ok());
    }
    Ok(())
}

fn read(mut from: TcpStream, line: Line, send: &mpsc::SyncSender<(Instant, Vec<u8>)>) -> anyhow::Result<()> {
    let mut under_way = VecDeque::new();
    let mut total = 0;
    loop {
        wait_for_window(&mut under_way, &mut total, line.window);
        let mut piece = vec![0; PIECE];
        let count = from.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        piece.truncate(count);
        let now = Instant::now();
        under_way.push_back((now + 2 * line.delay, count as u64));
        total += count as u64;
        send.send((now + line.delay, piece))?;
    }
}

/// Removes acknowledged bytes, and waits while too many are not acknowledged.
fn wait_for_window(under_way: &mut VecDeque<(Instant, u64)>, total: &mut u64, window: u64) {
    while let Some(&(acknowledged, count)) = under_way.front() {
        let wait = acknowledged.saturating_duration_since(Instant::now());
        if !wait.is_zero() && *total < window {
            return;
        }
        thread::sleep(wait);
        under_way.pop_front();
        *total -= count;
    }
}

fn write(mut to: TcpStream, receive: &mpsc::Receiver<(Instant, Vec<u8>)>) -> std::io::Result<()> {
    for (due, piece) in receive {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        to.write_all(&piece)?;
    }
    to.shutdown(Shutdown::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_line_delivers_everything_and_late() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = Line { delay: Duration::from_millis(20), window: 1 << 20 };
        let relay = start(listener.local_addr().unwrap(), line).unwrap();
        let began = Instant::now();
        let mut near = TcpStream::connect(relay).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let sender = thread::spawn(move || {
            near.write_all(&vec![7; 3 << 20]).unwrap();
            near.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            near.read_to_end(&mut answer).unwrap();
            answer
        });
        let mut received = Vec::new();
        far.read_to_end(&mut received).unwrap();
        far.write_all(b"ok").unwrap();
        drop(far);
        assert_eq!(received.len(), 3 << 20);
        assert_eq!(sender.join().unwrap(), b"ok");
        // Three windows, so at least two waits for an acknowledgment, and the way back.
        assert!(began.elapsed() >= Duration::from_millis(2 * 40 + 40));
    }
}
