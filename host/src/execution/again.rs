//! Messages that come again although their task runs, or ran, here (contract sections 3.9 and 3.13).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::prefetch::Counted;
use super::{Execution, Task};
use crate::document;
use crate::happening::Happening::DoneBefore;
use crate::outcome::Outcome;

/// For how long a message that was sent again looks for the end of the first one.
const PATIENCE: Duration = Duration::from_secs(1);

impl Execution {
    /// Waits while the same run is still going on here, its message delivered once more after its connection was lost;
    /// whether it is done with then (contract section 3.13).
    pub(super) async fn twin_is_done(&self, task: &Task) -> bool {
        let _held = self.prefetch.count(Counted::Limited);
        let done = self.active.twin_is_done(&task.request).await;
        if done {
            self.tell(
                task,
                DoneBefore("it ran here when its message was delivered before"),
            );
        }
        done
    }

    /// Whether the first message of a task that was perhaps sent twice came to an end (contract section 4.6). Both may have
    /// come at the same moment, here or to two workers: this one is patient.
    pub(super) async fn first_is_done(&self, task: &Task) -> bool {
        let patience = Instant::now() + PATIENCE;
        loop {
            if self.twin_is_done(task).await {
                return true;
            }
            let stored = match &self.backend {
                Some(backend) => backend.fetch(&task.request.id).await.ok().flatten(),
                None => None,
            };
            let status = stored.and_then(|stored| document::status(&stored));
            if matches!(status.as_deref(), Some("SUCCESS" | "FAILURE" | "REVOKED")) {
                self.tell(task, DoneBefore("its first message came to an end"));
                return true;
            }
            if Instant::now() >= patience {
                return false;
            }
            sleep(PATIENCE / 10).await;
        }
    }

    /// What becomes of a task that was done before: it only needs its acknowledgement, and perhaps what follows it
    /// (contract sections 3.9 and 3.13).
    pub(super) async fn done_before(&self, task: &Task) -> Option<Outcome> {
        let request = &*task.request;
        if self.known.was_done_unacked(request) {
            self.tell(
                task,
                DoneBefore("its acknowledgement was lost with its connection"),
            );
            return Some(Outcome::Duplicate);
        }
        if !(self.options.deduplicate && task.plan.acks_late && request.redelivered) {
            return None;
        }
        if self.known.has_succeeded(request) {
            self.tell(task, DoneBefore("Task already completed successfully."));
            return Some(Outcome::Duplicate);
        }
        let stored = self.backend.as_ref()?.fetch(&request.id).await.ok()??;
        let (result, has_children) = document::success(&stored)?;
        self.tell(task, DoneBefore("Task already completed successfully."));
        Some(Outcome::Unfollowed {
            result,
            unsent: !has_children,
        })
    }
}
