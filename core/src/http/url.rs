//! An absolute `http` or `https` address, taken apart once and valid from then on.
//!
//! Decides what is a usable address (RFC 3986, RFC 9110 §4.2) and how a `Location` is resolved against
//! it. Never shows user names or passwords: `Display` and `Debug` leave them out. Fragments are dropped;
//! spaces and bytes outside ASCII are percent-encoded as browsers do. Names outside ASCII must come in
//! their `xn--` form: IDNA tables would be the largest part of the core for an address nobody types.
//!
//! Tests: at the end of this file.

use crate::machine::{Endpoint, Host};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// An absolute `http:` or `https:` URL without fragment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    https: bool,
    host: Host,
    port: u16,
    /// Path and query; begins with `/`, printable ASCII only.
    target: String,
    /// `user:password`, percent-decoded.
    userinfo: Option<String>,
}

/// Why a text is not a usable URL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UrlError {
    /// No `http://` or `https://` in front.
    Scheme(String),
    NoHost,
    Host(String),
    Port(String),
    /// A control character, or bytes that no URL may hold.
    Character(char),
    TooLong,
}

impl Url {
    /// # Errors
    /// If it is not an absolute `http` or `https` URL with a host.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        if text.len() > URL_LEN_MAX {
            return Err(UrlError::TooLong);
        }
        if let Some(c) = text.chars().find(|c| c.is_control()) {
            return Err(UrlError::Character(c));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| UrlError::Scheme(shorten(text)))?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(UrlError::Scheme(shorten(text))),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let cut = rest.find(['/', '?', '\\']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(cut);
        let (userinfo, host_port) = match authority.rsplit_once('@') {
            Some((userinfo, host_port)) => (Some(decode_lossy(userinfo)), host_port),
            None => (None, authority),
        };
        let (host, port) = split_host_port(host_port)?;
        let default_port = if https { 443 } else { 80 };
        Ok(Self {
            https,
            host: parse_host(host)?,
            port: match port {
                None | Some("") => default_port,
                Some(port) => parse_port(port)?,
            },
            target: encode_target(target),
            userinfo: userinfo.filter(|u| !u.is_empty() && u != ":"),
        })
    }

    /// Resolve a `Location` against this URL (RFC 3986 §5.2). User name and password are kept only
    /// within the same origin.
    ///
    /// # Errors
    /// If the result is not a usable URL.
    pub fn join(&self, reference: &str) -> Result<Self, UrlError> {
        let reference = reference.trim();
        let reference = reference.split('#').next().unwrap_or_default();
        if has_scheme(reference) {
            let mut url = Self::parse(reference)?;
            if url.userinfo.is_none() && url.same_origin(self) {
                url.userinfo.clone_from(&self.userinfo);
            }
            return Ok(url);
        }
        if reference.starts_with("//") {
            return self.join(&format!("{}:{reference}", self.scheme()));
        }
        if reference.len() > URL_LEN_MAX {
            return Err(UrlError::TooLong);
        }
        if let Some(c) = reference.chars().find(|c| c.is_control()) {
            return Err(UrlError::Character(c));
        }
        let target = if reference.is_empty() {
            self.target.clone()
        } else if reference.starts_with('/') {
            reference.to_owned()
        } else if reference.starts_with('?') {
            format!("{}{reference}", self.path())
        } else {
            let folder = self.path().rfind('/').map_or(0, |at| at + 1);
            let (folder, _) = self.path().split_at(folder);
            format!("{folder}{reference}")
        };
        Ok(Self {
            target: encode_target(&target),
            ..self.clone()
        })
    }

    pub const fn is_https(&self) -> bool {
        self.https
    }

    pub const fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    pub const fn host(&self) -> &Host {
        &self.host
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Path and query as sent in a request line.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The path, still percent-encoded.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The query without its `?`.
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// Host, and port unless it is the scheme's own: the value of `Host`.
    pub fn authority(&self) -> String {
        let default_port = if self.https { 443 } else { 80 };
        if self.port == default_port {
            host_text(&self.host)
        } else {
            self.authority_with_port()
        }
    }

    /// Host and port, always both: the target of `CONNECT`.
    pub fn authority_with_port(&self) -> String {
        format!("{}:{}", host_text(&self.host), self.port)
    }

    /// `scheme://host[:port]`.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme(), self.authority())
    }

    pub fn same_origin(&self, other: &Self) -> bool {
        self.https == other.https && self.host == other.host && self.port == other.port
    }

    /// Where to connect when no proxy stands between.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            host: self.host.clone(),
            port: self.port,
            tls: self.https.then(|| self.tls_name()),
        }
    }

    /// The name its certificate must be for.
    pub fn tls_name(&self) -> String {
        match &self.host {
            Host::Addr(addr) => addr.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// `Basic …` from the user name and password in the URL (RFC 7617).
    pub fn basic_auth(&self) -> Option<String> {
        self.userinfo.as_ref().map(|userinfo| {
            let colon = if userinfo.contains(':') { "" } else { ":" };
            format!("Basic {}", BASE64.encode(format!("{userinfo}{colon}")))
        })
    }

    /// The last segment of the path, decoded, if it can be the name of a file.
    pub fn file_name(&self) -> Option<String> {
        let last = self.path().rsplit('/').next().unwrap_or_default();
        let name = String::from_utf8(percent_decode(last)).ok()?;
        let usable = !matches!(name.as_str(), "" | "." | "..")
            && !name.contains(['/', '\\'])
            && !name.chars().any(char::is_control);
        usable.then_some(name)
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        Self::parse(text)
    }
}

/// Without user name and password.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.target)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme(text) => write!(f, "`{text}` does not begin with http:// or https://"),
            Self::NoHost => f.write_str("no host name"),
            Self::Host(host) if !host.is_ascii() => {
                write!(f, "host `{host}` must be written in its xn-- form")
            }
            Self::Host(host) => write!(f, "`{host}` is not a host name or address"),
            Self::Port(port) => write!(f, "`{port}` is not a port number"),
            Self::Character(c) => write!(f, "character {:#04x} in a URL", u32::from(*c)),
            Self::TooLong => write!(f, "longer than {URL_LEN_MAX} characters"),
        }
    }
}

impl core::error::Error for UrlError {}

/// Split `host[:port]`, where the host may be an IPv6 literal in brackets.
pub(crate) fn split_host_port(text: &str) -> Result<(&str, Option<&str>), UrlError> {
    if text.starts_with('[') {
        let (host, rest) = text
            .split_once(']')
            .ok_or_else(|| UrlError::Host(shorten(text)))?;
        let host = host.strip_prefix('[').unwrap_or(host);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(UrlError::Host(shorten(text))),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(UrlError::Host(shorten(text))),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

/// A name in lower case, or an address.
pub(crate) fn parse_host(host: &str) -> Result<Host, UrlError> {
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    if let Ok(v4) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Addr(IpAddr::V4(v4)));
    }
    if let Ok(v6) = host.parse::<Ipv6Addr>() {
        return Ok(Host::Addr(IpAddr::V6(v6)));
    }
    let fits = host.len() <= 253 && host.split('.').all(|label| label.len() <= 63);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if !fits || !host.bytes().all(allowed) || host.starts_with('.') || host.contains("..") {
        return Err(UrlError::Host(shorten(host)));
    }
    Ok(Host::Name(host.to_ascii_lowercase()))
}

pub(crate) fn parse_port(text: &str) -> Result<u16, UrlError> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(UrlError::Port(shorten(text))),
    }
}

/// IPv6 addresses in brackets.
pub(crate) fn host_text(host: &Host) -> String {
    match host {
        Host::Addr(IpAddr::V6(v6)) => format!("[{v6}]"),
        Host::Addr(addr) => addr.to_string(),
        Host::Name(name) => name.clone(),
    }
}

/// `%41` becomes `A`; a `%` that begins no such thing stays.
pub fn percent_decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'%'
            && let [high, low, after @ ..] = after
            && let (Some(high), Some(low)) = (hex_value(*high), hex_value(*low))
        {
            out.push(high << 4 | low);
            rest = after;
        } else {
            out.push(first);
        }
    }
    out
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn decode_lossy(text: &str) -> String {
    String::from_utf8_lossy(&percent_decode(text)).into_owned()
}

fn has_scheme(reference: &str) -> bool {
    reference.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    })
}

/// Path and query ready to be sent: begins with `/`, no dot segments, printable ASCII.
fn encode_target(target: &str) -> String {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let mut out = remove_dot_segments(path);
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
    if out.bytes().all(is_target_byte) {
        return out;
    }
    let mut encoded = String::with_capacity(out.len() + 16);
    for byte in out.bytes() {
        if is_target_byte(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(
            byte,
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
        )
}

/// RFC 3986 §5.2.4.
fn remove_dot_segments(path: &str) -> String {
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut out: Vec<&str> = Vec::new();
    let mut ends_in_folder = false;
    for segment in path.split('/') {
        ends_in_folder = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                out.pop();
            }
            _ => out.push(segment),
        }
    }
    if ends_in_folder {
        out.push("");
    }
    format!("/{}", out.join("/"))
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

const URL_LEN_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn url(text: &str) -> Url {
        Url::parse(text).expect(text)
    }

    #[test]
    fn addresses_are_taken_apart() {
        for (text, shown, authority, port) in [
            (
                "http://Example.COM",
                "http://example.com/",
                "example.com",
                80,
            ),
            (
                "HTTPS://example.com/a?b#c",
                "https://example.com/a?b",
                "example.com",
                443,
            ),
            ("http://h:80/x", "http://h/x", "h", 80),
            ("http://h:8080/x", "http://h:8080/x", "h:8080", 8080),
            ("https://h:80", "https://h:80/", "h:80", 80),
            (
                "http://[::1]:7680/f",
                "http://[::1]:7680/f",
                "[::1]:7680",
                7680,
            ),
            ("http://127.0.0.1/", "http://127.0.0.1/", "127.0.0.1", 80),
            ("http://h?q=1", "http://h/?q=1", "h", 80),
            ("http://h/a b/ü", "http://h/a%20b/%C3%BC", "h", 80),
            ("http://h/a/./b/../c/..", "http://h/a/", "h", 80),
            ("http://h/../../x", "http://h/x", "h", 80),
            ("http://h//a//b", "http://h//a//b", "h", 80),
            ("http://h:/x", "http://h/x", "h", 80),
            ("  http://h/x\n", "http://h/x", "h", 80),
        ] {
            let url = url(text);
            assert_eq!(url.to_string(), shown, "{text}");
            assert_eq!(url.authority(), authority, "{text}");
            assert_eq!(url.port(), port, "{text}");
            assert_eq!(Url::parse(&url.to_string()), Ok(url), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        for (text, why) in [
            (
                "example.com/x",
                "`example.com/x` does not begin with http:// or https://",
            ),
            (
                "ftp://h/x",
                "`ftp://h/x` does not begin with http:// or https://",
            ),
            ("http:///x", "no host name"),
            ("http://h:99999/", "`99999` is not a port number"),
            ("http://h:+8/", "`+8` is not a port number"),
            ("http://h:0/", "`0` is not a port number"),
            ("http://a b/", "`a b` is not a host name or address"),
            (
                "http://bücher.example/",
                "host `bücher.example` must be written in its xn-- form",
            ),
            ("http://[::1/", "`[::1` is not a host name or address"),
            (
                "http://[fe80::1%25eth0]/",
                "`fe80::1%25eth0` is not a host name or address",
            ),
            ("http://h/a\r\nX: y", "character 0x0d in a URL"),
        ] {
            let error = Url::parse(text).expect_err(text);
            assert_eq!(error.to_string(), why, "{text}");
        }
        let long = format!("http://h/{}", "a".repeat(URL_LEN_MAX));
        assert_eq!(Url::parse(&long), Err(UrlError::TooLong));
    }

    #[test]
    fn references_are_resolved() {
        let base = "http://h:81/a/b/c?q";
        for (reference, result) in [
            ("http://g/x", "http://g/x"),
            ("https://h:81/x", "https://h:81/x"),
            ("//g/x", "http://g/x"),
            ("/x", "http://h:81/x"),
            ("x", "http://h:81/a/b/x"),
            ("../x?y#z", "http://h:81/a/x?y"),
            ("../../../x", "http://h:81/x"),
            ("?r", "http://h:81/a/b/c?r"),
            ("", "http://h:81/a/b/c?q"),
            ("#f", "http://h:81/a/b/c?q"),
            ("./", "http://h:81/a/b/"),
            ("d:1", "error"),
            ("x?u=http://y", "http://h:81/a/b/x?u=http://y"),
            ("x y", "http://h:81/a/b/x%20y"),
        ] {
            let joined = url(base).join(reference);
            let shown = joined.map_or("error".into(), |url| url.to_string());
            assert_eq!(shown, result, "{reference}");
        }
    }

    #[test]
    fn passwords_are_sent_but_never_shown() {
        let with = url("http://me:p%40ss@h/x");
        assert_eq!(with.basic_auth().as_deref(), Some("Basic bWU6cEBzcw=="));
        assert_eq!(format!("{with} {with:?}"), "http://h/x http://h/x");
        assert_eq!(with.join("/y").map(|u| u.basic_auth().is_some()), Ok(true));
        assert_eq!(
            with.join("http://h/y").map(|u| u.basic_auth().is_some()),
            Ok(true)
        );
        assert_eq!(
            with.join("http://g/y").map(|u| u.basic_auth().is_some()),
            Ok(false)
        );
        assert_eq!(
            with.join("https://h/y").map(|u| u.basic_auth().is_some()),
            Ok(false)
        );
        assert_eq!(
            url("http://me@h/").basic_auth().as_deref(),
            Some("Basic bWU6")
        );
        assert_eq!(url("http://@h/").basic_auth(), None);
    }

    #[test]
    fn endpoints_name_the_certificate() {
        let endpoint = url("https://h:8443/").endpoint();
        assert_eq!(endpoint.tls.as_deref(), Some("h"));
        assert_eq!(endpoint.port, 8443);
        assert_eq!(url("http://h/").endpoint().tls, None);
        assert_eq!(url("https://[::1]/").endpoint().tls.as_deref(), Some("::1"));
    }

    #[test]
    fn the_last_segment_can_name_a_file() {
        for (text, name) in [
            ("http://h/a/b.iso?x=/y", Some("b.iso")),
            ("http://h/a%20b", Some("a b")),
            ("http://h/a/", None),
            ("http://h", None),
            ("http://h/%2e%2e", None),
            ("http://h/a%2Fb", None),
            ("http://h/a%00b", None),
        ] {
            assert_eq!(url(text).file_name().as_deref(), name, "{text}");
        }
        assert_eq!(
            percent_decode("%4a%4A%zz%4"),
            vec![b'J', b'J', b'%', b'z', b'z', b'%', b'4']
        );
    }
}
