//! One upload over HTTP/2, as fast as the server's windows allow.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use h2::client::SendRequest;
use http::{Method, Request, Response};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::lab::mb_per_second;
use crate::payload::Payload;
use crate::tus;
use crate::tus::Target;

/// The bytes passed to the library at a time; HTTP/2 splits them into frames of the size that the server
/// permits.
const PIECE: usize = 1 << 20;

/// The bytes passed to the library and not sent yet.
const BUFFER: usize = 4 << 20;

/// A timeout: no working server is this slow.
const PATIENCE: Duration = Duration::from_secs(180);

/// Creates an upload, sends it in one PATCH, and returns its rate in MB/s.
pub(crate) fn upload(
    target: &Target,
    tls: Arc<rustls::ClientConfig>,
    payload: &Payload,
    size: u64,
) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let upload = async {
        let mut requests = connect(target, tls).await?;
        let path = create(&mut requests, target, size).await?;
        let began = Instant::now();
        append(&mut requests, &path, payload, size).await?;
        anyhow::Ok(mb_per_second(size, began))
    };
    runtime.block_on(async { timeout(PATIENCE, upload).await.context("the upload took too long")? })
}

async fn connect(target: &Target, tls: Arc<rustls::ClientConfig>) -> anyhow::Result<SendRequest<bytes::Bytes>> {
    let socket = TcpStream::connect(target.address).await.context("could not connect")?;
    socket.set_nodelay(true)?;
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("it is a name");
    let stream = TlsConnector::from(tls).connect(name, socket).await.context("could not agree on TLS")?;
    ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "the server does not speak HTTP/2");
    let (requests, connection) = h2::client::Builder::new().max_send_buffer_size(BUFFER).handshake(stream).await?;
    // The task ends with the server; errors show up in the requests.
    tokio::spawn(async move { connection.await.ok() });
    Ok(requests.ready().await?)
}

async fn create(requests: &mut SendRequest<bytes::Bytes>, target: &Target, size: u64) -> anyhow::Result<String> {
    let request = request(Method::POST, target.files).header("upload-length", size).body(())?;
    let (answer, _) = requests.send_request(request, true)?;
    let answer = answer.await?;
    ensure!(answer.status() == 201, "unexpected answer: {}", answer.status());
    let location = answer.headers().get("location").context("no Location in the answer")?.to_str()?;
    Ok(tus::path_of(location).to_owned())
}

async fn append(
    requests: &mut SendRequest<bytes::Bytes>,
    path: &str,
    payload: &Payload,
    size: u64,
) -> anyhow::Result<()> {
    let request = request(Method::PATCH, path)
        .header("upload-offset", 0)
        .header("content-type", "application/offset+octet-stream")
        .header("content-length", size)
        .body(())?;
    let (answer, mut body) = requests.send_request(request, false)?;
    let sent = send(&mut body, payload, size).await;
    // A rejection contains its reason, which matters more than the broken stream.
    let answer: Response<_> = match (answer.await, sent) {
        (Ok(answer), _) => answer,
        (Err(_), Err(error)) => return Err(error),
        (Err(error), Ok(())) => return Err(error.into()),
    };
    ensure!(matches!(answer.status().as_u16(), 200 | 204), "unexpected answer: {}", answer.status());
    let offset = answer.headers().get("upload-offset").context("no Upload-Offset in the answer")?.to_str()?;
    ensure!(offset == size.to_string(), "the server is at {offset}");
    Ok(())
}

async fn send(body: &mut h2::SendStream<bytes::Bytes>, payload: &Payload, size: u64) -> anyhow::Result<()> {
    let mut sent = 0;
    while sent < size {
        let wanted = PIECE.min(usize::try_from(size - sent).unwrap_or(PIECE));
        body.reserve_capacity(wanted);
        // Capacity that was granted earlier and not used is not reported again.
        if body.capacity() == 0 {
            poll_fn(|context| body.poll_capacity(context)).await.context("the server ended the request")??;
        }
        let granted = body.capacity();
        if granted == 0 {
            continue;
        }
        let piece = payload.piece(sent, granted.min(wanted));
        sent += piece.len() as u64;
        body.send_data(piece, sent == size)?;
    }
    Ok(())
}

fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("https://localhost{path}")).header("tus-resumable", "1.0.0")
}
