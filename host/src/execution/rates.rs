//! Tasks of one kind wait for their rate limit, first come, first served (contract section 3.5).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::policy::rate::{Bucket, Rate};

/// The rate limit of every task.
#[derive(Debug)]
pub struct Rates {
    gates: RwLock<BTreeMap<String, Arc<Gate>>>,
    /// `worker_disable_rate_limits`: there are none.
    off: bool,
}

#[derive(Debug, Default)]
struct Gate {
    bucket: Mutex<Option<Bucket>>,
    /// Fair: its holder is the first of those that wait.
    queue: tokio::sync::Mutex<()>,
    changed: Notify,
}

impl Rates {
    /// No limits yet; `off`: and never any.
    pub(super) fn new(off: bool) -> Self {
        Self {
            gates: RwLock::default(),
            off,
        }
    }

    /// Changes the limit of a task, also for those that wait already; `None` switches it off. The task is one of this
    /// worker's.
    pub(super) fn set(&self, task: &str, rate: Option<Rate>) {
        if self.off {
            return;
        }
        let gate = {
            let mut gates = self.gates.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(gates.entry(task.to_owned()).or_default())
        };
        gate.set(rate.map(|rate| Bucket::new(rate, Instant::now())));
        gate.changed.notify_one();
    }

    /// Whether tasks of this kind may have to wait.
    pub(super) fn is_limited(&self, task: &str) -> bool {
        self.gate(task).is_some_and(|gate| gate.is_on())
    }

    fn gate(&self, task: &str) -> Option<Arc<Gate>> {
        let gates = self.gates.read().unwrap_or_else(PoisonError::into_inner);
        gates.get(task).map(Arc::clone)
    }

    /// Waits until a task of this kind may start. Those that wait keep their order.
    pub(super) async fn turn(&self, task: &str) {
        let Some(gate) = self.gate(task) else { return };
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

    fn rates(limits: &[(&str, Option<Rate>)]) -> Arc<Rates> {
        let rates = Rates::new(false);
        limits.iter().for_each(|(task, rate)| rates.set(task, *rate));
        Arc::new(rates)
    }

    fn rate(text: &str) -> Option<Rate> {
        Rate::parse(text).unwrap()
    }

    #[tokio::test]
    async fn tasks_start_in_order_and_not_faster_than_their_rate() {
        let rates = rates(&[("t", rate("50/s"))]);
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
        let rates = rates(&[("t", rate("1/h")), ("free", None)]);
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
        rates.set("t", None);
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .expect("it waits no longer")
            .unwrap();
        let off = Rates::new(true);
        off.set("t", rate("1/h"));
        assert!(!off.is_limited("t"));
    }
}
