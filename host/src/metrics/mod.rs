//! What Prometheus is told (issue 5): counts of tasks by what became of them, times, and what sandboxes use.
//!
//! Counts and times of tasks have the names and labels that the exporters for Celery made known
//! (`celery_task_received_total{name, queue_name, hostname}` …), so that dashboards made for those show this worker too.
//! What only this worker has begins with `celerybox_`.
//!
//! Labels are bounded: only tasks of this worker and queues it takes messages from become one. A message finds its
//! counters once, on its way in; from then on each count is an atomic of its own.

mod task;
mod worker;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use task::TaskMetrics;
pub use worker::Snapshot;

use crate::happening::Refused;
use crate::sandbox::Run;
use task::Sandboxes;
use worker::Worker;

/// How many queues get a label of their own; messages of more are counted as [`OTHER`].
const MOST_QUEUES: usize = 64;
/// How many tasks do. A worker has as many as its components declare.
const MOST_TASKS: usize = 2000;
/// The label of everything beyond.
const OTHER: &str = "other";

/// Why a message is refused.
const UNUSABLE: &str = "unusable";
const UNREGISTERED: &str = "unregistered";

/// Seconds: of runs and of waiting.
const TIMES: [f64; 17] = [
    0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// Seconds: of making an instance.
const INSTANTIATIONS: [f64; 10] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.001, 0.005, 0.025, 0.1, 1.0,
];
const MIB: f64 = 1024.0 * 1024.0;
/// Bytes of a run's memory.
const MEMORY: [f64; 9] = [
    MIB,
    2.0 * MIB,
    4.0 * MIB,
    8.0 * MIB,
    16.0 * MIB,
    32.0 * MIB,
    64.0 * MIB,
    128.0 * MIB,
    512.0 * MIB,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTask {
    name: String,
    queue_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfName {
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    name: String,
    queue_name: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLimit {
    name: String,
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

type Counts<L> = Family<L, Counter>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics of a worker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    worker: Worker,
    received: Counts<OfTask>,
    started: Counts<OfTask>,
    succeeded: Counts<OfTask>,
    failed: Counts<OfTask>,
    retried: Counts<OfTask>,
    rejected: Counts<OfTask>,
    revoked: Counts<OfTask>,
    other: Counts<OfState>,
    runtime: Histograms<OfTask>,
    wait: Histograms<OfTask>,
    refused: Counts<OfReason>,
    starts: Counts<OfName>,
    instantiation: Histograms<OfName>,
    memory: Histograms<OfName>,
    high_water: Family<OfName, Gauge>,
    limits: Counts<OfLimit>,
    /// By task, then by queue.
    tasks: RwLock<HashMap<String, Vec<Arc<TaskMetrics>>>>,
    queues: RwLock<Vec<String>>,
}

impl Metrics {
    /// The metrics of the worker with this node name.
    pub fn new(hostname: &str) -> Self {
        let labels = [(Cow::from("hostname"), Cow::from(hostname.to_owned()))];
        let mut registry = Registry::with_labels(labels.into_iter());
        let times: fn() -> Histogram = || Histogram::new(TIMES);
        let metrics = Self {
            worker: Worker::register(&mut registry),
            received: Family::default(),
            started: Family::default(),
            succeeded: Family::default(),
            failed: Family::default(),
            retried: Family::default(),
            rejected: Family::default(),
            revoked: Family::default(),
            other: Family::default(),
            runtime: Family::new_with_constructor(times),
            wait: Family::new_with_constructor(times),
            refused: Family::default(),
            starts: Family::default(),
            instantiation: Family::new_with_constructor(|| Histogram::new(INSTANTIATIONS)),
            memory: Family::new_with_constructor(|| Histogram::new(MEMORY)),
            high_water: Family::default(),
            limits: Family::default(),
            tasks: RwLock::default(),
            queues: RwLock::default(),
            registry: Registry::default(),
        };
        for (name, help, family) in [
            (
                "received",
                "Messages of tasks that were understood",
                &metrics.received,
            ),
            ("started", "Runs that began", &metrics.started),
            ("succeeded", "Runs that returned a value", &metrics.succeeded),
            (
                "failed",
                "Runs that ended with an error or a hard time limit",
                &metrics.failed,
            ),
            ("retried", "Runs that asked to be run again", &metrics.retried),
            ("rejected", "Runs that rejected their message", &metrics.rejected),
            (
                "revoked",
                "Tasks that were revoked or had expired",
                &metrics.revoked,
            ),
        ] {
            registry.register(format!("celery_task_{name}"), help, family.clone());
        }
        registry.register(
            "celery_task_runtime",
            "Seconds that runs took",
            metrics.runtime.clone(),
        );
        registry.register_with_unit(
            "celerybox_task_wait",
            "Time from the receipt of a message to the start of its run",
            Unit::Seconds,
            metrics.wait.clone(),
        );
        registry.register(
            "celerybox_task_set_aside",
            "Tasks that ended without a result: ignored, replaced, duplicate, cancelled, forgotten, put_back",
            metrics.other.clone(),
        );
        registry.register(
            "celerybox_messages_refused",
            "Messages that could not become a task: unusable, unregistered",
            metrics.refused.clone(),
        );
        registry.register(
            "celerybox_sandbox_starts",
            "Instances made to run a task",
            metrics.starts.clone(),
        );
        registry.register_with_unit(
            "celerybox_sandbox_instantiation",
            "Time to make an instance",
            Unit::Seconds,
            metrics.instantiation.clone(),
        );
        registry.register_with_unit(
            "celerybox_sandbox_memory",
            "The most memory that a run had",
            Unit::Bytes,
            metrics.memory.clone(),
        );
        registry.register_with_unit(
            "celerybox_sandbox_memory_high_water",
            "The most memory that any run had so far",
            Unit::Bytes,
            metrics.high_water.clone(),
        );
        registry.register(
            "celerybox_limits_hit",
            "Runs that ran into a limit, by the name of its setting",
            metrics.limits.clone(),
        );
        // There from the start, so that the first one is seen to be more than none.
        for reason in [UNUSABLE, UNREGISTERED] {
            let _none = metrics.refused.get_or_create(&OfReason { reason });
        }
        Self { registry, ..metrics }
    }

    /// The counters of a task of this worker whose message came from this queue.
    pub fn task(&self, name: &str, queue: &str) -> Arc<TaskMetrics> {
        let known = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        let found = known
            .get(name)
            .and_then(|all| all.iter().find(|task| task.is_of(queue)));
        if let Some(found) = found {
            return Arc::clone(found);
        }
        let name = match known.contains_key(name) || known.len() < MOST_TASKS {
            true => name,
            false => OTHER,
        };
        drop(known);
        self.add(name, self.queue_label(queue))
    }

    fn add(&self, name: &str, queue: &str) -> Arc<TaskMetrics> {
        let mut known = self.tasks.write().unwrap_or_else(PoisonError::into_inner);
        let all = known.entry(name.to_owned()).or_default();
        // Somebody else may have been quicker.
        if let Some(found) = all.iter().find(|task| task.is_of(queue)) {
            return Arc::clone(found);
        }
        let task = Arc::new(TaskMetrics::new(self, name, queue));
        all.push(Arc::clone(&task));
        task
    }

    /// The queue itself, as long as there are few.
    fn queue_label<'a>(&self, queue: &'a str) -> &'a str {
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        if queues.iter().any(|known| known == queue) {
            return queue;
        }
        if queues.len() >= MOST_QUEUES {
            return OTHER;
        }
        queues.push(queue.to_owned());
        queue
    }

    /// A message could not become a task.
    pub fn refused(&self, refused: Refused<'_>) {
        let reason = match refused {
            Refused::Unusable(_) => UNUSABLE,
            Refused::Unregistered(_) => UNREGISTERED,
        };
        self.refused.get_or_create(&OfReason { reason }).inc();
    }

    /// A run that is only a part of a task: an item of `celery.map`, an errback. `name` is a task of this worker.
    pub fn measure(&self, name: &str, run: &Run) {
        Sandboxes::new(self, name).measure(run);
    }

    /// All metrics as text (OpenMetrics), with the worker's state as it is now.
    pub fn text(&self, now: &Snapshot) -> String {
        self.worker.set(now);
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(metrics: &Metrics, line: &str) -> Option<f64> {
        let text = metrics.text(&Snapshot::default());
        let found = text.lines().find_map(|text| text.strip_prefix(line))?;
        found.trim().parse().ok()
    }

    #[test]
    fn labels_are_bounded_whatever_comes() {
        let metrics = Metrics::new("w@h");
        for n in 0..MOST_QUEUES + 50 {
            metrics.task("t", &format!("queue-{n}")).received();
            metrics.task("t", &format!("queue-{n}")).received();
        }
        let line = |queue: &str| {
            format!("celery_task_received_total{{hostname=\"w@h\",name=\"t\",queue_name=\"{queue}\"}}")
        };
        assert_eq!(value(&metrics, &line("queue-0")), Some(2.0));
        assert_eq!(value(&metrics, &line(OTHER)), Some(100.0));
        assert_eq!(value(&metrics, &line("queue-64")), None);
        for n in 0..MOST_TASKS + 5 {
            metrics.task(&format!("task-{n}"), "queue-0").received();
        }
        assert_eq!(metrics.tasks.read().unwrap().len(), MOST_TASKS + 1);
    }

    #[test]
    fn a_name_cannot_write_a_line_of_its_own() {
        let metrics = Metrics::new("w@h");
        metrics.task("a\"} 7\nforged 1", "q\\").received();
        let text = metrics.text(&Snapshot::default());
        assert!(!text.lines().any(|line| line.starts_with("forged")), "{text}");
        assert!(
            text.contains(r#"name="a\"} 7\nforged 1",queue_name="q\\""#),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }
}
