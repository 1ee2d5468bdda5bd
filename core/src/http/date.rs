//! HTTP dates: seconds since 1970 to and from the fixed text form.
//!
//! Spec: RFC 9110 §5.6.7; writes IMF-fixdate, reads all three forms. Pure integer arithmetic on the
//! proleptic Gregorian calendar. (`httpdate` would do, but speaks `std::time::SystemTime`.)
//!
//! Tests: at the end of this file.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// `Sun, 06 Nov 1994 08:49:37 GMT`. Times outside the years 1970–9999 are clamped.
pub fn format_http_date(unix_s: i64) -> String {
    let unix_s = unix_s.clamp(0, LAST_UNIX_S);
    let (days, in_day) = (unix_s.div_euclid(DAY_S), unix_s.rem_euclid(DAY_S));
    let (year, month, day) = civil_from_days(days);
    let weekday = name(&DAYS, days + 4, 7);
    let month = name(&MONTHS, month - 1, 12);
    let (hour, minute, second) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Seconds since 1970; `None` if it is none of the three forms.
///
/// The two-digit year of the obsolete RFC 850 form means 1970–2069.
pub fn parse_http_date(text: &str) -> Option<i64> {
    let text = text.trim();
    let Some((_, rest)) = text.split_once(", ") else {
        return parse_asctime(text);
    };
    let parts: Vec<&str> = rest.split([' ', '-']).collect();
    let [day, month, year, time, "GMT" | "UTC"] = parts[..] else {
        return None;
    };
    let year = match (year.len(), digits(year)?) {
        (4, year) => year,
        (2, year) if year < 70 => 2000 + year,
        (2, year) => 1900 + year,
        _ => return None,
    };
    unix(year, month, digits(day)?, time)
}

/// `Sun Nov  6 08:49:37 1994`.
fn parse_asctime(text: &str) -> Option<i64> {
    let parts: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, month, day, time, year] = parts[..] else {
        return None;
    };
    unix(digits(year)?, month, digits(day)?, time)
}

fn unix(year: i64, month: &str, day: i64, time: &str) -> Option<i64> {
    let month = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(month))?;
    let month = i64::try_from(month).ok()? + 1;
    let parts: Vec<&str> = time.split(':').collect();
    let [hour, minute, second] = parts[..] else {
        return None;
    };
    let (hour, minute, second) = (digits(hour)?, digits(minute)?, digits(second)?);
    if hour > 23 || minute > 59 || second > 60 || !(1..=9999).contains(&year) {
        return None;
    }
    let days = days_from_civil(year, month, day);
    // A day the month does not have comes back as another date.
    if civil_from_days(days) != (year, month, day) {
        return None;
    }
    Some(days * DAY_S + hour * 3600 + minute * 60 + second)
}

fn digits(text: &str) -> Option<i64> {
    let all_digits =
        !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
    if all_digits { text.parse().ok() } else { None }
}

/// Days since 1970-01-01; years are counted from March so that the leap day comes last.
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - DAYS_TO_1970
}

const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_TO_1970;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

fn name(names: &[&'static str], index: i64, count: i64) -> &'static str {
    let index = usize::try_from(index.rem_euclid(count)).unwrap_or_default();
    names.get(index).copied().unwrap_or_default()
}

const DAY_S: i64 = 86_400;
/// Days in 400 years, after which the calendar repeats.
const DAYS_PER_ERA: i64 = 146_097;
/// From 0000-03-01 to 1970-01-01.
const DAYS_TO_1970: i64 = 719_468;
/// 9999-12-31 23:59:59.
const LAST_UNIX_S: i64 = 253_402_300_799;
const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse_http_date(text), Some(784_111_777), "{text}");
        }
        assert_eq!(
            format_http_date(784_111_777),
            "Sun, 06 Nov 1994 08:49:37 GMT"
        );
    }

    #[test]
    fn known_days_and_leap_years() {
        for (unix_s, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (LAST_UNIX_S, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(format_http_date(unix_s), text);
            assert_eq!(parse_http_date(text), Some(unix_s));
        }
        assert_eq!(format_http_date(-1), format_http_date(0));
        assert_eq!(format_http_date(i64::MAX), format_http_date(LAST_UNIX_S));
    }

    #[test]
    fn what_is_no_date() {
        for text in [
            "",
            "never",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 8:49 GMT",
            "Sun, 06 Nov 199 08:49:37 GMT",
            "Sun, 99999999 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_of_two_centuries_comes_back() {
        for day in 0..73_050 {
            let unix_s = day * DAY_S + day % DAY_S;
            assert_eq!(parse_http_date(&format_http_date(unix_s)), Some(unix_s));
        }
    }
}
