//! A cache server, and the addresses it is asked by: the origin's path and query at the cache, the origin's host
//! in `cacheHostOrigin`, as Microsoft's client does it.

use crate::http::url::{Url, UrlError, percent_decode};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

/// `cache.example.org`, `10.0.0.9:8081`, `https://cache.example.org`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheHost {
    base: Url,
}

impl FromStr for CacheHost {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let base = if text.contains("://") {
            Url::parse(text)?
        } else {
            Url::parse(&format!("http://{text}"))?
        };
        Ok(Self { base })
    }
}

impl fmt::Display for CacheHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base.origin())
    }
}

/// The address of `origin`'s file at the cache.
pub fn cache_url(cache: &CacheHost, origin: &Url) -> Option<Url> {
    let mark = if origin.target().contains('?') {
        '&'
    } else {
        '?'
    };
    let host = origin.authority();
    let scheme = if origin.is_https() {
        "&cacheHostOriginScheme=https"
    } else {
        ""
    };
    let text = format!(
        "{}{}{mark}cacheHostOrigin={host}{scheme}",
        cache.base.origin(),
        origin.target()
    );
    Url::parse(&text).ok()
}

/// What a request to a cache is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginAsked {
    pub url: Url,
    /// The client said whether it is https.
    pub scheme_said: bool,
}

/// The inverse of [`cache_url`]: the origin's address, from the target and the `Host` of a request to a cache.
/// Without a `cacheHostOrigin` the origin is `host`.
///
/// # Errors
/// What is wrong with it, in words for whoever asked.
pub fn origin_url(target: &str, host: &str) -> Result<OriginAsked, String> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let (mut origin, mut scheme) = (None, None);
    let mut rest = Vec::new();
    for part in query.iter().flat_map(|query| query.split('&')) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let slot = if name.eq_ignore_ascii_case("cacheHostOrigin") {
            &mut origin
        } else if name.eq_ignore_ascii_case("cacheHostOriginScheme") {
            &mut scheme
        } else {
            rest.push(part);
            continue;
        };
        let value = String::from_utf8(percent_decode(value)).unwrap_or_default();
        if slot.replace(value).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    let scheme_said = scheme.is_some();
    let scheme = scheme.unwrap_or_else(|| "http".into());
    if scheme != "http" && scheme != "https" {
        return Err(format!(
            "cacheHostOriginScheme is {scheme:?}; it can be http or https"
        ));
    }
    let host = origin.as_deref().unwrap_or(host);
    if host.is_empty() || host.contains(['/', '\\', '@', '?', '#', '%']) {
        return Err(format!("{host:?} is no host an origin can have"));
    }
    let query = match (query, rest.is_empty() && origin.is_some()) {
        (None, _) | (_, true) => String::new(),
        _ => format!("?{}", rest.join("&")),
    };
    let url = Url::parse(&format!("{scheme}://{host}{path}{query}"));
    let url = url.map_err(|why| format!("the origin's address is not usable: {why}"))?;
    Ok(OriginAsked { url, scheme_said })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn what_the_client_makes_is_understood() {
        let cache: CacheHost = "10.0.0.9:8081".parse().unwrap();
        for url in [
            "http://files.example.org/a/b.iso",
            "https://files.example.org/a?x=1&y=2",
            "http://files.example.org:8080/",
            "http://[2001:db8::1]:81/a?",
        ] {
            let url = Url::parse(url).unwrap();
            let at = cache_url(&cache, &url).unwrap();
            let asked = origin_url(at.target(), "10.0.0.9:8081").unwrap();
            assert_eq!(asked.url.origin(), url.origin(), "{at}");
            assert_eq!(asked.url.path(), url.path(), "{at}");
            let query = |url: &Url| url.query().unwrap_or_default().to_string();
            assert_eq!(query(&asked.url), query(&url), "{at}");
        }
    }

    #[test]
    fn other_forms() {
        for (target, host, result) in [
            ("/a?cacheHostOrigin=h", "c", "http://h/a"),
            ("/a?x=1&cacheHostOrigin=h&y=2", "c", "http://h/a?x=1&y=2"),
            ("/a?cachehostorigin=h%3A81", "c", "http://h:81/a"),
            ("/a?x", "h", "http://h/a?x"),
            ("/a", "h:81", "http://h:81/a"),
            ("/a", "", "error"),
            ("/a?cacheHostOrigin=", "c", "error"),
            ("/a?cacheHostOrigin=h&cacheHostOrigin=i", "c", "error"),
            ("/a?cacheHostOrigin=u:p@h", "c", "error"),
            ("/a?cacheHostOrigin=h/x", "c", "error"),
            ("/a?cacheHostOrigin=h%00", "c", "error"),
            (
                "/a?cacheHostOrigin=h&cacheHostOriginScheme=file",
                "c",
                "error",
            ),
        ] {
            let got = origin_url(target, host);
            let got = got.map_or_else(|_| "error".into(), |asked| asked.url.to_string());
            assert_eq!(got, result, "{target} {host}");
        }
    }
}
