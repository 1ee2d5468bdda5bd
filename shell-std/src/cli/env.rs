//! What the environment and the system tell a role: proxies, names of peers, a seed.
//!
//! Decides: which variable counts, as in curl. Tests: below.

use crate::host::{self, words};
use dovetail_core::agent::AgentConfig;
use dovetail_core::api::check_url;
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::http::Proxies;
use dovetail_core::settings::{Layers, Provider};
use std::net::{SocketAddr, ToSocketAddrs as _};

/// Where peers listen if an address does not say.
const PEER_PORT: u16 = 7680;

/// What every agent is told, whether it runs on its own or inside a `get`.
pub(crate) fn agent_config(
    coordinator: Option<&str>,
    peers: &[String],
    share: bool,
    upload_limit: Option<u64>,
    mut settings: Layers,
) -> Result<AgentConfig, Failure> {
    if let Some(url) = coordinator {
        check_url(url)?;
    }
    let [http_proxy, https_proxy, no_proxy] = proxy_variables(|name| std::env::var(name).ok());
    if let Some(rate) = upload_limit {
        let text = format!("{rate}B/s");
        let provider = Provider::CommandLine;
        settings.set_at(provider, "--upload-limit", "max_upload_bandwidth", &text)?;
    }
    Ok(AgentConfig {
        coordinator: coordinator.map(str::to_owned),
        http_proxy,
        https_proxy,
        no_proxy,
        share,
        settings,
        shelf_dir: None,
        usage_file: None,
        peers: self::peers(peers)?,
    })
}

/// Where these peers listen.
pub(crate) fn peers(texts: &[String]) -> Result<Vec<SocketAddr>, Failure> {
    let mut addresses = Vec::new();
    for text in texts {
        addresses.extend(peer_addresses(text)?);
    }
    Ok(addresses)
}

/// The proxies for requests that a command makes itself.
pub(crate) fn proxies() -> Result<Proxies, Failure> {
    let [http, https, no] = proxy_variables(|name| std::env::var(name).ok());
    Proxies::new(http.as_deref(), https.as_deref(), no.as_deref()).map_err(Failure::from)
}

/// The same for people to read: `http_proxy = http://proxy:3128`. Names and passwords are left out.
pub(crate) fn proxies_in_words() -> Vec<String> {
    let values = proxy_variables(|name| std::env::var(name).ok());
    let names = ["http_proxy", "https_proxy", "no_proxy"];
    let pairs = names.into_iter().zip(values);
    pairs
        .filter_map(|(name, value)| Some(format!("{name} = {}", without_userinfo(&value?))))
        .collect()
}

/// `http://user:password@proxy:3128` is `http://proxy:3128`.
fn without_userinfo(url: &str) -> String {
    let (scheme, rest) = url
        .split_once("://")
        .map_or(("", url), |(s, rest)| (s, rest));
    let host = rest.rsplit('@').next().unwrap_or_default();
    match scheme {
        "" => host.to_owned(),
        scheme => format!("{scheme}://{host}"),
    }
}

/// A seed for a role.
pub(crate) fn seed() -> Result<[u8; 32], Failure> {
    host::seed().map_err(|e| {
        let what = "cannot get randomness from the system";
        Failure::new(FailureKind::Refused, what, words(&e))
    })
}

/// `http_proxy`, `https_proxy`, `no_proxy`. Lower case goes first; of the plain `http_proxy` there is no upper
/// case, because a web server's CGI programs would take it from a request's `Proxy:` field.
fn proxy_variables(var: impl Fn(&str) -> Option<String>) -> [Option<String>; 3] {
    let first = |names: &[&str]| {
        let mut values = names.iter().filter_map(|name| var(name));
        values.find(|value| !value.trim().is_empty())
    };
    [
        first(&["http_proxy", "all_proxy", "ALL_PROXY"]),
        first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
        first(&["no_proxy", "NO_PROXY"]),
    ]
}

/// `10.0.0.7`, `10.0.0.7:7680`, `[::1]:7680`, `::1`, `name`, `name:7680`.
fn peer_addresses(text: &str) -> Result<Vec<SocketAddr>, Failure> {
    let unusable = |why: String| {
        Failure::new(
            FailureKind::Usage,
            format!("cannot use the peer `{text}`"),
            why,
        )
        .remedy("give it as ADDRESS or ADDRESS:PORT")
    };
    if let Ok(address) = text.parse() {
        return Ok(vec![SocketAddr::new(address, PEER_PORT)]);
    }
    let with_port = if text.contains(':') {
        text.to_socket_addrs()
    } else {
        (text, PEER_PORT).to_socket_addrs()
    };
    let addresses: Vec<_> = with_port.map_err(|e| unusable(words(&e)))?.collect();
    if addresses.is_empty() {
        return Err(unusable("the name has no address".into()));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_come_from_the_variables_curl_reads() {
        let read = |vars: &[(&str, &str)]| {
            proxy_variables(|name| {
                let found = vars.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(&[]), [None, None, None]);
        assert_eq!(
            read(&[
                ("HTTP_PROXY", "evil"),
                ("HTTPS_PROXY", "s"),
                ("NO_PROXY", "n")
            ]),
            [None, some("s"), some("n")]
        );
        assert_eq!(
            read(&[
                ("https_proxy", "low"),
                ("HTTPS_PROXY", "UP"),
                ("http_proxy", " ")
            ]),
            [None, some("low"), None]
        );
        assert_eq!(
            read(&[("ALL_PROXY", "a"), ("http_proxy", "h")]),
            [some("h"), some("a"), None]
        );
    }

    #[test]
    fn passwords_are_not_shown() {
        for (url, shown) in [
            ("http://u:p@ss@proxy:3128/", "http://proxy:3128/"),
            ("u:p@proxy:3128", "proxy:3128"),
            ("proxy", "proxy"),
            (".corp.example,10.0.0.0/8", ".corp.example,10.0.0.0/8"),
        ] {
            assert_eq!(without_userinfo(url), shown);
        }
    }

    #[test]
    fn peers_in_every_notation() {
        for (text, want) in [
            ("10.0.0.7", "10.0.0.7:7680"),
            ("10.0.0.7:1", "10.0.0.7:1"),
            ("::1", "[::1]:7680"),
            ("[::1]:2", "[::1]:2"),
        ] {
            assert_eq!(peer_addresses(text).unwrap(), [want.parse().unwrap()]);
        }
        let refused = peer_addresses("10.0.0.7:port").unwrap_err();
        assert_eq!(refused.what, "cannot use the peer `10.0.0.7:port`");
    }
}
