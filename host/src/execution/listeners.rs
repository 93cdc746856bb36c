//! Those who hear what happens to tasks. One more is one more field, and one more line in [`Execution::tell`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::{Ended, Execution, Task, report};
use crate::events::Events;
use crate::happening::{About, Happening, Refused};
use crate::message::Message;
use crate::metrics::{Metrics, TaskMetrics};
use crate::sandbox::Run;
use crate::trace::{Trace, Traces};

/// Who hears what happens, beside the log.
#[derive(Debug, Clone, Default)]
pub struct Listeners {
    /// Celery's events (contract section 7).
    pub events: Arc<Events>,
    /// What Prometheus is told.
    pub metrics: Option<Arc<Metrics>>,
    /// OpenTelemetry's traces.
    pub traces: Option<Arc<Traces>>,
}

/// What listeners know of one task, from its receipt to its end.
#[derive(Debug, Default)]
pub(super) struct Marks {
    metrics: Option<Arc<TaskMetrics>>,
    /// Few workers make traces: what is here for all stays small.
    trace: Option<Box<Trace>>,
}

impl Listeners {
    /// A task of this worker came, in this message from this queue.
    pub(super) fn mark(&self, task: &str, queue: &str, message: &mut Message) -> Marks {
        let (metrics, traces) = (self.metrics.as_ref(), self.traces.as_ref());
        Marks {
            metrics: metrics.map(|metrics| metrics.task(task, queue)),
            trace: traces.map(|traces| Box::new(traces.begin(task, message))),
        }
    }

    /// Tells of a run that is only a part of a task; `name` is that of the task that ran.
    pub(super) fn ran_within(&self, name: &str, run: &Run) {
        if let Some(metrics) = &self.metrics {
            metrics.measure(name, run);
        }
    }

    /// Tells why a message is refused that could not become a task.
    pub(super) fn refused(&self, refused: Refused<'_>) {
        report::refused(refused);
        self.events.refused(refused);
        if let Some(metrics) = &self.metrics {
            metrics.refused(refused);
        }
    }
}

impl Execution {
    /// Tells what happens to a task: to the log first, then to all others.
    pub(super) fn tell(&self, task: &Task, happening: Happening<'_>) {
        let about = About {
            request: &task.request,
            definition: &task.definition,
            queue: &task.queue,
            received: task.received,
        };
        report::tell(&about, happening);
        self.listeners.events.hear(&about, happening);
        let Marks { metrics, trace } = &task.marks;
        if let Some(metrics) = metrics {
            metrics.hear(task.received, happening);
        }
        if let (Some(traces), Some(trace)) = (&self.listeners.traces, trace) {
            traces.hear(trace, &about, happening);
        }
    }

    /// Tells that its run is over, if there was one.
    pub(super) fn tell_over(&self, task: &Task, ended: &Ended) {
        match ended {
            Ended::Ran(run) => self.tell(task, Happening::Ran(run)),
            Ended::Stopped(outcome) => self.tell(task, Happening::Stopped(outcome)),
            Ended::Unrun(_) => {}
        }
    }

    /// Tells once that the run of a task began.
    pub(super) fn tell_started(&self, task: &Task, at: Timestamp) {
        if !task.started.swap(true, Ordering::Relaxed) {
            self.tell(task, Happening::Started { at });
        }
    }
}
