//! Which frames tell the broker what became of its deliveries: as few as possible, since each costs it CPU time.

use std::collections::BTreeSet;

use crate::broker::Verdict;

/// What is sent for a batch of verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settlement {
    /// `basic.ack`, with `multiple` for this delivery and all before it.
    Ack { tag: u64, multiple: bool },
    /// `basic.reject`.
    Reject { tag: u64, requeue: bool },
}

/// The deliveries of one channel that are not settled, and are older than the newest one that is.
///
/// Delivery tags count 1, 2, 3 …, so the unsettled ones below the newest settled one are the holes in the sequence.
/// There are never more of them than the broker has unsettled deliveries.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    newest: u64,
    holes: BTreeSet<u64>,
}

impl Unsettled {
    /// The frames for a batch of verdicts. One `multiple` ack covers all acknowledged deliveries that
    /// have nothing unsettled before them; the others are acknowledged one by one.
    pub(super) fn settle(&mut self, batch: impl Iterator<Item = (u64, Verdict)>) -> Vec<Settlement> {
        let mut settlements = Vec::new();
        let mut acks = Vec::new();
        for (tag, verdict) in batch {
            if !self.remove(tag) {
                continue;
            }
            match verdict {
                Verdict::Ack => acks.push(tag),
                // Before the acks: a multiple ack would include it.
                Verdict::Reject { requeue } => settlements.push(Settlement::Reject { tag, requeue }),
                Verdict::GiveBack => settlements.push(Settlement::Reject { tag, requeue: true }),
            }
        }
        let oldest_hole = self.holes.first().copied().unwrap_or(u64::MAX);
        acks.sort_unstable();
        let covered = acks.partition_point(|tag| *tag < oldest_hole);
        let (covered, single) = acks.split_at(covered);
        if let Some(&tag) = covered.last() {
            let multiple = covered.len() > 1;
            settlements.push(Settlement::Ack { tag, multiple });
        }
        let single = single.iter().map(|&tag| Settlement::Ack { tag, multiple: false });
        settlements.extend(single);
        settlements
    }

    /// False when it was settled before.
    fn remove(&mut self, tag: u64) -> bool {
        if tag <= self.newest {
            return self.holes.remove(&tag);
        }
        self.holes.extend(self.newest + 1..tag);
        self.newest = tag;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(tag: u64) -> (u64, Verdict) {
        (tag, Verdict::Ack)
    }

    fn reject(tag: u64, requeue: bool) -> (u64, Verdict) {
        (tag, Verdict::Reject { requeue })
    }

    fn single(tag: u64) -> Settlement {
        Settlement::Ack { tag, multiple: false }
    }

    fn up_to(tag: u64) -> Settlement {
        Settlement::Ack { tag, multiple: true }
    }

    fn rejected(tag: u64, requeue: bool) -> Settlement {
        Settlement::Reject { tag, requeue }
    }

    #[test]
    fn acks_are_coalesced_up_to_the_first_unsettled_delivery() {
        // Each case: batches one after the other, and the frames for each.
        type Case = (&'static str, Vec<(Vec<(u64, Verdict)>, Vec<Settlement>)>);
        let cases: Vec<Case> = vec![
            ("one", vec![(vec![ack(1)], vec![single(1)])]),
            ("a run", vec![(vec![ack(2), ack(1), ack(3)], vec![up_to(3)])]),
            (
                "a hole holds back, then joins",
                vec![
                    (
                        vec![ack(1), ack(3), ack(4)],
                        vec![single(1), single(3), single(4)],
                    ),
                    (vec![ack(5), ack(2), ack(6)], vec![up_to(6)]),
                ],
            ),
            (
                "deliveries that nobody saw yet are holes too",
                vec![
                    (vec![ack(3)], vec![single(3)]),
                    (vec![ack(2), ack(1)], vec![up_to(2)]),
                ],
            ),
            (
                "a hole at the end of a run",
                vec![(vec![ack(1), ack(2), ack(4)], vec![up_to(2), single(4)])],
            ),
            (
                "rejects go first and are no holes",
                vec![(
                    vec![ack(1), reject(2, true), ack(3), reject(4, false)],
                    vec![rejected(2, true), rejected(4, false), up_to(3)],
                )],
            ),
            (
                "a rejected delivery is never acknowledged later",
                vec![
                    (vec![reject(1, true)], vec![rejected(1, true)]),
                    (vec![ack(2), ack(3)], vec![up_to(3)]),
                ],
            ),
            (
                "twice is once",
                vec![(vec![ack(1), ack(1)], vec![single(1)]), (vec![ack(1)], vec![])],
            ),
        ];
        for (name, batches) in cases {
            let mut unsettled = Unsettled::default();
            for (batch, frames) in batches {
                assert_eq!(unsettled.settle(batch.into_iter()), frames, "{name}");
            }
        }
    }

    #[test]
    fn a_long_task_does_not_make_memory_grow() {
        let mut unsettled = Unsettled::default();
        for tag in 2..100_000 {
            assert_eq!(unsettled.settle([ack(tag)].into_iter()), [single(tag)]);
        }
        assert_eq!(unsettled.holes.len(), 1);
    }
}
