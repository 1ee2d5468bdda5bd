//! A cache server, and the addresses it is asked by: the origin's path and query at the cache, the origin's host
//! in `cacheHostOrigin`, as Microsoft's client does it.

use crate::http::url::{Url, UrlError};
use alloc::format;
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
