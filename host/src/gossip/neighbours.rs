//! The other workers, as far as their events tell (contract section 7.4).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many are known at most: anybody may send events.
const MOST: usize = 10_000;
/// The longest node name, bytes.
const LONGEST: usize = 256;
/// Seconds between heartbeats of one who does not say it.
const FREQUENCY: f64 = 60.0;
/// A worker is lost after so many times the pause between its heartbeats.
const WINDOW: f64 = 2.0;

/// The workers that are alive.
#[derive(Debug, Default)]
pub(super) struct Neighbours(BTreeMap<String, Neighbour>);

#[derive(Debug)]
struct Neighbour {
    heard: Instant,
    patience: Duration,
}

/// What an event means for the table.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A worker that was not known before.
    Joined,
    /// It says that it stops.
    Left,
    /// Nothing new.
    Nothing,
}

impl Neighbours {
    /// A worker sent an event of this type; `freq` are the seconds until its next heartbeat.
    pub(super) fn hear(&mut self, hostname: &str, kind: &str, freq: Option<f64>, now: Instant) -> News {
        if kind == "worker-offline" {
            return match self.0.remove(hostname) {
                Some(_) => News::Left,
                None => News::Nothing,
            };
        }
        let known = self.0.contains_key(hostname);
        if hostname.is_empty() || hostname.len() > LONGEST || (self.0.len() >= MOST && !known) {
            return News::Nothing;
        }
        let freq = freq
            .filter(|freq| (0.0..=3600.0).contains(freq))
            .unwrap_or(FREQUENCY);
        let neighbour = Neighbour {
            heard: now,
            patience: Duration::from_secs_f64(freq * WINDOW),
        };
        self.0.insert(hostname.to_owned(), neighbour);
        match known {
            true => News::Nothing,
            false => News::Joined,
        }
    }

    /// Forgets those that were not heard for too long, and names them.
    pub(super) fn lost(&mut self, now: Instant) -> Vec<String> {
        let silent =
            |neighbour: &Neighbour| now.saturating_duration_since(neighbour.heard) > neighbour.patience;
        let lost = self.0.iter().filter(|(_, neighbour)| silent(neighbour));
        let lost: Vec<String> = lost.map(|(hostname, _)| hostname.clone()).collect();
        for hostname in &lost {
            self.0.remove(hostname);
        }
        lost
    }

    /// How many are alive.
    pub(super) fn alive(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_lost_after_two_heartbeats_that_did_not_come() {
        let (mut table, start) = (Neighbours::default(), Instant::now());
        let after = |seconds: f64| start + Duration::from_secs_f64(seconds);
        assert_eq!(
            table.hear("w1@h", "worker-online", Some(2.0), start),
            News::Joined
        );
        assert_eq!(
            table.hear("w2@h", "worker-heartbeat", Some(2.0), after(3.0)),
            News::Joined
        );
        assert_eq!(
            table.hear("w1@h", "worker-heartbeat", Some(2.0), after(2.0)),
            News::Nothing
        );
        assert!(table.lost(after(5.9)).is_empty());
        assert_eq!(table.lost(after(6.1)), ["w1@h"]);
        assert_eq!((table.lost(after(6.1)).len(), table.alive()), (0, 1));
        assert_eq!(table.hear("w2@h", "worker-offline", None, start), News::Left);
        assert_eq!(table.hear("w2@h", "worker-offline", None, start), News::Nothing);
        assert_eq!(table.alive(), 0);
    }

    #[test]
    fn what_others_say_has_bounds() {
        let (mut table, now) = (Neighbours::default(), Instant::now());
        for number in 0..2 * MOST {
            table.hear(&number.to_string(), "worker-online", Some(f64::INFINITY), now);
        }
        table.hear(&"x".repeat(LONGEST + 1), "worker-online", Some(-1.0), now);
        assert_eq!(table.alive(), MOST);
        let later = now + Duration::from_secs_f64(FREQUENCY * WINDOW + 1.0);
        assert_eq!(table.lost(later).len(), MOST);
    }
}
