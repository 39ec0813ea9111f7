//! The address of a request's client, determined through the proxies that the operator trusts.
//!
//! This is the only module that interprets what proxies report. Everything else calls [`client_of`].

use std::net::{IpAddr, SocketAddr};

use actix_web::HttpMessage;
use actix_web::http::header;
use actix_web::http::header::{HeaderMap, HeaderName};

use domain::network::Network;

/// The header field in which trusted proxies name the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyField {
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// The proxies that are trusted, and the field that they set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxies {
    pub trusted: Vec<Network>,
    pub field: ProxyField,
}

/// The address of a request's client, in the extensions of the request.
#[derive(Debug, Clone, Copy)]
pub struct Client(pub Option<IpAddr>);

/// Returns the address of a request's client.
pub fn client_of(request: &impl HttpMessage) -> Option<IpAddr> {
    request.extensions().get::<Client>().and_then(|client| client.0)
}

impl Proxies {
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Returns the address of the client behind a peer: the last one in the chain that is not a trusted
    /// proxy. The field is ignored if the peer is not trusted, and is used up to the first element that is
    /// not an address.
    pub fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let mut client = peer?;
        let mut chain = self.chain(headers).into_iter();
        while self.trusts(client) {
            match chain.next() {
                Some(Some(before)) => client = before,
                Some(None) | None => break,
            }
        }
        Some(client.to_canonical())
    }

    /// Returns the scheme of the client's request as reported by a trusted proxy.
    pub fn scheme(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<&'static str> {
        if !peer.is_some_and(|peer| self.trusts(peer)) {
            return None;
        }
        let name = match self.field {
            ProxyField::XForwardedFor => HeaderName::from_static("x-forwarded-proto"),
            ProxyField::Forwarded => header::FORWARDED,
        };
        // The last element is the one that the nearest proxy added.
        let nearest = elements(headers.get_all(name).last()?.to_str().ok()?).last()?;
        let scheme = match self.field {
            ProxyField::XForwardedFor => nearest.trim(),
            ProxyField::Forwarded => nearest.split(';').find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                name.trim().eq_ignore_ascii_case("proto").then(|| value.trim().trim_matches('"'))
            })?,
        };
        ["http", "https"].into_iter().find(|known| known.eq_ignore_ascii_case(scheme))
    }

    /// Returns the addresses in the field, the nearest first. An element that is not an address is `None`.
    fn chain(&self, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
        let name = match self.field {
            ProxyField::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            ProxyField::Forwarded => header::FORWARDED,
        };
        if self.trusted.is_empty() {
            return Vec::new();
        }
        let lines = headers.get_all(name).map(|line| line.to_str().unwrap_or_default());
        let mut chain: Vec<_> = lines.flat_map(elements).map(|element| self.address_in(element)).collect();
        chain.reverse();
        chain
    }

    fn address_in(&self, element: &str) -> Option<IpAddr> {
        match self.field {
            ProxyField::XForwardedFor => address(element.trim()),
            ProxyField::Forwarded => element.split(';').find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                name.trim().eq_ignore_ascii_case("for").then(|| address(value.trim().trim_matches('"')))?
            }),
        }
    }
}

/// Splits a list into its elements. A comma in quotes belongs to its element.
fn elements(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

/// Parses an address with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn client(field: ProxyField, peer: &str, lines: &[&'static str]) -> String {
        let proxies = Proxies { trusted: vec!["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], field };
        let mut headers = HeaderMap::new();
        let (right, wrong) = ("x-forwarded-for", "forwarded");
        let (right, wrong) = if field == ProxyField::Forwarded { (wrong, right) } else { (right, wrong) };
        for line in lines {
            headers.append(HeaderName::from_static(right), HeaderValue::from_static(line));
        }
        headers.append(HeaderName::from_static(wrong), HeaderValue::from_static("for=192.0.2.99"));
        proxies.client(Some(peer.parse().unwrap()), &headers).unwrap().to_string()
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_trusted_proxy() {
        for (peer, lines, expected) in [
            ("203.0.113.7", &["192.0.2.1"][..], "203.0.113.7"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &["192.0.2.1"], "192.0.2.1"),
            ("127.0.0.1", &["198.51.100.9, 192.0.2.1"], "192.0.2.1"),
            ("127.0.0.1", &["198.51.100.9", "192.0.2.1,127.0.0.3"], "192.0.2.1"),
            ("127.0.0.1", &["127.0.0.2, 127.0.0.3"], "127.0.0.2"),
            ("fd00::1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("::ffff:127.0.0.1", &["::ffff:192.0.2.1"], "192.0.2.1"),
            ("127.0.0.1", &["192.0.2.1, unknown"], "127.0.0.1"),
            ("127.0.0.1", &["192.0.2.1, unknown, 127.0.0.2"], "127.0.0.2"),
            ("127.0.0.1", &["192.0.2.1:80"], "192.0.2.1"),
            ("127.0.0.1", &["192.0.2.1,"], "127.0.0.1"),
        ] {
            assert_eq!(client(ProxyField::XForwardedFor, peer, lines), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        for (line, expected) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
            ("for=192.0.2.43, for=127.0.0.9;host=\"a,b\"", "192.0.2.43"),
            ("proto=https;for=192.0.2.43", "192.0.2.43"),
            ("for=192.0.2.43, for=_hidden", "127.0.0.1"),
            ("proto=https", "127.0.0.1"),
        ] {
            assert_eq!(client(ProxyField::Forwarded, "127.0.0.1", &[line]), expected, "{line}");
        }
    }
}
