//! The counters of one task and queue.

use std::sync::atomic::Ordering;
use std::time::Instant;

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::{Counts, Metrics, OfLimit, OfName, OfState, OfTask};
use crate::happening::Happening;
use crate::outcome::Outcome;
use crate::sandbox::Run;

/// What is counted of one task and queue.
#[derive(Debug)]
pub struct TaskMetrics {
    labels: OfTask,
    received: Counter,
    started: Counter,
    succeeded: Counter,
    failed: Counter,
    retried: Counter,
    rejected: Counter,
    revoked: Counter,
    other: Family<OfState, Counter>,
    runtime: Histogram,
    wait: Histogram,
    sandboxes: Sandboxes,
}

impl TaskMetrics {
    pub(super) fn new(metrics: &Metrics, name: &str, queue: &str) -> Self {
        let labels = OfTask {
            name: name.to_owned(),
            queue_name: queue.to_owned(),
        };
        let count = |family: &Counts<OfTask>| family.get_or_create_owned(&labels);
        Self {
            received: count(&metrics.received),
            started: count(&metrics.started),
            succeeded: count(&metrics.succeeded),
            failed: count(&metrics.failed),
            retried: count(&metrics.retried),
            rejected: count(&metrics.rejected),
            revoked: count(&metrics.revoked),
            other: metrics.other.clone(),
            runtime: metrics.runtime.get_or_create_owned(&labels),
            wait: metrics.wait.get_or_create_owned(&labels),
            sandboxes: Sandboxes::new(metrics, name),
            labels,
        }
    }

    pub(super) fn is_of(&self, queue: &str) -> bool {
        self.labels.queue_name == queue
    }

    /// Counts what happens to a task that was received then.
    pub fn hear(&self, received: Instant, happening: Happening<'_>) {
        match happening {
            Happening::Received => self.received(),
            Happening::Started { at } => self.started(received, at),
            Happening::Ran(run) => self.ran(run),
            Happening::Stopped(Outcome::Revoked(_)) | Happening::Discarded { .. } => {
                self.revoked.inc();
            }
            Happening::Stopped(_) => self.set_aside("cancelled"),
            Happening::Overflow => {
                self.failed.inc();
            }
            Happening::DoneBefore(_) => self.set_aside("duplicate"),
            Happening::Forgotten => self.set_aside("forgotten"),
            Happening::PutBack => self.set_aside("put_back"),
            Happening::Accepted | Happening::Ended { .. } => {}
        }
    }

    pub(super) fn received(&self) {
        self.received.inc();
    }

    /// It may be told later than it was.
    fn started(&self, received: Instant, at: Timestamp) {
        self.started.inc();
        let since = Timestamp::now().duration_since(at).as_secs_f64().max(0.0);
        self.wait
            .observe((received.elapsed().as_secs_f64() - since).max(0.0));
    }

    fn ran(&self, run: &Run) {
        match &run.outcome {
            Outcome::Success(_) => {
                self.succeeded.inc();
            }
            Outcome::Failure(_) | Outcome::TimeLimit(_) | Outcome::WorkerLost(_) | Outcome::Refused(_) => {
                self.failed.inc();
            }
            Outcome::Retry(_) => {
                self.retried.inc();
            }
            Outcome::Reject { .. } => {
                self.rejected.inc();
            }
            Outcome::Revoked(_) => {
                self.revoked.inc();
            }
            Outcome::Ignore => self.set_aside("ignored"),
            Outcome::Replaced => self.set_aside("replaced"),
            Outcome::Cancelled => self.set_aside("cancelled"),
            Outcome::Duplicate | Outcome::Unfollowed { .. } => self.set_aside("duplicate"),
        }
        self.runtime.observe(run.duration.as_secs_f64());
        self.sandboxes.measure(run);
    }

    fn set_aside(&self, state: &'static str) {
        let OfTask { name, queue_name } = self.labels.clone();
        let labels = OfState {
            name,
            queue_name,
            state,
        };
        self.other.get_or_create(&labels).inc();
    }
}

/// What the sandboxes of one task used.
#[derive(Debug)]
pub(super) struct Sandboxes {
    name: String,
    starts: Counter,
    instantiation: Histogram,
    memory: Histogram,
    high_water: Gauge,
    limits: Counts<OfLimit>,
}

impl Sandboxes {
    pub(super) fn new(metrics: &Metrics, name: &str) -> Self {
        let labels = OfName {
            name: name.to_owned(),
        };
        Self {
            starts: metrics.starts.get_or_create_owned(&labels),
            instantiation: metrics.instantiation.get_or_create_owned(&labels),
            memory: metrics.memory.get_or_create_owned(&labels),
            high_water: metrics.high_water.get_or_create_owned(&labels),
            limits: metrics.limits.clone(),
            name: labels.name,
        }
    }

    pub(super) fn measure(&self, run: &Run) {
        for limit in &run.limits_hit {
            let labels = OfLimit {
                name: self.name.clone(),
                limit,
            };
            self.limits.get_or_create(&labels).inc();
        }
        // The worker's own tasks have no instance.
        let Some(instantiation) = run.instantiation else {
            return;
        };
        self.starts.inc();
        self.instantiation.observe(instantiation.as_secs_f64());
        self.memory.observe(run.peak_memory as f64);
        let peak = i64::try_from(run.peak_memory).unwrap_or(i64::MAX);
        self.high_water.inner().fetch_max(peak, Ordering::Relaxed);
    }
}
