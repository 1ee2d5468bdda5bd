//! What acknowledgements mean to the sending half of a stream.

use super::bitmap::Bitmap;
use super::rtt::Rtt;
use super::send::{Outcome, Sender};
use crate::time::Mono;
use alloc::vec::Vec;
use bytes::Bytes;

const MS: u64 = 1000;

fn at(ms: u64) -> Mono {
    Mono::from_us(ms * MS)
}

/// A sender with ten packets of 100 bytes in flight, sent a millisecond apart, numbered from 50.
fn ten() -> Sender {
    let mut sender = Sender::new(50);
    sender.push(Bytes::from(Vec::from([7; 1000])));
    for ms in 0..10 {
        sender.send_new(at(ms), 100, false);
    }
    sender.check();
    sender
}

fn bits(bits: &[usize]) -> Bitmap {
    let mut map = Bitmap::new();
    for bit in bits {
        map.set(*bit);
    }
    map
}

#[test]
fn cumulative_acks_release_and_give_samples() {
    let mut sender = ten();
    let out = sender.on_ack(at(20), 52, None, &Rtt::default());
    assert_eq!((out.acked_bytes, out.rtt_us), (300, Some(18 * MS)));
    assert!(out.has_advanced && out.lost_sent_at.is_none());
    assert_eq!(sender.acked_to(), 300);
    let again = sender.on_ack(at(21), 52, None, &Rtt::default());
    assert_eq!(again, Outcome::default());
    sender.on_ack(at(30), 59, None, &Rtt::default());
    assert!(sender.is_quiet() && sender.is_acked());
    sender.check();
}

#[test]
fn three_later_packets_make_a_loss_also_of_what_was_sent_again() {
    let mut sender = ten();
    assert_eq!(
        sender
            .on_ack(at(20), 49, Some(&bits(&[0, 1])), &Rtt::default())
            .lost_sent_at,
        None
    );
    let out = sender.on_ack(at(21), 49, Some(&bits(&[0, 1, 2])), &Rtt::default());
    assert_eq!((out.lost_sent_at, out.acked_bytes), (Some(at(0)), 100));
    sender.check();
    assert_eq!(sender.lost().map(|part| part.number), Some(50));
    sender.on_resent(at(22), 50);
    assert_eq!(sender.lost(), None);
    // The rest arrives: all were sent before it, so it is not lost again.
    let rest = bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(
        sender
            .on_ack(at(30), 49, Some(&rest), &Rtt::default())
            .lost_sent_at,
        None
    );
    sender.push(Bytes::from(Vec::from([7; 300])));
    for _ in 0..3 {
        sender.send_new(at(31), 100, false);
    }
    let more: Vec<usize> = (0..12).collect();
    let out = sender.on_ack(at(40), 49, Some(&bits(&more)), &Rtt::default());
    assert_eq!(out.lost_sent_at, Some(at(0)));
    sender.check();
    sender.on_resent(at(41), 50);
    let out = sender.on_ack(at(50), 62, None, &Rtt::default());
    assert_eq!((out.rtt_us, out.acked_bytes), (None, 100), "Karn");
    assert!(sender.is_acked());
    sender.check();
}

#[test]
fn one_later_packet_and_some_time_make_a_loss() {
    let mut sender = ten();
    let mut rtt = Rtt::default();
    rtt.sample(16 * MS);
    let out = sender.on_ack(at(17), 49, Some(&bits(&[0])), &rtt);
    assert_eq!(
        (out.lost_sent_at, sender.overtaken_at()),
        (None, Some(at(18)))
    );
    assert_eq!(sender.on_overtaken(at(17), &rtt).lost_sent_at, None);
    assert_eq!(sender.on_overtaken(at(18), &rtt).lost_sent_at, Some(at(0)));
    assert_eq!(sender.overtaken_at(), None, "nothing else was overtaken");
    sender.check();
}

#[test]
fn the_tail_goes_again_without_being_lost() {
    let mut sender = ten();
    sender.on_ack(at(17), 49, Some(&bits(&[8])), &Rtt::default());
    sender.on_resent(at(18), 50);
    assert_eq!(sender.probe_tail(), Outcome::default());
    assert_eq!(sender.lost().map(|part| part.number), Some(51));
    sender.check();
}

#[test]
fn repeated_acks_do_for_peers_that_know_nothing_better() {
    let mut sender = ten();
    assert_eq!(sender.on_repeated_ack().lost_sent_at, None);
    assert_eq!(sender.on_repeated_ack().lost_sent_at, None);
    assert_eq!(sender.on_repeated_ack().lost_sent_at, Some(at(0)));
    assert_eq!(sender.on_repeated_ack().lost_sent_at, None);
    sender.check();
}

#[test]
fn after_a_timeout_everything_goes_again_in_order() {
    let mut sender = ten();
    sender.on_ack(at(20), 49, Some(&bits(&[4])), &Rtt::default());
    assert_eq!(sender.on_timeout().lost_sent_at, Some(at(9)));
    sender.check();
    assert!(sender.is_quiet() && sender.flight_bytes() == 0);
    let mut numbers = Vec::new();
    while let Some(part) = sender.lost() {
        sender.on_resent(at(600), part.number);
        numbers.push(part.number);
    }
    assert_eq!(numbers, [50, 51, 52, 53, 54, 56, 57, 58, 59]);
    // It was late and not lost: that says nothing about the second copies.
    let mut rtt = Rtt::default();
    rtt.sample(10 * MS);
    let out = sender.on_ack(at(601), 53, None, &rtt);
    assert_eq!((out.rtt_us, out.lost_sent_at), (None, None));
    sender.check();
}

#[test]
fn a_lost_probe_is_told_apart() {
    let mut sender = Sender::new(1);
    sender.push(Bytes::from(Vec::from([7; 1000])));
    sender.send_new(at(0), 100, true);
    for _ in 0..3 {
        sender.send_new(at(0), 100, false);
    }
    let out = sender.on_ack(at(9), 0, Some(&bits(&[0, 1, 2])), &Rtt::default());
    assert_eq!((out.is_probe_lost, out.lost_sent_at), (true, None));
    sender.on_resent(at(10), 1);
    assert!(
        !sender
            .on_ack(at(20), 4, None, &Rtt::default())
            .has_probe_arrived
    );
    sender.send_new(at(20), 100, true);
    assert!(
        sender
            .on_ack(at(30), 5, None, &Rtt::default())
            .has_probe_arrived
    );
    sender.check();
}

#[test]
fn the_fin_comes_last_and_nothing_after_it() {
    let mut sender = ten();
    let fin = sender.send_fin(at(10));
    assert_eq!((fin.number, fin.len, fin.is_fin), (60, 0, true));
    assert!(!sender.may_send_new());
    sender.on_ack(at(20), 59, None, &Rtt::default());
    assert!(sender.is_fin_alone() && !sender.is_fin_acked());
    sender.on_ack(at(21), 60, None, &Rtt::default());
    assert!(sender.is_fin_acked());
    sender.check();
}
