//! Tasks of one kind wait for their rate limit, first come, first served (contract section 3.5).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::policy::rate::{Bucket, Rate};

/// The rate limit of every task.
#[derive(Debug, Default)]
pub struct Rates {
    gates: BTreeMap<String, Gate>,
}

#[derive(Debug)]
struct Gate {
    bucket: Mutex<Option<Bucket>>,
    /// Fair: its holder is the first of those that wait.
    queue: tokio::sync::Mutex<()>,
    changed: Notify,
}

impl Rates {
    /// The limits of these tasks; nothing of it when rate limits are switched off.
    pub(super) fn new(limits: impl IntoIterator<Item = (String, Option<Rate>)>) -> Self {
        let gate = |rate: Option<Rate>| Gate {
            bucket: Mutex::new(rate.map(|rate| Bucket::new(rate, Instant::now()))),
            queue: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        };
        Self {
            gates: limits
                .into_iter()
                .map(|(task, rate)| (task, gate(rate)))
                .collect(),
        }
    }

    /// Changes the limit of a task, also for those that wait already; `None` switches it off. False when the worker
    /// has no such task, or no rate limits at all.
    pub fn set(&self, task: &str, rate: Option<Rate>) -> bool {
        let Some(gate) = self.gates.get(task) else {
            return false;
        };
        gate.set(rate.map(|rate| Bucket::new(rate, Instant::now())));
        gate.changed.notify_one();
        true
    }

    /// Whether tasks of this kind may have to wait.
    pub(super) fn is_limited(&self, task: &str) -> bool {
        self.gates.get(task).is_some_and(Gate::is_on)
    }

    /// Waits until a task of this kind may start. Those that wait keep their order.
    pub(super) async fn turn(&self, task: &str) {
        let Some(gate) = self.gates.get(task) else { return };
        let _first = gate.queue.lock().await;
        while let Err(wait) = gate.take() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = gate.changed.notified() => {}
            }
        }
    }
}

impl Gate {
    fn is_on(&self) -> bool {
        self.bucket(|bucket| bucket.is_some())
    }

    fn set(&self, new: Option<Bucket>) {
        self.bucket(|bucket| *bucket = new);
    }

    fn take(&self) -> Result<(), Duration> {
        self.bucket(|bucket| match bucket {
            Some(bucket) => bucket.take(Instant::now()),
            None => Ok(()),
        })
    }

    fn bucket<T>(&self, look: impl FnOnce(&mut Option<Bucket>) -> T) -> T {
        look(&mut self.bucket.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn rate(text: &str) -> Option<Rate> {
        Rate::parse(text).unwrap()
    }

    #[tokio::test]
    async fn tasks_start_in_order_and_not_faster_than_their_rate() {
        let rates = Arc::new(Rates::new([("t".into(), rate("50/s"))]));
        let (order, mut starts) = tokio::sync::mpsc::unbounded_channel();
        let begun = Instant::now();
        for n in 0..5 {
            let (rates, order) = (Arc::clone(&rates), order.clone());
            tokio::spawn(async move {
                rates.turn("t").await;
                order.send(n).unwrap();
            });
            tokio::task::yield_now().await;
        }
        for n in 0..5 {
            assert_eq!(starts.recv().await, Some(n));
        }
        assert!(
            begun.elapsed() >= Duration::from_millis(78),
            "{:?}",
            begun.elapsed()
        );
    }

    #[tokio::test]
    async fn a_changed_limit_counts_for_those_that_wait() {
        let rates = Arc::new(Rates::new([("t".into(), rate("1/h")), ("free".into(), None)]));
        rates.turn("free").await;
        rates.turn("unknown").await;
        assert!(rates.is_limited("t") && !rates.is_limited("free"));
        rates.turn("t").await;
        let waiting = {
            let rates = Arc::clone(&rates);
            tokio::spawn(async move { rates.turn("t").await })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert!(rates.set("t", None));
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .expect("it waits no longer")
            .unwrap();
        assert!(!rates.set("unknown", None));
    }
}
