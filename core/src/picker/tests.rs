use super::*;
use crate::limits::BLOCK_LEN;

const A: SourceId = SourceId(1);
const B: SourceId = SourceId(2);
const C: SourceId = SourceId(3);
const D: SourceId = SourceId(4);

/// No piece to go on from.
const NOWHERE: u32 = u32::MAX;

/// Pieces of four blocks, the last piece of one short block.
fn picker(pieces: u32) -> Picker {
    let length = u64::from(pieces - 1) * 4 * u64::from(BLOCK_LEN) + 100;
    Picker::new(
        Geometry::new(length, 4 * BLOCK_LEN).unwrap(),
        false,
        &mut Rng::from_u64(7),
    )
}

fn take(p: &mut Picker, source: SourceId, run: Run) {
    for index in run.first..run.first + run.count {
        assert!(matches!(
            p.on_block(
                source,
                Block {
                    piece: run.piece,
                    index
                }
            ),
            Took::New { .. }
        ));
    }
    p.check();
}

#[test]
fn rarest_first_and_begun_pieces_before_new_ones() {
    let mut p = picker(8);
    for (s, pieces) in [(A, &[0, 1, 2, 3][..]), (B, &[1, 2, 3]), (C, &[2, 3])] {
        p.add_peer(s);
        pieces.iter().for_each(|piece| p.peer_has(s, *piece));
    }
    let first = p.pick(A, 2, Reach::Any).unwrap();
    assert_eq!(
        first,
        Run {
            piece: 0,
            first: 0,
            count: 2
        }
    );
    let rest = p.pick(A, 9, Reach::Any).unwrap();
    assert_eq!(
        rest,
        Run {
            piece: 0,
            first: 2,
            count: 2
        }
    );
    assert_eq!(p.pick(A, 9, Reach::Any).unwrap().piece, 1);
    p.check();
}

#[test]
fn different_agents_break_ties_differently() {
    let order = |seed| {
        let g = Geometry::new(100 * u64::from(BLOCK_LEN), BLOCK_LEN).unwrap();
        let mut p = Picker::new(g, false, &mut Rng::from_u64(seed));
        p.add_peer(A);
        p.peer_has_all(A);
        (0..100)
            .map(|_| p.pick(A, 1, Reach::Any).unwrap().piece)
            .collect::<Vec<_>>()
    };
    assert_ne!(order(1), order(2));
    assert_eq!(order(1), order(1));
}

#[test]
fn a_claimed_scarce_piece_is_left_to_the_neighbour_until_nothing_else_is_left() {
    let mut p = picker(2);
    for s in [A, B] {
        p.add_peer(s);
    }
    p.peer_has_all(A);
    p.claim(B, 0);
    p.claim(B, 1);
    assert_eq!(p.pick(A, 9, Reach::Scarce), None);
    assert_eq!(p.pick_span(C, NOWHERE, 9, Reach::Scarce), None);
    assert_eq!(p.claimants(), BTreeSet::from([B]));
    p.unclaim(B, 1);
    assert_eq!(p.pick(A, 9, Reach::Scarce).unwrap().piece, 1);
    assert_eq!(p.pick(A, 9, Reach::Any).unwrap().piece, 0);
}

#[test]
fn a_piece_a_downloading_peer_holds_is_not_scarce() {
    let mut p = picker(2);
    p.add_peer(A);
    p.add_peer(B);
    p.peer_has_all(A);
    p.peer_has(B, 0);
    assert!(!p.is_scarce(0) && p.is_scarce(1));
    assert_eq!(p.pick_span(C, NOWHERE, 9, Reach::Scarce), Some(1..2));
    assert_eq!(p.pick(A, 9, Reach::Scarce), None);
    assert!(p.pick(A, 9, Reach::Any).is_some());
    p.remove_source(B);
    assert!(p.is_scarce(0));
    p.check();
}

#[test]
fn spans_are_reserved_released_and_reached_in_order() {
    let mut p = picker(10);
    let span = p.pick_span(A, NOWHERE, 6, Reach::Any).unwrap();
    assert_eq!(span, 0..6);
    assert_eq!(p.pick_span(B, NOWHERE, 9, Reach::Any), Some(6..10));
    assert!(p.begin_reserved(A, 0) && !p.begin_reserved(B, 1));
    p.release_span(A, 3..6);
    assert_eq!(p.pick_span(C, NOWHERE, 9, Reach::Any), Some(3..6));
    take(
        &mut p,
        A,
        Run {
            piece: 0,
            first: 0,
            count: 4,
        },
    );
    assert!(p.finish_if_whole(0));
    p.verified(0);
    p.remove_source(A);
    assert_eq!(p.pick_span(B, NOWHERE, 9, Reach::Any), Some(1..3));
    p.check();
}

#[test]
fn a_lane_goes_on_where_it_was_while_that_piece_is_its_to_fetch() {
    let mut p = picker(10);
    p.add_peer(D);
    p.peer_has(D, 6);
    assert_eq!(p.pick_span(A, 4, 1, Reach::Scarce), Some(4..5));
    p.claim(D, 8);
    assert_eq!(p.pick_span(A, 7, 9, Reach::Scarce), Some(7..8));
    for taken in [4, 6, 8, NOWHERE] {
        let span = p.pick_span(B, taken, 1, Reach::Scarce).unwrap();
        assert_ne!(span.start, taken);
        p.release_span(B, span);
    }
    assert_eq!(p.pick_span(B, 6, 1, Reach::Any), Some(6..7));
    p.check();
}

#[test]
fn what_can_be_picked_is_said_beforehand() {
    let mut p = picker(2);
    for s in [A, B] {
        p.add_peer(s);
    }
    p.peer_has(A, 0);
    assert!(p.can_pick(A, Some(Reach::Any)) && !p.can_pick(B, Some(Reach::Any)));
    assert!(!p.can_pick(A, Some(Reach::Scarce)) && !p.can_pick(A, None));
    p.pick(A, 3, Reach::Any).unwrap();
    assert!(p.can_pick(A, None), "a begun piece has a block left");
    p.pick(A, 1, Reach::Any).unwrap();
    assert!(!p.can_pick(A, Some(Reach::Any)));
    assert!(p.wants(A), "it is on its way and not here");
}

#[test]
fn the_end_game_asks_twice_and_no_more() {
    let mut p = picker(2);
    for s in [A, B, C] {
        p.add_peer(s);
        p.peer_has_all(s);
    }
    let run = p.pick(A, 9, Reach::Any).unwrap();
    assert_eq!(p.pick_duplicate(B, 9, |_| false), None);
    assert_eq!(p.pick_duplicate(B, 9, |s| s == A), Some(run));
    assert_eq!(p.pick_duplicate(C, 9, |_| true), None);
    let block = Block {
        piece: run.piece,
        index: 0,
    };
    assert_eq!(p.on_block(B, block), Took::New { other: Some(A) });
    assert_eq!(p.on_block(A, block), Took::Duplicate);
    p.remove_source(A);
    p.check();
}

#[test]
fn a_failed_piece_names_its_givers_and_is_retried_by_one_source() {
    let mut p = picker(3);
    for s in [A, B] {
        p.add_peer(s);
        p.peer_has(s, 0);
    }
    let a = p.pick(A, 2, Reach::Any).unwrap();
    let b = p.pick(B, 9, Reach::Any).unwrap();
    take(&mut p, A, a);
    take(&mut p, B, b);
    assert!(p.finish_if_whole(0));
    assert_eq!(p.failed(0), [Some(A), Some(A), Some(B), Some(B)]);
    p.check();
    let again = p.pick(B, 1, Reach::Any).unwrap();
    assert_eq!((again.piece, p.pick(A, 9, Reach::Any)), (0, None));
    assert!(p.pick(B, 9, Reach::Any).is_some());
}

#[test]
fn a_piece_retried_by_one_source_is_anybodys_when_that_source_leaves_it_half_done() {
    for leaves in [true, false] {
        let mut p = picker(2);
        for s in [A, B] {
            p.add_peer(s);
            p.peer_has(s, 0);
        }
        let run = p.pick(A, 9, Reach::Any).unwrap();
        take(&mut p, A, run);
        assert!(p.finish_if_whole(0));
        p.failed(0);
        let half = p.pick(B, 2, Reach::Any).unwrap();
        take(&mut p, B, half);
        assert_eq!(p.pick(A, 9, Reach::Any), None);
        if leaves {
            p.remove_source(B);
        } else {
            p.open_to_others(B);
        }
        assert!(p.pick(A, 9, Reach::Any).is_some());
        p.check();
    }
}

#[test]
fn interest_follows_what_is_missing() {
    let mut p = picker(2);
    p.add_peer(A);
    p.peer_has(A, 0);
    assert!(p.wants(A));
    let run = p.pick(A, 9, Reach::Any).unwrap();
    take(&mut p, A, run);
    assert!(p.finish_if_whole(0));
    p.verified(0);
    assert!(!p.wants(A));
    p.lost(0);
    assert!(p.wants(A));
    p.check();
}
