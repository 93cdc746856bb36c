//! How many slots a worker has whose number changes with its work (contract section 3.12).

use std::time::Duration;

/// `--autoscale MAX,MIN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Autoscale {
    /// The most slots.
    pub max: u32,
    /// The fewest slots.
    pub min: u32,
    /// How long nothing may have grown or come before slots are taken away (`AUTOSCALE_KEEPALIVE`).
    pub keepalive: Duration,
}

/// Celery's default for `AUTOSCALE_KEEPALIVE`.
pub const KEEPALIVE: Duration = Duration::from_secs(30);

impl Autoscale {
    /// Reads `MAX,MIN`, or `MAX` alone with 0 for the fewest; the smaller number of the two is the fewest.
    pub fn parse(text: &str, keepalive: Duration) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let (one, other) = text.split_once(',').unwrap_or((text, "0"));
        let (Some(one), Some(other)) = (number(one), number(other)) else {
            return Err(format!("{text:?} is not MAX,MIN, for example 10,3"));
        };
        let (max, min) = (one.max(other), one.min(other));
        if max == 0 {
            return Err("the most slots cannot be 0".into());
        }
        Ok(Self { max, min, keepalive })
    }

    /// How many slots there should be: as many as tasks are reserved, running ones included, within the two numbers.
    /// More at once; fewer only when nothing grew and no task came for the keepalive.
    pub fn wanted(&self, slots: u32, reserved: u32, idle: Duration) -> u32 {
        let wanted = reserved.clamp(self.min, self.max);
        if wanted < slots && idle <= self.keepalive {
            slots
        } else {
            wanted
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_at_once_and_shrinks_after_a_while() {
        let scale = Autoscale::parse("10,3", KEEPALIVE).unwrap();
        let (busy, idle) = (Duration::ZERO, Duration::from_secs(31));
        for (slots, reserved, since, wanted) in [
            (3, 0, busy, 3),
            (3, 7, busy, 7),
            (3, 70, busy, 10),
            (7, 2, busy, 7),
            (7, 2, idle, 3),
            (10, 5, idle, 5),
            (5, 5, idle, 5),
        ] {
            assert_eq!(scale.wanted(slots, reserved, since), wanted, "{slots} {reserved}");
        }
    }

    #[test]
    fn both_orders_and_a_single_number_are_understood() {
        let numbers = |text| Autoscale::parse(text, KEEPALIVE).map(|scale| (scale.max, scale.min));
        assert_eq!(numbers("10,3"), Ok((10, 3)));
        assert_eq!(numbers("3, 10"), Ok((10, 3)));
        assert_eq!(numbers("4"), Ok((4, 0)));
        for wrong in ["", "a,b", "0,0", "-1", "1,2,3"] {
            assert!(numbers(wrong).is_err(), "{wrong:?}");
        }
    }
}
