//! Those who hear what happens to tasks. One more is one more field, and one more line in [`Execution::tell`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::{Execution, Task, report};
use crate::events::Events;
use crate::happening::{About, Happening, Refused};
use crate::outcome::Outcome;

/// Who hears what happens, beside the log.
#[derive(Debug, Clone, Default)]
pub struct Listeners {
    /// Celery's events (contract section 7).
    pub events: Arc<Events>,
}

impl Listeners {
    /// What a task's end is told by once it is settled; `None` when nobody would hear it.
    pub(super) fn keep(&self, task: &Task, outcome: &Outcome) -> Option<Outcome> {
        self.events.hears(&task.definition).then(|| outcome.clone())
    }

    /// Tells why a message is refused that could not become a task.
    pub(super) fn refused(&self, refused: Refused<'_>) {
        report::refused(refused);
        self.events.refused(refused);
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
    }

    /// Tells once that the run of a task began.
    pub(super) fn tell_started(&self, task: &Task, at: Timestamp) {
        if !task.started.swap(true, Ordering::Relaxed) {
            self.tell(task, Happening::Started { at });
        }
    }
}
