//! What a request means and what is answered: the coordinator without its streams.
//!
//! Decides, endpoint by endpoint (`announce/messages.rs` has the table), what is malformed, what is known
//! and what is told. Never touches a connection. A refusal always says what, why and what to do.
//!
//! Tested in `routes_tests.rs`: every endpoint, good and bad.

use super::device::Device;
use super::identify::{Asked, Identified, Identifier};
use super::meeting::Meeting;
use super::query::Query;
use super::records::{Entered, NewRecord, Records};
use super::registry::{Kind, Registry, SwarmKey};
use super::tracker::{self, Counts, TrackerAnnounce};
use super::{CoordinatorConfig, select};
use crate::announce::hex;
use crate::announce::messages::{
    ANNOUNCE_PATH, AnnounceEvent, AnnounceReply, AnnounceRequest, CONTENT_PATH, HEALTH_PATH,
    Health, Overview, Peer, Publication, Published, Refusal, SWARMS_PATH, Scope, SwarmOverview,
    SwarmReply,
};
use crate::command::Level;
use crate::content::{Digest, InfoHash};
use crate::http::{Answer, IncomingRequest, Url};
use crate::limits::{
    ANNOUNCE_REQUEST_MAX, HELD_PER_ANNOUNCE_MAX, PEERS_PER_ANSWER_MAX, SWARMS_LISTED_MAX,
    URLS_PER_CONTENT_MAX,
};
use crate::machine::Effects;
use crate::rng::Rng;
use crate::settings::GroupPolicy;
use crate::stats;
use crate::time::{Mono, Now};
use ::http::header::{self, HeaderName};
use ::http::{Method, StatusCode};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use serde::Serialize;
use serde::de::DeserializeOwned;

#[derive(Debug)]
pub(super) struct Desk {
    interval: Duration,
    min_interval: Duration,
    pub(super) policy: GroupPolicy,
    pub(super) registry: Registry,
    pub(super) records: Records,
    pub(super) identifier: Identifier,
    pub(super) rendezvous: Meeting,
    rng: Rng,
}

/// Either way something to send.
type Answered = Result<Answer, Refused>;
type Refused = Box<Answer>;

impl Desk {
    pub(super) fn new(config: CoordinatorConfig, mut rng: Rng) -> Self {
        Self {
            rendezvous: Meeting::new(rng.fork(), config.relay_bytes_per_s),
            interval: config.interval,
            min_interval: config.min_interval,
            policy: config.policy,
            registry: Registry::default(),
            records: Records::default(),
            identifier: Identifier::new(config.allow, config.proxies),
            rng,
        }
    }

    pub(super) fn answer(
        &mut self,
        now: Now,
        from: SocketAddr,
        request: &IncomingRequest,
        fx: &mut Effects,
    ) -> Answer {
        let query = Query::new(request.query());
        let from = client_address(from, request);
        let answered = match (&request.method, request.path()) {
            (&Method::POST, ANNOUNCE_PATH) => self.announce(now, from, request),
            (&Method::POST, CONTENT_PATH) => self.publish(request, fx),
            (&Method::GET | &Method::HEAD, CONTENT_PATH) => self.content(now, query, fx),
            (&Method::GET | &Method::HEAD, SWARMS_PATH) => Ok(self.overview()),
            (&Method::GET | &Method::HEAD, HEALTH_PATH) => Ok(self.health()),
            (&Method::GET | &Method::HEAD, "/") => Ok(self.front()),
            (&Method::GET, "/announce") => Ok(self.track(now, from, query)),
            (&Method::GET, "/scrape") => Ok(self.scrape(query)),
            (_, ANNOUNCE_PATH) => Err(wrong_method("POST")),
            (_, CONTENT_PATH) => Err(wrong_method("GET, HEAD, POST")),
            (_, SWARMS_PATH | HEALTH_PATH | "/") => Err(wrong_method("GET, HEAD")),
            (_, "/announce" | "/scrape") => Err(wrong_method("GET")),
            (_, path) => Err(refusal(
                StatusCode::NOT_FOUND,
                &format!("nothing is at {path}"),
                "this is a coordinator; it serves no files",
                "",
            )),
        };
        answered.unwrap_or_else(|refused| *refused)
    }

    /// What a fetch has found out.
    pub(super) fn identified(&mut self, identified: Identified, fx: &mut Effects) {
        let Identified { url, result, took } = identified;
        let entered = match result {
            Ok(None) => return,
            Ok(Some(record)) => self.records.enter(record).map_err(|why| why.to_string()),
            Err(why) => Err(why),
        };
        match entered {
            Ok(entered) => {
                let how = format!("hashed {url} in {} s", took.as_secs());
                log_entered(&entered, &how, fx);
            }
            Err(why) => fx.log(Level::Warn, format!("cannot identify {url}: {why}")),
        }
    }

    fn announce(&mut self, now: Now, from: SocketAddr, request: &IncomingRequest) -> Answered {
        if request.body.len() > ANNOUNCE_REQUEST_MAX {
            let why = format!(
                "it has {} bytes, {ANNOUNCE_REQUEST_MAX} are allowed",
                request.body.len()
            );
            return Err(refusal(
                StatusCode::PAYLOAD_TOO_LARGE,
                TOO_LONG,
                &why,
                "send several",
            ));
        }
        let message: AnnounceRequest = parse(request)?;
        message
            .check()
            .map_err(|why| refusal(StatusCode::BAD_REQUEST, MALFORMED, &why.to_string(), ""))?;
        let seen = SocketAddr::new(from.ip(), message.port);
        let policy = self.policy.of(message.group.as_deref());
        let device = Device::new(
            message.device,
            seen,
            &message.addresses,
            message.scope,
            message.group,
        );
        let device = Arc::new(device.mapped(message.mapped));
        let wanted = self.wanted(&message.held);
        let mut swarms = Vec::with_capacity(message.swarms.len());
        for swarm in message.swarms {
            let key = swarm.info_hash.truncated();
            let kind = match swarm.left_bytes {
                0 => Kind::Seed,
                _ => Kind::Downloader,
            };
            let expires = expiry(now, self.interval);
            let peers = self.present(
                key,
                &device,
                kind,
                swarm.event,
                expires,
                PEERS_PER_ANSWER_MAX,
            )?;
            let counts = self.counts(key);
            swarms.push(SwarmReply {
                info_hash: swarm.info_hash,
                seeds: counts.seeds,
                downloaders: counts.downloaders,
                peers,
            });
        }
        Ok(json(
            StatusCode::OK,
            &AnnounceReply {
                interval_s: whole_seconds(self.interval),
                min_interval_s: whole_seconds(self.min_interval),
                policy,
                rendezvous: self.rendezvous.offer(message.device),
                wanted,
                swarms,
            },
        ))
    }

    /// Those of these contents that somebody is downloading.
    fn wanted(&self, held: &[String]) -> BTreeMap<String, u32> {
        let held = held.iter().take(HELD_PER_ANNOUNCE_MAX);
        let counted = held.filter_map(|text| {
            let key = hex::decode::<20>(text)?;
            Some((text.clone(), self.counts(key).downloaders))
        });
        counted
            .filter(|(_, downloaders)| *downloaders > 0)
            .collect()
    }

    /// Note what one device says of one swarm, and whom it is told about.
    fn present(
        &mut self,
        swarm: SwarmKey,
        device: &Arc<Device>,
        kind: Kind,
        event: AnnounceEvent,
        expires: Mono,
        want: usize,
    ) -> Result<Vec<Peer>, Refused> {
        if event == AnnounceEvent::Stopped {
            self.registry.leave(swarm, device.peer_id);
            return Ok(Vec::new());
        }
        let entered = self.registry.announce(swarm, device, kind, expires);
        entered.map_err(|_| {
            let full = refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "no room for another device",
                "the coordinator keeps as many as it can",
                "try again later, or run another coordinator",
            );
            later(full)
        })?;
        let members = self.registry.swarm(swarm);
        Ok(members.map_or_else(Vec::new, |members| {
            select::peers_for(members, device, kind, want, &mut self.rng)
        }))
    }

    fn content(&mut self, now: Now, query: Query<'_>, fx: &mut Effects) -> Answered {
        if let Some(text) = query.text("url") {
            let url = Url::parse(&text).map_err(|why| {
                refusal(
                    StatusCode::BAD_REQUEST,
                    "unusable url",
                    &why.to_string(),
                    "",
                )
            })?;
            let Some(record) = self.records.by_url(&url) else {
                return self.find_out(now, &url, fx);
            };
            let answer = Answer::json(StatusCode::OK, record.clone());
            self.identifier.refresh(now, &url, fx);
            return Ok(answer);
        }
        let record = if let Some(digest) = digest(query, "sha256")? {
            self.records.by_sha256(Digest(digest))
        } else if let Some(digest) = digest(query, "root")? {
            self.records.by_root(Digest(digest))
        } else if let Some(hash) = digest(query, "info_hash")? {
            self.records.by_info_hash(InfoHash(hash))
        } else {
            return Err(refusal(
                StatusCode::BAD_REQUEST,
                "nothing is asked for",
                "the query names no content",
                "ask with url=, sha256=, root= or info_hash=",
            ));
        };
        match record {
            Some(record) => Ok(Answer::json(StatusCode::OK, record.clone())),
            None => Err(unknown("nobody has published it")),
        }
    }

    /// Nobody has published this address: fetch and hash what is there, if that is allowed.
    fn find_out(&mut self, now: Now, url: &Url, fx: &mut Effects) -> Answered {
        match self.identifier.ask(now, url, fx) {
            Asked::Pending(pending, after) => {
                let after = whole_seconds(after).max(1).to_string();
                let answer = json(StatusCode::ACCEPTED, &pending);
                Ok(answer.with(header::RETRY_AFTER, &after))
            }
            Asked::Failed(why) => Err(unknown(&format!("it could not be fetched: {why}"))),
            Asked::NotAllowed => Err(unknown(&format!(
                "nobody has published it, and {} is not on the allow list",
                url.authority_with_port()
            ))),
            Asked::Full => Err(later(refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "too much to hash",
                "too many files are waiting to be fetched and hashed",
                "try again later",
            ))),
        }
    }

    fn publish(&mut self, request: &IncomingRequest, fx: &mut Effects) -> Answered {
        let message: Publication = parse(request)?;
        let cannot = |why: &str| {
            refusal(
                StatusCode::BAD_REQUEST,
                "cannot publish this",
                why,
                "make the metainfo with `dovetail publish`",
            )
        };
        if message.urls.len() > URLS_PER_CONTENT_MAX {
            return Err(cannot(&format!(
                "{} URLs, {URLS_PER_CONTENT_MAX} allowed",
                message.urls.len()
            )));
        }
        let urls: Result<Vec<Url>, _> = message.urls.iter().map(|url| Url::parse(url)).collect();
        let record = NewRecord {
            metainfo: message.metainfo,
            sha256: message.sha256,
            urls: urls.map_err(|why| cannot(&why.to_string()))?,
            own: false,
        };
        let entered = self
            .records
            .enter(record)
            .map_err(|why| cannot(&why.to_string()))?;
        log_entered(&entered, "published", fx);
        let info_hash = entered.info_hash;
        Ok(json(StatusCode::CREATED, &Published { info_hash }))
    }

    fn overview(&self) -> Answer {
        let listed = self.registry.swarms().take(SWARMS_LISTED_MAX);
        let swarms = listed.map(|(key, swarm)| {
            let (name, length) = self.records.title(*key).unwrap_or_default();
            SwarmOverview {
                info_hash: *key,
                name: name.into(),
                length,
                seeds: swarm.seeds(),
                downloaders: swarm.downloaders(),
            }
        });
        let overview = Overview {
            swarms: swarms.collect(),
            more: self.registry.swarm_count() > SWARMS_LISTED_MAX,
        };
        json(StatusCode::OK, &overview)
    }

    fn health(&self) -> Answer {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let health = Health {
            status: "ok".into(),
            devices: count(self.registry.device_count()),
            swarms: count(self.registry.swarm_count()),
            contents: count(self.records.len()),
        };
        json(StatusCode::OK, &health)
    }

    fn front(&self) -> Answer {
        let text = format!(
            "Dovetail coordinator: {} devices in {} swarms, {} contents known\n\
             {HEALTH_PATH} and {SWARMS_PATH} say more; /announce is for BitTorrent clients",
            self.registry.device_count(),
            self.registry.swarm_count(),
            self.records.len()
        );
        Answer::text(StatusCode::OK, text)
    }

    fn track(&mut self, now: Now, from: SocketAddr, query: Query<'_>) -> Answer {
        let announce = match TrackerAnnounce::parse(query) {
            Ok(announce) => announce,
            Err(why) => return bencoded(tracker::failure(why)),
        };
        let seen = SocketAddr::new(from.ip(), announce.port);
        let own: Vec<IpAddr> = announce.ip.into_iter().collect();
        let peer_id = announce.peer_id;
        let device = Arc::new(Device::new(peer_id, seen, &own, Scope::Internet, None));
        let kind = if announce.seed {
            Kind::Seed
        } else {
            Kind::Downloader
        };
        let key = announce.info_hash;
        let expires = expiry(now, TRACKER_INTERVAL);
        let peers = self.present(key, &device, kind, announce.event, expires, announce.want);
        let Ok(peers) = peers else {
            return bencoded(tracker::failure("no room for another client, try later"));
        };
        bencoded(tracker::answer(
            &peers,
            self.counts(key),
            announce.compact,
            whole_seconds(TRACKER_INTERVAL),
            whole_seconds(self.interval),
        ))
    }

    fn scrape(&self, query: Query<'_>) -> Answer {
        let asked = query.ids("info_hash").take(SWARMS_LISTED_MAX);
        let known = asked.filter(|key| self.registry.swarm(*key).is_some());
        bencoded(tracker::scrape(known.map(|key| (key, self.counts(key)))))
    }

    fn counts(&self, swarm: SwarmKey) -> Counts {
        self.registry
            .swarm(swarm)
            .map_or_else(Counts::default, |swarm| Counts {
                seeds: swarm.seeds(),
                downloaders: swarm.downloaders(),
            })
    }
}

/// Behind a proxy on this very machine, the address that proxy saw. Nobody else is believed.
fn client_address(from: SocketAddr, request: &IncomingRequest) -> SocketAddr {
    let forwarded = || {
        let list = request.header(HeaderName::from_static("x-forwarded-for"))?;
        let last = list.rsplit(',').next()?.trim();
        last.parse::<IpAddr>().ok()
    };
    match from.ip().to_canonical() {
        ip if ip.is_loopback() => SocketAddr::new(forwarded().unwrap_or(ip), from.port()),
        ip => SocketAddr::new(ip, from.port()),
    }
}

fn parse<T: DeserializeOwned>(request: &IncomingRequest) -> Result<T, Refused> {
    serde_json::from_slice(&request.body)
        .map_err(|why| refusal(StatusCode::BAD_REQUEST, MALFORMED, &why.to_string(), ""))
}

fn digest(query: Query<'_>, name: &str) -> Result<Option<[u8; 32]>, Refused> {
    let Some(text) = query.text(name) else {
        return Ok(None);
    };
    hex::decode(&text).map(Some).ok_or_else(|| {
        let what = format!("unusable {name}");
        refusal(
            StatusCode::BAD_REQUEST,
            &what,
            "it is not 64 hex digits",
            "",
        )
    })
}

fn log_entered(entered: &Entered, how: &str, fx: &mut Effects) {
    let Entered {
        info_hash,
        name,
        length,
        replaced,
    } = entered;
    let size = stats::Bytes(*length);
    fx.log(
        Level::Info,
        format!("content {name:?} ({size}, {info_hash}): {how}"),
    );
    for (url, old) in replaced {
        let text = format!("{url} is another file now: {info_hash} instead of {old}");
        fx.log(Level::Warn, text);
    }
}

fn expiry(now: Now, interval: Duration) -> Mono {
    now.mono + interval.saturating_mul(5) / 2
}

fn whole_seconds(span: Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX)
}

fn json(status: StatusCode, message: &impl Serialize) -> Answer {
    Answer::json(status, serde_json::to_vec(message).unwrap_or_default())
}

fn bencoded(body: Vec<u8>) -> Answer {
    let body = crate::http::AnswerBody::Full(body.into());
    Answer::new(StatusCode::OK, body).with(header::CONTENT_TYPE, "text/plain")
}

fn refusal(status: StatusCode, error: &str, why: &str, remedy: &str) -> Refused {
    let refusal = Refusal {
        error: error.into(),
        why: why.into(),
        remedy: remedy.into(),
    };
    Box::new(json(status, &refusal))
}

/// Worth asking again.
fn later(mut refused: Refused) -> Refused {
    let after = header::HeaderValue::from_static("30");
    refused.headers.insert(header::RETRY_AFTER, after);
    refused
}

fn unknown(why: &str) -> Refused {
    refusal(
        StatusCode::NOT_FOUND,
        "unknown content",
        why,
        "publish it with `dovetail publish FILE --url URL --coordinator …`, or let the coordinator \
         fetch it with `--allow HOST`",
    )
}

fn wrong_method(allowed: &'static str) -> Refused {
    let why = format!("allowed are: {allowed}");
    let answer = refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        "this cannot be done here",
        &why,
        "",
    );
    Box::new(answer.with(header::ALLOW, allowed))
}

const MALFORMED: &str = "malformed message";
const TOO_LONG: &str = "message too long";
/// libtorrent comes no more often than this, whatever it is told.
const TRACKER_INTERVAL: Duration = Duration::from_secs(300);
