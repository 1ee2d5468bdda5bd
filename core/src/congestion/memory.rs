//! The shortest round trips seen, by network: a flow that starts into somebody else's queue must not take that queue
//! for the path (the latecomer's error of LEDBAT).

use crate::limits::BASE_MEMORY_MAX;
use crate::time::Mono;
use alloc::collections::BTreeMap;
use core::net::IpAddr;

/// Remembers base round trips of networks (/24 and /48), the least recently used forgotten first.
#[derive(Clone, Debug, Default)]
pub struct BaseMemory {
    known: BTreeMap<IpAddr, Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    base: Base,
    used: Mono,
}

/// A base round trip, and how often the path was found to have become longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    pub us: u64,
    pub epoch: u32,
}

impl BaseMemory {
    pub fn get(&mut self, now: Mono, remote: IpAddr) -> Option<Base> {
        let known = self.known.get_mut(&network(remote))?;
        known.used = now;
        Some(known.base)
    }

    /// What a flow holds for its base now: shorter than what is known, or, with an epoch of its own, longer.
    pub fn set(&mut self, now: Mono, remote: IpAddr, base: Base) {
        let known = Known { base, used: now };
        self.known.insert(network(remote), known);
        if self.known.len() > BASE_MEMORY_MAX {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.used);
            if let Some(oldest) = oldest.map(|(network, _)| *network) {
                self.known.remove(&oldest);
            }
        }
    }

    /// After a change of networks the old ones tell nothing.
    pub fn clear(&mut self) {
        self.known.clear();
    }
}

fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        // Not one network, but a way each (`rendezvous::Channel`).
        IpAddr::V6(v6) if v6.segments()[..4] == [0x100, 0, 0, 0] => IpAddr::V6(v6),
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & 0xffff_ff00).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 80 << 80).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_memory_and_it_is_bounded() {
        let mut memory = BaseMemory::default();
        let addr = |n: u32| IpAddr::V4((0x0a00_0001 + (n << 8)).into());
        let base = |us| Base { us, epoch: 0 };
        memory.set(Mono::ZERO, addr(0), base(700));
        let neighbour: IpAddr = "::ffff:10.0.0.200".parse().unwrap();
        assert_eq!(memory.get(Mono::from_us(1), neighbour), Some(base(700)));
        for n in 1..=BASE_MEMORY_MAX as u32 {
            memory.set(Mono::ZERO, addr(n), base(5));
        }
        assert_eq!(memory.known.len(), BASE_MEMORY_MAX);
        assert_eq!(
            memory.get(Mono::from_us(2), addr(0)),
            Some(base(700)),
            "used lately"
        );
        memory.clear();
        assert_eq!(memory.get(Mono::from_us(2), addr(0)), None);
    }
}
