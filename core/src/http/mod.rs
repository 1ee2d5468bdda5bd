//! HTTP/1.1 over a stream: one exchange, client or server; ranges, redirects, proxies, retry.

mod allow;
mod answer;
mod bans;
mod begun;
mod body;
mod cache_host;
mod call;
mod client;
mod date;
mod lanes;
mod proxy;
pub mod range;
mod redirect;
mod request;
mod server;
mod targets;
mod url;
mod validator;
mod verdict;
mod web_answers;
mod web_source;

pub use allow::{Gate, HostPattern, HostPatternError};
pub use answer::{Answer, AnswerBody, IncomingRequest};
pub use bans::{Ban, Bans};
pub use begun::BegunAnswer;
pub use body::{BodyError, BodyReader, Framing};
pub use cache_host::{CacheHost, OriginAsked, cache_url, origin_url};
pub use call::{Call, CallError, CallOutcome, CallRequest, Response};
pub use client::{ClientEvent, Connection, HttpFault, Opening, ResponseHead};
pub use date::{format_http_date, parse_http_date};
pub use proxy::{Proxies, Proxy, ProxyError, Route};
pub use redirect::{REDIRECTS_MAX, Redirect, RedirectError, redirect};
pub use request::{ClientRequest, USER_AGENT};
pub use server::ServerConnection;
pub use targets::Tiers;
pub use url::{Url, UrlError, percent_decode};
pub use validator::{Validator, if_none_match_hits, if_range_holds};
pub use verdict::Known;
pub use web_source::{Lane, LaneFor, WebConfig, WebEvent, WebSource};

#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod web_fault_tests;
#[cfg(test)]
mod web_rig;
#[cfg(test)]
mod web_tests;
