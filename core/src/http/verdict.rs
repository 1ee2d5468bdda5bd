//! What an origin's answer to a range request means. Pure: one answer, one question, one verdict.
//!
//! Decides whether the body is the bytes that were asked for (RFC 9110 §14, §15.3.7), whether the file is
//! another one than before, and for every other status whether and when asking again makes sense. A byte
//! is only ever taken from an answer that says where in which file it belongs.
//!
//! Tests: at the end of this file, one row for each status and fault.

use crate::http::body::Framing;
use crate::http::client::ResponseHead;
use crate::http::date::parse_http_date;
use crate::http::range::{ContentRange, number};
use crate::http::redirect::{Redirect, redirect};
use crate::http::url::Url;
use crate::http::validator::Validator;
use crate::limits::HTTP_RETRY_AFTER_MAX;
use ::http::StatusCode;
use ::http::header::{self, HeaderMap};
use alloc::format;
use alloc::string::{String, ToString};
use core::time::Duration;

/// The version of a file that a download began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Bytes; `None` as long as no answer told.
    pub length: Option<u64>,
    pub validator: Option<Validator>,
    /// Who told the validator.
    pub url: Url,
}

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Question<'a> {
    pub url: &'a Url,
    pub start: u64,
    /// A `Range` field was sent.
    pub ranged: bool,
    pub known: Option<&'a Known>,
    /// Every byte will be proved by a hash: a version is then told by its length alone.
    pub verified: bool,
    pub redirects: u8,
    pub unix_s: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The body is what was asked; it begins at `start` and, unless broken off, ends at `end`.
    Part {
        end: u64,
        total: Option<u64>,
    },
    /// The body is the whole file from its first byte.
    Whole {
        length: Option<u64>,
        /// The server says it could serve ranges.
        ranges: bool,
    },
    /// The file is empty.
    Nothing,
    /// Another version than the one known.
    Changed {
        length: Option<u64>,
    },
    Redirect(Redirect),
    /// Ask again, not before this long if the server said so.
    Later {
        why: String,
        after: Option<Duration>,
        busy: bool,
    },
    /// The server does not do with ranges what it must: ask without.
    RangesBroken(String),
    /// This URL will not deliver.
    Final(String),
}

pub(crate) fn judge(head: &ResponseHead, question: &Question<'_>) -> Verdict {
    match redirect(head.status, &head.headers, question.url, question.redirects) {
        Ok(Some(to)) => return Verdict::Redirect(to),
        Err(why) => return Verdict::Final(why.to_string()),
        Ok(None) => {}
    }
    // Only proxies ask for a password with this status.
    let who = match head.status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => "proxy",
        _ => "server",
    };
    let answered = format!("the {who} answered {}", head.status);
    match head.status.as_u16() {
        200 | 206 => match encoding(&head.headers) {
            Some(coding) => {
                Verdict::Final(format!("the server insists on content coding {coding}"))
            }
            None if head.status == StatusCode::OK => whole(head, question),
            None => part(head, question),
        },
        416 => unsatisfied(head, question),
        429 | 503 => Verdict::Later {
            after: retry_after(&head.headers, question.unix_s),
            why: answered,
            busy: true,
        },
        408 | 421 | 425 | 500..=599 => Verdict::Later {
            why: answered,
            after: None,
            busy: false,
        },
        _ => Verdict::Final(answered),
    }
}

fn whole(head: &ResponseHead, question: &Question<'_>) -> Verdict {
    let length = match head.framing {
        Framing::Length(length) => Some(length),
        Framing::Empty => Some(0),
        Framing::Chunked | Framing::UntilClose => None,
    };
    if changed(&head.headers, length, question) {
        return Verdict::Changed { length };
    }
    let ranges = head
        .headers
        .get(header::ACCEPT_RANGES)
        .is_some_and(|unit| unit.as_bytes().eq_ignore_ascii_case(b"bytes"));
    // Whoever was asked for a later part and sent the whole does not mean it.
    let ranges = ranges && !(question.ranged && question.start > 0);
    Verdict::Whole { length, ranges }
}

fn part(head: &ResponseHead, question: &Question<'_>) -> Verdict {
    if !question.ranged {
        return Verdict::RangesBroken("a part was sent where the whole was asked for".to_string());
    }
    let field = head
        .headers
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(ContentRange::parse);
    let Some(ContentRange::Part { start, end, total }) = field else {
        return Verdict::RangesBroken("a part without a usable Content-Range".to_string());
    };
    if start != question.start {
        return Verdict::RangesBroken(format!(
            "bytes from {start} where {} was asked",
            question.start
        ));
    }
    if let Framing::Length(length) = head.framing
        && length != end - start
    {
        return Verdict::RangesBroken("Content-Length and Content-Range disagree".to_string());
    }
    if changed(&head.headers, total, question) {
        return Verdict::Changed { length: total };
    }
    Verdict::Part { end, total }
}

fn unsatisfied(head: &ResponseHead, question: &Question<'_>) -> Verdict {
    let field = head
        .headers
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(ContentRange::parse);
    let total = match field {
        Some(ContentRange::Unsatisfied { total }) => Some(total),
        _ => None,
    };
    let known = question.known.and_then(|known| known.length);
    match (total, known) {
        (Some(total), Some(known)) if total != known => Verdict::Changed {
            length: Some(total),
        },
        (Some(0), _) if question.start == 0 => Verdict::Nothing,
        _ => Verdict::RangesBroken("a range inside the file was refused".to_string()),
    }
}

/// Is this another version than the known one?
fn changed(headers: &HeaderMap, length: Option<u64>, question: &Question<'_>) -> bool {
    let Some(known) = question.known else {
        return false;
    };
    if let (Some(a), Some(b)) = (known.length, length)
        && a != b
    {
        return true;
    }
    if question.verified {
        return false;
    }
    match (&known.validator, Validator::of(headers)) {
        (Some(old), Some(new)) if known.url.same_origin(question.url) => !old.agrees_with(&new),
        (Some(old), Some(new)) => !old.is_copy_of(&new),
        // Another server that says nothing about its version is no copy as far as we can tell.
        _ => !known.url.same_origin(question.url),
    }
}

/// A coding that would have to be undone; we ask for none.
fn encoding(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .trim()
                .to_ascii_lowercase()
        })
        .find(|coding| !coding.is_empty() && coding != "identity")
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), capped.
fn retry_after(headers: &HeaderMap, unix_s: i64) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait_s = match number(value) {
        Some(wait_s) => wait_s,
        None => {
            let until_s = parse_http_date(value)?;
            u64::try_from(until_s.saturating_sub(unix_s)).unwrap_or_default()
        }
    };
    Some(Duration::from_secs(wait_s).min(HTTP_RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;
    use ::http::header::HeaderName;
    use alloc::borrow::ToOwned;

    const ETAG: &str = "\"v1\"";
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const UNIX_S: i64 = 784_111_777;

    fn head(status: u16, fields: &[(&str, &str)], framing: Framing) -> ResponseHead {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("name");
            headers.append(name, HeaderValue::from_str(value).expect("value"));
        }
        let status = StatusCode::from_u16(status).expect("status");
        ResponseHead {
            status,
            headers,
            framing,
        }
    }

    fn known(url: &Url) -> Known {
        Known {
            length: Some(100),
            validator: Some(Validator {
                etag: Some(ETAG.to_owned()),
                last_modified: Some(DATE.to_owned()),
                date_is_strong: true,
            }),
            url: url.clone(),
        }
    }

    fn later(why: &str, after_s: Option<u64>, busy: bool) -> Verdict {
        let after = after_s.map(Duration::from_secs);
        Verdict::Later {
            why: why.to_owned(),
            after,
            busy,
        }
    }

    fn broken(why: &str) -> Verdict {
        Verdict::RangesBroken(why.to_owned())
    }

    fn last(why: &str) -> Verdict {
        Verdict::Final(why.to_owned())
    }

    /// Ask for bytes 10.. of a file known to be 100 bytes long.
    fn ask(status: u16, fields: &[(&str, &str)], framing: Framing) -> Verdict {
        let url = Url::parse("http://h/f").expect("url");
        let known = known(&url);
        let question = Question {
            url: &url,
            start: 10,
            ranged: true,
            known: Some(&known),
            verified: false,
            redirects: 0,
            unix_s: UNIX_S,
        };
        judge(&head(status, fields, framing), &question)
    }

    #[test]
    fn parts() {
        let len = Framing::Length;
        let range = |value| [("content-range", value)];
        for (fields, framing, verdict) in [
            (
                range("bytes 10-99/100"),
                len(90),
                Verdict::Part {
                    end: 100,
                    total: Some(100),
                },
            ),
            (
                range("bytes 10-19/100"),
                len(10),
                Verdict::Part {
                    end: 20,
                    total: Some(100),
                },
            ),
            (
                range("bytes 10-19/*"),
                len(10),
                Verdict::Part {
                    end: 20,
                    total: None,
                },
            ),
            (
                range("bytes 10-19/100"),
                Framing::Chunked,
                Verdict::Part {
                    end: 20,
                    total: Some(100),
                },
            ),
            (
                range("bytes 10-19/100"),
                len(11),
                broken("Content-Length and Content-Range disagree"),
            ),
            (
                range("bytes 11-19/100"),
                len(9),
                broken("bytes from 11 where 10 was asked"),
            ),
            (
                range("bytes 0-19/100"),
                len(20),
                broken("bytes from 0 where 10 was asked"),
            ),
            (
                range("bytes 10-19/200"),
                len(10),
                Verdict::Changed { length: Some(200) },
            ),
            (
                range("pages 1-2/3"),
                len(10),
                broken("a part without a usable Content-Range"),
            ),
            (
                range("bytes */100"),
                len(10),
                broken("a part without a usable Content-Range"),
            ),
        ] {
            assert_eq!(ask(206, &fields, framing), verdict, "{fields:?}");
        }
        let fields = [("content-range", "bytes 10-19/100"), ("etag", "\"v2\"")];
        assert_eq!(
            ask(206, &fields, len(10)),
            Verdict::Changed { length: Some(100) }
        );
        let fields = [
            ("content-range", "bytes 10-19/100"),
            ("content-encoding", "gzip"),
        ];
        assert_eq!(
            ask(206, &fields, len(10)),
            last("the server insists on content coding gzip")
        );
    }

    #[test]
    fn wholes() {
        let whole = |length, ranges| Verdict::Whole { length, ranges };
        for (fields, framing, verdict) in [
            (&[][..], Framing::Length(100), whole(Some(100), false)),
            (
                &[("etag", ETAG)],
                Framing::Length(100),
                whole(Some(100), false),
            ),
            (
                &[("accept-ranges", "bytes")],
                Framing::Length(100),
                whole(Some(100), false),
            ),
            (&[], Framing::Chunked, whole(None, false)),
            (&[], Framing::UntilClose, whole(None, false)),
            (
                &[],
                Framing::Length(99),
                Verdict::Changed { length: Some(99) },
            ),
            (&[], Framing::Empty, Verdict::Changed { length: Some(0) }),
            (
                &[("etag", "\"v2\"")],
                Framing::Chunked,
                Verdict::Changed { length: None },
            ),
            (
                &[("last-modified", "Sun, 06 Nov 1994 08:49:38 GMT")],
                Framing::Length(100),
                Verdict::Changed { length: Some(100) },
            ),
            (
                &[("content-encoding", "br")],
                Framing::Chunked,
                last("the server insists on content coding br"),
            ),
            (
                &[("content-encoding", "identity")],
                Framing::Chunked,
                whole(None, false),
            ),
        ] {
            assert_eq!(ask(200, fields, framing), verdict, "{fields:?} {framing:?}");
        }
    }

    #[test]
    fn a_first_question_believes_what_it_is_told() {
        let url = Url::parse("http://h/f").expect("url");
        let question = Question {
            url: &url,
            start: 0,
            ranged: true,
            known: None,
            verified: false,
            redirects: 0,
            unix_s: UNIX_S,
        };
        let ask = |status, fields: &[(&str, &str)], framing| {
            judge(&head(status, fields, framing), &question)
        };
        let whole = |length, ranges| Verdict::Whole { length, ranges };
        let bytes = [("accept-ranges", "bytes")];
        assert_eq!(ask(200, &bytes, Framing::Length(7)), whole(Some(7), true));
        assert_eq!(
            ask(200, &[("accept-ranges", "none")], Framing::Length(7)),
            whole(Some(7), false)
        );
        assert_eq!(ask(200, &[], Framing::Chunked), whole(None, false));
        let part = Verdict::Part {
            end: 7,
            total: Some(7),
        };
        assert_eq!(
            ask(206, &[("content-range", "bytes 0-6/7")], Framing::Length(7)),
            part
        );
        assert_eq!(
            ask(416, &[("content-range", "bytes */0")], Framing::Length(0)),
            Verdict::Nothing
        );
        assert_eq!(
            ask(416, &[], Framing::Length(0)),
            broken("a range inside the file was refused")
        );
        let unranged = Question {
            ranged: false,
            ..question.clone()
        };
        let answer = head(206, &[("content-range", "bytes 0-6/7")], Framing::Length(7));
        assert_eq!(
            judge(&answer, &unranged),
            broken("a part was sent where the whole was asked for")
        );
    }

    #[test]
    fn every_other_status() {
        let there = [("location", "/there")];
        for status in [301, 302, 303, 307, 308] {
            let verdict = ask(status, &there, Framing::Empty);
            assert!(
                matches!(verdict, Verdict::Redirect(_)),
                "{status}: {verdict:?}"
            );
        }
        for (status, fields, verdict) in [
            (302, &[][..], last("redirect without a location")),
            (
                416,
                &[("content-range", "bytes */100")],
                broken("a range inside the file was refused"),
            ),
            (
                416,
                &[("content-range", "bytes */5")],
                Verdict::Changed { length: Some(5) },
            ),
            (416, &[], broken("a range inside the file was refused")),
            (
                429,
                &[("retry-after", "7")],
                later("the server answered 429 Too Many Requests", Some(7), true),
            ),
            (
                503,
                &[("retry-after", "99999")],
                later(
                    "the server answered 503 Service Unavailable",
                    Some(600),
                    true,
                ),
            ),
            (
                503,
                &[("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")],
                later(
                    "the server answered 503 Service Unavailable",
                    Some(10),
                    true,
                ),
            ),
            (
                503,
                &[("retry-after", DATE)],
                later("the server answered 503 Service Unavailable", Some(0), true),
            ),
            (
                503,
                &[("retry-after", "soon")],
                later("the server answered 503 Service Unavailable", None, true),
            ),
            (
                503,
                &[],
                later("the server answered 503 Service Unavailable", None, true),
            ),
            (
                408,
                &[],
                later("the server answered 408 Request Timeout", None, false),
            ),
            (
                500,
                &[],
                later("the server answered 500 Internal Server Error", None, false),
            ),
            (
                502,
                &[],
                later("the server answered 502 Bad Gateway", None, false),
            ),
            (
                504,
                &[],
                later("the server answered 504 Gateway Timeout", None, false),
            ),
            (400, &[], last("the server answered 400 Bad Request")),
            (401, &[], last("the server answered 401 Unauthorized")),
            (403, &[], last("the server answered 403 Forbidden")),
            (404, &[], last("the server answered 404 Not Found")),
            (
                407,
                &[],
                last("the proxy answered 407 Proxy Authentication Required"),
            ),
            (410, &[], last("the server answered 410 Gone")),
            (204, &[], last("the server answered 204 No Content")),
            (304, &[], last("the server answered 304 Not Modified")),
            (300, &[], last("the server answered 300 Multiple Choices")),
        ] {
            assert_eq!(
                ask(status, fields, Framing::Empty),
                verdict,
                "{status} {fields:?}"
            );
        }
    }

    #[test]
    fn another_server_must_have_a_copy_unless_hashes_prove_it() {
        let ours = Url::parse("http://h/f").expect("url");
        let mirror = Url::parse("http://mirror/f").expect("url");
        let known = known(&ours);
        let question = |verified| Question {
            url: &mirror,
            start: 10,
            ranged: true,
            known: Some(&known),
            verified,
            redirects: 0,
            unix_s: UNIX_S,
        };
        let part = Verdict::Part {
            end: 100,
            total: Some(100),
        };
        let changed = Verdict::Changed { length: Some(100) };
        let range = ("content-range", "bytes 10-99/100");
        for (fields, unverified) in [
            (
                &[range, ("etag", "\"x\""), ("last-modified", DATE)][..],
                &part,
            ),
            (&[range, ("etag", ETAG)], &part),
            (&[range, ("etag", "\"x\"")], &changed),
            (&[range], &changed),
        ] {
            let head = head(206, fields, Framing::Length(90));
            assert_eq!(&judge(&head, &question(false)), unverified, "{fields:?}");
            assert_eq!(judge(&head, &question(true)), part, "{fields:?}");
        }
        let longer = head(
            206,
            &[("content-range", "bytes 10-99/101")],
            Framing::Length(90),
        );
        let changed = Verdict::Changed { length: Some(101) };
        assert_eq!(judge(&longer, &question(true)), changed);
    }
}
