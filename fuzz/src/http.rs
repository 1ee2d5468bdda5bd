//! HTTP heads and bodies, both sides: no panic, bounded credit, and the same result however the bytes are cut.

use bytes::Bytes;
use dovetail_core::http::range::{Asked, ContentRange};
use dovetail_core::http::{
    Answer, ClientEvent, ClientRequest, Connection, Proxies, ServerConnection, Url,
    format_http_date, parse_http_date,
};
use dovetail_core::ids::StreamId;
use dovetail_core::limits::{GRANT_PER_STREAM, HTTP_HEAD_MAX, HTTP_SERVER_WINDOW};
use dovetail_core::machine::{Effects, Lost, Output};
use dovetail_core::time::Now;
use std::fmt::Write as _;

/// The first byte chooses the reader, the second how the rest is cut.
pub fn heads(data: &[u8]) {
    let [reader, cut, wire @ ..] = data else {
        return;
    };
    // Longer heads are refused, and where that shows depends on the cut.
    let wire = wire.get(..HTTP_HEAD_MAX - 1).unwrap_or(wire);
    let cut = usize::from(*cut).max(1);
    match reader % 3 {
        0 => assert_eq!(as_server(wire, wire.len()), as_server(wire, cut)),
        1 => assert_eq!(as_client(wire, wire.len()), as_client(wire, cut)),
        _ => fields(&String::from_utf8_lossy(wire)),
    }
}

/// What a server understands of these bytes, and answers.
fn as_server(wire: &[u8], cut: usize) -> String {
    let now = Now::default();
    let mut fx = Effects::default();
    let mut server = ServerConnection::new(now, StreamId(1), 1000, &mut fx);
    let (mut told, mut sent, mut credit) = (String::new(), String::new(), 0);
    for part in wire.chunks(cut.max(1)) {
        drain(&mut fx, &mut sent, &mut credit);
        assert!(credit <= HTTP_SERVER_WINDOW, "credit is bounded");
        credit -= part.len() as u32;
        server.on_bytes(now, &Bytes::copy_from_slice(part));
        while let Some(request) = server.poll(now, &mut fx) {
            let (method, uri, body) = (&request.method, &request.uri, &request.body);
            let _ = write!(told, "[{method} {uri} {:?} {body:?}]", request.headers);
            server.respond(now, &Answer::text(::http::StatusCode::OK, "ok"), &mut fx);
        }
        drain(&mut fx, &mut sent, &mut credit);
    }
    // Whether the client is asked to go on depends on what has come already.
    told + &sent.replace("HTTP/1.1 100 Continue\r\n\r\n", "")
}

/// What a client understands of these bytes as an answer.
fn as_client(wire: &[u8], cut: usize) -> String {
    let now = Now::default();
    let url = Url::parse("http://h/").expect("a URL");
    let mut fx = Effects::default();
    let mut events = Vec::new();
    let mut connection = Connection::open(now, &url, &Proxies::none(), &mut fx);
    connection.on_opened(now, &mut fx, &mut events);
    connection.start(now, ClientRequest::get(url), &mut fx, &mut events);
    let (mut sent, mut credit) = (String::new(), 0);
    let (mut told, mut body, mut ends) = (String::new(), Vec::new(), 0);
    for part in wire.chunks(cut.max(1)) {
        drain(&mut fx, &mut sent, &mut credit);
        assert!(credit <= GRANT_PER_STREAM, "credit is bounded");
        credit -= part.len() as u32;
        connection.on_bytes(now, Bytes::copy_from_slice(part), &mut fx, &mut events);
        for event in events.drain(..) {
            tell(event, &mut told, &mut body, &mut ends, |len| {
                connection.consumed(now, len, &mut fx)
            });
        }
    }
    connection.on_closed(Lost::Eof, &mut events);
    for event in events.drain(..) {
        tell(event, &mut told, &mut body, &mut ends, |_| {});
    }
    assert_eq!(ends, 1, "an exchange ends once: {told}");
    format!("{told} {body:?}")
}

fn tell(
    event: ClientEvent,
    told: &mut String,
    body: &mut Vec<u8>,
    ends: &mut u32,
    consumed: impl FnOnce(usize),
) {
    match event {
        ClientEvent::Head(head) => {
            let _ = write!(
                told,
                "{} {:?} {:?}",
                head.status, head.framing, head.headers
            );
        }
        ClientEvent::Body(bytes) => {
            body.extend_from_slice(&bytes);
            consumed(bytes.len());
        }
        // Bytes behind the answer are seen at once or later.
        ClientEvent::Done { .. } => *ends += 1,
        ClientEvent::Fault(fault) => {
            *ends += 1;
            let _ = write!(told, "{fault}");
        }
    }
}

fn drain(fx: &mut Effects, sent: &mut String, credit: &mut u32) {
    while let Some(output) = fx.poll() {
        match output {
            Output::Grant { bytes, .. } => *credit += bytes,
            Output::Send { bytes, .. } => sent.push_str(&String::from_utf8_lossy(&bytes)),
            _ => {}
        }
    }
}

/// Values of single fields, and URLs.
fn fields(text: &str) {
    let (first, second) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(url) = Url::parse(first) {
        let shown = url.to_string();
        let again = Url::parse(&shown).expect("a URL that was shown");
        assert_eq!(again.to_string(), shown, "parse and show are inverse");
        assert!(shown.is_ascii() && !shown.contains(char::is_whitespace));
        let _ = (url.file_name(), url.basic_auth());
        if let Ok(joined) = url.join(second) {
            assert!(joined.target().starts_with('/'));
            assert_eq!(
                joined.join("").map(|same| same.to_string()),
                Ok(joined.to_string())
            );
        }
    }
    if let Ok(proxies) = Proxies::new(Some("p:1"), None, Some(first))
        && let Ok(url) = Url::parse(second)
    {
        let _ = proxies.route(&url);
    }
    for length in [0, 1, 1000, u64::MAX] {
        if let Asked::Part(range) = Asked::of(first, length) {
            assert!(
                range.start < range.end && range.end <= length,
                "{range:?} of {length}"
            );
        }
    }
    if let Some(ContentRange::Part { start, end, total }) = ContentRange::parse(first) {
        assert!(start < end && total.is_none_or(|total| end <= total));
    }
    if let Some(unix_s) = parse_http_date(first).filter(|unix_s| *unix_s >= 0) {
        assert_eq!(parse_http_date(&format_http_date(unix_s)), Some(unix_s));
    }
}
