//! A tus 1.0 client: it creates, appends and requests offsets. It reconnects if a server does not keep
//! connections open.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};

use crate::payload::Payload;
use crate::wire::{Answer, Wire};

/// The address of a server's uploads, and how to connect to it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The path that creates uploads.
    pub(crate) files: &'static str,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

pub(crate) struct Client {
    target: Target,
    wire: Option<Wire>,
}

impl Client {
    pub(crate) fn new(target: &Target) -> Self {
        Self { target: target.clone(), wire: None }
    }

    /// Returns the connection; opens one if there is none.
    pub(crate) fn wire(&mut self) -> anyhow::Result<&mut Wire> {
        if self.wire.is_none() {
            let wire = match &self.target.tls {
                Some(config) => Wire::connect_tls(self.target.address, config)?,
                None => Wire::connect(self.target.address)?,
            };
            self.wire = Some(wire);
        }
        Ok(self.wire.as_mut().expect("it was opened above"))
    }

    /// Hands over the connection; the next request opens another one.
    pub(crate) fn detach(&mut self) -> Option<Wire> {
        self.wire.take()
    }

    /// Creates an upload and returns its path.
    pub(crate) fn create(&mut self, length: u64) -> anyhow::Result<String> {
        let head = creation_head(&self.target, length, 0);
        let answer = self.exchange("POST", head.as_bytes(), |_| Ok(()))?.expect(&[201])?;
        location(&answer)
    }

    /// Creates an upload with all its bytes and returns its path.
    pub(crate) fn create_whole(&mut self, payload: &Payload, size: usize) -> anyhow::Result<String> {
        let mut request = creation_head(&self.target, size as u64, size as u64).into_bytes();
        request.extend_from_slice(payload.head(size));
        let answer = self.exchange("POST", &request, |_| Ok(()))?.expect(&[201])?;
        location(&answer)
    }

    /// Appends `count` bytes at `offset` and returns the offset after them.
    pub(crate) fn append(&mut self, path: &str, offset: u64, payload: &Payload, count: u64) -> anyhow::Result<u64> {
        let head = append_head(path, offset, count);
        let answer = self.exchange("PATCH", head.as_bytes(), |wire| wire.send_payload(payload, count))?;
        let after = answer.expect(&[200, 204])?.number("upload-offset")?;
        ensure!(after == offset + count, "sent up to {}, but the server is at {after}", offset + count);
        Ok(after)
    }

    /// Sends the head of an append and its first bytes, without waiting for the response.
    pub(crate) fn begin(&mut self, path: &str, offset: u64, announced: u64) -> anyhow::Result<&mut Wire> {
        let head = append_head(path, offset, announced);
        let wire = self.wire()?;
        wire.send(head.as_bytes())?;
        Ok(wire)
    }

    /// Requests the offset of an upload, in tus.
    pub(crate) fn offset(&mut self, path: &str) -> anyhow::Result<u64> {
        self.ask("HEAD", path)?.expect(&[200, 204])?.number("upload-offset")
    }

    /// Sends a request without a body.
    pub(crate) fn ask(&mut self, method: &str, path: &str) -> anyhow::Result<Answer> {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\n\r\n");
        self.exchange(method, head.as_bytes(), |_| Ok(()))
    }

    /// Sends a small append without checking the response, as a reconnecting client does.
    pub(crate) fn try_append(&mut self, path: &str, offset: u64, bytes: &[u8]) -> anyhow::Result<Answer> {
        let head = append_head(path, offset, bytes.len() as u64);
        self.exchange("PATCH", head.as_bytes(), |wire| wire.send(bytes))
    }

    fn exchange(
        &mut self,
        method: &str,
        head: &[u8],
        body: impl FnOnce(&mut Wire) -> std::io::Result<()>,
    ) -> anyhow::Result<Answer> {
        let wire = self.wire()?;
        // A server that rejects a request may stop reading before it responds; its response matters more than
        // the broken pipe.
        let sent = wire.send(head).and_then(|()| body(wire));
        let answer = wire.answer(method);
        let broken = match &answer {
            Ok(answer) => sent.is_err() || !answer.keeps(),
            Err(_) => true,
        };
        if broken {
            self.wire = None;
        }
        match (answer, sent) {
            (Ok(answer), _) => Ok(answer),
            (Err(_), Err(error)) => Err(error).with_context(|| format!("could not send the body of a {method}")),
            (Err(error), Ok(())) => Err(error),
        }
    }
}

/// Returns the head that creates an upload of `length` and announces the first `body` bytes of it.
pub(crate) fn creation_head(target: &Target, length: u64, body: u64) -> String {
    let kind = if body > 0 { "Content-Type: application/offset+octet-stream\r\n" } else { "" };
    let files = target.files;
    // "ZXZlbi5iaW4=" is even.bin; servers that store metadata get some to store.
    format!(
        "POST {files} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Length: {length}\r\n\
         Upload-Metadata: filename ZXZlbi5iaW4=\r\nContent-Length: {body}\r\n{kind}\r\n"
    )
}

pub(crate) fn append_head(path: &str, offset: u64, count: u64) -> String {
    format!(
        "PATCH {path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: {offset}\r\n\
         Content-Type: application/offset+octet-stream\r\nContent-Length: {count}\r\n\r\n"
    )
}

/// Returns the path in `Location`, whether that is a path or a whole URL.
fn location(answer: &Answer) -> anyhow::Result<String> {
    let location = answer.header("location").context("no Location in the answer")?;
    Ok(path_of(location).to_owned())
}

pub(crate) fn path_of(location: &str) -> &str {
    let rest = location.strip_prefix("https:").or_else(|| location.strip_prefix("http:")).unwrap_or(location);
    match rest.strip_prefix("//") {
        Some(host_and_path) => host_and_path.find('/').map_or("/", |at| &host_and_path[at..]),
        None => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_may_be_a_path_or_a_url() {
        assert_eq!(path_of("/files/1"), "/files/1");
        assert_eq!(path_of("http://127.0.0.1:80/files/1"), "/files/1");
        assert_eq!(path_of("https://host/files/1"), "/files/1");
        assert_eq!(path_of("//host/files/1"), "/files/1");
    }
}
