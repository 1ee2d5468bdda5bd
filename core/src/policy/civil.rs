//! Hours of the day and months, in local time.
//!
//! The host's offset from UTC comes with every [`Wall`]; a change of it (summer time) is seen at the next full
//! quarter of an hour, where all offsets in use change.

use crate::time::Wall;
use core::time::Duration;

const HOUR_US: i64 = 3_600_000_000;
const QUARTER_US: i64 = HOUR_US / 4;
const DAY_US: i64 = 24 * HOUR_US;

const fn local_us(now: Wall) -> i64 {
    now.unix_us
        .saturating_add(now.utc_offset_s as i64 * 1_000_000)
}

/// 0 to 23.
pub(super) fn hour(now: Wall) -> u8 {
    (local_us(now).rem_euclid(DAY_US) / HOUR_US) as u8
}

/// Is it within `from..to` o'clock? A window may pass midnight; an empty one is the whole day.
pub(super) fn is_within(from: u8, to: u8, now: Wall) -> bool {
    let hour = hour(now);
    if from < to {
        (from..to).contains(&hour)
    } else {
        hour >= from || hour < to
    }
}

/// Time to the next moment at which an hour can begin, whatever happens to the offset.
pub(super) fn to_next_quarter(now: Wall) -> Duration {
    let past = now.unix_us.rem_euclid(QUARTER_US);
    Duration::from_micros((QUARTER_US - past) as u64)
}

/// Months since the year 0, in local time: equal within one calendar month.
pub fn month_number(now: Wall) -> i64 {
    let (year, month, _) = date(local_us(now).div_euclid(DAY_US));
    year * 12 + month - 1
}

/// Time to the first of next month, local time, as far as today's offset tells.
pub(super) fn to_next_month(now: Wall) -> Duration {
    let local = local_us(now);
    let number = month_number(now) + 1;
    let (year, month) = (number.div_euclid(12), number.rem_euclid(12) + 1);
    let begins = days(year, month, 1) * DAY_US;
    Duration::from_micros(begins.saturating_sub(local).max(0) as u64)
}

/// Days since 1970-01-01 to (year, month, day) of the proleptic Gregorian calendar, by eras of 400 years.
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The other way round.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix_s: i64, utc_offset_s: i32) -> Wall {
        Wall {
            unix_us: unix_s * 1_000_000,
            utc_offset_s,
        }
    }

    #[test]
    fn windows_wrap_and_follow_the_offset() {
        // 2026-03-29 00:59:59 UTC: in Berlin 01:59:59, one second later 03:00 summer time.
        let before = at(1_774_745_999, 3600);
        let after = at(1_774_746_000, 7200);
        assert_eq!((hour(before), hour(after)), (1, 3));
        for (from, to, in_before, in_after) in [
            (1, 2, true, false),
            (2, 3, false, false),
            (3, 4, false, true),
            (22, 2, true, false),
            (22, 4, true, true),
            (5, 5, true, true),
            (4, 1, false, false),
        ] {
            assert_eq!(is_within(from, to, before), in_before, "{from}-{to}");
            assert_eq!(is_within(from, to, after), in_after, "{from}-{to}");
        }
        assert_eq!(to_next_quarter(before), Duration::from_secs(1));
        assert_eq!(to_next_quarter(after), Duration::from_secs(900));
        // Nepal is 5:45 ahead, and 1969 is a time, too.
        assert_eq!(hour(at(-1, 20_700)), 5);
    }

    #[test]
    fn months_end_where_they_should() {
        for (unix_s, offset, to_next_s) in [
            (1_772_323_199, 0, 1),                     // 2026-02-28 23:59:59
            (1_709_164_800, 0, 86_400), // 2024-02-29 00:00, a leap day, then: 1 March
            (1_798_761_599, 0, 1),      // 2026-12-31 23:59:59
            (1_798_761_599, 3600, 31 * 86_400 - 3599), // an hour ahead it is January already
            (0, 0, 31 * 86_400),
        ] {
            let now = at(unix_s, offset);
            assert_eq!(
                to_next_month(now),
                Duration::from_secs(to_next_s),
                "{unix_s}"
            );
            let then = at(unix_s + to_next_s as i64, offset);
            assert_eq!(month_number(then), month_number(now) + 1, "{unix_s}");
        }
        for day in (-800_000..800_000).step_by(37) {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), day);
        }
        assert_eq!(date(20_783), (2026, 11, 26));
    }
}
