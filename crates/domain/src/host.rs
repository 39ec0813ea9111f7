//! Host names and addresses that clients use for a server. Parsing is strict: text that is not certainly a
//! host is not accepted.

use std::borrow::Cow;
use std::net::IpAddr;

/// The longest name that DNS can hold, in its text form.
const MAX_NAME_BYTES: usize = 253;

/// A name or an address, without a port. Names are compared without regard to case.
#[derive(Debug, Clone, Eq)]
pub enum Host<'a> {
    /// A name without its trailing dot.
    Name(Cow<'a, str>),
    /// An IP address. A mapped IPv6 address is converted to IPv4.
    Ip(IpAddr),
}

impl<'a> Host<'a> {
    /// Parses a host without a port: `uploads.example.com`, `192.0.2.1`, `2001:db8::1` or `[2001:db8::1]`.
    pub fn parse(text: &'a str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            let ip = inner.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok()?;
            return Some(Self::ip(ip.into()));
        }
        match text.parse() {
            Ok(ip) => Some(Self::ip(ip)),
            Err(_) => name(text).map(|name| Self::Name(Cow::Borrowed(name))),
        }
    }

    /// Parses a host with an optional port, as carried by `Host` and `:authority`.
    ///
    /// RFC 9110, 7.2: other components, including user information, are not permitted there.
    pub fn of_authority(text: &'a str) -> Option<Self> {
        let host_end = if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
        let (host, rest) = text.split_at(host_end);
        let port_is_one = match rest.strip_prefix(':') {
            Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok(),
            None => rest.is_empty(),
        };
        if port_is_one { Self::parse(host) } else { None }
    }

    pub fn ip(ip: IpAddr) -> Self {
        Self::Ip(ip.to_canonical())
    }

    pub fn into_owned(self) -> Host<'static> {
        match self {
            Self::Name(name) => Host::Name(Cow::Owned(name.into_owned())),
            Self::Ip(ip) => Host::Ip(ip),
        }
    }

    /// Reports whether the host is a loopback host: `localhost` and names below it (RFC 6761, 6.3),
    /// 127.0.0.0/8 and `::1`.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => {
                let last = name.rsplit('.').next().unwrap_or_default();
                last.eq_ignore_ascii_case("localhost")
            }
            Self::Ip(ip) => ip.is_loopback(),
        }
    }
}

impl PartialEq for Host<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(one), Self::Name(other)) => one.eq_ignore_ascii_case(other),
            (Self::Ip(one), Self::Ip(other)) => one == other,
            (Self::Name(_), Self::Ip(_)) | (Self::Ip(_), Self::Name(_)) => false,
        }
    }
}

/// Returns a valid name without its trailing dot. Alternative spellings of an IPv4 address that browsers
/// accept, such as `127.1` or `0x7f000001`, are not names.
fn name(text: &str) -> Option<&str> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
    (name.len() <= MAX_NAME_BYTES && name.split('.').all(is_label) && !is_number).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_and_a_port_are_an_authority() {
        for (text, expected) in [
            ("localhost", Some("localhost")),
            ("LocalHost:8080", Some("localhost")),
            ("uploads.example.com.", Some("uploads.example.com")),
            ("a_b.example:1", Some("a_b.example")),
            ("127.0.0.1:8080", Some("127.0.0.1")),
            ("[::1]:8080", Some("::1")),
            ("[::ffff:10.0.0.1]", Some("10.0.0.1")),
            ("localhost:80@evil.example", None),
            ("localhost@evil.example", None),
            ("user@localhost", None),
            ("localhost:8080:9090", None),
            ("localhost:", None),
            ("localhost:+80", None),
            ("localhost:65536", None),
            ("localhost/", None),
            ("localhost#a", None),
            ("local host", None),
            ("localhost..", None),
            (".localhost", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[localhost]", None),
            ("[127.0.0.1]", None),
            ("::1", None),
            ("[fe80::1%eth0]", None),
            ("127.1", None),
            ("2130706433", None),
            ("0x7f.0.0.1", None),
            ("0177.0.0.1", None),
            ("evil.example\u{202e}", None),
            ("a%2eb", None),
            ("", None),
            (":80", None),
        ] {
            assert_eq!(Host::of_authority(text), expected.map(|host| Host::parse(host).unwrap()), "{text:?}");
        }
        let long = format!("{}.example", "a".repeat(260));
        assert_eq!(Host::of_authority(&long), None);
    }

    #[test]
    fn loopback_hosts_are_those_that_no_name_server_can_move() {
        for (text, expected) in [
            ("localhost", true),
            ("LOCALHOST", true),
            ("app.localhost", true),
            ("localhost.", true),
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("notlocalhost", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.localdomain", false),
            ("0.0.0.0", false),
            ("10.0.0.1", false),
            ("[::2]", false),
            ("[::]", false),
        ] {
            assert_eq!(Host::parse(text).unwrap().is_loopback(), expected, "{text}");
        }
    }
}
