//! The coordinator as a BitTorrent tracker, for standard clients.
//!
//! Decides what an announce's query means and how its answer is written. Standard clients and agents
//! meet in one registry, under the truncated info-hash. Never decides who is named (`select.rs`).
//! A client's `ip` counts only as an own address (`device.rs`).
//!
//! Spec: BEP 3, 7 (`peers6`), 23 (compact), 48 (scrape). Tested here, and at the endpoint in `routes.rs`.

use super::query::Query;
use crate::announce::messages::{AnnounceEvent, Peer, PeerId};
use crate::content::bencode::Tree;
use crate::limits::{PEERS_PER_ANSWER, PEERS_PER_ANSWER_MAX};
use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TrackerAnnounce {
    pub(super) info_hash: [u8; 20],
    pub(super) peer_id: PeerId,
    pub(super) port: u16,
    pub(super) seed: bool,
    pub(super) event: AnnounceEvent,
    pub(super) want: usize,
    pub(super) compact: bool,
    pub(super) ip: Option<IpAddr>,
}

/// Numbers of one swarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) seeds: u32,
    pub(super) downloaders: u32,
}

impl TrackerAnnounce {
    /// # Errors
    /// With the reason to tell the client.
    pub(super) fn parse(query: Query<'_>) -> Result<Self, &'static str> {
        let id = |name, why| match query.bytes(name).map(<[u8; 20]>::try_from) {
            Some(Ok(id)) => Ok(id),
            _ => Err(why),
        };
        let number = |name, why| match query.parsed::<u64>(name) {
            Some(None) => Err(why),
            Some(value) => Ok(value),
            None => Ok(None),
        };
        let Some(Some(port)) = query.parsed::<u16>("port") else {
            return Err("port is missing or not a port number");
        };
        let left = number("left", "left is not a number of bytes")?;
        // Some clients send -1 where they have no wish.
        let want = query.parsed::<i64>("numwant").flatten();
        let want = want.and_then(|want| usize::try_from(want).ok());
        let event = match query.text("event").as_deref() {
            Some("started") => AnnounceEvent::Started,
            Some("completed") => AnnounceEvent::Completed,
            Some("stopped") => AnnounceEvent::Stopped,
            _ => AnnounceEvent::Update,
        };
        Ok(Self {
            info_hash: id("info_hash", "info_hash is missing or not 20 bytes")?,
            peer_id: id("peer_id", "peer_id is missing or not 20 bytes")?,
            port,
            seed: left == Some(0),
            event,
            want: want.unwrap_or(PEERS_PER_ANSWER).min(PEERS_PER_ANSWER_MAX),
            compact: query.text("compact").as_deref() != Some("0"),
            ip: query.parsed("ip").flatten(),
        })
    }
}

pub(super) fn answer(
    peers: &[Peer],
    counts: Counts,
    compact: bool,
    interval_s: u32,
    min_interval_s: u32,
) -> Vec<u8> {
    let (peers, peers6) = if compact {
        let v4 = peers.iter().filter(|peer| peer.addr.is_ipv4());
        let v6 = peers.iter().filter(|peer| peer.addr.is_ipv6());
        (Tree::Bytes(compacted(v4)), compacted(v6))
    } else {
        (
            Tree::List(peers.iter().map(spelled_out).collect()),
            Vec::new(),
        )
    };
    let mut entries = alloc::vec![
        (b"complete".to_vec(), Tree::Integer(counts.seeds.into())),
        (
            b"incomplete".to_vec(),
            Tree::Integer(counts.downloaders.into())
        ),
        (b"interval".to_vec(), Tree::Integer(interval_s.into())),
        (
            b"min interval".to_vec(),
            Tree::Integer(min_interval_s.into())
        ),
        (b"peers".to_vec(), peers),
    ];
    if !peers6.is_empty() {
        entries.push((b"peers6".to_vec(), Tree::Bytes(peers6)));
    }
    Tree::Dict(entries.into_iter().collect()).encode()
}

pub(super) fn failure(why: &str) -> Vec<u8> {
    Tree::dict([(b"failure reason", Tree::text(why))]).encode()
}

pub(super) fn scrape(swarms: impl Iterator<Item = ([u8; 20], Counts)>) -> Vec<u8> {
    let files = swarms.map(|(info_hash, counts)| {
        let file = Tree::dict([
            (b"complete", Tree::Integer(counts.seeds.into())),
            (b"downloaded", Tree::Integer(0)),
            (b"incomplete", Tree::Integer(counts.downloaders.into())),
        ]);
        (info_hash.to_vec(), file)
    });
    Tree::dict([(b"files", Tree::Dict(files.collect()))]).encode()
}

/// BEP 23 and BEP 7: address and port of each, big-endian, one after another.
fn compacted<'a>(peers: impl Iterator<Item = &'a Peer>) -> Vec<u8> {
    let mut out = Vec::new();
    for peer in peers {
        match peer.addr {
            SocketAddr::V4(v4) => out.extend_from_slice(&v4.ip().octets()),
            SocketAddr::V6(v6) => out.extend_from_slice(&v6.ip().octets()),
        }
        out.extend_from_slice(&peer.addr.port().to_be_bytes());
    }
    out
}

fn spelled_out(peer: &Peer) -> Tree {
    Tree::dict([
        (b"ip", Tree::text(&peer.addr.ip().to_string())),
        (b"peer id", Tree::Bytes(peer.peer_id.to_vec())),
        (b"port", Tree::Integer(peer.addr.port().into())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::SourceClass;

    const GOOD: &str = "info_hash=%124Vx%9a%bc%de%f1%23Eg%89%ab%cd%ef%124Vx%9a\
        &peer_id=-LT2110-abcdefghijkl&port=6881&uploaded=0&downloaded=0&left=10";

    fn parse(query: &str) -> Result<TrackerAnnounce, &'static str> {
        TrackerAnnounce::parse(Query::new(Some(query)))
    }

    #[test]
    fn a_real_clients_query() {
        let announce = parse(&alloc::format!(
            "{GOOD}&corrupt=0&key=3A&event=started&numwant=200&compact=1&no_peer_id=1&redundant=0"
        ))
        .unwrap();
        assert_eq!(announce.info_hash[..4], [0x12, 0x34, 0x56, 0x78]);
        assert_eq!(announce.info_hash[19], 0x9a);
        assert_eq!(&announce.peer_id, b"-LT2110-abcdefghijkl");
        assert_eq!(announce.port, 6881);
        assert!(!announce.seed && announce.compact);
        assert_eq!(announce.event, AnnounceEvent::Started);
        assert_eq!(announce.want, 100);
        let seed = parse(&GOOD.replace("left=10", "left=0&compact=0&numwant=-1&ip=10.0.0.9"));
        let seed = seed.unwrap();
        assert!(seed.seed && !seed.compact);
        assert_eq!((seed.want, seed.ip), (50, "10.0.0.9".parse().ok()));
    }

    #[test]
    fn bad_queries_say_what_is_wrong() {
        let table = [
            ("", "port"),
            ("port=1", "info_hash"),
            (&GOOD.replace("6881", "68810"), "port"),
            (&GOOD.replace("left=10", "left=ten"), "left"),
            (&GOOD.replace("%124Vx", "%124V"), "info_hash"),
            (&GOOD.replace("-LT2110-", "-LT2110-more"), "peer_id"),
        ];
        for (query, names) in table {
            let why = parse(query).unwrap_err();
            assert!(why.contains(names), "{query}: {why}");
        }
        assert_eq!(failure("no"), b"d14:failure reason2:noe");
    }

    #[test]
    fn answers_by_the_letter() {
        let peer = |addr: &str| Peer {
            addr: addr.parse().unwrap(),
            peer_id: *b"-DT0001-abcdefghijkl",
            class: SourceClass::Lan,
            seed: false,
        };
        let peers = [peer("1.2.3.4:258"), peer("[102:304::506]:7680")];
        let counts = Counts {
            seeds: 3,
            downloaders: 4,
        };
        let mut expected = b"d8:completei3e10:incompletei4e8:intervali300e12:min intervali30e\
            5:peers6:\x01\x02\x03\x04\x01\x02\
            6:peers618:\x01\x02\x03\x04\0\0\0\0\0\0\0\0\0\0\x05\x06\x1e\x00e"
            .to_vec();
        assert_eq!(answer(&peers, counts, true, 300, 30), expected);
        expected = b"d8:completei3e10:incompletei4e8:intervali300e12:min intervali30e\
            5:peersld2:ip7:1.2.3.47:peer id20:-DT0001-abcdefghijkl4:porti258eeee"
            .to_vec();
        assert_eq!(answer(&peers[..1], counts, false, 300, 30), expected);
        assert_eq!(
            scrape([([b'x'; 20], counts)].into_iter()),
            b"d5:filesd20:xxxxxxxxxxxxxxxxxxxxd8:completei3e10:downloadedi0e10:incompletei4eeee"
        );
    }
}
