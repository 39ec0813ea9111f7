//! Egress rules: the addresses, ports and schemes that outbound requests may use.
//!
//! Owns the rules and sends nothing. The rules are applied to the text of a URL when an endpoint is created,
//! and to every address when it is called, so a name that resolves differently in between cannot bypass them.
//! Endpoints of the configuration are trusted and may be private; endpoints created through the API may come
//! from anybody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::RwLock;

use reqwest::Url;

use crate::lock::{read, write};
use domain::endpoint::Origin;
use domain::network::Network;

/// webhooks S3: networks that are not on the public Internet.
const PRIVATE_IPV4: [Network; 15] = [
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    v4([192, 88, 99, 0], 24),
    v4([192, 168, 0, 0], 16),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    v4([224, 0, 0, 0], 4),
    v4([240, 0, 0, 0], 4),
];

/// webhooks S4: the public part of IPv6, except [`PRIVATE_IPV6`].
const GLOBAL_IPV6: Network = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// Exceptions: Teredo and its neighbors, documentation, and 6to4, which reaches into IPv4.
const PRIVATE_IPV6: [Network; 4] = [
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0x0db8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

/// Metadata services, from which clouds hand secrets to machines. No receiver is there (webhooks S6).
const METADATA: [Network; 2] = [v4([169, 254, 0, 0], 16), v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254], 128)];

/// Ports of services that might misread a request as something else, or that control a machine (webhooks S7).
const REFUSED_PORTS: [u16; 28] = [
    1433, 1521, 2049, 2181, 2375, 2376, 2377, 2379, 2380, 3128, 3306, 3389, 4194, 5432, 5672, 5900, 5984, 6000, 6379,
    6443, 8500, 9042, 9200, 9300, 10_250, 10_255, 11_211, 27_017,
];

const fn v4(first: [u8; 4], prefix: u8) -> Network {
    let [a, b, c, d] = first;
    Network::of(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix)
}

const fn v6(first: [u16; 8], prefix: u8) -> Network {
    let [a, b, c, d, e, f, g, h] = first;
    Network::of(IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix)
}

/// Reason why the server does not call a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RejectedUrl {
    #[error("it is not a URL")]
    NotAUrl,
    #[error("it must begin with http:// or https:// and contain a host")]
    Scheme,
    #[error("it contains a user or a password; send credentials in a custom header instead")]
    Credentials,
    #[error(
        "it must begin with https://; webhooks.https_only and webhooks.allow_networks control where http:// is allowed"
    )]
    NotHttps,
    #[error("its address is not public; webhooks.allow_networks allows private networks")]
    Private,
    #[error("its address is that of a cloud metadata service")]
    Metadata,
    #[error("it is an address of this server")]
    Own,
    #[error("port {0} is not allowed; use 80, 443, or a port from 1024 that no well-known service uses")]
    Port(u16),
}

/// The egress rules of the configuration.
#[derive(Debug, Default)]
pub struct EgressRules {
    allow_networks: Vec<Network>,
    https_only: bool,
    own: RwLock<Vec<SocketAddr>>,
    /// Host and port of the public URL of this server.
    public: Option<(String, u16)>,
}

impl EgressRules {
    /// Creates the rules. Endpoints created through the API may use `allow_networks`, even without TLS.
    /// `https_only` also applies only to those endpoints.
    pub fn new(allow_networks: Vec<Network>, https_only: bool) -> Self {
        Self { allow_networks, https_only, own: RwLock::default(), public: None }
    }

    /// Sets the public URL of this server, which may differ from its own addresses. Endpoints created through
    /// the API cannot use it.
    #[must_use]
    pub fn with_public_url(self, url: &str) -> Self {
        let url = Url::parse(url).ok();
        Self { public: url.and_then(|url| Some((host_name(&url)?.to_owned(), url.port_or_known_default()?))), ..self }
    }

    /// Sets the addresses that this server listens on, once they are known.
    pub fn set_own(&self, addresses: Vec<SocketAddr>) {
        *write(&self.own) = addresses;
    }

    /// Parses a URL and checks that an endpoint of this origin may have it. The addresses that its name
    /// resolves to are checked when it is called.
    pub fn check_url(&self, text: &str, origin: Origin) -> Result<Url, RejectedUrl> {
        let url = Url::parse(text).map_err(|_| RejectedUrl::NotAUrl)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(RejectedUrl::Scheme);
        }
        let port = url.port_or_known_default().expect("http and https have a port");
        if origin == Origin::Api {
            if !url.username().is_empty() || url.password().is_some() {
                return Err(RejectedUrl::Credentials);
            }
            if !(port == 80 || port == 443 || port >= 1024) || REFUSED_PORTS.contains(&port) {
                return Err(RejectedUrl::Port(port));
            }
            let is_this = |(host, own): &(String, u16)| host_name(&url) == Some(host.as_str()) && port == *own;
            if self.public.as_ref().is_some_and(is_this) {
                return Err(RejectedUrl::Own);
            }
        }
        let is_secure = url.scheme() == "https";
        let leads_to = match literal(&url) {
            Some(address) => vec![address],
            None if origin == Origin::Api && is_loopback_name(&url) => LOOPBACK.to_vec(),
            None => Vec::new(),
        };
        let judged = leads_to.iter().map(|to| self.check_address(SocketAddr::new(*to, port), is_secure, origin));
        let judged: Vec<Result<(), RejectedUrl>> = judged.collect();
        match judged.first() {
            _ if judged.contains(&Err(RejectedUrl::Own)) => return Err(RejectedUrl::Own),
            Some(Err(why)) if !judged.contains(&Ok(())) => return Err(*why),
            _ => {}
        }
        // Only allowed networks may be called without TLS. With none, every address of a name would be
        // blocked.
        if origin == Origin::Api && self.https_only && !is_secure && self.allow_networks.is_empty() {
            return Err(RejectedUrl::NotHttps);
        }
        Ok(url)
    }

    /// Reports whether this server listens on this port, in which case a name with the port may lead here.
    pub fn is_own_port(&self, port: u16) -> bool {
        read(&self.own).iter().any(|own| own.port() == port)
    }

    /// Checks whether an endpoint of this origin may be called at this address.
    pub fn check_address(&self, to: SocketAddr, is_secure: bool, origin: Origin) -> Result<(), RejectedUrl> {
        let address = to.ip().to_canonical();
        if METADATA.iter().any(|network| network.contains(address)) {
            return Err(RejectedUrl::Metadata);
        }
        if self.is_own(address, to.port()) {
            return Err(RejectedUrl::Own);
        }
        if origin == Origin::Config || self.allow_networks.iter().any(|network| network.contains(address)) {
            return Ok(());
        }
        if !is_public(address) {
            return Err(RejectedUrl::Private);
        }
        if self.https_only && !is_secure { Err(RejectedUrl::NotHttps) } else { Ok(()) }
    }

    fn is_own(&self, address: IpAddr, port: u16) -> bool {
        let own = read(&self.own);
        own.iter().filter(|own| own.port() == port).any(|own| {
            let listens_at = own.ip().to_canonical();
            // A connection to 0.0.0.0 reaches the loopback interface.
            let connects_to_self =
                address.is_unspecified() && (listens_at.is_loopback() || listens_at.is_unspecified());
            connects_to_self || listens_at == address || (listens_at.is_unspecified() && is_of_this_machine(address))
        })
    }
}

/// Addresses that loopback names resolve to.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Reports whether the host is a loopback name, whatever a resolver returns for it (RFC 6761, 6.3).
fn is_loopback_name(url: &Url) -> bool {
    host_name(url).is_some_and(|host| host == "localhost" || host.ends_with(".localhost"))
}

/// Returns the host in lower case, without the trailing dot that names may have.
fn host_name(url: &Url) -> Option<&str> {
    url.host_str().map(|host| host.strip_suffix('.').unwrap_or(host))
}

/// Returns the literal address of a URL, if its host is one. The parser has normalized unusual notations.
pub fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => !PRIVATE_IPV4.iter().any(|network| network.contains(address)),
        IpAddr::V6(_) => GLOBAL_IPV6.contains(address) && !PRIVATE_IPV6.iter().any(|network| network.contains(address)),
    }
}

/// Reports whether an address belongs to this machine, by the source address that the kernel selects for it:
/// for its own addresses the kernel selects the same address. Sends nothing.
fn is_of_this_machine(address: IpAddr) -> bool {
    if address.is_loopback() {
        return true;
    }
    let any: SocketAddr = match address {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let speaks_from = || -> std::io::Result<SocketAddr> {
        let socket = UdpSocket::bind(any)?;
        socket.connect((address, 9))?;
        socket.local_addr()
    };
    speaks_from().is_ok_and(|from| from.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    use Origin::{Api, Config};
    use RejectedUrl::*;

    fn rules(allow: &[&str], own: &[&str]) -> EgressRules {
        let rules = EgressRules::new(allow.iter().map(|network| network.parse().unwrap()).collect(), true);
        rules.set_own(own.iter().map(|address| address.parse().unwrap()).collect());
        rules
    }

    fn refused(rules: &EgressRules, url: &str, origin: Origin) -> Option<RejectedUrl> {
        rules.check_url(url, origin).err()
    }

    /// webhooks S3, S4: both ends of each block, and the addresses next to it.
    #[test]
    fn only_public_addresses_are_public() {
        for private in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:1ff::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            let address: IpAddr = private.parse().unwrap();
            assert!(!is_public(address.to_canonical()), "{private}");
        }
        for public in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.0.0.1",
            "128.0.0.1",
            "169.253.0.1",
            "169.255.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.88.98.1",
            "192.167.0.1",
            "192.169.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "203.0.112.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2000::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2a00::1",
            "3ffe::1",
            "3fff:1000::1",
        ] {
            let address: IpAddr = public.parse().unwrap();
            assert!(is_public(address.to_canonical()), "{public}");
        }
    }

    /// webhooks S2: every notation of an address.
    #[test]
    fn no_spelling_of_an_address_gets_through() {
        let rules = rules(&[], &[]);
        for (url, why) in [
            ("https://127.0.0.1/", Private),
            ("https://2130706433/", Private),
            ("https://0x7f000001/", Private),
            ("https://0x7f.1/", Private),
            ("https://0177.0.0.1/", Private),
            ("https://017700000001/", Private),
            ("https://127.1/", Private),
            ("https://127.0.0.1./", Private),
            ("https://%31%32%37.0.0.1/", Private),
            ("https://１２７.０.０.１/", Private),
            ("https://[::1]/", Private),
            ("https://[::ffff:127.0.0.1]/", Private),
            ("https://[::ffff:7f00:1]/", Private),
            ("https://[::127.0.0.1]/", Private),
            ("https://[64:ff9b::7f00:1]/", Private),
            ("https://[2002:7f00:1::]/", Private),
            ("https://[fe80::1%25eth0]/", NotAUrl),
            ("https://[fe80::1%eth0]/", NotAUrl),
            ("https://user:pass@8.8.8.8/", Credentials),
            ("https://user@8.8.8.8/", Credentials),
            ("https://8.8.8.8@127.0.0.1/", Credentials),
            ("https://169.254.169.254/latest", Metadata),
            ("https://[::ffff:a9fe:a9fe]/", Metadata),
            ("https://[fd00:ec2::254]/", Metadata),
            ("https://localhost/", Private),
            ("https://LOCALHOST./", Private),
            ("https://app.localhost/", Private),
            ("https://1.2.3.256/", NotAUrl),
            ("http://8.8.8.8/", NotHttps),
            ("http://example.com/", NotHttps),
            ("ftp://example.com/", Scheme),
            ("file:///etc/passwd", Scheme),
            ("example.com/hook", NotAUrl),
            ("http://", NotAUrl),
            ("", NotAUrl),
        ] {
            assert_eq!(refused(&rules, url, Api), Some(why), "{url}");
        }
        for url in
            ["https://8.8.8.8/", "https://example.com./", "https://[2a00::1]:8443/", "https://localhost.example/"]
        {
            assert_eq!(refused(&rules, url, Api), None, "{url}: the addresses of a name are checked later");
        }
    }

    /// webhooks S7.
    #[test]
    fn ports_of_other_services_are_refused_to_the_api() {
        let rules = rules(&[], &[]);
        for port in [22, 25, 81, 444, 1023, 2375, 5432, 6379, 11_211, 27_017] {
            let url = format!("https://example.com:{port}/");
            assert_eq!(refused(&rules, &url, Api), Some(Port(port)), "{port}");
            assert_eq!(refused(&rules, &url, Config), None, "{port}");
        }
        for port in [80, 443, 1024, 3000, 8080, 8443, 65_535] {
            assert_eq!(refused(&rules, &format!("https://example.com:{port}/"), Api), None, "{port}");
        }
    }

    /// webhooks S6, S9.
    #[test]
    fn networks_open_by_configuration_alone() {
        let rules = rules(&["10.0.0.0/8", "169.254.0.0/16"], &[]);
        assert_eq!(refused(&rules, "https://10.1.2.3/", Api), None);
        assert_eq!(refused(&rules, "http://10.1.2.3:8080/", Api), None, "without TLS, too");
        assert_eq!(refused(&rules, "http://app.internal/", Api), None, "its addresses are judged later");
        assert_eq!(refused(&rules, "https://192.168.0.1/", Api), Some(Private));
        assert_eq!(refused(&rules, "https://169.254.169.254/", Api), Some(Metadata), "never");
        assert_eq!(refused(&rules, "http://192.168.0.1:9/", Config), None, "the operator's own word");
        assert_eq!(refused(&rules, "http://user:pass@127.0.0.1/", Config), None);
        assert_eq!(refused(&rules, "http://169.254.169.254/", Config), Some(Metadata));
        assert_eq!(refused(&rules, "http://[fd00:ec2::254]/", Config), Some(Metadata));

        let public: SocketAddr = "8.8.8.8:80".parse().unwrap();
        assert_eq!(
            rules.check_address(public, false, Api),
            Err(NotHttps),
            "a name for http must stay in open networks"
        );
        assert_eq!(rules.check_address(public, true, Api), Ok(()));
        assert_eq!(EgressRules::new(vec![], false).check_address(public, false, Api), Ok(()));
    }

    /// webhooks S7: even if its network is allowed, and also for endpoints of the configuration.
    #[test]
    fn the_server_does_not_call_itself() {
        let narrow = rules(&["127.0.0.0/8"], &["127.0.0.1:8080"]);
        for origin in [Api, Config] {
            assert_eq!(refused(&narrow, "http://127.0.0.1:8080/x", origin), Some(Own));
            assert_eq!(refused(&narrow, "http://[::ffff:127.0.0.1]:8080/x", origin), Some(Own));
            assert_eq!(refused(&narrow, "http://127.0.0.1:8081/x", origin), None);
        }
        assert_eq!(refused(&narrow, "http://0.0.0.0:8080/x", Config), Some(Own));
        let wide = rules(&["127.0.0.0/8"], &["0.0.0.0:8080"]);
        for url in ["http://127.0.0.1:8080/", "http://127.9.9.9:8080/", "http://0.0.0.0:8080/"] {
            assert_eq!(refused(&wide, url, Config), Some(Own), "{url}");
        }
        assert_eq!(refused(&wide, "http://127.0.0.1:9090/", Config), None);
        assert_eq!(refused(&wide, "http://203.0.113.9:8080/", Config), None, "not an address of this machine");
    }

    /// webhooks S7: also by name.
    #[test]
    fn the_names_of_the_server_are_refused_to_the_api() {
        let open = rules(&["127.0.0.0/8"], &["127.0.0.1:8080"]).with_public_url("https://Uploads.example.com/up");
        for url in [
            "http://localhost:8080/",
            "http://app.localhost:8080/",
            "https://uploads.example.com/files",
            "https://uploads.example.com.:443/",
        ] {
            assert_eq!(refused(&open, url, Api), Some(Own), "{url}");
        }
        for url in ["http://localhost:9000/", "https://uploads.example.com:8443/", "https://app.example.com/"] {
            assert_eq!(refused(&open, url, Api), None, "{url}");
        }
        assert_eq!(refused(&open, "https://uploads.example.com/hooks", Config), None, "the operator's own word");
        assert!(open.is_own_port(8080) && !open.is_own_port(443));
    }
}
