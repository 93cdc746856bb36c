//! How often a task of one kind may start (contract section 3.5).

use std::time::{Duration, Instant};

/// So many starts per second; never 0, infinite or not a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(f64);

impl Rate {
    /// Reads a rate as Celery writes it: a number per second, or with `/s`, `/m`, `/h`. `Some(None)` means off (`0`,
    /// an empty text); `None` that it is no rate.
    pub fn parse(text: &str) -> Option<Option<Self>> {
        let text = text.trim();
        if text.is_empty() {
            return Some(None);
        }
        let (number, per) = text.split_once('/').unwrap_or((text, "s"));
        let seconds = match per.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        Self::per_second(number.trim().parse::<f64>().ok()? / seconds)
    }

    /// So many starts per second; `Some(None)` for 0, `None` for what is no number of starts.
    pub fn per_second(starts: f64) -> Option<Option<Self>> {
        (starts.is_finite() && starts >= 0.0).then(|| (starts > 0.0).then_some(Self(starts)))
    }
}

/// A bucket that holds one token and gets `rate` new ones a second (contract section 3.5).
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A bucket with its one token in it.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            tokens: 1.0,
            filled: now,
        }
    }

    /// Takes a token, or says how long to wait for one.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let Rate(rate) = self.rate;
        let grown = now.saturating_duration_since(self.filled).as_secs_f64() * rate;
        self.tokens = (self.tokens + grown).min(1.0);
        self.filled = now;
        // A whole token that arithmetic made a little less of is one.
        if self.tokens >= 1.0 - 1e-9 {
            self.tokens = 0.0;
            return Ok(());
        }
        let seconds = (1.0 - self.tokens) / rate;
        Err(super::admit::seconds(Some(seconds)).unwrap_or(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_celery_writes_them() {
        for (text, per_second) in [
            ("10/s", 10.0),
            ("100/m", 100.0 / 60.0),
            ("5/h", 5.0 / 3600.0),
            ("3", 3.0),
            (" 0.5 ", 0.5),
        ] {
            assert_eq!(Rate::parse(text), Some(Some(Rate(per_second))), "{text}");
        }
        for off in ["", "0", "0/m", "0.0"] {
            assert_eq!(Rate::parse(off), Some(None), "{off:?}");
        }
        for wrong in ["10/d", "fast", "-1/s", "inf", "NaN/m", "1/s/m", "/s"] {
            assert_eq!(Rate::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_bucket_saves_one_token_and_says_how_long_the_next_one_takes() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut bucket = Bucket::new(Rate(2.0), start);
        assert_eq!(bucket.take(at(0)), Ok(()));
        assert_eq!(bucket.take(at(0)), Err(Duration::from_millis(500)));
        assert_eq!(bucket.take(at(400)), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(at(500)), Ok(()));
        // An hour later there is one token, not thousands.
        assert_eq!(bucket.take(at(3_600_000)), Ok(()));
        assert!(bucket.take(at(3_600_000)).is_err());
        // A clock that did not move, or a rate that is next to nothing, is no panic.
        let mut slow = Bucket::new(Rate(1e-300), start);
        assert_eq!(slow.take(start), Ok(()));
        assert!(slow.take(start).is_err());
    }
}
