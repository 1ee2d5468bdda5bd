//! The client's side of one connection: connect (through a proxy, if need be), then one exchange after
//! another.
//!
//! Decides when the stream is usable, where an answer ends, whether the connection can be used again and
//! when waiting is over. Never decides what an answer means, follows no redirect, retries nothing.
//! Body bytes are slices of what was received; they are granted again once the parent says
//! [`Connection::consumed`], so a parent that holds bytes back slows the sender down.
//!
//! Invariants: credit and unconsumed bytes together never exceed the connection's window; each exchange ends
//! with exactly one `Done` or `Fault`; nothing beyond an answer's end is delivered.
//!
//! Spec: RFC 9110, RFC 9112. Tests: `http/client_tests.rs`; fuzz body `http_head`.

use crate::http::body::{BodyReader, Framing};
use crate::http::proxy::{Proxies, Route};
use crate::http::request::{ClientRequest, encode_connect};
use crate::http::url::Url;
use crate::ids::StreamId;
use crate::limits::{
    CONNECT_TIMEOUT, GRANT_PER_STREAM, HTTP_FIRST_BYTE_TIMEOUT, HTTP_HEAD_MAX, HTTP_KEEP_TIMEOUT,
    HTTP_STALL_TIMEOUT,
};
use crate::machine::{CloseHow, Effects, Input, Lost};
use crate::time::{Deadline, Mono, Now};
use ::http::header::{self, HeaderMap};
use ::http::{StatusCode, Version};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::{Bytes, BytesMut};
use core::fmt;
use core::time::Duration;
use ureq_proto::BodyMode;
use ureq_proto::client::state::RecvResponse;
use ureq_proto::client::{Call as Exchange, RecvResponseResult};

/// One connection to a server, or to a proxy that stands before it.
#[derive(Debug)]
pub struct Connection {
    stream: StreamId,
    /// Any URL of the origin it was opened for.
    url: Url,
    route: Route,
    state: State,
    /// A request that waits for the stream to be ready.
    pending: Option<ClientRequest>,
    /// An incomplete head.
    head: BytesMut,
    window: u32,
    /// Granted and not yet received.
    credit: u32,
    /// To be granted again.
    owed: u32,
    /// At least one exchange was completed here.
    used: bool,
    /// When the current wait is over.
    until: Mono,
}

/// How a connection is made.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Bytes that may come and not be consumed.
    pub window: u32,
    /// How long the stream may take to open.
    pub timeout: Duration,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            window: GRANT_PER_STREAM,
            timeout: CONNECT_TIMEOUT,
        }
    }
}

/// What a connection tells its parent.
#[derive(Debug)]
pub enum ClientEvent {
    /// Status and fields of the final answer.
    Head(ResponseHead),
    /// The next bytes of its body.
    Body(Bytes),
    /// The answer is complete; `reusable` if another exchange can be started here.
    Done { reusable: bool },
    /// The exchange is over without a complete answer, and so is the connection.
    Fault(HttpFault),
}

#[derive(Clone, Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
}

/// Why an exchange came to no good end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpFault {
    /// No connection, or no TLS on it.
    Connect(Lost),
    /// The proxy would not open a tunnel.
    ProxyRefused(StatusCode),
    /// Closed before the first byte of an answer. On a `reused` connection that is how servers end
    /// keep-alive, and asking again is right.
    NoAnswer {
        why: Lost,
        reused: bool,
    },
    /// Closed in the middle of an answer.
    Truncated(Lost),
    /// Nothing came for too long; the text says what was waited for.
    TimedOut(&'static str),
    HeadTooLarge,
    /// Not HTTP, or not as it must be.
    Malformed(String),
}

#[derive(Debug)]
enum State {
    Connecting,
    /// `CONNECT` was sent.
    Tunnelling(Box<Exchange<RecvResponse>>),
    Securing,
    Idle,
    AwaitingHead(Box<Exchange<RecvResponse>>),
    Body {
        reader: BodyReader,
        keep: bool,
    },
    Gone,
}

impl Connection {
    /// Begin to connect. A request may be started at once; it is sent when the stream is ready.
    pub fn open(now: Now, url: &Url, proxies: &Proxies, fx: &mut Effects) -> Self {
        Self::open_as(now, url, proxies, Opening::default(), fx)
    }

    pub fn open_as(now: Now, url: &Url, proxies: &Proxies, how: Opening, fx: &mut Effects) -> Self {
        let route = proxies.route(url);
        let to = match &route {
            Route::Direct => url.endpoint(),
            Route::Forward(proxy) | Route::Tunnel(proxy) => proxy.endpoint.clone(),
        };
        Self {
            stream: fx.connect(to),
            url: url.clone(),
            route,
            state: State::Connecting,
            pending: None,
            head: BytesMut::new(),
            window: how.window,
            credit: 0,
            owed: 0,
            used: false,
            until: now.mono + how.timeout,
        }
    }

    pub const fn stream(&self) -> StreamId {
        self.stream
    }

    /// No exchange is under way, and one can be started.
    pub const fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    pub const fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    /// At least one exchange was completed here.
    pub const fn is_used(&self) -> bool {
        self.used
    }

    /// Can requests for this URL be sent here?
    pub fn serves(&self, url: &Url) -> bool {
        self.url.same_origin(url)
    }

    /// Start an exchange. One at a time: while another is under way this is ignored.
    pub fn start(
        &mut self,
        now: Now,
        request: ClientRequest,
        fx: &mut Effects,
        ev: &mut Vec<ClientEvent>,
    ) {
        match self.state {
            State::Idle => self.send_request(now, &request, fx, ev),
            State::Connecting | State::Tunnelling(_) | State::Securing => {
                self.pending = Some(request)
            }
            State::AwaitingHead(_) | State::Body { .. } | State::Gone => {}
        }
    }

    /// Route an input about this stream; others are ignored.
    pub fn on_input(
        &mut self,
        now: Now,
        input: &Input,
        fx: &mut Effects,
        ev: &mut Vec<ClientEvent>,
    ) {
        match input {
            Input::Opened { stream, .. } if *stream == self.stream => self.on_opened(now, fx, ev),
            Input::Secured { stream } if *stream == self.stream => self.on_secured(now, fx, ev),
            Input::Received { stream, bytes } if *stream == self.stream => {
                self.on_bytes(now, bytes.clone(), fx, ev);
            }
            Input::Closed { stream, why } if *stream == self.stream => {
                self.on_closed(why.clone(), ev)
            }
            _ => {}
        }
    }

    pub fn on_opened(&mut self, now: Now, fx: &mut Effects, ev: &mut Vec<ClientEvent>) {
        if !matches!(self.state, State::Connecting) {
            return;
        }
        self.credit = self.window;
        fx.grant(self.stream, self.credit);
        let Route::Tunnel(proxy) = &self.route else {
            return self.ready(now, fx, ev);
        };
        match encode_connect(&self.url, proxy) {
            Ok((head, exchange)) => {
                fx.send(self.stream, head);
                self.state = State::Tunnelling(Box::new(exchange));
                self.until = now.mono + CONNECT_TIMEOUT;
            }
            Err(why) => self.fail(HttpFault::Malformed(why), fx, ev),
        }
    }

    pub fn on_secured(&mut self, now: Now, fx: &mut Effects, ev: &mut Vec<ClientEvent>) {
        if matches!(self.state, State::Securing) {
            self.ready(now, fx, ev);
        }
    }

    pub fn on_bytes(
        &mut self,
        now: Now,
        bytes: Bytes,
        fx: &mut Effects,
        ev: &mut Vec<ClientEvent>,
    ) {
        self.credit = self
            .credit
            .saturating_sub(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        match self.state {
            State::Connecting | State::Securing | State::Idle => {
                let why = HttpFault::Malformed("bytes that nobody asked for".to_string());
                // Between exchanges there is nobody to tell.
                if self.is_idle() {
                    self.close(fx);
                } else {
                    self.fail(why, fx, ev);
                }
            }
            State::Tunnelling(_) | State::AwaitingHead(_) => self.on_head_bytes(now, bytes, fx, ev),
            State::Body { .. } => {
                self.until = now.mono + HTTP_STALL_TIMEOUT;
                self.on_body_bytes(now, bytes, fx, ev);
            }
            State::Gone => {}
        }
        self.top_up(fx);
    }

    pub fn on_closed(&mut self, why: Lost, ev: &mut Vec<ClientEvent>) {
        let state = core::mem::replace(&mut self.state, State::Gone);
        let reused = self.used;
        ev.push(match state {
            State::Idle | State::Gone => return,
            State::Connecting | State::Tunnelling(_) | State::Securing => {
                ClientEvent::Fault(HttpFault::Connect(why))
            }
            State::AwaitingHead(_) if self.head.is_empty() => {
                ClientEvent::Fault(HttpFault::NoAnswer { why, reused })
            }
            State::Body { reader, .. } if why == Lost::Eof && reader.ends_with_stream() => {
                ClientEvent::Done { reusable: false }
            }
            State::AwaitingHead(_) | State::Body { .. } => {
                ClientEvent::Fault(HttpFault::Truncated(why))
            }
        });
    }

    /// The parent has dealt with this many bytes of body: as many may come again.
    pub fn consumed(&mut self, now: Now, len: usize, fx: &mut Effects) {
        if self.is_gone() {
            return;
        }
        if self.credit == 0 {
            // The silence was ours.
            self.until = self.until.max(now.mono + HTTP_STALL_TIMEOUT);
        }
        self.owe(len);
        self.top_up(fx);
    }

    /// From here on so many bytes may come and not be consumed, if that is more than before.
    pub fn widen(&mut self, window: u32, fx: &mut Effects) {
        let more = window.saturating_sub(self.window);
        if !self.is_gone() && more > 0 {
            self.window = window;
            self.credit += more;
            fx.grant(self.stream, more);
        }
    }

    /// Give the connection up, with whatever is under way. No event comes of it.
    pub fn close(&mut self, fx: &mut Effects) {
        if !self.is_gone() {
            self.state = State::Gone;
            fx.close(self.stream, CloseHow::Abort);
        }
    }

    pub fn deadline(&self) -> Option<Deadline> {
        let why = match self.state {
            State::Connecting => "http connect",
            State::Tunnelling(_) => "http proxy tunnel",
            State::Securing => "http tls",
            State::Idle => "http keep-alive",
            State::AwaitingHead(_) => "http first byte",
            State::Body { .. } if self.credit > 0 => "http stall",
            State::Body { .. } | State::Gone => return None,
        };
        Some(Deadline::new(self.until, why))
    }

    pub fn on_tick(&mut self, now: Now, fx: &mut Effects, ev: &mut Vec<ClientEvent>) {
        let waited_for = match self.deadline() {
            Some(deadline) if deadline.at <= now.mono => deadline.why,
            _ => return,
        };
        if self.is_idle() {
            self.close(fx);
        } else {
            let what = match waited_for {
                "http connect" => "the connection",
                "http proxy tunnel" => "the proxy",
                "http tls" => "TLS",
                "http first byte" => "an answer",
                _ => "more bytes",
            };
            self.fail(HttpFault::TimedOut(what), fx, ev);
        }
    }

    fn ready(&mut self, now: Now, fx: &mut Effects, ev: &mut Vec<ClientEvent>) {
        self.become_idle(now);
        if let Some(request) = self.pending.take() {
            self.send_request(now, &request, fx, ev);
        }
    }

    fn become_idle(&mut self, now: Now) {
        self.state = State::Idle;
        self.until = now.mono + HTTP_KEEP_TIMEOUT;
    }

    fn send_request(
        &mut self,
        now: Now,
        request: &ClientRequest,
        fx: &mut Effects,
        ev: &mut Vec<ClientEvent>,
    ) {
        match request.encode(&self.route) {
            Ok((head, exchange)) => {
                fx.send(self.stream, head);
                fx.send(self.stream, request.body.clone());
                self.head.clear();
                self.state = State::AwaitingHead(Box::new(exchange));
                self.until = now.mono + HTTP_FIRST_BYTE_TIMEOUT;
            }
            Err(why) => self.fail(HttpFault::Malformed(why), fx, ev),
        }
    }

    /// Bytes of a head, and perhaps of what follows it.
    fn on_head_bytes(
        &mut self,
        now: Now,
        bytes: Bytes,
        fx: &mut Effects,
        ev: &mut Vec<ClientEvent>,
    ) {
        // A head that comes in one part, as nearly all do, is read where it lies.
        let mut input = if self.head.is_empty() {
            bytes
        } else {
            self.head.extend_from_slice(&bytes);
            self.head.split().freeze()
        };
        loop {
            let (State::Tunnelling(exchange) | State::AwaitingHead(exchange)) = &mut self.state
            else {
                return;
            };
            let (used, response) = match exchange.try_response(&input, false) {
                Ok(parsed) => parsed,
                Err(ureq_proto::Error::HttpParseTooManyHeaders) => {
                    return self.fail(HttpFault::HeadTooLarge, fx, ev);
                }
                Err(e) => return self.fail(HttpFault::Malformed(e.to_string()), fx, ev),
            };
            if used > HTTP_HEAD_MAX
                || (response.is_none() && used == 0 && input.len() >= HTTP_HEAD_MAX)
            {
                return self.fail(HttpFault::HeadTooLarge, fx, ev);
            }
            let _ = input.split_to(used);
            self.owe(used);
            if let Some(response) = response {
                return self.on_response(now, &response, input, fx, ev);
            }
            if used == 0 {
                self.head.extend_from_slice(&input);
                return;
            }
        }
    }

    fn on_response(
        &mut self,
        now: Now,
        response: &::http::Response<()>,
        rest: Bytes,
        fx: &mut Effects,
        ev: &mut Vec<ClientEvent>,
    ) {
        let State::AwaitingHead(exchange) = core::mem::replace(&mut self.state, State::Connecting)
        else {
            return self.on_tunnel(now, response.status(), &rest, fx, ev);
        };
        let framing = match framing(*exchange, response) {
            Ok(framing) => framing,
            Err(why) => return self.fail(HttpFault::Malformed(why), fx, ev),
        };
        let head = ResponseHead {
            status: response.status(),
            headers: response.headers().clone(),
            framing,
        };
        ev.push(ClientEvent::Head(head));
        self.state = State::Body {
            reader: BodyReader::new(framing),
            keep: framing != Framing::UntilClose && keeps_alive(response),
        };
        self.until = now.mono + HTTP_STALL_TIMEOUT;
        self.on_body_bytes(now, rest, fx, ev);
    }

    fn on_tunnel(
        &mut self,
        now: Now,
        status: StatusCode,
        rest: &Bytes,
        fx: &mut Effects,
        ev: &mut Vec<ClientEvent>,
    ) {
        if !status.is_success() {
            return self.fail(HttpFault::ProxyRefused(status), fx, ev);
        }
        if !rest.is_empty() {
            let why = "bytes in the tunnel before TLS".to_string();
            return self.fail(HttpFault::Malformed(why), fx, ev);
        }
        fx.start_tls(self.stream, self.url.tls_name());
        self.state = State::Securing;
        self.until = now.mono + CONNECT_TIMEOUT;
    }

    fn on_body_bytes(
        &mut self,
        now: Now,
        mut input: Bytes,
        fx: &mut Effects,
        ev: &mut Vec<ClientEvent>,
    ) {
        let State::Body { reader, keep } = &mut self.state else {
            return;
        };
        let keep = *keep;
        let mut framing_len = input.len();
        let error = loop {
            match reader.read(&mut input) {
                Ok(Some(part)) => {
                    framing_len -= part.len();
                    ev.push(ClientEvent::Body(part));
                }
                Ok(None) => break None,
                Err(e) => break Some(e),
            }
        };
        let ended = reader.is_ended();
        self.owe(framing_len);
        if let Some(e) = error {
            return self.fail(HttpFault::Malformed(e.to_string()), fx, ev);
        }
        if !ended {
            return;
        }
        self.used = true;
        // Bytes behind the answer's end: where the next answer would begin is not known.
        let reusable = keep && input.is_empty();
        if reusable {
            self.become_idle(now);
        } else {
            self.close(fx);
        }
        ev.push(ClientEvent::Done { reusable });
    }

    fn owe(&mut self, len: usize) {
        self.owed = self
            .owed
            .saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// Grant again in portions worth a message.
    fn top_up(&mut self, fx: &mut Effects) {
        let due = self.owed >= self.window / 8 || self.credit == 0;
        if due && self.owed > 0 && !self.is_gone() {
            let room = self.window.saturating_sub(self.credit);
            let grant = self.owed.min(room);
            fx.grant(self.stream, grant);
            self.credit += grant;
            self.owed = 0;
        }
    }

    fn fail(&mut self, fault: HttpFault, fx: &mut Effects, ev: &mut Vec<ClientEvent>) {
        self.close(fx);
        ev.push(ClientEvent::Fault(fault));
    }
}

impl HttpFault {
    /// In words, naming the proxy if the connection went through one.
    pub fn on(&self, route: &Route) -> String {
        use Lost::{NameNotFound, Refused, Unreachable};
        match (self, route.proxy()) {
            // A proxy finds and connects to the server itself: this is about the proxy's own address.
            (Self::Connect(why @ (Refused | Unreachable | NameNotFound)), Some(proxy)) => {
                format!("cannot reach the proxy {proxy}: {}", LostText(why))
            }
            (Self::ProxyRefused(status), Some(proxy)) => {
                format!("the proxy {proxy} answered {status}")
            }
            _ => route.blame(self.to_string()),
        }
    }
}

impl fmt::Display for HttpFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Only a stream on which TLS is still to come can end before it is ready.
            Self::Connect(Lost::Eof) => f.write_str("the server hung up during the TLS handshake"),
            Self::Connect(why) => write!(f, "{}", LostText(why)),
            Self::ProxyRefused(status) => write!(f, "the proxy answered {status}"),
            Self::NoAnswer { why, .. } => write!(f, "no answer: {}", LostText(why)),
            Self::Truncated(why) => write!(f, "the answer broke off: {}", LostText(why)),
            Self::TimedOut(what) => write!(f, "timed out waiting for {what}"),
            Self::HeadTooLarge => {
                write!(f, "answer with a head of more than {HTTP_HEAD_MAX} bytes")
            }
            Self::Malformed(why) => write!(f, "malformed answer: {why}"),
        }
    }
}

impl core::error::Error for HttpFault {}

/// Words for why a stream is gone.
struct LostText<'a>(&'a Lost);

impl fmt::Display for LostText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Lost::Eof => f.write_str("connection closed"),
            Lost::Asked => f.write_str("connection closed by us"),
            Lost::Refused => f.write_str("connection refused"),
            Lost::Reset => f.write_str("connection reset"),
            Lost::TimedOut => f.write_str("connection timed out"),
            Lost::Unreachable => f.write_str("host unreachable"),
            Lost::NameNotFound => f.write_str("host name not found"),
            Lost::Tls(why) => write!(f, "TLS: {why}"),
            Lost::File(why) | Lost::Other(why) => f.write_str(why),
        }
    }
}

/// How the body ends, as ureq-proto reads the head. Transfer codings other than `chunked` are refused: they
/// would have to be undone.
fn framing(
    exchange: Exchange<RecvResponse>,
    response: &::http::Response<()>,
) -> Result<Framing, String> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err("unasked change of protocol".to_string());
    }
    let codings = response.headers().get_all(header::TRANSFER_ENCODING);
    if codings
        .iter()
        .any(|c| !c.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err("unknown transfer coding".to_string());
    }
    Ok(match exchange.proceed() {
        Some(RecvResponseResult::RecvBody(body)) => match body.body_mode() {
            BodyMode::NoBody => Framing::Empty,
            BodyMode::LengthDelimited(len) => Framing::Length(len),
            BodyMode::Chunked => Framing::Chunked,
            BodyMode::CloseDelimited => Framing::UntilClose,
        },
        _ => Framing::Empty,
    })
}

fn keeps_alive(response: &::http::Response<()>) -> bool {
    let says = |token: &str| {
        response
            .headers()
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|option| option.trim().eq_ignore_ascii_case(token))
    };
    !says("close") && (response.version() == Version::HTTP_11 || says("keep-alive"))
}
