//! Which way a request goes: straight, or through the proxy that the environment names.
//!
//! Decides from `http_proxy`, `https_proxy` and `no_proxy` as curl reads them: a domain stands for itself
//! and everything below it, with or without a leading dot; `*` for everything; addresses and CIDR blocks
//! match addresses only (names are never resolved for this); any entry may end in `:port`. Loopback is
//! not exempt by itself. Never speaks TLS or SOCKS to a proxy. Reads no environment: texts are given.
//!
//! Tests: at the end of this file.

use crate::failure::{Failure, FailureKind};
use crate::http::url::{Url, UrlError, parse_host, parse_port, split_host_port};
use crate::machine::{Endpoint, Host};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

/// The proxies of this machine. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    exempt: Vec<Exempt>,
}

/// One HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub endpoint: Endpoint,
    /// Value of `Proxy-Authorization`.
    pub authorization: Option<String>,
}

/// The way to a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Direct,
    /// Ask the proxy for the whole URL (absolute-form, RFC 9112 §3.2.2).
    Forward(Proxy),
    /// `CONNECT`, then TLS inside the tunnel (RFC 9110 §9.3.6).
    Tunnel(Proxy),
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyError {
    /// `http_proxy`, `https_proxy` or `no_proxy`.
    pub variable: &'static str,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Exempt {
    what: Pattern,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Everything,
    /// This name and all below it; lower case, no leading dot.
    Domain(String),
    Block {
        addr: IpAddr,
        prefix: u8,
    },
}

impl Proxies {
    /// Empty texts count as not set.
    ///
    /// # Errors
    /// If a text is not a proxy address or list; the error names the variable.
    pub fn new(
        http_proxy: Option<&str>,
        https_proxy: Option<&str>,
        no_proxy: Option<&str>,
    ) -> Result<Self, ProxyError> {
        Ok(Self {
            http: parse_proxy("http_proxy", http_proxy)?,
            https: parse_proxy("https_proxy", https_proxy)?,
            exempt: parse_exempt(no_proxy.unwrap_or_default())?,
        })
    }

    pub fn none() -> Self {
        Self::default()
    }

    pub fn route(&self, url: &Url) -> Route {
        let proxy = if url.is_https() {
            &self.https
        } else {
            &self.http
        };
        match proxy {
            Some(proxy) if !self.is_exempt(url) => {
                if url.is_https() {
                    Route::Tunnel(proxy.clone())
                } else {
                    Route::Forward(proxy.clone())
                }
            }
            _ => Route::Direct,
        }
    }

    fn is_exempt(&self, url: &Url) -> bool {
        self.exempt.iter().any(|exempt| {
            exempt.port.is_none_or(|port| port == url.port()) && exempt.what.matches(url.host())
        })
    }
}

impl Route {
    /// What a request that goes this way passes through.
    pub const fn proxy(&self) -> Option<&Proxy> {
        match self {
            Self::Direct => None,
            Self::Forward(proxy) | Self::Tunnel(proxy) => Some(proxy),
        }
    }

    /// `why` something failed on this way, with the proxy named: it may have been its doing.
    pub fn blame(&self, why: String) -> String {
        match self.proxy() {
            Some(proxy) => format!("{why} (through the proxy {proxy})"),
            None => why,
        }
    }

    /// What a reader can do about this way; empty if it leads straight to the server.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Direct => "",
            Self::Forward(_) => {
                "check the proxy in http_proxy or all_proxy, or name this host in no_proxy"
            }
            Self::Tunnel(_) => {
                "check the proxy in https_proxy or all_proxy, or name this host in no_proxy"
            }
        }
    }
}

impl Pattern {
    fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Everything, _) => true,
            (Self::Domain(domain), Host::Name(name)) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                name.strip_suffix(domain.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            (Self::Block { addr, prefix }, Host::Addr(host)) => in_block(*host, *addr, *prefix),
            _ => false,
        }
    }
}

/// Without the password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = crate::http::url::host_text(&self.endpoint.host);
        write!(f, "{host}:{}", self.endpoint.port)
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.why)
    }
}

impl core::error::Error for ProxyError {}

impl From<ProxyError> for Failure {
    fn from(error: ProxyError) -> Self {
        let remedy = match error.variable {
            "no_proxy" => "list hosts, domains or address blocks, with commas between, or unset it",
            _ => "set it to http://HOST:PORT, or unset it",
        };
        let what = format!("cannot use the environment variable {}", error.variable);
        Self::new(FailureKind::Usage, what, error.why).remedy(remedy)
    }
}

fn parse_proxy(variable: &'static str, text: Option<&str>) -> Result<Option<Proxy>, ProxyError> {
    let text = text.unwrap_or_default().trim();
    if text.is_empty() {
        return Ok(None);
    }
    let fail = |why: String| ProxyError { variable, why };
    let rest = match text.split_once("://") {
        None => text,
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some((scheme, _)) => {
            return Err(fail(format!(
                "proxies are spoken to over http://, not {scheme}://"
            )));
        }
    };
    let url = Url::parse(&format!("http://{rest}")).map_err(|e| fail(e.to_string()))?;
    // Url drops a port that is http's own; whether one was written decides here.
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_port = authority.rsplit('@').next().unwrap_or_default();
    let has_port =
        split_host_port(host_port).is_ok_and(|(_, port)| port.is_some_and(|p| !p.is_empty()));
    Ok(Some(Proxy {
        endpoint: Endpoint {
            host: url.host().clone(),
            port: if has_port { url.port() } else { DEFAULT_PORT },
            tls: None,
        },
        authorization: url.basic_auth(),
    }))
}

fn parse_exempt(list: &str) -> Result<Vec<Exempt>, ProxyError> {
    list.split([',', ' ', '\t', ';'])
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            parse_entry(entry).map_err(|why| ProxyError {
                variable: "no_proxy",
                why: why.to_string(),
            })
        })
        .collect()
}

fn parse_entry(entry: &str) -> Result<Exempt, UrlError> {
    // A bare IPv6 address or block holds colons that are no port.
    if let Some(what) = parse_block(entry)? {
        return Ok(Exempt { what, port: None });
    }
    let (host, port) = split_host_port(entry)?;
    let port = port.map(parse_port).transpose()?;
    if host == "*" {
        return Ok(Exempt {
            what: Pattern::Everything,
            port,
        });
    }
    if let Some(what) = parse_block(host)? {
        return Ok(Exempt { what, port });
    }
    let domain = host.strip_prefix("*.").unwrap_or(host);
    let domain = domain.trim_matches('.');
    let what = match parse_host(domain)? {
        Host::Addr(addr) => Pattern::Block {
            addr,
            prefix: width(addr),
        },
        Host::Name(name) => Pattern::Domain(name),
    };
    Ok(Exempt { what, port })
}

/// An address or `address/bits`; `None` if it is neither.
fn parse_block(text: &str) -> Result<Option<Pattern>, UrlError> {
    let (addr, bits) = match text.split_once('/') {
        Some((addr, bits)) => (addr, Some(bits)),
        None => (text, None),
    };
    let Ok(addr) = addr.parse::<IpAddr>() else {
        return match bits {
            Some(_) => Err(UrlError::Host(text.to_owned())),
            None => Ok(None),
        };
    };
    let prefix = match bits {
        None => width(addr),
        Some(bits) => bits
            .parse::<u8>()
            .ok()
            .filter(|bits| *bits <= width(addr))
            .ok_or_else(|| UrlError::Host(text.to_owned()))?,
    };
    Ok(Some(Pattern::Block { addr, prefix }))
}

const fn width(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn in_block(host: IpAddr, block: IpAddr, prefix: u8) -> bool {
    let differ = match (host, block) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
        _ => return false,
    };
    differ.leading_zeros() >= u32::from(prefix)
}

/// What curl assumes for a proxy without a port.
const DEFAULT_PORT: u16 = 1080;

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect(text)
    }

    #[test]
    fn the_scheme_chooses_the_proxy_and_the_way() {
        let proxies =
            Proxies::new(Some("http://u:p@web:3128/"), Some("tun:3129"), None).expect("good");
        let Route::Forward(web) = proxies.route(&url("http://h/")) else {
            panic!("http is forwarded");
        };
        assert_eq!(web.to_string(), "web:3128");
        assert_eq!(web.authorization.as_deref(), Some("Basic dTpw"));
        let Route::Tunnel(tunnel) = proxies.route(&url("https://h/")) else {
            panic!("https is tunnelled");
        };
        assert_eq!(tunnel.to_string(), "tun:3129");
        assert_eq!(tunnel.authorization, None);
        assert_eq!(format!("{web:?}"), "web:3128");
        assert_eq!(Proxies::none().route(&url("http://h/")), Route::Direct);
    }

    #[test]
    fn ports_default_as_in_curl_and_errors_name_the_variable() {
        let port =
            |text| match Proxies::new(Some(text), None, None).map(|p| p.route(&url("http://h/"))) {
                Ok(Route::Forward(proxy)) => proxy.endpoint.port,
                other => panic!("{text}: {other:?}"),
            };
        assert_eq!(port("proxy"), 1080);
        assert_eq!(port("http://proxy"), 1080);
        assert_eq!(port("http://proxy:80"), 80);
        assert_eq!(port("u:p@[::1]"), 1080);
        assert_eq!(port("[::1]:8"), 8);
        assert_eq!(
            Proxies::new(Some(" "), Some(""), Some("")),
            Ok(Proxies::none())
        );
        for (http, https, no, message) in [
            (
                Some("socks5://p"),
                None,
                None,
                "http_proxy: proxies are spoken to over http://, not socks5://",
            ),
            (
                None,
                Some("https://p"),
                None,
                "https_proxy: proxies are spoken to over http://, not https://",
            ),
            (
                None,
                Some("p:x"),
                None,
                "https_proxy: `x` is not a port number",
            ),
            (
                None,
                None,
                Some("10.0.0.0/33"),
                "no_proxy: `10.0.0.0/33` is not a host name or address",
            ),
            (
                None,
                None,
                Some("a b!"),
                "no_proxy: `b!` is not a host name or address",
            ),
        ] {
            let error = Proxies::new(http, https, no).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn exemptions() {
        for (list, target, exempt) in [
            ("example.com", "http://example.com/", true),
            ("example.com", "http://a.example.com/", true),
            ("example.com", "http://badexample.com/", false),
            (".example.com", "http://example.com/", true),
            (".example.com", "http://a.b.example.com/", true),
            ("*.example.com", "http://a.example.com/", true),
            ("EXAMPLE.com.", "http://a.example.com/", true),
            ("example.com", "http://example.com./", true),
            ("example.com:8080", "http://example.com:8080/", true),
            ("example.com:8080", "http://example.com/", false),
            ("*", "http://anything/", true),
            ("*", "http://10.1.2.3/", true),
            ("a, b\tc", "http://c/", true),
            ("10.0.0.0/8", "http://10.1.2.3/", true),
            ("10.0.0.0/8", "http://11.1.2.3/", false),
            ("10.0.0.0/8", "http://ten.example/", false),
            ("0.0.0.0/0", "http://11.1.2.3/", true),
            ("192.168.1.7", "http://192.168.1.7:81/", true),
            ("192.168.1.7:81", "http://192.168.1.7/", false),
            ("192.168.1.7/32", "http://192.168.1.6/", false),
            ("::1", "http://[::1]:8/", true),
            ("[::1]:8", "http://[::1]:8/", true),
            ("[::1]:9", "http://[::1]:8/", false),
            ("fe80::/10", "http://[fe80::7]/", true),
            ("fe80::/10", "http://10.0.0.1/", false),
            ("", "http://127.0.0.1/", false),
            ("", "http://localhost/", false),
        ] {
            let proxies = Proxies::new(Some("p:1"), None, Some(list)).expect(list);
            let direct = proxies.route(&url(target)) == Route::Direct;
            assert_eq!(direct, exempt, "{list} for {target}");
        }
    }
}
