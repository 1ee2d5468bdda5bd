//! A response as a server's role makes it, and the request it answers.

use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ::http::{Method, StatusCode, Uri};
use alloc::string::String;
use bytes::Bytes;

/// A whole request, its body collected.
#[derive(Clone, Debug)]
pub struct IncomingRequest {
    pub method: Method,
    /// As in the request line: origin-form, or absolute-form from a client that takes us for a proxy.
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The client speaks HTTP/1.0.
    pub http10: bool,
}

/// A response head, and its body or the promise of one.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: AnswerBody,
}

#[derive(Clone, Debug)]
pub enum AnswerBody {
    Full(Bytes),
    /// This many bytes follow through `send_body`.
    Length(u64),
    /// Bytes follow through `send_body` until `finish`: chunked, or until close for HTTP/1.0.
    Unknown,
}

impl IncomingRequest {
    /// The path, still percent-encoded.
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    pub fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    /// The first field of this name, if it is readable text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Answer {
    pub fn new(status: StatusCode, body: AnswerBody) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body,
        }
    }

    pub fn empty(status: StatusCode) -> Self {
        Self::new(status, AnswerBody::Full(Bytes::new()))
    }

    /// A line of plain text.
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.push('\n');
        Self::new(status, AnswerBody::Full(Bytes::from(text)))
            .with(header::CONTENT_TYPE, "text/plain; charset=utf-8")
    }

    /// JSON already written.
    pub fn json(status: StatusCode, json: impl Into<Bytes>) -> Self {
        Self::new(status, AnswerBody::Full(json.into()))
            .with(header::CONTENT_TYPE, "application/json")
    }

    /// 405, naming what would be allowed: `GET, HEAD`.
    pub fn method_not_allowed(allowed: &'static str) -> Self {
        Self::text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
            .with(header::ALLOW, allowed)
    }

    /// Set a field. A value that cannot stand in a header is left out.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}
