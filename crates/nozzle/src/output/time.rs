//! Dates, times and spans as ISO 8601 text, by plain arithmetic and for every value there is.
//!
//! | value | text |
//! |---|---|
//! | date | `2023-07-13` |
//! | timestamp | `2023-07-13T09:59:59.5Z`, always in UTC; without a zone it is taken for UTC |
//! | time of day | `09:59:59.000001` |
//! | duration | `PT26H3M0.25S`: hours, minutes, seconds |
//! | interval | `P1Y2M3DT4H5M6S`: the parts that are not zero |
//!
//! Fractions of a second have none, 3, 6 or 9 digits, as many as the value needs. Years outside
//! 0 to 9999 have a sign and at least four digits. In spans each part has its own sign, as in
//! PostgreSQL and Java (`PT-1H-30M`), because the parts of an interval may differ in it; nothing
//! at all is `PT0S`.

use arrow::datatypes::TimeUnit;

use super::text::integer;

const DAY_SECONDS: i64 = 86_400;

/// The two digits of each number below a hundred.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

fn pair(number: u32) -> [u8; 2] {
    PAIRS[number as usize % 100]
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// Whole seconds, rounded down, and the nanoseconds above them.
fn seconds_and_nanos(value: i64, unit: TimeUnit) -> (i64, u32) {
    let per_second = per_second(unit);
    let nanos = value.rem_euclid(per_second) * (1_000_000_000 / per_second);
    (value.div_euclid(per_second), nanos as u32)
}

/// A timestamp in `unit`s since 1970, in UTC.
pub(super) fn timestamp(value: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    let (seconds, nanos) = seconds_and_nanos(value, unit);
    date(seconds.div_euclid(DAY_SECONDS), out);
    out.push(b'T');
    clock(seconds.rem_euclid(DAY_SECONDS) as u32, out);
    fraction(nanos, out);
    out.push(b'Z');
}

/// A date given in milliseconds. It should be a whole day; the time is written where it is not.
pub(super) fn date_millis(value: i64, out: &mut Vec<u8>) {
    if value % (DAY_SECONDS * 1000) == 0 {
        date(value / (DAY_SECONDS * 1000), out);
    } else {
        timestamp(value, TimeUnit::Millisecond, out);
    }
}

/// The date that is `days` after 1970-01-01.
pub(super) fn date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(days);
    let [m, d] = [pair(month), pair(day)];
    if (0..=9999).contains(&year) {
        let [high, low] = [pair(year as u32 / 100), pair(year as u32 % 100)];
        out.extend_from_slice(&[high[0], high[1], low[0], low[1], b'-', m[0], m[1], b'-', d[0], d[1]]);
        return;
    }
    out.push(if year < 0 { b'-' } else { b'+' });
    let magnitude = year.unsigned_abs();
    let zeros = [1000, 100, 10].iter().filter(|&&bound| magnitude < bound).count();
    out.extend_from_slice(&b"000"[..zeros]);
    integer(magnitude, out);
    out.extend_from_slice(&[b'-', m[0], m[1], b'-', d[0], d[1]]);
}

/// Year, month and day of the proleptic Gregorian calendar.
///
/// Counted in years that begin in March, so that the leap day is a year's last day, and in eras
/// of 400 years, after which the calendar repeats.
fn civil(days: i64) -> (i64, u32, u32) {
    const ERA_DAYS: i64 = 146_097;
    const MARCH_OF_YEAR_0: i64 = -719_468;
    let since = days - MARCH_OF_YEAR_0;
    let era = since.div_euclid(ERA_DAYS);
    let day_of_era = since.rem_euclid(ERA_DAYS) as u32;
    // Take out the leap days before: one in 4 years, none in 100, one in 400.
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March on, five months have 153 days, again and again.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + i64::from(year_of_era);
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

fn clock(second_of_day: u32, out: &mut Vec<u8>) {
    let h = pair(second_of_day / 3600);
    let m = pair(second_of_day / 60 % 60);
    let s = pair(second_of_day % 60);
    out.extend_from_slice(&[h[0], h[1], b':', m[0], m[1], b':', s[0], s[1]]);
}

/// The fraction of a second, with its point; nothing for none.
fn fraction(nanos: u32, out: &mut Vec<u8>) {
    if nanos == 0 {
        return;
    }
    let mut digits = *b".000000000";
    let mut rest = nanos;
    for digit in digits[1..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let length = match nanos {
        _ if nanos.is_multiple_of(1_000_000) => 3,
        _ if nanos.is_multiple_of(1_000) => 6,
        _ => 9,
    };
    out.extend_from_slice(&digits[..=length]);
}

/// A time of day. What is not one (Arrow does not check) keeps its sign and counts hours beyond 23.
pub(super) fn time_of_day(value: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    let per_second = per_second(unit).unsigned_abs();
    if value < 0 {
        out.push(b'-');
    }
    let magnitude = value.unsigned_abs();
    let seconds = magnitude / per_second;
    if seconds < DAY_SECONDS.unsigned_abs() {
        clock(seconds as u32, out);
    } else {
        integer(seconds / 3600, out);
        let [m, s] = [pair((seconds / 60 % 60) as u32), pair((seconds % 60) as u32)];
        out.extend_from_slice(&[b':', m[0], m[1], b':', s[0], s[1]]);
    }
    fraction((magnitude % per_second * (1_000_000_000 / per_second)) as u32, out);
}

/// A span of time: calendar months and days, and a time whose two parts have one sign.
#[derive(Default)]
pub(super) struct Span {
    /// Months; twelve are written as a year.
    pub months: i32,
    /// Days, which need not have 24 hours.
    pub days: i32,
    /// Whole seconds, rounded to zero.
    pub seconds: i64,
    /// What is left, in nanoseconds.
    pub nanos: i32,
}

impl Span {
    /// A span of exact time.
    pub fn exact(value: i64, unit: TimeUnit) -> Self {
        let per_second = per_second(unit);
        let nanos = value % per_second * (1_000_000_000 / per_second);
        Self { seconds: value / per_second, nanos: nanos as i32, ..Self::default() }
    }

    /// Writes the parts that are not zero.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'P');
        let start = out.len();
        part(i64::from(self.months / 12), b'Y', out);
        part(i64::from(self.months % 12), b'M', out);
        part(i64::from(self.days), b'D', out);
        if self.seconds != 0 || self.nanos != 0 {
            out.push(b'T');
            part(self.seconds / 3600, b'H', out);
            part(self.seconds / 60 % 60, b'M', out);
            self.write_seconds(out);
        }
        if out.len() == start {
            out.extend_from_slice(b"T0S");
        }
    }

    fn write_seconds(&self, out: &mut Vec<u8>) {
        let seconds = self.seconds % 60;
        if seconds == 0 && self.nanos == 0 {
            return;
        }
        if seconds < 0 || self.nanos < 0 {
            out.push(b'-');
        }
        integer(seconds.unsigned_abs(), out);
        fraction(self.nanos.unsigned_abs(), out);
        out.push(b'S');
    }
}

fn part(value: i64, name: u8, out: &mut Vec<u8>) {
    if value != 0 {
        integer(value, out);
        out.push(name);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chrono::{DateTime, Days, NaiveDate, NaiveTime, SecondsFormat};

    use super::super::testing::{Dice, text_of};
    use super::*;

    const UNITS: [TimeUnit; 4] =
        [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];

    #[test]
    fn a_date_is_the_calendars_own() {
        let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
        let mut dice = Dice::new(5);
        let days = (-800_000..800_000).step_by(7).chain((0..20_000).map(|_| (dice.u64() % 3_000_000) as i64));
        for day in days {
            let date_there = match u64::try_from(day) {
                Ok(after) => epoch + Days::new(after),
                Err(_) => epoch - Days::new(day.unsigned_abs()),
            };
            assert_eq!(text_of(|out| date(day, out)), date_there.to_string());
        }
    }

    #[test]
    fn a_timestamp_is_rfc_3339_with_the_digits_it_needs() {
        let mut dice = Dice::new(6);
        for round in 0..20_000 {
            let seconds = (dice.u64() % 400_000_000_000) as i64 - 60_000_000_000;
            let nanos = [0, 500_000_000, 120_000, (dice.u64() % 1_000_000_000) as i64][round % 4];
            let there = DateTime::from_timestamp(seconds, nanos as u32).unwrap();
            let expected = there.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            if let Some(value) = there.timestamp_nanos_opt() {
                assert_eq!(text_of(|out| timestamp(value, TimeUnit::Nanosecond, out)), expected);
            }
            let whole = there.to_rfc3339_opts(SecondsFormat::Secs, true);
            assert_eq!(text_of(|out| timestamp(seconds, TimeUnit::Second, out)), whole);
        }
    }

    #[test]
    fn every_timestamp_has_a_text() {
        for unit in UNITS {
            for value in [i64::MIN, i64::MAX] {
                assert!(text_of(|out| timestamp(value, unit, out)).ends_with('Z'));
                text_of(|out| time_of_day(value, unit, out));
                text_of(|out| Span::exact(value, unit).write(out));
                text_of(|out| date_millis(value, out));
            }
        }
        let nanos = |value| text_of(|out| timestamp(value, TimeUnit::Nanosecond, out));
        assert_eq!(nanos(i64::MIN), "1677-09-21T00:12:43.145224192Z");
        assert_eq!(nanos(-1), "1969-12-31T23:59:59.999999999Z");
        let last = text_of(|out| timestamp(i64::MAX, TimeUnit::Second, out));
        assert_eq!(last, "+292277026596-12-04T15:30:07Z");
        assert_eq!(text_of(|out| date(-719_529, out)), "-0001-12-31");
        assert_eq!(text_of(|out| date_millis(86_400_000, out)), "1970-01-02");
        assert_eq!(text_of(|out| date_millis(-1, out)), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_time_of_day_is_iso_8601() {
        let mut dice = Dice::new(7);
        for _ in 0..5000 {
            let micros = (dice.u64() % 86_400_000_000) as i64;
            let there = NaiveTime::from_num_seconds_from_midnight_opt(
                (micros / 1_000_000) as u32,
                (micros % 1_000_000 * 1000) as u32,
            );
            let text = text_of(|out| time_of_day(micros, TimeUnit::Microsecond, out));
            assert_eq!(text, there.unwrap().to_string());
        }
        assert_eq!(text_of(|out| time_of_day(-1500, TimeUnit::Millisecond, out)), "-00:00:01.500");
        assert_eq!(text_of(|out| time_of_day(360_000, TimeUnit::Second, out)), "100:00:00");
    }

    #[test]
    fn a_span_is_iso_8601_with_a_sign_for_each_part() {
        let cases = [
            (Span::exact(0, TimeUnit::Second), "PT0S"),
            (Span::exact(93_784_005, TimeUnit::Millisecond), "PT26H3M4.005S"),
            (Span::exact(-1_500, TimeUnit::Millisecond), "PT-1.500S"),
            (Span::exact(-500, TimeUnit::Microsecond), "PT-0.000500S"),
            (Span::exact(3600, TimeUnit::Second), "PT1H"),
            (Span::exact(-5400, TimeUnit::Second), "PT-1H-30M"),
            (Span { months: 14, ..Span::default() }, "P1Y2M"),
            (Span { months: -14, days: 3, seconds: 1, nanos: 1 }, "P-1Y-2M3DT1.000000001S"),
            (Span { days: -1, ..Span::default() }, "P-1D"),
        ];
        for (span, expected) in cases {
            assert_eq!(text_of(|out| span.write(out)), expected);
        }
    }
}
