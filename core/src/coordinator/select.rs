//! Which members of a swarm one of them is told about.
//!
//! Decides: near ones first, some from farther away so that no neighbourhood is an island, downloaders and
//! seeds mixed for a downloader, only downloaders for a seed, chance among equals. Never decides who may
//! see whom (`device.rs`). Invariants: at most `want` peers, each once, never the asker; the work is
//! bounded by samples, however large the swarm.
//! Tested here.

use super::device::{Device, View};
use super::registry::{Kind, Member, Swarm};
use crate::announce::messages::{Peer, PeerId};
use crate::rng::Rng;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// The peers to name to `asker`, nearest first.
pub(super) fn peers_for(
    swarm: &Swarm,
    asker: &Device,
    kind: Kind,
    want: usize,
    rng: &mut Rng,
) -> Vec<Peer> {
    let mut downloaders = candidates(swarm, asker, Kind::Downloader, rng);
    let mut seeds = match kind {
        Kind::Downloader => candidates(swarm, asker, Kind::Seed, rng),
        Kind::Seed => Vec::new(),
    };
    // Half each; what one kind leaves free, the other takes.
    let for_downloaders = want - (want / 2).min(seeds.len());
    nearest(&mut downloaders, for_downloaders, rng);
    nearest(&mut seeds, want - downloaders.len(), rng);
    let mut picked = downloaders;
    picked.append(&mut seeds);
    // Stable, so that equals stay in the random order they were picked in.
    picked.sort_by_key(|candidate| candidate.view.distance);
    picked.into_iter().map(Candidate::into_peer).collect()
}

struct Candidate {
    peer_id: PeerId,
    view: View,
    seed: bool,
}

impl Candidate {
    const fn into_peer(self) -> Peer {
        Peer {
            addr: self.view.addr,
            peer_id: self.peer_id,
            class: self.view.distance.class(),
            seed: self.seed,
        }
    }
}

/// A bounded sample of those the asker can reach: its own network first, then anybody.
fn candidates(swarm: &Swarm, asker: &Device, kind: Kind, rng: &mut Rng) -> Vec<Candidate> {
    let near = swarm
        .in_net(kind, asker.net, rng.next_u64())
        .take(SAMPLE_NEAR);
    let mut found = BTreeMap::new();
    let far = swarm.anywhere(kind, rng.next_u64()).take(SAMPLE_ANYWHERE);
    for Member { device, kind, .. } in near.chain(far) {
        if let Some(view) = asker.view(device) {
            found.insert(device.peer_id, (view, *kind == Kind::Seed));
        }
    }
    let mut found: Vec<_> = found
        .into_iter()
        .map(|(peer_id, (view, seed))| Candidate {
            peer_id,
            view,
            seed,
        })
        .collect();
    rng.shuffle(&mut found);
    found
}

/// Keep `want` of them: mostly the nearest, the rest by chance.
fn nearest(found: &mut Vec<Candidate>, want: usize, rng: &mut Rng) {
    if found.len() <= want {
        return;
    }
    found.sort_by_key(|candidate| candidate.view.distance);
    let near = want - want / FARTHER_SHARE;
    if let Some((_, rest)) = found.split_at_mut_checked(near) {
        rng.shuffle(rest);
    }
    found.truncate(want);
}

/// One in so many peers is picked regardless of how near it is.
const FARTHER_SHARE: usize = 5;
const SAMPLE_NEAR: usize = 200;
const SAMPLE_ANYWHERE: usize = 200;

#[cfg(test)]
mod tests {
    use super::super::registry::Registry;
    use super::*;
    use crate::announce::messages::Scope;
    use crate::stats::SourceClass;
    use crate::time::Mono;
    use alloc::collections::BTreeSet;
    use alloc::format;
    use alloc::sync::Arc;

    const SWARM: [u8; 20] = [7; 20];

    fn id(n: u32) -> PeerId {
        let mut id = *b"-DT0001-............";
        id[16..].copy_from_slice(&n.to_be_bytes());
        id
    }

    fn device(n: u32, addr: &str) -> Arc<Device> {
        let addr = addr.parse().unwrap();
        Arc::new(Device::new(id(n), addr, &[], Scope::Internet, None))
    }

    fn registry(members: impl IntoIterator<Item = (u32, alloc::string::String, Kind)>) -> Registry {
        let mut registry = Registry::default();
        for (n, addr, kind) in members {
            registry
                .announce(SWARM, &device(n, &addr), kind, Mono::NEVER)
                .unwrap();
        }
        registry
    }

    fn picks(registry: &Registry, asker: &Device, kind: Kind, want: usize, seed: u64) -> Vec<Peer> {
        let swarm = registry.swarm(SWARM).unwrap();
        let mut rng = Rng::from_u64(seed);
        let peers = peers_for(swarm, asker, kind, want, &mut rng);
        let distinct: BTreeSet<_> = peers.iter().map(|peer| peer.peer_id).collect();
        assert_eq!(distinct.len(), peers.len());
        assert!(peers.len() <= want);
        assert!(!distinct.contains(&asker.peer_id));
        peers
    }

    #[test]
    fn a_downloader_gets_both_kinds_and_a_seed_only_downloaders() {
        let registry = registry((0..200).map(|n| {
            let kind = if n < 150 {
                Kind::Seed
            } else {
                Kind::Downloader
            };
            (n, format!("10.0.0.{}:7680", n % 250 + 1), kind)
        }));
        let asker = device(199, "10.0.0.200:7680");
        let peers = picks(&registry, &asker, Kind::Downloader, 50, 1);
        let seeds = peers.iter().filter(|peer| peer.seed).count();
        assert_eq!((peers.len(), seeds), (50, 25));
        let peers = picks(&registry, &asker, Kind::Seed, 50, 1);
        assert_eq!(peers.len(), 49);
        assert!(peers.iter().all(|peer| !peer.seed));
    }

    #[test]
    fn what_one_kind_leaves_free_the_other_takes() {
        let few_seeds = registry((0..60).map(|n| {
            let kind = if n < 2 { Kind::Seed } else { Kind::Downloader };
            (n, format!("10.0.0.{}:7680", n + 1), kind)
        }));
        let asker = device(99, "10.0.0.99:7680");
        let peers = picks(&few_seeds, &asker, Kind::Downloader, 50, 1);
        assert_eq!(peers.iter().filter(|peer| peer.seed).count(), 2);
        assert_eq!(peers.len(), 50);
        let few_downloaders = registry((0..60).map(|n| {
            let kind = if n < 2 { Kind::Downloader } else { Kind::Seed };
            (n, format!("10.0.0.{}:7680", n + 1), kind)
        }));
        let peers = picks(&few_downloaders, &asker, Kind::Downloader, 50, 1);
        assert_eq!(peers.iter().filter(|peer| peer.seed).count(), 48);
        assert_eq!(peers.len(), 50);
    }

    #[test]
    fn near_ones_first_but_no_islands() {
        let registry = registry((0..3000_u32).map(|n| {
            let addr = match n {
                0..100 => format!("10.0.7.{}:7680", n + 1),
                _ => format!("10.1.{}.{}:7680", n / 250, n % 250 + 1),
            };
            (n, addr, Kind::Downloader)
        }));
        let asker = device(9999, "10.0.7.200:7680");
        let mut met = BTreeSet::new();
        for seed in 0..20 {
            let peers = picks(&registry, &asker, Kind::Downloader, 50, seed);
            assert_eq!(peers.len(), 50);
            assert!(peers.iter().all(|peer| peer.class == SourceClass::Lan));
            let near = |peer: &&Peer| peer.addr.ip().to_canonical().to_string_starts("10.0.7.");
            let count = peers.iter().filter(near).count();
            assert!((40..50).contains(&count), "{count} near ones of 50");
            assert!(
                peers[..count].iter().all(|peer| near(&peer)),
                "nearest first"
            );
            met.extend(peers.iter().map(|peer| peer.peer_id));
        }
        assert!(met.len() > 200, "chance among equals: met {}", met.len());
    }

    trait StartsWith {
        fn to_string_starts(&self, with: &str) -> bool;
    }

    impl StartsWith for core::net::IpAddr {
        fn to_string_starts(&self, with: &str) -> bool {
            format!("{self}").starts_with(with)
        }
    }

    #[test]
    fn the_same_seed_picks_the_same() {
        let registry = registry((0..500).map(|n| {
            (
                n,
                format!("10.0.{}.{}:1", n / 100, n % 100 + 1),
                Kind::Downloader,
            )
        }));
        let asker = device(0, "10.0.0.1:1");
        let once = picks(&registry, &asker, Kind::Downloader, 50, 5);
        assert_eq!(once, picks(&registry, &asker, Kind::Downloader, 50, 5));
        assert_ne!(once, picks(&registry, &asker, Kind::Downloader, 50, 6));
    }
}
