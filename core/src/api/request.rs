//! What callers may ask over the local socket, and its JSON bodies.
//!
//! Decides: which target and body is which [`Ask`], and in which words a bad one is refused. Never does: the
//! asking. Invariants: an `Ask` that came through here has absolute paths and http(s) URLs; the body of
//! [`get_body`] is read back as the same request. Schema: `docs/json.md`. Tests: below.

use super::line::parse_sha256;
use super::shelf_line::ShelfAsk;
use crate::command::{GetRequest, ShareRequest};
use crate::failure::{Failure, FailureKind};
use crate::http::Url;
use crate::ids::CallId;
use crate::settings::Mode;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use core::net::SocketAddr;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A well-formed request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Ask {
    Get(GetRequest),
    Share(ShareRequest),
    /// Stop the job of this call.
    Stop(CallId),
    /// Somebody waits for the download of this call, or nobody does.
    Prioritise {
        get: CallId,
        foreground: bool,
    },
    Status,
    Shelf(ShelfAsk),
}

/// A request that is not answered: the HTTP status and what to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub failure: Failure,
}

pub const GET_TARGET: &str = "/v1/get";
pub const SHARE_TARGET: &str = "/v1/share";
pub const STATUS_TARGET: &str = "/v1/status";
pub const STOP_TARGET: &str = "/v1/stop";
pub const PRIORITY_TARGET: &str = "/v1/priority";
pub const SHELF_TARGET: &str = "/v1/shelf";
const SHELF_PIN_TARGET: &str = "/v1/shelf/pin";
const SHELF_UNPIN_TARGET: &str = "/v1/shelf/unpin";
const SHELF_REMOVE_TARGET: &str = "/v1/shelf/rm";

/// # Errors
/// 404 for an unknown target, 405 for the wrong method, 400 for a body that is not what the target takes.
pub fn parse_request(method: &str, target: &str, body: &[u8]) -> Result<Ask, Refusal> {
    let path = target.split('?').next().unwrap_or(target);
    let expected = match path {
        GET_TARGET | SHARE_TARGET | STOP_TARGET | PRIORITY_TARGET | SHELF_PIN_TARGET
        | SHELF_UNPIN_TARGET | SHELF_REMOVE_TARGET => "POST",
        STATUS_TARGET | SHELF_TARGET => "GET",
        _ => {
            return Err(refuse(
                404,
                path,
                "there is no such target",
                "the targets are /v1/get, /v1/share, /v1/status, /v1/stop, /v1/priority, /v1/shelf, \
                 /v1/shelf/pin, /v1/shelf/unpin and /v1/shelf/rm",
            ));
        }
    };
    if method != expected {
        return Err(refuse(
            405,
            path,
            format!("{method} is not its method"),
            format!("use {expected}"),
        ));
    }
    let bad = |failure| Refusal {
        status: 400,
        failure,
    };
    match path {
        GET_TARGET => parse_get(body).map(Ask::Get).map_err(bad),
        SHARE_TARGET => parse_share(body).map(Ask::Share).map_err(bad),
        STOP_TARGET => from_json::<StopBody>(body)
            .map(|stop| Ask::Stop(CallId(stop.call)))
            .map_err(bad),
        PRIORITY_TARGET => from_json::<PriorityBody>(body)
            .map(|body| Ask::Prioritise {
                get: CallId(body.call),
                foreground: body.foreground,
            })
            .map_err(bad),
        SHELF_TARGET => Ok(Ask::Shelf(ShelfAsk::List)),
        SHELF_PIN_TARGET => parse_content(body, ShelfAsk::Pin).map_err(bad),
        SHELF_UNPIN_TARGET => parse_content(body, ShelfAsk::Unpin).map_err(bad),
        SHELF_REMOVE_TARGET => parse_content(body, ShelfAsk::Remove).map_err(bad),
        _ => Ok(Ask::Status),
    }
}

fn parse_content(body: &[u8], ask: impl Fn(String) -> ShelfAsk) -> Result<Ask, Failure> {
    from_json::<ContentBody>(body).map(|body| Ask::Shelf(ask(body.content)))
}

/// Target and body of what changes the shelf; `None`: nothing is changed.
pub fn shelf_body(ask: &ShelfAsk) -> Option<(&'static str, String)> {
    let (target, content) = match ask {
        ShelfAsk::List => return None,
        ShelfAsk::Pin(content) => (SHELF_PIN_TARGET, content),
        ShelfAsk::Unpin(content) => (SHELF_UNPIN_TARGET, content),
        ShelfAsk::Remove(content) => (SHELF_REMOVE_TARGET, content),
    };
    let content = content.clone();
    Some((target, to_json(&ContentBody { content })))
}

/// The body of `POST /v1/get`.
pub fn get_body(request: &GetRequest) -> String {
    to_json(&GetBody {
        urls: request.urls.clone(),
        metainfo: request.metainfo.as_ref().map(|bytes| BASE64.encode(bytes)),
        output: request.output.clone(),
        overwrite: request.overwrite,
        sha256: request.sha256.map(|digest| digest.to_string()),
        foreground: request.foreground,
        sequential: request.sequential,
        require_peers: request.require_peers,
        peers: request.peers.iter().map(ToString::to_string).collect(),
        limit_bytes_per_s: request.limit_bytes_per_s,
        mode: request.mode.map(|mode| mode.name().to_string()),
    })
}

/// The body of `POST /v1/share`.
pub fn share_body(request: &ShareRequest) -> String {
    to_json(&ShareBody {
        metainfo: BASE64.encode(&request.metainfo),
        path: request.path.clone(),
    })
}

/// What can be said against a download before it starts.
///
/// # Errors
/// If there is nothing to download from, a URL is not http(s), or the output is not an absolute path.
pub fn check_get(request: &GetRequest) -> Result<(), Failure> {
    if request.urls.is_empty() && request.metainfo.is_none() {
        return Err(usage(
            "cannot download",
            "neither a URL nor a metainfo file was given",
            "",
        ));
    }
    for url in &request.urls {
        check_url(url)?;
    }
    check_path(&request.output)
}

/// # Errors
/// If it is not an absolute http(s) URL with a host.
pub fn check_url(url: &str) -> Result<Url, Failure> {
    Url::parse(url).map_err(|e| {
        usage(
            format!("cannot use the URL `{url}`"),
            e.to_string(),
            "give it as http://HOST/PATH or https://HOST/PATH",
        )
    })
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GetBody {
    urls: Vec<String>,
    metainfo: Option<String>,
    output: String,
    overwrite: bool,
    sha256: Option<String>,
    foreground: bool,
    sequential: bool,
    require_peers: bool,
    peers: Vec<String>,
    limit_bytes_per_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShareBody {
    metainfo: String,
    path: String,
}

/// A name, or the beginning of a root.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContentBody {
    content: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StopBody {
    call: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PriorityBody {
    call: u64,
    foreground: bool,
}

fn parse_get(body: &[u8]) -> Result<GetRequest, Failure> {
    let body: GetBody = from_json(body)?;
    let metainfo = body.metainfo.as_deref().map(from_base64).transpose()?;
    let sha256 = match &body.sha256 {
        None => None,
        Some(text) => Some(
            parse_sha256(text).ok_or_else(|| field("sha256", "it is not 64 hexadecimal digits"))?,
        ),
    };
    let peers = body
        .peers
        .iter()
        .map(|peer| peer.parse::<SocketAddr>())
        .collect::<Result<_, _>>()
        .map_err(|_| {
            field(
                "peers",
                "each is an address and a port, as in 10.0.0.7:7680",
            )
        })?;
    let mode = match &body.mode {
        None => None,
        Some(text) => Some(Mode::from_text(text).ok_or_else(|| {
            field(
                "mode",
                "it is none of http-only, lan, group, internet, simple, bypass",
            )
        })?),
    };
    let request = GetRequest {
        urls: body.urls,
        metainfo,
        output: body.output,
        overwrite: body.overwrite,
        sha256,
        foreground: body.foreground,
        sequential: body.sequential,
        require_peers: body.require_peers,
        peers,
        limit_bytes_per_s: body.limit_bytes_per_s,
        mode,
    };
    check_get(&request)?;
    Ok(request)
}

fn parse_share(body: &[u8]) -> Result<ShareRequest, Failure> {
    let body: ShareBody = from_json(body)?;
    check_path(&body.path)?;
    Ok(ShareRequest {
        metainfo: from_base64(&body.metainfo)?,
        path: body.path,
    })
}

fn check_path(path: &str) -> Result<(), Failure> {
    if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') {
        return Ok(());
    }
    Err(usage(
        format!("cannot use the path `{path}`"),
        "the agent takes absolute paths of files",
        "start it with `/`",
    ))
}

fn from_base64(text: &str) -> Result<bytes::Bytes, Failure> {
    match BASE64.decode(text) {
        Ok(bytes) => Ok(bytes.into()),
        Err(_) => Err(field("metainfo", "it is not standard base64")),
    }
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|e| {
        usage(
            "cannot read the request's body",
            e.to_string(),
            "the bodies are described in docs/json.md",
        )
    })
}

fn to_json<T: Serialize>(body: &T) -> String {
    // Plain structs, string keys: the serializer has nothing to refuse.
    serde_json::to_string(body).unwrap_or_default()
}

fn field(name: &str, why: &str) -> Failure {
    usage(format!("cannot use the field `{name}`"), why, "")
}

fn usage(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, what, why).remedy(remedy)
}

fn refuse(status: u16, path: &str, why: impl Into<String>, remedy: impl Into<String>) -> Refusal {
    Refusal {
        status,
        failure: usage(format!("cannot answer {path}"), why, remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Digest;
    use bytes::Bytes;

    fn full() -> GetRequest {
        GetRequest {
            urls: alloc::vec!["http://a/x".into(), "https://b:8443/x?y#z".into()],
            metainfo: Some(Bytes::from_static(b"d4:infod\x00\xffee")),
            output: "/srv/x \"quoted\"".into(),
            overwrite: true,
            sha256: Some(Digest([0xab; 32])),
            foreground: true,
            sequential: true,
            require_peers: true,
            peers: alloc::vec!["10.0.0.7:7680".parse().unwrap(), "[::1]:1".parse().unwrap()],
            limit_bytes_per_s: u64::MAX,
            mode: Some(Mode::HttpOnly),
        }
    }

    #[test]
    fn a_get_is_read_back_as_it_was_written() {
        for request in [
            full(),
            GetRequest {
                urls: alloc::vec!["http://a/x".into()],
                output: "/x".into(),
                ..GetRequest::default()
            },
        ] {
            let body = get_body(&request);
            let Ok(Ask::Get(read)) = parse_request("POST", GET_TARGET, body.as_bytes()) else {
                panic!("{body} was refused");
            };
            assert_eq!(format!("{request:?}"), format!("{read:?}"));
        }
    }

    #[test]
    fn a_share_is_read_back_as_it_was_written() {
        let request = ShareRequest {
            metainfo: Bytes::from_static(b"d\xffe"),
            path: "/srv/x".into(),
        };
        let body = share_body(&request);
        let Ok(Ask::Share(read)) = parse_request("POST", SHARE_TARGET, body.as_bytes()) else {
            panic!("{body} was refused");
        };
        assert_eq!(format!("{request:?}"), format!("{read:?}"));
    }

    #[test]
    fn other_targets() {
        assert!(matches!(
            parse_request("GET", "/v1/status?verbose", b""),
            Ok(Ask::Status)
        ));
        assert!(matches!(
            parse_request("POST", STOP_TARGET, b"{\"call\": 7}"),
            Ok(Ask::Stop(CallId(7)))
        ));
    }

    #[test]
    fn what_is_refused_and_why() {
        for (method, target, body, status, said) in [
            ("GET", "/", "", 404, "no such target"),
            ("GET", GET_TARGET, "", 405, "use POST"),
            ("POST", STATUS_TARGET, "", 405, "use GET"),
            ("POST", GET_TARGET, "", 400, "EOF"),
            (
                "POST",
                GET_TARGET,
                "{}",
                400,
                "neither a URL nor a metainfo",
            ),
            (
                "POST",
                GET_TARGET,
                r#"{"url":"http://a/"}"#,
                400,
                "unknown field `url`",
            ),
            (
                "POST",
                GET_TARGET,
                r#"{"urls":["http://a/x"],"output":"x"}"#,
                400,
                "absolute",
            ),
            (
                "POST",
                GET_TARGET,
                r#"{"urls":["ftp://a/x"],"output":"/x"}"#,
                400,
                "`ftp://a/x` does not begin with http://",
            ),
            (
                "POST",
                GET_TARGET,
                r#"{"urls":["http:///x"],"output":"/x"}"#,
                400,
                "no host name",
            ),
            (
                "POST",
                GET_TARGET,
                r#"{"urls":["a/x"],"output":"/x"}"#,
                400,
                "does not begin with http://",
            ),
            (
                "POST",
                GET_TARGET,
                r#"{"urls":["http://a/x"],"output":"/x","sha256":"abc"}"#,
                400,
                "64 hexadecimal digits",
            ),
            (
                "POST",
                GET_TARGET,
                r#"{"urls":["http://a/x"],"output":"/x","peers":["nearby"]}"#,
                400,
                "10.0.0.7:7680",
            ),
            (
                "POST",
                SHARE_TARGET,
                r#"{"metainfo":"***","path":"/x"}"#,
                400,
                "base64",
            ),
            (
                "POST",
                SHARE_TARGET,
                r#"{"path":"/x"}"#,
                400,
                "missing field `metainfo`",
            ),
            ("POST", STOP_TARGET, r#"{"call":-1}"#, 400, "invalid value"),
        ] {
            let refusal = parse_request(method, target, body.as_bytes()).unwrap_err();
            assert_eq!(refusal.status, status, "{method} {target} {body}");
            let text = refusal.failure.to_string();
            assert!(text.contains(said), "{text:?} does not say {said:?}");
        }
    }
}
