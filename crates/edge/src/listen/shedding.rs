//! Shedding of connections over the limit.
//!
//! A peer that waits in the kernel's queue cannot distinguish a full server from a dead one. So it gets a
//! response, and its connection is closed. The response depends on the request: one to HEAD has no body, and
//! a tus client that requests the offset of its upload must receive 423, because after a 503 it would restart
//! the upload from the beginning and double the load. The request line is therefore awaited for a short time.
//! All of this is cheap and ends soon, whatever the peer does.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::problem::{Problem, ShowsBody};
use crate::table::RouteTable;

/// The time limit for shedding one connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// The time limit for a silent peer: long enough for a request that was in transit when the response was
/// sent.
const SILENCE: Duration = Duration::from_millis(500);

/// The largest number of bytes that are read of a request that is shed.
const READ_MAX: usize = 256 * 1024;

/// No request line of a supported request is longer.
const LINE_MAX: usize = 4 * 1024;

/// Asks the peer to retry later, and closes the connection.
pub(super) async fn shed(mut stream: impl AsyncRead + AsyncWrite + Unpin, problem: Problem, table: &RouteTable) {
    // The connection ends, whether the peer received the response or not.
    let _ = timeout(PATIENCE, answer_and_drain(&mut stream, problem, table)).await;
}

/// Returns the problem for a connection over the limit.
pub(super) fn too_many_connections() -> Problem {
    let detail = "the limit of open connections is reached; retry in a moment";
    Problem::try_again("too-many-connections", detail, Duration::from_secs(5))
}

/// Closing with unread bytes would reset the connection, and the reset can overtake the response. So the
/// bytes of the peer are read until it closes.
async fn answer_and_drain(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    problem: Problem,
    table: &RouteTable,
) -> std::io::Result<()> {
    let mut received = [0; LINE_MAX];
    let mut read = 0;
    while read < LINE_MAX && !received[..read].contains(&b'\n') {
        match timeout(SILENCE, stream.read(&mut received[read..])).await {
            Err(_) | Ok(Ok(0)) => break,
            Ok(count) => read += count?,
        }
    }
    stream.write_all(&answer(&received[..read], problem, table)).await?;
    stream.shutdown().await?;
    while read < READ_MAX {
        match timeout(SILENCE, stream.read(&mut received)).await {
            Err(_) | Ok(Ok(0)) => break,
            Ok(count) => read += count?,
        }
    }
    Ok(())
}

/// Returns the response to a request that begins with these bytes.
fn answer(received: &[u8], problem: Problem, table: &RouteTable) -> Vec<u8> {
    let Some(target) = received.strip_prefix(b"HEAD ") else { return problem.to_http1(ShowsBody::Yes) };
    let path = target.split(|byte| b" ?\r\n".contains(byte)).next().and_then(|path| std::str::from_utf8(path).ok());
    let uploads = path.and_then(|path| table.find(path).uploads());
    let Some(status) = uploads.and_then(|uploads| uploads.busy_head) else { return problem.to_http1(ShowsBody::No) };
    let problem = problem.with_status(status);
    match uploads.and_then(|uploads| uploads.marker.as_ref()) {
        Some((name, value)) => problem.with(name.clone(), value.to_str().unwrap_or_default()),
        None => problem,
    }
    .to_http1(ShowsBody::No)
}

#[cfg(test)]
mod tests {
    use actix_web::HttpResponse;
    use actix_web::http::StatusCode;
    use actix_web::http::header::{HeaderName, HeaderValue};
    use futures::FutureExt;
    use futures::future::ready;

    use super::*;
    use crate::access::Needs;
    use crate::table::{ANY, Route, UploadAddress};

    fn table() -> RouteTable {
        let answer = |_| ready(HttpResponse::Ok().finish()).boxed_local();
        let row = |path, busy_head| {
            let marker = Some((HeaderName::from_static("tus-resumable"), HeaderValue::from_static("1.0.0")));
            Route::new(ANY, path, Needs::Nothing, Box::new(answer)).for_uploads(UploadAddress { marker, busy_head })
        };
        RouteTable::new([row("/files", None), row("/files/{}", Some(StatusCode::LOCKED))], Box::new(|_, _| None))
    }

    async fn answered(received: &[u8]) -> String {
        let table = table();
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        near.write_all(received).await.unwrap();
        let mut heard = String::new();
        let (_, read) = tokio::join!(shed(far, too_many_connections(), &table), near.read_to_string(&mut heard));
        read.unwrap();
        heard
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_to_head_is_told_without_a_body_and_a_tus_client_does_not_start_over() {
        for (received, status, body) in [
            (&b"HEAD /files/x HTTP/1.1\r\nHost: x\r\n\r\n"[..], "423", false),
            (b"HEAD /files HTTP/1.1\r\n\r\n", "503", false),
            (b"PATCH /files/x HTTP/1.1\r\n\r\n", "503", true),
            (b"HEAD /fi", "503", false),
            (b"", "503", true),
        ] {
            let heard = answered(received).await;
            let (head, rest) = heard.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{heard}");
            assert!(head.contains("\r\nretry-after: 5\r\n") && head.ends_with("connection: close"), "{heard}");
            assert_eq!(!rest.is_empty(), body, "{heard}");
            assert_eq!(head.contains("tus-resumable: 1.0.0"), status == "423", "{heard}");
        }
    }
}
