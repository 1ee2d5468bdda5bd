//! Body for the picker, beside a naive model of what it must know.

use arbitrary::{Arbitrary, Unstructured};
use dovetail_core::content::{Bitfield, Block, Geometry, Run};
use dovetail_core::ids::SourceId;
use dovetail_core::limits::BLOCK_LEN;
use dovetail_core::picker::{ASKERS_MAX, Picker, Reach, Took};
use dovetail_core::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, Arbitrary)]
enum Op {
    AddPeer(u8),
    HasAll(u8),
    HasSet {
        source: u8,
        bits: u16,
    },
    Has {
        source: u8,
        piece: u8,
    },
    Remove(u8),
    Claim {
        source: u8,
        piece: u8,
        on: bool,
    },
    Pick {
        source: u8,
        most: u8,
        any: bool,
    },
    PickBegun {
        source: u8,
        most: u8,
    },
    Duplicate {
        source: u8,
        most: u8,
    },
    Span {
        lane: u8,
        next: u8,
        most: u8,
        any: bool,
    },
    Rest {
        lane: u8,
        any: bool,
    },
    Slow {
        lane: u8,
        any: bool,
    },
    Begin {
        lane: u8,
        piece: u8,
    },
    /// The source delivers the first block it was asked for, or any block.
    Deliver {
        source: u8,
        piece: u8,
        index: u8,
        asked: bool,
    },
    /// The first whole piece is hashed.
    Hashed {
        good: bool,
    },
    Release {
        source: u8,
        piece: u8,
        first: u8,
        count: u8,
    },
    ReleaseAll(u8),
    ReleaseSpan {
        lane: u8,
        first: u8,
        count: u8,
    },
    Lost(u8),
}

const PEERS: u8 = 4;
const LANES: u8 = 2;

/// What is picked may be picked: free, held by the source, of at most two askers; states agree with the
/// model after each step; and whatever happened, one good source can finish the file.
pub fn ops(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(mut both) = Both::arbitrary(&mut input) else {
        return;
    };
    while !input.is_empty() {
        let Ok(op) = Op::arbitrary(&mut input) else {
            break;
        };
        both.act(op);
        both.check();
    }
    both.finish();
}

#[derive(Default)]
struct Asked {
    giver: Option<SourceId>,
    askers: Vec<SourceId>,
}

struct Both {
    picker: Picker,
    geometry: Geometry,
    have: BTreeSet<u32>,
    checking: BTreeSet<u32>,
    reserved: BTreeMap<u32, SourceId>,
    /// Blocks of pieces that are begun.
    begun: BTreeMap<u32, Vec<Asked>>,
    peers: BTreeMap<SourceId, BTreeSet<u32>>,
}

impl<'a> Arbitrary<'a> for Both {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let per_piece = 1 << input.int_in_range(0..=2_u32)?;
        let blocks = input.int_in_range(1..=40_u64)?;
        let geometry = Geometry::new(blocks * u64::from(BLOCK_LEN) - 1, per_piece * BLOCK_LEN)
            .map_err(|_| arbitrary::Error::IncorrectFormat)?;
        let mut rng = Rng::from_u64(input.arbitrary::<u8>()?.into());
        Ok(Self {
            picker: Picker::new(geometry, input.arbitrary()?, &mut rng),
            geometry,
            have: BTreeSet::new(),
            checking: BTreeSet::new(),
            reserved: BTreeMap::new(),
            begun: BTreeMap::new(),
            peers: BTreeMap::new(),
        })
    }
}

impl Both {
    fn act(&mut self, op: Op) {
        match op {
            Op::AddPeer(n) => {
                self.picker.add_peer(peer(n));
                self.peers.entry(peer(n)).or_default();
            }
            Op::HasAll(n) => {
                self.picker.peer_has_all(peer(n));
                let all = (0..self.geometry.pieces()).collect();
                self.peers.entry(peer(n)).and_modify(|p| *p = all);
            }
            Op::HasSet { source, bits } => self.has_set(peer(source), bits),
            Op::Has { source, piece } => {
                let piece = self.piece(piece);
                self.picker.peer_has(peer(source), piece);
                self.peers
                    .entry(peer(source))
                    .and_modify(|p| p.extend([piece]));
            }
            Op::Remove(n) => {
                let source = any(n);
                self.picker.remove_source(source);
                self.peers.remove(&source);
                self.release_all(source);
            }
            Op::Claim {
                source,
                piece,
                on: true,
            } => self.picker.claim(peer(source), piece.into()),
            Op::Claim {
                source,
                piece,
                on: false,
            } => self.picker.unclaim(peer(source), piece.into()),
            Op::Pick { source, most, any } => self.pick(peer(source), most, reach(any)),
            Op::PickBegun { source, most } => {
                let run = self.picker.pick_begun(peer(source), most.into());
                self.take_free(peer(source), run, most.into());
            }
            Op::Duplicate { source, most } => {
                let run = self
                    .picker
                    .pick_duplicate(peer(source), most.into(), |_| true);
                self.take_second(peer(source), run);
            }
            Op::Slow { lane: n, any } => {
                let run = self.picker.pick_slow(lane(n), reach(any), |_| true);
                self.take_second(lane(n), run);
            }
            Op::Span {
                lane: n,
                next,
                most,
                any,
            } => {
                self.span(lane(n), next.into(), most, reach(any));
            }
            Op::Rest { lane: n, any } => {
                let run = self.picker.pick_rest(lane(n), reach(any));
                self.take_free(lane(n), run, u32::MAX);
            }
            Op::Begin { lane: n, piece } => self.begin(lane(n), self.piece(piece)),
            Op::Deliver {
                source,
                piece,
                index,
                asked,
            } => {
                let piece = self.piece(piece);
                self.deliver(any(source), piece, index, asked);
            }
            Op::Hashed { good } => {
                if let Some(piece) = self.checking.first().copied() {
                    self.hashed(piece, good);
                }
            }
            Op::Release {
                source,
                piece,
                first,
                count,
            } => {
                let run = Run {
                    piece: self.piece(piece),
                    first: first.into(),
                    count: count.into(),
                };
                self.picker.release(any(source), run);
                self.release(any(source), run);
            }
            Op::ReleaseAll(n) => {
                self.picker.release_all(any(n));
                self.release_all(any(n));
            }
            Op::ReleaseSpan {
                lane: n,
                first,
                count,
            } => {
                let span = u32::from(first)..u32::from(first) + u32::from(count);
                self.picker.release_span(lane(n), span.clone());
                self.reserved
                    .retain(|p, who| !span.contains(p) || *who != lane(n));
            }
            Op::Lost(piece) => {
                self.picker.lost(piece.into());
                self.have.remove(&piece.into());
            }
        }
    }

    fn piece(&self, n: u8) -> u32 {
        u32::from(n) % self.geometry.pieces()
    }

    fn has_set(&mut self, source: SourceId, bits: u16) {
        let mut set = Bitfield::empty(self.geometry.pieces());
        let bit = |piece: &u32| bits >> (piece % 16) & 1 == 1;
        let pieces: BTreeSet<u32> = (0..self.geometry.pieces()).filter(bit).collect();
        for piece in &pieces {
            set.insert(*piece);
        }
        self.picker.peer_has_set(source, &set);
        self.peers.entry(source).and_modify(|p| p.extend(pieces));
    }

    fn is_free(&self, piece: u32) -> bool {
        !self.have.contains(&piece)
            && !self.begun.contains_key(&piece)
            && !self.reserved.contains_key(&piece)
    }

    fn pick(&mut self, source: SourceId, most: u8, reach: Reach) {
        let can = self.picker.can_pick(source, Some(reach));
        let run = self.picker.pick(source, most.into(), reach);
        assert_eq!(can && most > 0, run.is_some(), "said beforehand");
        if run.is_none() && most > 0 && reach == Reach::Any {
            let held = self.peers.get(&source).into_iter().flatten();
            assert!(
                !held.into_iter().any(|p| self.is_free(*p)),
                "a free piece was passed over"
            );
        }
        self.take_free(source, run, most.into());
    }

    /// Blocks nobody was asked for are asked of this source.
    fn take_free(&mut self, source: SourceId, run: Option<Run>, most: u32) {
        let Some(run) = run else { return };
        assert!(run.count > 0 && run.count <= most, "{run:?}");
        self.may_give(source, run.piece);
        let blocks = self.geometry.blocks_in(run.piece);
        if self.is_free(run.piece) {
            let fresh = (0..blocks).map(|_| Asked::default()).collect();
            self.begun.insert(run.piece, fresh);
        }
        for slot in self.slots(run) {
            assert!(
                slot.giver.is_none() && slot.askers.is_empty(),
                "not free: {run:?}"
            );
            slot.askers.push(source);
        }
    }

    fn take_second(&mut self, source: SourceId, run: Option<Run>) {
        let Some(run) = run else { return };
        self.may_give(source, run.piece);
        for slot in self.slots(run) {
            let other = slot.askers.iter().all(|s| *s != source);
            assert!(
                slot.giver.is_none() && slot.askers.len() == 1 && other,
                "{run:?}"
            );
            slot.askers.push(source);
        }
    }

    fn may_give(&self, source: SourceId, piece: u32) {
        let has = self.peers.get(&source).is_none_or(|p| p.contains(&piece));
        assert!(has, "it does not have piece {piece}");
    }

    fn slots(&mut self, run: Run) -> impl Iterator<Item = &mut Asked> {
        let slots = self.begun.get_mut(&run.piece).expect("the piece is begun");
        assert!(
            (run.first + run.count) as usize <= slots.len(),
            "within the piece"
        );
        slots
            .iter_mut()
            .skip(run.first as usize)
            .take(run.count as usize)
    }

    fn span(&mut self, lane: SourceId, next: u32, most: u8, reach: Reach) {
        let Some(span) = self.picker.pick_span(lane, next, most.into(), reach) else {
            let none = most == 0 || reach == Reach::Scarce;
            assert!(none || !(0..self.geometry.pieces()).any(|p| self.is_free(p)));
            return;
        };
        assert!(span.len() <= most.into());
        for piece in span {
            assert!(self.is_free(piece), "piece {piece} is not free");
            self.reserved.insert(piece, lane);
        }
    }

    fn begin(&mut self, lane: SourceId, piece: u32) {
        let mine = self.reserved.get(&piece) == Some(&lane);
        assert_eq!(self.picker.begin_reserved(lane, piece), mine);
        if mine {
            self.reserved.remove(&piece);
            let asked = || Asked {
                giver: None,
                askers: vec![lane],
            };
            let blocks = (0..self.geometry.blocks_in(piece))
                .map(|_| asked())
                .collect();
            self.begun.insert(piece, blocks);
        }
    }

    fn deliver(&mut self, source: SourceId, piece: u32, index: u8, asked: bool) {
        let mut block = Block {
            piece,
            index: u32::from(index) % self.geometry.blocks_per_piece(),
        };
        if asked {
            let first = self.begun.iter().find_map(|(piece, slots)| {
                let index = slots.iter().position(|s| s.askers.contains(&source))? as u32;
                Some(Block {
                    piece: *piece,
                    index,
                })
            });
            block = first.unwrap_or(block);
        }
        let took = self.picker.on_block(source, block);
        let slots = self.begun.get_mut(&block.piece);
        let slot = slots.and_then(|s| s.get_mut(block.index as usize));
        let expected = match slot {
            None => Took::Unwanted,
            Some(slot) if slot.giver.is_some() => Took::Duplicate,
            Some(slot) => {
                slot.giver = Some(source);
                let askers = core::mem::take(&mut slot.askers);
                Took::New {
                    other: askers.into_iter().find(|s| *s != source),
                }
            }
        };
        assert_eq!(took, expected);
        let open = self
            .begun
            .get(&block.piece)
            .filter(|_| !self.checking.contains(&block.piece));
        let whole = open.is_some_and(|s| s.iter().all(|s| s.giver.is_some()));
        assert_eq!(self.picker.finish_if_whole(block.piece), whole);
        if whole {
            self.checking.insert(block.piece);
        }
    }

    fn hashed(&mut self, piece: u32, good: bool) {
        self.checking.remove(&piece);
        let slots = self.begun.remove(&piece).unwrap_or_default();
        let expected: Vec<_> = slots.iter().map(|s| s.giver).collect();
        let givers = if good {
            self.have.insert(piece);
            self.picker.verified(piece)
        } else {
            // It stays begun, with nothing in it.
            let again = slots.iter().map(|_| Asked::default()).collect();
            self.begun.insert(piece, again);
            self.picker.failed(piece)
        };
        assert_eq!(givers, expected);
    }

    fn release(&mut self, source: SourceId, run: Run) {
        let Some(slots) = self.begun.get_mut(&run.piece) else {
            return;
        };
        let span = slots
            .iter_mut()
            .skip(run.first as usize)
            .take(run.count as usize);
        let mut any = false;
        for slot in span {
            any |= slot.askers.contains(&source);
            slot.askers.retain(|s| *s != source);
        }
        let untouched = slots
            .iter()
            .all(|s| s.giver.is_none() && s.askers.is_empty());
        // A piece that failed and was not asked of anybody since is the one that stays begun.
        if untouched && (any || self.picker.is_free(run.piece)) {
            self.begun.remove(&run.piece);
        }
    }

    fn release_all(&mut self, source: SourceId) {
        let begun: Vec<u32> = self.begun.keys().copied().collect();
        for piece in begun {
            let whole = self.geometry.whole_piece(piece);
            self.release(source, whole);
        }
        self.reserved.retain(|_, who| *who != source);
    }

    fn check(&self) {
        self.picker.check();
        let have: BTreeSet<u32> = self.picker.have().iter().collect();
        assert_eq!(have, self.have);
        for piece in 0..self.geometry.pieces() {
            assert_eq!(
                self.picker.is_free(piece),
                self.is_free(piece),
                "piece {piece}"
            );
        }
        let open = self
            .begun
            .keys()
            .map(|p| u64::from(self.geometry.piece_len(*p)));
        assert_eq!(self.picker.open_bytes(), open.sum::<u64>());
        let most = self.begun.values().flatten().map(|s| s.askers.len()).max();
        assert!(most.unwrap_or(0) <= ASKERS_MAX);
        for (source, pieces) in &self.peers {
            let wants = pieces.iter().any(|p| !self.have.contains(p));
            assert_eq!(self.picker.wants(*source), wants, "{source:?}");
        }
    }

    /// Everybody leaves, and one seed gives the rest.
    fn finish(&mut self) {
        for n in 0..PEERS + LANES {
            self.act(Op::Remove(n));
        }
        for piece in core::mem::take(&mut self.checking) {
            self.picker.verified(piece);
        }
        let seed = SourceId(99);
        self.picker.add_peer(seed);
        self.picker.peer_has_all(seed);
        while let Some(run) = self.picker.pick(seed, 3, Reach::Any) {
            for index in run.first..run.first + run.count {
                let block = Block {
                    piece: run.piece,
                    index,
                };
                assert_eq!(self.picker.on_block(seed, block), Took::New { other: None });
            }
            if self.picker.finish_if_whole(run.piece) {
                self.picker.verified(run.piece);
            }
        }
        self.picker.check();
        assert!(
            self.picker.is_complete(),
            "something cannot be had any more"
        );
    }
}

fn reach(any: bool) -> Reach {
    if any { Reach::Any } else { Reach::Scarce }
}

fn peer(n: u8) -> SourceId {
    SourceId(10 + u64::from(n % PEERS))
}

fn lane(n: u8) -> SourceId {
    SourceId(u64::from(n % LANES))
}

fn any(n: u8) -> SourceId {
    let n = n % (PEERS + LANES);
    if n < PEERS { peer(n) } else { lane(n) }
}
