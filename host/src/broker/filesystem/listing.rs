//! Finding the message files of some queues in a folder, oldest first.

use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::io;
use std::time::{Duration, Instant, SystemTime};

use cap_std::fs::Dir;

use super::name;

/// How many names one reading of the folder keeps: the oldest ones. What is left is found by the next reading.
const MOST: usize = 10_000;

/// An unchanged folder is read again after this time all the same.
const TRUST: Duration = Duration::from_secs(1);

/// Changes within this time of each other may leave the same time stamp on a folder.
const STAMP_PRECISION: Duration = Duration::from_secs(2);

/// Names of message files that nobody looked at yet, in the order in which they are to be taken.
#[derive(Default)]
pub(super) struct Listing {
    names: VecDeque<String>,
    /// When the folder was last read to its end with nothing found in it, and its time stamp then.
    empty: Option<(Instant, SystemTime)>,
}

impl Listing {
    /// The next file to look at.
    pub(super) fn next(&mut self) -> Option<String> {
        self.names.pop_front()
    }

    /// Whether nothing is left to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Reads the folder. Most readings of an idle folder cost one `stat`.
    pub(super) fn refresh(&mut self, input: &Dir, queues: &HashSet<String>) -> io::Result<()> {
        let stamp = input.dir_metadata()?.modified()?.into_std();
        if self
            .empty
            .is_some_and(|(when, known)| known == stamp && when.elapsed() < TRUST)
        {
            return Ok(());
        }
        self.names = oldest(input, queues, MOST)?;
        let settled = SystemTime::now()
            .duration_since(stamp)
            .is_ok_and(|age| age > STAMP_PRECISION);
        self.empty = (self.names.is_empty() && settled).then(|| (Instant::now(), stamp));
        Ok(())
    }
}

/// Removes the message files of a queue; how many.
pub(super) fn purge(input: &Dir, queue: &str) -> io::Result<usize> {
    let mut count = 0;
    for entry in input.entries()? {
        let file = entry?.file_name();
        if file.to_str().and_then(name::queue) != Some(queue) {
            continue;
        }
        match input.remove_file(&file) {
            Ok(()) => count += 1,
            // Somebody else took it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn oldest(input: &Dir, queues: &HashSet<String>, most: usize) -> io::Result<VecDeque<String>> {
    let mut heap: BinaryHeap<(u64, String)> = BinaryHeap::new();
    for entry in input.entries()? {
        let file = entry?.file_name();
        let Some(file) = file.to_str() else { continue };
        if !name::queue(file).is_some_and(|queue| queues.contains(queue)) {
            continue;
        }
        let (clock, _) = name::order(file);
        if heap.len() < most {
            heap.push((clock, file.to_owned()));
        } else if let Some(mut newest) = heap.peek_mut()
            && (clock, file) < (newest.0, newest.1.as_str())
        {
            *newest = (clock, file.to_owned());
        }
    }
    Ok(heap.into_sorted_vec().into_iter().map(|(_, file)| file).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(names: &[&str]) -> HashSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_oldest_files_of_the_queues_come_first() {
        let path = tempfile::tempdir().unwrap();
        let dir = super::super::folder::open(path.path(), false).unwrap();
        for clock in (0..100).rev() {
            dir.write(format!("{clock}_x.a.msg"), "").unwrap();
        }
        for other in ["5_x.b.msg", "6_x.c.msg", "unacked", ".x.tmp", "7_x.a.msg.tmp"] {
            dir.write(other, "").unwrap();
        }
        let found = oldest(&dir, &queues(&["a", "b"]), 8).unwrap();
        assert_eq!(
            found,
            [
                "0_x.a.msg",
                "1_x.a.msg",
                "2_x.a.msg",
                "3_x.a.msg",
                "4_x.a.msg",
                "5_x.a.msg",
                "5_x.b.msg",
                "6_x.a.msg"
            ]
        );
        assert_eq!(oldest(&dir, &queues(&["a", "b"]), MOST).unwrap().len(), 101);
    }

    #[test]
    fn a_file_that_comes_after_an_empty_reading_is_found() {
        let path = tempfile::tempdir().unwrap();
        let dir = super::super::folder::open(path.path(), false).unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        std::fs::File::open(path.path())
            .unwrap()
            .set_modified(old)
            .unwrap();
        let mut listing = Listing::default();
        listing.refresh(&dir, &queues(&["a"])).unwrap();
        assert!(listing.empty.is_some());
        dir.write("1_x.a.msg", "").unwrap();
        listing.refresh(&dir, &queues(&["a"])).unwrap();
        assert_eq!(listing.next().as_deref(), Some("1_x.a.msg"));
    }

    #[test]
    fn an_idle_folder_is_read_once_a_second_at_most() {
        let path = tempfile::tempdir().unwrap();
        let dir = super::super::folder::open(path.path(), false).unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        let stamp = |time| {
            std::fs::File::open(path.path())
                .unwrap()
                .set_modified(time)
                .unwrap()
        };
        stamp(old);
        let mut listing = Listing::default();
        listing.refresh(&dir, &queues(&["a"])).unwrap();
        // A file that leaves no trace in the time stamp shows whether the folder is read.
        dir.write("1_x.a.msg", "").unwrap();
        stamp(old);
        listing.refresh(&dir, &queues(&["a"])).unwrap();
        assert!(listing.is_empty());
        listing.empty = listing.empty.map(|(when, known)| (when - TRUST, known));
        listing.refresh(&dir, &queues(&["a"])).unwrap();
        assert!(!listing.is_empty());
    }

    #[test]
    fn a_folder_that_changed_a_moment_ago_is_read_again() {
        let path = tempfile::tempdir().unwrap();
        let dir = super::super::folder::open(path.path(), false).unwrap();
        let mut listing = Listing::default();
        listing.refresh(&dir, &queues(&["a"])).unwrap();
        assert!(listing.empty.is_none());
    }
}
