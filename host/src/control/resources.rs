//! What this process uses (contract section 6.4, `rusage`; `memsample`), as Linux tells it in `/proc`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// How many samples of `memsample` are kept.
const KEPT: usize = 100;

/// The numbers of `getrusage`; `None` where there is no `/proc`.
pub(super) fn usage() -> Option<BTreeMap<&'static str, f64>> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    // The name of the process is in brackets and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<f64> = fields
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0.0);
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let line = |text: &str, name: &str| number(text, name).unwrap_or(0.0);
    Some(BTreeMap::from([
        ("utime", field(14) / ticks),
        ("stime", field(15) / ticks),
        ("maxrss", line(&status, "VmHWM:")),
        ("ixrss", 0.0),
        ("idrss", 0.0),
        ("isrss", 0.0),
        ("minflt", field(10)),
        ("majflt", field(12)),
        ("nswap", 0.0),
        ("inblock", (line(&io, "read_bytes:") / 512.0).floor()),
        ("oublock", (line(&io, "write_bytes:") / 512.0).floor()),
        ("msgsnd", 0.0),
        ("msgrcv", 0.0),
        ("nsignals", 0.0),
        ("nvcsw", line(&status, "voluntary_ctxt_switches:")),
        ("nivcsw", line(&status, "nonvoluntary_ctxt_switches:")),
    ]))
}

/// The number of a line that begins with a name.
fn number(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Resident memory, as Celery writes it: `59.81MB`.
fn resident() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(format!("{:.2}MB", number(&status, "VmRSS:")? / 1024.0))
}

/// What `memsample` saw, for `memdump`.
#[derive(Debug, Default)]
pub struct Samples(Mutex<VecDeque<String>>);

impl Samples {
    /// Looks how much memory is resident, and remembers that.
    pub(super) fn take(&self) -> Option<String> {
        let now = resident()?;
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(now.clone());
        Some(now)
    }

    /// Some of the last samples, and what is resident now.
    pub(super) fn dump(&self, most: usize) -> String {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        if !samples.is_empty() {
            text.push_str("- rss (sample):\n");
        }
        for sample in samples.iter().skip(samples.len().saturating_sub(most)) {
            text.push_str(&format!("-    > {sample},\n"));
        }
        let now = resident().unwrap_or_else(|| "unknown".into());
        text.push_str(&format!("- rss (end): {now}.\n"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = usage().unwrap();
        assert!(usage["maxrss"] > 1000.0 && usage["minflt"] > 0.0, "{usage:?}");
        assert_eq!(usage.len(), 16);
    }

    #[test]
    fn samples_are_bounded() {
        let samples = Samples::default();
        for _ in 0..=KEPT {
            assert!(samples.take().unwrap().ends_with("MB"));
        }
        assert_eq!(samples.dump(usize::MAX).lines().count(), KEPT + 2);
        assert_eq!(samples.dump(2).lines().count(), 4);
    }
}
