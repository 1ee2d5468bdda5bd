use super::*;
use crate::limits::{SLOT_DEMAND_FOR, SLOT_TURN};

const NONE: [u8; 0] = [];
const DAY_US: i64 = 86_400_000_000;

fn hash(n: u8) -> InfoHash {
    InfoHash([n; 32])
}

fn wall(days: i64) -> Wall {
    Wall {
        unix_us: days * DAY_US,
        utc_offset_s: 0,
    }
}

fn at(s: u64) -> Mono {
    Mono::from_us(s * 1_000_000)
}

fn record(days: i64) -> Record {
    Record {
        root: alloc::format!("{days:064x}"),
        completed_unix_us: days * DAY_US,
        wanted_unix_us: days * DAY_US,
        pinned: false,
        sent_bytes: 0,
        metainfo: bytes::Bytes::new(),
    }
}

/// Contents 1..=n of 100 bytes, completed on the days 1..=n.
fn shelf(n: u8) -> Shelf {
    let mut shelf = Shelf::default();
    for day in 1..=n {
        let item = Item::new(alloc::format!("f{day}"), 100, record(day.into()));
        shelf.insert(hash(day), item, wall(100));
    }
    shelf
}

const LIMITS: ShelfLimits = ShelfLimits {
    quota_bytes: None,
    headroom_bytes: 50,
    max_age: None,
    min_file_bytes: 10,
    slots: 4,
};

fn gone(shelf: &Shelf, limits: &ShelfLimits, free: Option<u64>, day: i64) -> Vec<u8> {
    let gone = shelf.overdue(limits, free, wall(day));
    gone.iter().map(|(hash, _)| hash.0[0]).collect()
}

#[test]
fn what_is_too_old_or_too_much_goes() {
    let mut shelf = shelf(4);
    let aged = ShelfLimits {
        max_age: Some(Duration::from_secs(3 * 86_400)),
        ..LIMITS
    };
    assert_eq!(gone(&shelf, &aged, None, 5), [1, 2]);
    let small = ShelfLimits {
        quota_bytes: Some(250),
        ..LIMITS
    };
    assert_eq!(gone(&shelf, &small, None, 5), [1, 2]);
    shelf.wanted(hash(1), at(0), wall(5));
    assert_eq!(gone(&shelf, &small, None, 5), [2, 3], "1 was wanted lately");
    assert_eq!(gone(&shelf, &LIMITS, Some(49), 5), [2], "the disk is full");
    assert_eq!(gone(&shelf, &LIMITS, Some(50), 5), NONE);
    for n in [1, 2] {
        shelf.get_mut(hash(n)).unwrap().record.pinned = true;
    }
    assert_eq!(gone(&shelf, &aged, None, 9), [3, 4], "the pinned stay");
    assert_eq!(gone(&shelf, &small, None, 5), NONE, "and count for nothing");
    assert_eq!(shelf.loose_bytes(), 200);
}

#[test]
fn a_clock_set_back_makes_nothing_eternal() {
    let mut shelf = Shelf::default();
    shelf.insert(hash(1), Item::new("a".into(), 1, record(50)), wall(10));
    let aged = ShelfLimits {
        max_age: Some(Duration::from_secs(86_400)),
        ..LIMITS
    };
    assert_eq!(gone(&shelf, &aged, None, 10), NONE);
    let next = shelf.next_expiry(&aged, wall(10));
    assert_eq!(next, Some(Duration::from_secs(86_400)));
    assert_eq!(gone(&shelf, &aged, None, 11), [1]);
    assert_eq!(gone(&shelf, &aged, None, 2), NONE, "set back again");
}

#[test]
fn room_is_made_or_the_reason_is_said() {
    let shelf = shelf(3);
    let quota = ShelfLimits {
        quota_bytes: Some(350),
        ..LIMITS
    };
    assert_eq!(shelf.room_for(50, &quota, None), Ok(Vec::new()));
    assert_eq!(
        shelf.room_for(200, &quota, None),
        Ok(alloc::vec![hash(1), hash(2)])
    );
    assert_eq!(
        shelf.room_for(100, &quota, Some(60)),
        Ok(alloc::vec![hash(1)])
    );
    for (length, free, why) in [
        (9, None, "min_file_size_to_cache"),
        (351, None, "absolute_max_cache_size"),
        (340, Some(20), "stay free"),
    ] {
        let said = shelf.room_for(length, &quota, free).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn contents_are_found_by_name_and_by_beginnings_of_hashes() {
    let shelf = shelf(3);
    assert_eq!(shelf.find("f2"), [hash(2)]);
    assert_eq!(shelf.find("0202"), [hash(2)]);
    assert_eq!(shelf.find("0000").len(), 3, "ambiguous");
    assert!(shelf.find("02").is_empty());
}

#[test]
fn free_slots_go_to_the_newest_and_wanted_ones_go_first() {
    let mut shelf = shelf(6);
    let turn = shelf.rotate(at(0), 4);
    assert_eq!(turn.start, [hash(6), hash(5), hash(4), hash(3)]);
    assert_eq!(shelf.rotate(at(1000), 4), Turn::default(), "nobody waits");
    shelf.wanted(hash(1), at(1000), wall(100));
    let turn = shelf.rotate(at(1000), 4);
    assert_eq!((turn.stop.len(), turn.start), (1, alloc::vec![hash(1)]));
    let fewer = shelf.rotate(at(1001), 2);
    assert_eq!(fewer.stop.len(), 2);
    assert!(shelf.get(hash(1)).unwrap().is_offered(), "it is wanted");
}

#[test]
fn no_wanted_content_waits_longer_than_the_bound() {
    for (wanted, slots) in [(8_u8, 4_u32), (9, 4), (20, 3), (5, 1)] {
        let mut shelf = shelf(wanted);
        let mut waits = BTreeMap::<InfoHash, u64>::new();
        let bound = u64::from(wanted).div_ceil(slots.into()) * SLOT_TURN.as_secs();
        for s in 0..20 * SLOT_TURN.as_secs() {
            for n in 1..=wanted {
                shelf.wanted(hash(n), at(s), wall(100));
            }
            shelf.rotate(at(s), slots);
            let offered = shelf.iter().filter(|(_, i)| i.is_offered()).count();
            assert_eq!(offered, slots as usize);
            for (hash, item) in shelf.iter() {
                let wait = waits.entry(hash).or_default();
                *wait = if item.is_offered() { 0 } else { *wait + 1 };
                assert!(
                    *wait <= bound,
                    "{wanted} in {slots}: {wait} s, bound {bound}"
                );
            }
        }
    }
}

#[test]
fn demand_is_forgotten_after_a_while() {
    let mut shelf = shelf(2);
    shelf.rotate(at(0), 1);
    shelf.wanted(hash(1), at(0), wall(100));
    assert!(shelf.get(hash(1)).unwrap().is_wanted(at(1)));
    let later = at(0) + SLOT_DEMAND_FOR;
    assert!(!shelf.get(hash(1)).unwrap().is_wanted(later));
    assert_eq!(
        shelf.rotate(later, 1),
        Turn::default(),
        "nobody wants it any more"
    );
}

#[test]
fn records_are_read_back() {
    let mut record = record(3);
    record.metainfo = bytes::Bytes::from_static(b"d4:infoe");
    record.pinned = true;
    assert_eq!(Record::parse(&record.encode()), Some(record));
    assert_eq!(Record::parse(b"{\"root\":1}"), None);
}
