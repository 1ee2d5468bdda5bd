//! Which hosts a coordinator may fetch files from.
//!
//! Decides by the URL's text, never by what a name resolves to; a redirect is asked about anew. A pattern
//! without a port means 80 and 443, so that listing a host does not open its other services. User names
//! and passwords in a URL are refused: what they open is not everybody's.
//! Tested here, as a table.

use crate::http::Url;
use crate::machine::Host;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::net::IpAddr;
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
