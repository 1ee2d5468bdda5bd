//! All background flows of one machine in one direction: what each may have under way.
//!
//! Decides: which flows rest. A flow never takes less than its floor, so many flows would take much from a foreground
//! however politely each behaves: those that have shrunk to their floors run in turn, as many as fit into
//! [`FLOOR_SHARE`] of what the line has been seen to carry. If the queue goes when only some run, it was our own, and
//! all run again.
//! Also shares what flows learn: the base round trip of a network, and slowdowns, which come together.
//! Invariants: while somebody yields, the floors that run fit the share, or one flow runs alone, in one of at most
//! [`RESTS_MAX`] turns; when nobody yields, nobody rests.

use super::memory::Base;
use super::{Ack, BaseMemory, Controller};
use crate::time::{Deadline, Mono};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

/// One part of so many of the line's capacity may go to floors: 5 %.
const FLOOR_SHARE: u64 = 20;
/// How long flows run before others have their turn: many round trips, and less than anybody's patience.
const TURN: Duration = Duration::from_secs(1);
/// A flow that has shrunk to its floor does not rest before it has stood there for so long: bursts pass.
const YIELDS_FOR: Duration = Duration::from_secs(1);
/// Where one floor is too much already, it runs in one turn of at most so many: somebody must see the end of it.
const RESTS_MAX: u64 = 4;
/// Where the queue was our own, turns are not tried again so soon.
const TURNS_AGAIN: Duration = Duration::from_secs(10);
/// The capacity is the best second of so many minutes.
const CAPACITY_MINUTES: usize = 10;
/// A round trip is not known yet.
const RTT_UNKNOWN_US: u64 = 100_000;

#[derive(Clone, Debug)]
pub struct Group<K> {
    members: BTreeMap<K, Member>,
    memory: BaseMemory,
    capacity: Capacity,
    /// Of the turn that runs, while somebody yields.
    turn_since: Option<Mono>,
    /// No turns before: the last ones have shown that the queue is our own.
    no_turns_before: Mono,
    last_turn: Option<K>,
    /// Nobody runs in this turn.
    all_rest: bool,
    /// Turns to come in which nobody runs.
    rests: u64,
}

#[derive(Clone, Debug)]
struct Member {
    controller: Controller,
    remote: IpAddr,
    /// Of the base it holds ([`Base::epoch`]).
    epoch: u32,
    rests: bool,
    /// What it knows of the queue is from before it rested.
    has_rested: bool,
    /// It has been at its floor, with the line full, since then.
    yields_since: Option<Mono>,
}

impl<K> Default for Group<K> {
    fn default() -> Self {
        Self {
            members: BTreeMap::new(),
            memory: BaseMemory::default(),
            capacity: Capacity::default(),
            turn_since: None,
            no_turns_before: Mono::ZERO,
            last_turn: None,
            all_rest: false,
            rests: 0,
        }
    }
}

impl<K: Copy + Ord> Group<K> {
    /// A new flow to `remote`, under LEDBAT++.
    pub fn add(&mut self, now: Mono, key: K, remote: IpAddr, segment_bytes: u32) {
        let base = self.memory.get(now, remote);
        let controller = Controller::ledbat_plus_plus(segment_bytes, base.map(|base| base.us));
        self.add_as(key, remote, controller);
        if let (Some(member), Some(base)) = (self.members.get_mut(&key), base) {
            member.epoch = base.epoch;
        }
    }

    /// A new flow under this controller.
    pub fn add_as(&mut self, key: K, remote: IpAddr, controller: Controller) {
        self.remove(key);
        let member = Member {
            controller,
            remote,
            epoch: 0,
            rests: false,
            has_rested: false,
            yields_since: None,
        };
        self.members.insert(key, member);
    }

    pub fn remove(&mut self, key: K) {
        self.members.remove(&key);
        if self.members.values().all(|member| member.rests) {
            self.wake_all();
        }
    }

    pub fn contains(&self, key: K) -> bool {
        self.members.contains_key(&key)
    }

    pub fn on_ack(&mut self, now: Mono, key: K, ack: Ack) {
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        self.capacity.add(now, ack.bytes);
        member.learn(self.memory.get(now, member.remote));
        let before = member.controller.slowdown();
        if let Some(base) = member.on_ack(now, ack) {
            self.memory.set(now, member.remote, base);
        }
        if let (None, Some(slowdown)) = (before, member.controller.slowdown()) {
            for (_, other) in self.members.iter_mut().filter(|(k, _)| **k != key) {
                other.controller.join_slowdown(now, slowdown);
            }
        }
        self.review(now);
    }

    /// A round trip that the flow has had before its first acknowledgement was heard of; 0 is none.
    pub fn learn_base(&mut self, key: K, base_us: u64) {
        if let Some(member) = self.members.get_mut(&key).filter(|_| base_us > 0) {
            member.controller.learn_base(base_us);
        }
    }

    pub fn on_loss(&mut self, now: Mono, key: K) {
        if let Some(member) = self.members.get_mut(&key) {
            member.controller.on_loss(now);
        }
    }

    pub fn on_timeout(&mut self, now: Mono, key: K) {
        if let Some(member) = self.members.get_mut(&key) {
            member.controller.on_timeout(now);
        }
    }

    /// Let the next have their turn if it is time.
    pub fn on_tick(&mut self, now: Mono) {
        self.review(now);
    }

    pub fn deadline(&self) -> Option<Deadline> {
        let since = self.turn_since?;
        Some(Deadline::new(since + TURN, "background flows take turns"))
    }

    /// What this flow may have under way now: nothing while it rests.
    pub fn window_bytes(&self, key: K) -> u64 {
        let member = self.members.get(&key).filter(|member| !member.rests);
        member.map_or(0, |member| member.controller.window_bytes())
    }

    pub fn controller(&self, key: K) -> Option<&Controller> {
        self.members.get(&key).map(|member| &member.controller)
    }

    pub fn rests(&self, key: K) -> bool {
        self.members.get(&key).is_some_and(|member| member.rests)
    }

    /// The device is somewhere else now: what was known of paths and lines tells nothing.
    pub fn forget_paths(&mut self) {
        self.memory.clear();
        self.capacity = Capacity::default();
    }

    /// Asserts the bounds of the header.
    pub fn check(&self) {
        let rests = self.members.values().any(|member| member.rests);
        assert!(!rests || self.turn_since.is_some(), "rests without a turn");
        for member in self.members.values() {
            member.controller.check();
        }
    }

    fn review(&mut self, now: Mono) {
        if !self.is_anyone_yielding(now) {
            if self.turn_since.is_some() {
                self.no_turns_before = now + TURNS_AGAIN;
            }
            return self.wake_all();
        }
        let is_own_queue = now < self.no_turns_before && !self.capacity.is_used_by_others();
        if self.turn_since.is_none() && is_own_queue {
            return;
        }
        let is_due = self.turn_since.is_none_or(|since| now >= since + TURN);
        if is_due {
            self.turn_since = Some(now);
            self.next_turn(now);
        }
    }

    /// Somebody who runs stands at the floor with the line full, as far as it knows; or all rest.
    fn is_anyone_yielding(&self, now: Mono) -> bool {
        let in_turns = self.turn_since.is_some();
        let mut running = self.members.values().filter(|member| !member.rests);
        self.all_rest || running.any(|m| m.yields_for(now, in_turns))
    }

    fn wake_all(&mut self) {
        if self.turn_since.take().is_some() {
            (self.all_rest, self.rests) = (false, 0);
            self.members.values_mut().for_each(Member::wake);
        }
    }

    fn next_turn(&mut self, now: Mono) {
        let share = self.capacity.bytes_per_s() / FLOOR_SHARE;
        self.all_rest = self.rests > 0;
        self.rests = self.rests.saturating_sub(1);
        let mut left = share;
        let mut runs = self.all_rest;
        for key in self.in_turn(now) {
            let Some(member) = self.members.get_mut(&key) else {
                continue;
            };
            let rate = member.floor_rate();
            if runs && (self.all_rest || rate > left) {
                member.rests = true;
                continue;
            }
            member.wake();
            if !runs && self.capacity.is_used_by_others() {
                self.rests = (rate / share.max(1)).clamp(1, RESTS_MAX) - 1;
            }
            left = left.saturating_sub(rate);
            if runs {
                self.last_turn = Some(key);
            }
            runs = true;
        }
    }

    /// Those at their floors and those that rest: first the witness, who always runs, so that somebody sees what the
    /// path does all the time; then the next to run.
    fn in_turn(&self, now: Mono) -> Vec<K> {
        let at_floor = |member: &Member| member.rests || member.yields_for(now, true);
        let all = || {
            let members = self.members.iter().filter(move |(_, m)| at_floor(m));
            members.map(|(key, _)| *key)
        };
        let after = all().filter(|key| Some(*key) > self.last_turn);
        let before = all().filter(|key| Some(*key) <= self.last_turn);
        let witness = all().min();
        let others = after.chain(before).filter(|key| Some(*key) != witness);
        witness.into_iter().chain(others).collect()
    }
}

impl Member {
    /// What other flows of its network know by now.
    fn learn(&mut self, known: Option<Base>) {
        let Some(known) = known else { return };
        if known.epoch == self.epoch {
            self.controller.learn_base(known.us);
        } else {
            self.controller.replace_base(known.us);
            self.epoch = known.epoch;
        }
    }

    /// The base, if this has changed it.
    fn on_ack(&mut self, now: Mono, ack: Ack) -> Option<Base> {
        let controller = &mut self.controller;
        if core::mem::take(&mut self.has_rested) {
            controller.forget_queue();
        }
        let before = controller.base_rtt_us();
        controller.on_ack(now, ack);
        self.yields_since = match self.yields_since {
            _ if !controller.is_yielding() => None,
            None => Some(now),
            since => since,
        };
        let us = controller.base_rtt_us().filter(|us| Some(*us) != before)?;
        if before.is_some_and(|before| us > before) {
            self.epoch += 1;
        }
        Some(Base {
            us,
            epoch: self.epoch,
        })
    }

    /// It stands at its floor for good. In turns that counts at once, and what it knew before it rested counts, too.
    fn yields_for(&self, now: Mono, in_turns: bool) -> bool {
        self.yields_since
            .is_some_and(|since| in_turns || (!self.has_rested && now >= since + YIELDS_FOR))
    }

    fn wake(&mut self) {
        if core::mem::take(&mut self.rests) {
            self.has_rested = true;
        }
    }

    /// Bytes a second that its floor takes.
    fn floor_rate(&self) -> u64 {
        let base = self.controller.base_rtt_us().unwrap_or(RTT_UNKNOWN_US);
        let rtt_us = base + self.controller.queue_us();
        self.controller.floor_bytes() * 1_000_000 / rtt_us.max(1)
    }
}

/// The best second of the last minutes.
#[derive(Clone, Debug, Default)]
struct Capacity {
    best: [u64; CAPACITY_MINUTES],
    minute: u64,
    second: u64,
    bytes: u64,
    /// Of the last whole second.
    current: u64,
}

impl Capacity {
    fn add(&mut self, now: Mono, bytes: u64) {
        let second = now.as_us() / 1_000_000;
        if second != self.second {
            let best = &mut self.best[self.minute as usize % CAPACITY_MINUTES];
            *best = (*best).max(self.bytes);
            self.current = self.bytes;
            (self.second, self.bytes) = (second, 0);
        }
        let minute = second / 60;
        if minute != self.minute {
            let passed = (minute - self.minute.min(minute)).min(CAPACITY_MINUTES as u64);
            for back in 0..passed {
                self.best[((minute - back) % CAPACITY_MINUTES as u64) as usize] = 0;
            }
            self.minute = minute;
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Our part of it now is less than half.
    fn is_used_by_others(&self) -> bool {
        self.current < self.bytes_per_s() / 2
    }

    fn bytes_per_s(&self) -> u64 {
        self.best.iter().copied().fold(self.bytes, u64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Slowdown;
    use super::*;

    const SEGMENT: u32 = 1000;

    fn remote() -> IpAddr {
        IpAddr::from([10, 0, 0, 1])
    }

    fn ack(rtt_us: u64, bytes: u64) -> Ack {
        Ack {
            bytes,
            rtt_us,
            one_way_us: None,
            is_window_limited: true,
            may_be_late: false,
        }
    }

    /// Flows that have seen an empty path of 10 ms and `bytes` in its best second, and then a queue of 90 ms.
    fn yielding(flows: u32, bytes: u64) -> (Group<u32>, Mono) {
        let mut group = Group::default();
        let mut now = Mono::ZERO;
        for key in 0..flows {
            group.add(now, key, remote(), SEGMENT);
            group.on_ack(now, key, ack(10_000, bytes / u64::from(flows)));
        }
        for _ in 0..200 {
            now = now + Duration::from_millis(20);
            (0..flows).for_each(|key| group.on_ack(now, key, ack(100_000, 100)));
        }
        (group, now)
    }

    fn running(group: &Group<u32>) -> Vec<u32> {
        let keys = group.members.keys().copied();
        keys.filter(|key| group.window_bytes(*key) > 0).collect()
    }

    #[test]
    fn floors_take_a_twentieth_of_the_line_and_take_turns() {
        // A floor of 2000 bytes in 100 ms is 20 kB/s; a twentieth of 1 MB/s are 50.
        let (mut group, mut now) = yielding(8, 1_000_000);
        let mut seen = Vec::new();
        for _ in 0..7 {
            let runs = running(&group);
            assert_eq!((runs.len(), runs[0]), (2, 0), "the witness and one other");
            seen.push(runs[1]);
            now = now + TURN;
            group.on_tick(now);
            group.check();
        }
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
        let first = running(&group)[0];
        let others = running(&group).into_iter().filter(|key| *key != first);
        others.for_each(|key| group.remove(key));
        for n in 0..99 {
            let soon = now + Duration::from_millis(n);
            group.on_ack(soon, first, ack(10_000, 100));
        }
        assert_eq!(running(&group).len(), 7, "the line is free again");
    }

    #[test]
    fn where_one_floor_is_too_much_it_rests_too() {
        let (mut group, mut now) = yielding(1, 90_000);
        let mut runs = 0;
        for _ in 0..16 {
            runs += running(&group).len();
            now = now + TURN;
            group.on_tick(now);
            assert!(group.deadline().is_some());
        }
        assert_eq!(runs, 4);
    }

    #[test]
    fn a_newcomer_knows_the_base_of_its_network() {
        let (mut group, now) = yielding(1, 1_000_000);
        group.add(now, 9, IpAddr::from([10, 0, 0, 77]), SEGMENT);
        let newcomer = group.controller(9).and_then(Controller::base_rtt_us);
        assert_eq!(newcomer, Some(10_000));
        group.forget_paths();
        group.add(now, 9, remote(), SEGMENT);
        assert_eq!(group.controller(9).and_then(Controller::base_rtt_us), None);
    }

    #[test]
    fn a_longer_route_is_found_out_by_one_and_told_to_all() {
        let (mut group, mut now) = yielding(1, 1_000_000);
        group.add(now, 1, remote(), SEGMENT);
        let base =
            |group: &Group<u32>, key| group.controller(key).and_then(Controller::base_rtt_us);
        for n in 0..2000_u64 {
            now = now + Duration::from_millis(20);
            // One knows the route of before; the other one hardly moves.
            group.on_ack(now, 0, ack(100_000, 100));
            if n % 10 == 0 {
                group.on_ack(now, 1, ack(100_000, 100));
            }
        }
        assert_eq!(
            (base(&group, 0), base(&group, 1)),
            (Some(100_000), Some(100_000))
        );
        group.on_ack(now, 1, ack(30_000, 100));
        group.on_ack(now, 0, ack(100_000, 100));
        assert_eq!(base(&group, 0), Some(30_000), "shorter, at once");
    }

    #[test]
    fn who_joins_a_startled_slowdown_is_startled_too() {
        let mut joined = 0;
        // Somebody's queue comes at each point of the time between two slowdowns.
        for come_ms in (3_000..4_000).step_by(50) {
            let mut group = Group::default();
            (0..2).for_each(|key| group.add(Mono::ZERO, key, remote(), SEGMENT));
            let slowdown =
                |group: &Group<u32>, key| group.controller(key).and_then(Controller::slowdown);
            for n in 0_u64.. {
                let now = Mono::from_us(n * 5_000);
                let has_come = n * 5 >= come_ms;
                if n == 20 {
                    (0..2).for_each(|key| group.on_loss(now, key));
                }
                let is_startled = (0..2).any(|key| {
                    let rtt_us = if has_come && key == 0 { 90_000 } else { 20_000 };
                    let was_slow = slowdown(&group, 0).is_some();
                    group.on_ack(now, key, ack(rtt_us, group.window_bytes(key) / 4));
                    !was_slow && slowdown(&group, 0) == Some(Slowdown::Startled)
                });
                if is_startled {
                    let other = slowdown(&group, 1);
                    assert_ne!(other, Some(Slowdown::Due), "at {come_ms} ms");
                    joined += u32::from(other.is_some());
                    break;
                }
                assert!(
                    n * 5 < come_ms + 500,
                    "at {come_ms} ms nothing has startled it"
                );
            }
        }
        assert!(joined > 3, "{joined}");
    }

    #[test]
    fn the_best_second_counts_for_ten_minutes() {
        let mut capacity = Capacity::default();
        let at = |s: u64| Mono::from_us(s * 1_000_000);
        for (s, bytes) in [(0, 500), (0, 400), (1, 100), (300, 50)] {
            capacity.add(at(s), bytes);
        }
        assert_eq!(capacity.bytes_per_s(), 900);
        capacity.add(at(601), 7);
        assert_eq!(capacity.bytes_per_s(), 50);
        capacity.add(at(100_000), 7);
        assert_eq!(capacity.bytes_per_s(), 7);
    }
}
