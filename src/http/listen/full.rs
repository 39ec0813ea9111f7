//! Turning connections away when there are as many as are allowed.
//!
//! A peer left waiting in the kernel's queue cannot tell a full server from a dead one. It is told instead, without a
//! look at what it asks, and its connection closed. This costs little and ends soon, whatever the peer does.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::error::Problem;

/// For the whole of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// For a peer that says nothing: long enough for a request that was on its way when the peer was told.
const SILENCE: Duration = Duration::from_millis(500);

/// The most that is read of a request nobody will answer otherwise.
const READ_MAX: usize = 256 * 1024;

/// Tells the peer to come back later.
pub(super) async fn turn_away(mut stream: TcpStream) {
    // Whether it was heard or not, the connection is over.
    let _ = timeout(PATIENCE, tell(&mut stream)).await;
}

/// Closing with unread bytes would reset the connection, and the reset can overtake the answer: so what the peer has
/// sent is read until it closes.
async fn tell(stream: &mut TcpStream) -> std::io::Result<()> {
    let detail = "there are as many connections as are allowed; come back in a moment";
    let problem = Problem::try_again("too-many-connections", detail, Duration::from_secs(5));
    stream.write_all(&problem.to_http1()).await?;
    stream.shutdown().await?;
    let mut buffer = [0; 4096];
    let mut read = 0;
    while read < READ_MAX {
        match timeout(SILENCE, stream.read(&mut buffer)).await {
            Err(_) | Ok(Ok(0)) => break,
            Ok(count) => read += count?,
        }
    }
    Ok(())
}
