//! Addresses, data folder, threads and shutdown of the server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use crate::config::reader::{Parsed, Reader};
use crate::config::units::hours;
use crate::config::webhooks::networks;
use domain::host::Host;
use domain::node::NodeName;
use edge::clients::{Proxies, ProxyField};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Port 0 selects a free port.
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    /// `None`: the host name is used.
    pub node_name: Option<NodeName>,
    /// Beginning of all links, without a trailing slash. `None`: the host of each request is used.
    pub public_url: Option<String>,
    pub proxies: Proxies,
    /// `None`: one worker for each processor core.
    pub workers: Option<usize>,
    /// Address of a separate listener for reads, with its own threads. `None`: reads are served only at
    /// `listen`.
    pub read_listen: Option<SocketAddr>,
    pub read_workers: Option<usize>,
    /// Niceness of the threads that process uploads, if reads have a separate listener.
    pub upload_niceness: u8,
    pub shutdown_timeout: Duration,
}

impl ServerConfig {
    pub(super) fn read(from: &mut Reader) -> Self {
        Self {
            listen: read_listen(from),
            data_dir: from.text("data_dir", data_dir),
            node_name: from.text("node_name", node_name),
            public_url: from.text("public_url", public_url),
            proxies: Proxies {
                trusted: from.list("trusted_proxies", networks),
                field: from.text("trusted_proxy_header", proxy_field),
            },
            workers: Some(from.count("workers", 0..=512)).filter(|workers| *workers > 0),
            read_listen: from
                .text("read_listen", |text| if text.is_empty() { Ok(None) } else { address(text).map(Some) }),
            read_workers: Some(from.count("read_workers", 0..=512)).filter(|workers| *workers > 0),
            upload_niceness: from.count("upload_niceness", 0..=19),
            shutdown_timeout: from.duration("shutdown_timeout", Duration::ZERO..=hours(1)),
        }
    }
}

impl ServerConfig {
    /// Returns the key that makes the server reachable from other machines, if there is one. A public URL
    /// means that a proxy forwards requests from elsewhere.
    pub(crate) fn reached_from_elsewhere(&self) -> Option<&'static str> {
        let far = |address: SocketAddr| !address.ip().to_canonical().is_loopback();
        if far(self.listen) {
            return Some("listen");
        }
        if self.read_listen.is_some_and(far) {
            return Some("read_listen");
        }
        self.public_host().is_some_and(|host| !host.is_loopback()).then_some("public_url")
    }

    /// Returns the origin of pages at the public URL, as browsers send it.
    pub(crate) fn public_origin(&self) -> Option<String> {
        let url = Url::parse(self.public_url.as_deref()?).ok()?;
        Some(url.origin().ascii_serialization())
    }

    /// Returns the host of the public URL.
    pub(crate) fn public_host(&self) -> Option<Host<'static>> {
        let url = Url::parse(self.public_url.as_deref()?).ok()?;
        Host::parse(url.host_str()?).map(Host::into_owned)
    }
}

pub(super) fn read_listen(from: &mut Reader) -> SocketAddr {
    from.text("listen", address)
}

pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    let hint = "not an address and port; write numbers, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080";
    text.parse().map_err(|_| hint.to_owned())
}

fn data_dir(text: &str) -> Parsed<PathBuf> {
    if text.is_empty() { Err("empty; write the path of a folder".to_owned()) } else { Ok(text.into()) }
}

fn node_name(text: &str) -> Parsed<Option<NodeName>> {
    let hint = "not a name; write 1 to 255 visible ASCII characters without spaces, such as upload-1";
    if text.is_empty() { Ok(None) } else { NodeName::new(text).map(Some).ok_or_else(|| hint.to_owned()) }
}

fn public_url(text: &str) -> Parsed<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    let plain = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    };
    let hint = "not a usable URL; write an absolute http or https URL without user, query or fragment, such as \
                https://uploads.example.com";
    let url = Url::parse(text).ok().filter(plain).ok_or(hint)?;
    Ok(Some(url.as_str().trim_end_matches('/').to_owned()))
}

fn proxy_field(text: &str) -> Parsed<ProxyField> {
    match text {
        _ if text.eq_ignore_ascii_case("x-forwarded-for") => Ok(ProxyField::XForwardedFor),
        _ if text.eq_ignore_ascii_case("forwarded") => Ok(ProxyField::Forwarded),
        _ => Err("not a supported header field; write x-forwarded-for or forwarded".to_owned()),
    }
}
