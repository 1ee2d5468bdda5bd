//! A request as a client makes it, and its bytes on the wire.
//!
//! Decides the request line's form (origin-form, absolute-form to a forwarding proxy, authority-form for
//! `CONNECT`) and the fields every request of ours carries. ureq-proto writes the head and keeps the
//! state that reading the answer depends on.

use crate::http::proxy::{Proxy, Route};
use crate::http::url::Url;
use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ::http::{Method, Request};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use ureq_proto::client::state::RecvResponse;
use ureq_proto::client::{Call, SendRequestResult};

/// One request. `Host`, `User-Agent`, `Accept-Encoding`, `Content-Length` and credentials from the URL are
/// added when it is sent, where not given.
#[derive(Clone, Debug)]
pub struct ClientRequest {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl ClientRequest {
    pub fn get(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    pub fn post(url: Url, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            method: Method::POST,
            body: body.into(),
            ..Self::get(url)
        }
        .with(header::CONTENT_TYPE, content_type)
    }

    /// Set a field. A value that cannot stand in a header is left out.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// The head's bytes, and the exchange that reads the answer.
    pub(crate) fn encode(&self, route: &Route) -> Result<(Bytes, Call<RecvResponse>), String> {
        let mut headers = self.headers.clone();
        add(&mut headers, header::USER_AGENT, USER_AGENT);
        add(&mut headers, header::ACCEPT_ENCODING, "identity");
        add(&mut headers, header::ACCEPT, "*/*");
        if let Some(credentials) = self.url.basic_auth() {
            add(&mut headers, header::AUTHORIZATION, &credentials);
        }
        if let Route::Forward(Proxy {
            authorization: Some(credentials),
            ..
        }) = route
        {
            add(&mut headers, header::PROXY_AUTHORIZATION, credentials);
        }
        let has_body = !self.body.is_empty()
            || matches!(self.method, Method::POST | Method::PUT | Method::PATCH);
        if has_body {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        }
        let origin = self.url.origin();
        let uri = format!("{origin}{}", self.url.target());
        let (mut head, call) = encode(&self.method, &uri, headers, self.body.len())?;
        if matches!(route, Route::Forward(_)) {
            // ureq-proto writes the path only; a proxy wants all of it.
            let at = self.method.as_str().len() + 1;
            head.splice(at..at, origin.into_bytes());
        }
        Ok((Bytes::from(head), call))
    }
}

/// `CONNECT host:port` for a tunnel to this URL's server.
pub(crate) fn encode_connect(
    url: &Url,
    proxy: &Proxy,
) -> Result<(Bytes, Call<RecvResponse>), String> {
    let mut headers = HeaderMap::new();
    add(&mut headers, header::USER_AGENT, USER_AGENT);
    if let Some(credentials) = &proxy.authorization {
        add(&mut headers, header::PROXY_AUTHORIZATION, credentials);
    }
    let uri = format!("http://{}", url.authority_with_port());
    let (head, call) = encode(&Method::CONNECT, &uri, headers, 0)?;
    Ok((Bytes::from(head), call))
}

fn encode(
    method: &Method,
    uri: &str,
    headers: HeaderMap,
    body_len: usize,
) -> Result<(Vec<u8>, Call<RecvResponse>), String> {
    let text = |e: ureq_proto::Error| e.to_string();
    let fields: usize = headers
        .iter()
        .map(|(k, v)| k.as_str().len() + v.len() + 4)
        .sum();
    let mut head = vec![0; uri.len() * 2 + fields + 256];
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .body(())
        .map_err(|e| e.to_string())?;
    *request.headers_mut() = headers;
    let mut call = Call::new(request).map_err(text)?;
    call.allow_non_standard_methods(true);
    if body_len > 0 {
        call.force_send_body();
    }
    let mut call = call.proceed();
    let len = call.write(&mut head).map_err(text)?;
    head.truncate(len);
    match call.proceed().map_err(text)? {
        Some(SendRequestResult::RecvResponse(call)) => Ok((head, call)),
        Some(SendRequestResult::SendBody(mut call)) => {
            call.consume_direct_write(body_len).map_err(text)?;
            let call = call.proceed().ok_or("request body has another length")?;
            Ok((head, call))
        }
        _ => Err("request cannot be written".to_string()),
    }
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if !headers.contains_key(&name)
        && let Ok(value) = HeaderValue::from_str(value)
    {
        headers.insert(name, value);
    }
}

/// What we call ourselves.
pub const USER_AGENT: &str = concat!("dovetail/", env!("CARGO_PKG_VERSION"));
