//! Times in messages (contract section 1.4).

use jiff::civil::{Date, Time};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

/// Reads ISO 8601 as dateutil's `isoparse` does, which Celery uses: extended and basic format, parts left out from
/// the right. A time without an offset is UTC. Week and ordinal dates are not read.
///
/// A time after the last [`Timestamp`], such as Python's `datetime.max`, becomes that last one.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let (date, time, offset) = read(text)?;
    let timestamp = offset.to_timestamp(date.to_datetime(time));
    let nearest = if date.year() > 0 {
        Timestamp::MAX
    } else {
        Timestamp::MIN
    };
    Some(timestamp.unwrap_or(nearest))
}

/// Whether a time that [`parse_time`] reads is outside of the years 1 to 9999 in UTC, where Python cannot convert it.
pub fn time_overflows(text: &str) -> bool {
    let Some((date, time, offset)) = read(text) else {
        return false;
    };
    let utc = date
        .to_datetime(time)
        .checked_sub(SignedDuration::from_secs(offset.seconds().into()));
    !utc.is_ok_and(|utc| utc.year() > 0)
}

fn read(text: &str) -> Option<(Date, Time, Offset)> {
    let mut rest = text;
    let mut date = read_date(&mut rest)?;
    let (mut time, mut offset) = (Time::midnight(), Offset::UTC);
    if !rest.is_empty() {
        // The separator may be any character.
        let mut clock = rest.get(1..)?;
        let next_day;
        (time, next_day) = read_time(&mut clock)?;
        if next_day {
            date = date.tomorrow().ok()?;
        }
        offset = read_offset(clock)?;
    }
    Some((date, time, offset))
}

/// A time as Python prints it: microseconds unless they are zero, offset `+00:00`.
pub fn format_time(time: Timestamp) -> String {
    let format = if time.subsec_nanosecond() / 1000 == 0 {
        "%Y-%m-%dT%H:%M:%S"
    } else {
        "%Y-%m-%dT%H:%M:%S.%6f"
    };
    format!("{}+00:00", time.strftime(format))
}

/// Takes a number of so many digits.
fn number(rest: &mut &str, digits: usize) -> Option<i16> {
    let (number, after) = rest.split_at_checked(digits)?;
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    *rest = after;
    number.parse().ok()
}

/// Takes two digits.
fn two(rest: &mut &str) -> Option<i8> {
    number(rest, 2).and_then(|n| i8::try_from(n).ok())
}

/// Takes one of these characters.
fn take(rest: &mut &str, characters: &[char]) -> bool {
    let after = rest.strip_prefix(characters);
    *rest = after.unwrap_or(rest);
    after.is_some()
}

/// `YYYY`, `YYYY-MM`, `YYYY-MM-DD` or `YYYYMMDD`; not `YYYYMM`, as in dateutil.
fn read_date(rest: &mut &str) -> Option<Date> {
    let year = number(rest, 4)?;
    let (mut month, mut day) = (1, 1);
    if !rest.is_empty() {
        let extended = take(rest, &['-']);
        month = two(rest)?;
        if !(extended && rest.is_empty()) {
            if extended && !take(rest, &['-']) {
                return None;
            }
            day = two(rest)?;
        }
    }
    Date::new(year, month, day).ok().filter(|date| date.year() > 0)
}

/// `hh`, `hh:mm`, `hh:mm:ss`, with a fraction, or the same without colons; whether it is the end of the day, `24:00`.
fn read_time(rest: &mut &str) -> Option<(Time, bool)> {
    let is_end = |rest: &str| rest.is_empty() || rest.starts_with(['+', '-', 'Z', 'z']);
    let hour = two(rest)?;
    let (mut minute, mut second, mut nanosecond) = (0, 0, 0);
    if !is_end(rest) {
        let extended = take(rest, &[':']);
        minute = two(rest)?;
        if !is_end(rest) {
            if extended != take(rest, &[':']) {
                return None;
            }
            second = two(rest)?;
            if take(rest, &['.', ',']) {
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                let (fraction, after) = rest.split_at_checked(end)?;
                *rest = after;
                // Python counts microseconds and drops what is smaller.
                let micros: i32 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
                nanosecond = (!fraction.is_empty()).then_some(micros * 1000)?;
            }
        }
    }
    if hour == 24 {
        return ((minute, second, nanosecond) == (0, 0, 0)).then_some((Time::midnight(), true));
    }
    Some((Time::new(hour, minute, second, nanosecond).ok()?, false))
}

/// Nothing, `Z`, `+hh`, `+hhmm` or `+hh:mm`.
fn read_offset(mut rest: &str) -> Option<Offset> {
    if rest.is_empty() || rest.eq_ignore_ascii_case("z") {
        return Some(Offset::UTC);
    }
    let sign = if take(&mut rest, &['-']) {
        -1
    } else {
        take(&mut rest, &['+']).then_some(1)?
    };
    let hours = two(&mut rest)?;
    let mut minutes = 0;
    if !rest.is_empty() {
        take(&mut rest, &[':']);
        minutes = two(&mut rest)?;
    }
    let valid = rest.is_empty() && hours < 24 && minutes < 60;
    let seconds = sign * (i32::from(hours) * 3600 + i32::from(minutes) * 60);
    valid.then(|| Offset::from_seconds(seconds).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_isoparse_reads() {
        for (text, time) in [
            (
                "2030-01-02T03:04:05.678901+00:00",
                "2030-01-02T03:04:05.678901+00:00",
            ),
            ("2030-01-02T03:04:05", "2030-01-02T03:04:05+00:00"),
            ("2030-01-02T03:04:05Z", "2030-01-02T03:04:05+00:00"),
            ("2030-01-02t03:04:05z", "2030-01-02T03:04:05+00:00"),
            ("2030-01-02 03:04:05", "2030-01-02T03:04:05+00:00"),
            ("2030-01-02T03:04:05-05:30", "2030-01-02T08:34:05+00:00"),
            ("2030-01-02T03:04:05+0200", "2030-01-02T01:04:05+00:00"),
            ("2030-01-02T03:04:05+02", "2030-01-02T01:04:05+00:00"),
            ("20300102T030405.5+0200", "2030-01-02T01:04:05.500000+00:00"),
            ("20300102T030405Z", "2030-01-02T03:04:05+00:00"),
            ("20300102T0304", "2030-01-02T03:04:00+00:00"),
            ("2030-01-02T0304", "2030-01-02T03:04:00+00:00"),
            ("20300102T03:04", "2030-01-02T03:04:00+00:00"),
            ("2030-01-02T03:04", "2030-01-02T03:04:00+00:00"),
            ("2030-01-02T03:04+01:00", "2030-01-02T02:04:00+00:00"),
            ("2030-01-02T03", "2030-01-02T03:00:00+00:00"),
            ("2030-01-02T03Z", "2030-01-02T03:00:00+00:00"),
            ("2030-01-02", "2030-01-02T00:00:00+00:00"),
            ("20300102", "2030-01-02T00:00:00+00:00"),
            ("2030-03", "2030-03-01T00:00:00+00:00"),
            ("2030", "2030-01-01T00:00:00+00:00"),
            ("2030-01-02T24:00:00", "2030-01-03T00:00:00+00:00"),
            ("2030-01-02T03:04:05,5", "2030-01-02T03:04:05.500000+00:00"),
            ("2030-01-02T03:04:05.1234567", "2030-01-02T03:04:05.123456+00:00"),
            ("2024-02-29T00:00:00.000001", "2024-02-29T00:00:00.000001+00:00"),
            ("1970-01-01T00:00:00", "1970-01-01T00:00:00+00:00"),
            ("1969-12-31T23:59:59.5", "1969-12-31T23:59:59.500000+00:00"),
            ("0001-01-01T00:00:00", "0001-01-01T00:00:00+00:00"),
        ] {
            let parsed = parse_time(text).map(format_time);
            assert_eq!(parsed.as_deref(), Some(time), "{text}");
        }
    }

    #[test]
    fn what_isoparse_refuses() {
        for text in [
            "",
            "x",
            "203",
            "203001",
            "2030-1-2",
            "2030-13-01",
            "2030-02-30",
            "0000-01-01",
            "10000-01-01T00:00:00",
            "-2030-01-02T00:00:00",
            "2030-01-02T",
            "2030-01-02T3",
            "2030-01-02T25:00",
            "2030-01-02T24:01",
            "2030-01-02T24:00:00.1",
            "2030-01-02T03:04:60",
            "2030-01-02T03:04:05.",
            "2030-01-02T03:04.5",
            "2030-01-02T03.5",
            "2030-01-02T03:0405",
            "2030-01-02T03:04:05 +00:00",
            "2030-01-02T03:04:05+25:00",
            "2030-01-02T03:04:05+02:60",
            "2030-01-02T03:04:05+2",
            "2030-01-02T03:04:05+02:00:30",
            "2030-01-02T03:04:05+00:00[UTC]",
            "2030-01-02T03:04:05ZZ",
            "２030-01-02",
            "2030-01-02T０3:04",
            "2030-01-02é03:04",
            "9999-12-31T24:00",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn times_beyond_the_range_become_its_end() {
        for text in ["9999-12-31T23:59:59.999999+00:00", "9999-12-31T23:59:59-12:00"] {
            assert_eq!(parse_time(text), Some(Timestamp::MAX), "{text}");
        }
        // In the year 0 in UTC, which is still within the range.
        assert!(parse_time("0001-01-01T00:00:00+12:00").is_some());
    }
}
