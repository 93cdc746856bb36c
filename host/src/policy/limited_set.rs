//! A set of ids that cannot grow without bound (contract sections 3.8 and 3.9).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Ids with the time they were added; at most so many, for at most so long. The oldest go first.
#[derive(Debug)]
pub struct LimitedSet {
    most: usize,
    expires: Duration,
    /// When each was added, and as which one.
    added: HashMap<String, (u64, Instant)>,
    /// In the order they were added. An id that was added again or removed leaves a stale entry here.
    order: VecDeque<(u64, String)>,
    next: u64,
}

/// The longest id that is kept, bytes; longer ones come from nobody's client.
const LONGEST_ID: usize = 1024;

impl LimitedSet {
    /// An empty set of at most `most` ids, each for `expires`.
    pub fn new(most: usize, expires: Duration) -> Self {
        Self {
            most,
            expires,
            added: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
        }
    }

    /// Adds an id, or makes it young again.
    pub fn add(&mut self, id: &str, now: Instant) {
        if id.len() > LONGEST_ID {
            return;
        }
        self.added.insert(id.to_owned(), (self.next, now));
        self.order.push_back((self.next, id.to_owned()));
        self.next += 1;
        while self.added.len() > self.most || self.order.len() > 2 * self.most.max(8) {
            self.drop_oldest();
        }
        self.purge(now);
    }

    /// Removes an id; whether it was there.
    pub fn remove(&mut self, id: &str) -> bool {
        self.added.remove(id).is_some()
    }

    /// Whether the id is there and not too old.
    pub fn contains(&self, id: &str, now: Instant) -> bool {
        let added = self.added.get(id);
        added.is_some_and(|(_, added)| now.saturating_duration_since(*added) <= self.expires)
    }

    /// The ids that are not too old, oldest first, with their age.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = (&str, Duration)> {
        self.order.iter().filter_map(move |(number, id)| {
            let (current, added) = self.added.get(id)?;
            let age = now.saturating_duration_since(*added);
            (current == number && age <= self.expires).then_some((id.as_str(), age))
        })
    }

    fn purge(&mut self, now: Instant) {
        while let Some((number, id)) = self.order.front() {
            match self.added.get(id) {
                Some((current, added))
                    if current == number && now.saturating_duration_since(*added) <= self.expires =>
                {
                    return;
                }
                _ => self.drop_oldest(),
            }
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((number, id)) = self.order.pop_front()
            && self.added.get(&id).is_some_and(|(current, _)| *current == number)
        {
            self.added.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_oldest_go_first_when_it_is_full() {
        let now = Instant::now();
        let mut set = LimitedSet::new(3, HOUR);
        for (n, id) in ["a", "b", "c", "a", "d"].into_iter().enumerate() {
            set.add(id, now + Duration::from_secs(n as u64));
        }
        let later = now + Duration::from_secs(10);
        // `a` was made young again, so `b` was the oldest.
        assert!(!set.contains("b", later));
        let ids: Vec<&str> = set.iter(later).map(|(id, _)| id).collect();
        assert_eq!(ids, ["c", "a", "d"]);
        assert!(set.remove("c") && !set.remove("c") && !set.contains("c", later));
    }

    #[test]
    fn ids_are_kept_for_a_time() {
        let now = Instant::now();
        let mut set = LimitedSet::new(100, HOUR);
        set.add("a", now);
        assert!(set.contains("a", now + HOUR));
        let later = now + HOUR + Duration::from_secs(1);
        assert!(!set.contains("a", later));
        assert_eq!(set.iter(later).count(), 0);
        set.add("b", later);
        assert_eq!((set.added.len(), set.order.len()), (1, 1));
    }

    #[test]
    fn one_id_added_for_ever_does_not_grow_it() {
        let now = Instant::now();
        let mut set = LimitedSet::new(3, HOUR);
        for _ in 0..1000 {
            set.add("a", now);
        }
        assert!(set.order.len() <= 16 && set.contains("a", now));
        set.add(&"x".repeat(LONGEST_ID + 1), now);
        assert_eq!(set.added.len(), 1);
    }
}
