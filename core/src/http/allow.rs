//! Which hosts a role may fetch files from.
//!
//! A pattern decides by the URL's text, never by what a name resolves to; a redirect is asked about anew. A pattern
//! without a port means 80 and 443, so that listing a host does not open its other services. User names
//! and passwords in a URL are refused: what they open is not everybody's. A [`Gate`] also looks at the address that
//! answered: what only a wildcard covers must not be on this host or in its own network.
//! Tested here, as a table.

use crate::http::url::Url;
use crate::machine::Host;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// `host`, `host:port`, `host:*`, and the same with `*.domain` (everything below it) or an address
/// (IPv6 in brackets).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    host: HostPart,
    ports: Ports,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPart {
    Addr(IpAddr),
    Name(String),
    /// With its leading dot.
    Below(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ports {
    Usual,
    One(u16),
    Any,
}

/// Why a text is no host pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPatternError(String);

impl HostPattern {
    /// May this be fetched?
    pub fn covers(&self, url: &Url) -> bool {
        let host = match (&self.host, url.host()) {
            (HostPart::Addr(own), Host::Addr(addr)) => own == addr,
            (HostPart::Name(own), Host::Name(name)) => own == name,
            (HostPart::Below(domain), Host::Name(name)) => name.ends_with(domain),
            _ => false,
        };
        let port = match self.ports {
            Ports::Usual => matches!(url.port(), 80 | 443),
            Ports::One(port) => url.port() == port,
            Ports::Any => true,
        };
        host && port && url.basic_auth().is_none()
    }
}

/// The list of what may be asked.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    allow: Arc<[HostPattern]>,
}

impl Gate {
    pub fn new(allow: Vec<HostPattern>) -> Self {
        Self {
            allow: allow.into(),
        }
    }

    pub fn permits(&self, url: &Url) -> bool {
        self.allow.iter().any(|pattern| pattern.covers(url))
    }

    /// May the host at this address, which the URL's name led to, be asked?
    pub fn permits_at(&self, url: &Url, addr: IpAddr) -> bool {
        let named = |pattern: &&HostPattern| !matches!(pattern.host, HostPart::Below(_));
        let mut covering = self.allow.iter().filter(|pattern| pattern.covers(url));
        covering.clone().any(|pattern| named(&pattern))
            || (covering.next().is_some() && is_public(addr))
    }
}

/// Neither this host nor its own networks (RFC 6890), also behind the ways to write IPv4 in IPv6.
fn is_public(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => is_public_v4(addr),
        IpAddr::V6(addr) => is_public_v6(addr),
    }
}

fn is_public_v4(addr: Ipv4Addr) -> bool {
    let [a, b, c, _] = addr.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let special = (a, b, c) == (192, 0, 0) || (a == 198 && (18..20).contains(&b));
    let within = addr.is_private() || addr.is_loopback() || addr.is_link_local();
    !(within || shared || special || a == 0 || a >= 224)
}

fn is_public_v6(addr: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = addr.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0 | 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => is_public_v4(v4(g, h)),
        (0x2002, ..) => is_public_v4(v4(b, c)),
        // 2000::/3 is all that was given out.
        _ => a & 0xe000 == 0x2000,
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let bad = || HostPatternError(text.to_owned());
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let ports = match port {
            None => Ports::Usual,
            Some("*") => Ports::Any,
            Some(port) => Ports::One(port.parse().map_err(|_| bad())?),
        };
        if host.contains(['/', '@', '?', '#']) {
            return Err(bad());
        }
        let (below, name) = match host.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, host),
        };
        // The same reading as of the URLs it is compared with.
        let url = Url::parse(&format!("http://{name}/")).map_err(|_| bad())?;
        let host = match (below, url.host()) {
            (false, Host::Addr(addr)) => HostPart::Addr(*addr),
            (false, Host::Name(name)) => HostPart::Name(name.clone()),
            (true, Host::Name(domain)) => HostPart::Below(format!(".{domain}")),
            (true, Host::Addr(_)) => return Err(bad()),
        };
        Ok(Self { host, ports })
    }
}

impl fmt::Display for HostPatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a host; write it as files.example.org, *.example.org, 10.0.0.5:8080 or host:*",
            self.0.to_string()
        )
    }
}

impl core::error::Error for HostPatternError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let table = [
            ("files.example.org", "http://files.example.org/a", true),
            ("Files.Example.org", "https://FILES.example.org/a", true),
            (
                "files.example.org",
                "http://files.example.org:8080/a",
                false,
            ),
            (
                "files.example.org:8080",
                "http://files.example.org:8080/a",
                true,
            ),
            (
                "files.example.org:8080",
                "http://files.example.org/a",
                false,
            ),
            ("files.example.org:*", "http://files.example.org:22/a", true),
            ("example.org", "http://files.example.org/a", false),
            ("example.org", "http://example.org.evil.net/a", false),
            ("example.org", "http://evil.net/example.org", false),
            ("example.org", "http://example.org@evil.net/", false),
            ("example.org", "http://user:pw@example.org/", false),
            ("*.example.org", "http://files.example.org/a", true),
            ("*.example.org", "http://example.org/a", false),
            ("*.example.org", "http://evilexample.org/a", false),
            ("127.0.0.1:8080", "http://127.0.0.1:8080/a", true),
            ("127.0.0.1:8080", "http://127.0.0.2:8080/a", false),
            ("[::1]:8080", "http://[::1]:8080/a", true),
            ("[::1]", "http://[::1]/a", true),
        ];
        for (pattern, url, covered) in table {
            let pattern: HostPattern = pattern.parse().unwrap();
            let url = Url::parse(url).unwrap();
            assert_eq!(pattern.covers(&url), covered, "{pattern:?} {url}");
        }
    }

    #[test]
    fn wildcards_end_where_the_own_network_begins() {
        let gate = Gate::new(
            ["*.example.org:*", "in.example.org", "127.0.0.1:8080"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
        );
        for (url, addr, permitted) in [
            ("http://a.example.org/", "93.184.216.34", true),
            ("http://a.example.org/", "2606:2800::1", true),
            ("http://a.example.org/", "127.0.0.1", false),
            ("http://a.example.org/", "10.0.0.5", false),
            ("http://a.example.org/", "172.16.0.1", false),
            ("http://a.example.org/", "192.168.1.1", false),
            ("http://a.example.org/", "169.254.169.254", false),
            ("http://a.example.org/", "100.64.0.1", false),
            ("http://a.example.org/", "0.0.0.0", false),
            ("http://a.example.org/", "224.0.0.1", false),
            ("http://a.example.org/", "::", false),
            ("http://a.example.org/", "::1", false),
            ("http://a.example.org/", "::ffff:127.0.0.1", false),
            ("http://a.example.org/", "::ffff:93.184.216.34", true),
            ("http://a.example.org/", "64:ff9b::a00:1", false),
            ("http://a.example.org/", "2002:a00:1::", false),
            ("http://a.example.org/", "fe80::1", false),
            ("http://a.example.org/", "fd00::1", false),
            ("http://in.example.org/", "10.0.0.5", true),
            ("http://127.0.0.1:8080/", "127.0.0.1", true),
            ("http://127.0.0.1/", "127.0.0.1", false),
            ("http://evil.net/", "93.184.216.34", false),
        ] {
            let url = Url::parse(url).unwrap();
            let at = gate.permits_at(&url, addr.parse().unwrap());
            assert_eq!(at, permitted, "{url} at {addr}");
        }
    }

    #[test]
    fn not_patterns() {
        for bad in [
            "",
            "*",
            "*.",
            "http://h/",
            "h/path",
            "u@h",
            "h:x",
            "h:70000",
            "*.10.0.0.1",
            "a b",
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad:?}");
        }
    }
}
