//! Where a redirecting answer points, and whether to go there.
//!
//! Decides for 301, 302, 303, 307 and 308 (RFC 9110 §15.4): at most ten in a row, relative targets are
//! resolved, and never from https to http, which would give up what the caller asked for. Only 301 and
//! 308 are permanent; whoever caches a target asks again at its own URL when the target fails.
//!
//! Tests: at the end of this file.

use crate::http::url::{Url, UrlError};
use ::http::StatusCode;
use ::http::header::{self, HeaderMap};
use alloc::string::String;
use core::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub url: Url,
    pub permanent: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedirectError {
    TooMany,
    NoLocation,
    Location(UrlError),
    /// From https to http.
    Downgrade(Url),
}

/// What this answer says; `None` if it is no redirect. `before` counts the redirects followed so far.
///
/// # Errors
/// If it is a redirect that cannot or must not be followed.
pub fn redirect(
    status: StatusCode,
    headers: &HeaderMap,
    from: &Url,
    before: u8,
) -> Result<Option<Redirect>, RedirectError> {
    let permanent = match status.as_u16() {
        301 | 308 => true,
        302 | 303 | 307 => false,
        _ => return Ok(None),
    };
    if before >= REDIRECTS_MAX {
        return Err(RedirectError::TooMany);
    }
    let location = headers
        .get(header::LOCATION)
        .ok_or(RedirectError::NoLocation)?;
    // Many servers send UTF-8 where only ASCII is allowed.
    let location = String::from_utf8_lossy(location.as_bytes());
    let url = from.join(&location).map_err(RedirectError::Location)?;
    if from.is_https() && !url.is_https() {
        return Err(RedirectError::Downgrade(url));
    }
    Ok(Some(Redirect { url, permanent }))
}

impl fmt::Display for RedirectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(f, "more than {REDIRECTS_MAX} redirects"),
            Self::NoLocation => f.write_str("redirect without a location"),
            Self::Location(why) => write!(f, "redirect to an unusable location: {why}"),
            Self::Downgrade(url) => write!(f, "redirect from https to {url} refused"),
        }
    }
}

impl core::error::Error for RedirectError {}

/// Redirects followed in a row.
pub const REDIRECTS_MAX: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;
    use alloc::string::ToString;

    fn read(status: u16, location: Option<&[u8]>, from: &str, before: u8) -> String {
        let mut headers = HeaderMap::new();
        if let Some(location) = location {
            headers.insert(
                header::LOCATION,
                HeaderValue::from_bytes(location).expect("field"),
            );
        }
        let from = Url::parse(from).expect(from);
        let status = StatusCode::from_u16(status).expect("status");
        match redirect(status, &headers, &from, before) {
            Ok(None) => "no".into(),
            Ok(Some(to)) if to.permanent => alloc::format!("for good {}", to.url),
            Ok(Some(to)) => to.url.to_string(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn every_redirect() {
        let there = Some(&b"/there"[..]);
        for (status, location, from, result) in [
            (200, there, "http://h/a", "no"),
            (304, there, "http://h/a", "no"),
            (300, there, "http://h/a", "no"),
            (301, there, "http://h/a", "for good http://h/there"),
            (302, there, "http://h/a", "http://h/there"),
            (303, there, "http://h/a", "http://h/there"),
            (307, there, "http://h/a", "http://h/there"),
            (308, there, "http://h/a", "for good http://h/there"),
            (302, Some(b"https://g/x"), "http://h/a", "https://g/x"),
            (302, Some("/ü".as_bytes()), "http://h/a", "http://h/%C3%BC"),
            (
                302,
                Some(b"http://g/x"),
                "https://h/a",
                "redirect from https to http://g/x refused",
            ),
            (302, None, "http://h/a", "redirect without a location"),
            (
                302,
                Some(b"ftp://g/x"),
                "http://h/a",
                "redirect to an unusable location: `ftp://g/x` does not begin with http:// or https://",
            ),
        ] {
            assert_eq!(read(status, location, from, 0), result, "{status}");
        }
        assert_eq!(read(302, there, "http://h/a", 9), "http://h/there");
        assert_eq!(read(302, there, "http://h/a", 10), "more than 10 redirects");
    }
}
