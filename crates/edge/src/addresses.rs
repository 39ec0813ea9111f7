//! The addresses of uploads, as reported to clients.
//!
//! With `public_url`, every address begins with it. Without, a relative path is correct behind every proxy,
//! and nearly all clients resolve it against the URL they requested; some do not. So the address is absolute
//! if the request shows that no proxy is involved: its `Host` names the port of the socket, and it has none
//! of the fields that proxies add. A `Host` is echoed only in the response to a request that was accepted
//! under that host.

use std::net::{IpAddr, SocketAddr};

use actix_web::http::{Version, header};
use actix_web::{HttpMessage, HttpRequest};

use crate::access::came_through_a_proxy;
use crate::clients::Proxies;
use crate::fields::BadField;
use domain::host::Host;

/// The local address of a connection. It is stored with the connection, or in the extensions of a request
/// over HTTP/2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalAddress(pub SocketAddr);

impl LocalAddress {
    fn by(request: &HttpRequest) -> Option<SocketAddr> {
        let in_request = request.extensions().get::<Self>().copied();
        in_request.or_else(|| request.conn_data::<Self>().copied()).map(|Self(address)| address)
    }
}

/// The settings from which the addresses reported to clients are built.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// The prefix of every path; empty if it is not set.
    pub public_url: String,
    /// The scheme for clients that connect directly: `http` or `https`.
    pub scheme: &'static str,
    pub proxies: Proxies,
}

impl Addresses {
    /// Returns the address of a path for links: below `public_url`, or the path.
    pub fn link(&self, path: &str) -> String {
        format!("{}{path}", self.public_url)
    }

    /// Returns the address of a path for `Location`.
    pub fn location(&self, request: &HttpRequest, path: &str) -> String {
        let origin = if self.public_url.is_empty() { self.direct_origin(request) } else { None };
        format!("{}{}{path}", origin.unwrap_or_default(), self.public_url)
    }

    /// Returns the prefix that makes [`Self::link`] absolute, for clients that accept nothing else; an error
    /// if `Host` is not a valid authority.
    pub fn absolute_origin(&self, request: &HttpRequest) -> Result<String, BadField> {
        if !self.public_url.is_empty() {
            return Ok(String::new());
        }
        let host = host_of(request).filter(|host| !host.is_empty());
        let host = host.ok_or(BadField::new("host", "is missing; the URL of a session is built from it"))?;
        Host::of_authority(host).ok_or(BadField::new("host", "is not a valid host"))?;
        let port = LocalAddress::by(request)
            .filter(|_| self.is_direct(request))
            .and_then(|local_address| left_out(host, local_address));
        let port = port.filter(|port| *port != default_port(self.scheme)).map(|port| format!(":{port}"));
        let peer = request.peer_addr().map(|peer| peer.ip());
        let scheme = self.proxies.scheme(peer, request.headers()).unwrap_or(self.scheme);
        Ok(format!("{scheme}://{host}{}", port.unwrap_or_default()))
    }

    /// Returns the origin that the client requested, if no proxy is involved.
    fn direct_origin(&self, request: &HttpRequest) -> Option<String> {
        let (host, local_address) = (host_of(request)?, LocalAddress::by(request)?);
        let names_it = Host::of_authority(host).is_some() && port_of(host) == Some(local_address.port());
        (names_it && self.is_direct(request)).then(|| format!("{}://{host}", self.scheme))
    }

    /// Returns whether nothing indicates a proxy. HTTP/1.0 is an indication: by default, nginx uses it to its
    /// upstreams.
    fn is_direct(&self, request: &HttpRequest) -> bool {
        let is_trusted_proxy = request.peer_addr().is_some_and(|peer| self.proxies.trusts(peer.ip()));
        !is_trusted_proxy && !came_through_a_proxy(request.headers()) && request.version() != Version::HTTP_10
    }
}

fn host_of(request: &HttpRequest) -> Option<&str> {
    request.headers().get(header::HOST).and_then(|host| host.to_str().ok())
}

fn port_of(authority: &str) -> Option<u16> {
    let host_end = authority.rfind(']').unwrap_or(0);
    authority[host_end..].rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

/// Returns the port that a client has left out of `Host`: if the host is the local address of the connection,
/// the client must have used the port of the connection.
fn left_out(authority: &str, local_address: SocketAddr) -> Option<u16> {
    let host = Host::of_authority(authority).filter(|_| port_of(authority).is_none())?;
    let ip = local_address.ip().to_canonical();
    (is_at(&host, ip)).then_some(local_address.port())
}

fn is_at(host: &Host<'_>, ip: IpAddr) -> bool {
    *host == Host::ip(ip) || (host.is_loopback() && ip.is_loopback())
}

fn default_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_read_from_behind_the_host() {
        for (authority, port) in [
            ("localhost:8080", Some(8080)),
            ("localhost", None),
            ("[::1]:8080", Some(8080)),
            ("[::1]", None),
            ("10.0.0.1:80", Some(80)),
        ] {
            assert_eq!(port_of(authority), port, "{authority}");
        }
    }

    #[test]
    fn a_port_is_left_out_only_of_the_address_that_was_reached() {
        for (authority, local_address, port) in [
            ("localhost", "127.0.0.1:8080", Some(8080)),
            ("LOCALHOST", "[::1]:8080", Some(8080)),
            ("127.0.0.1", "127.0.0.1:8080", Some(8080)),
            ("[::1]", "[::1]:8080", Some(8080)),
            ("10.0.0.1", "[::ffff:10.0.0.1]:8080", Some(8080)),
            ("localhost:80", "127.0.0.1:8080", None),
            ("localhost", "172.17.0.2:8080", None),
            ("uploads.example.com", "127.0.0.1:8080", None),
            ("10.0.0.2", "10.0.0.1:8080", None),
        ] {
            assert_eq!(left_out(authority, local_address.parse().unwrap()), port, "{authority} at {local_address}");
        }
    }
}
