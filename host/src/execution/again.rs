//! Messages that come again although their task runs, or ran, here (contract sections 3.9 and 3.13).

use super::prefetch::Counted;
use super::{Execution, Task, report};
use crate::document;
use crate::message::Request;
use crate::outcome::State;

impl Execution {
    /// Waits while the same run is still going on here, its message delivered once more after its connection was lost;
    /// whether it is done with then (contract section 3.13).
    pub(super) async fn twin_is_done(&self, request: &Request) -> bool {
        let _held = self.prefetch.count(Counted::Limited);
        let done = self.active.twin_is_done(request).await;
        if done {
            report::done_before(request, "it ran here when its message was delivered before");
        }
        done
    }

    /// Whether the task was done before, so that it only needs its acknowledgement (contract sections 3.9 and 3.13).
    pub(super) async fn is_done(&self, task: &Task) -> bool {
        let request = &*task.request;
        if self.known.was_done_unacked(request) {
            report::done_before(request, "its acknowledgement was lost with its connection");
            return true;
        }
        if !(self.options.deduplicate && task.plan.acks_late && request.redelivered) {
            return false;
        }
        if self.known.has_succeeded(request) {
            report::done_before(request, "Task already completed successfully.");
            return true;
        }
        let Some(backend) = &self.backend else {
            return false;
        };
        let Ok(Some(stored)) = backend.fetch(&request.id).await else {
            return false;
        };
        let succeeded = document::status(&stored).as_deref() == Some(State::Success.as_str());
        if succeeded {
            self.known.succeeded(request);
            report::done_before(request, "Task already completed successfully.");
        }
        succeeded
    }
}
