//! What remote control changes (contract section 6.3).

use std::sync::Arc;

use super::{Execution, set_rates};
use crate::message::Request;
use crate::policy::rate::Rate;

impl Execution {
    /// Revokes tasks, here or still to come.
    pub fn revoke(&self, ids: &[&str]) {
        self.known.revoke_all(ids);
        let running = self.active.running_ids();
        self.revoking
            .store(ids.iter().filter(|id| !running.contains(**id)));
    }

    /// Ends the tasks that are here and wanted, in the name of a signal; those that are here.
    pub fn terminate(&self, wanted: impl Fn(&Request) -> bool, signal: i32) -> Vec<Arc<Request>> {
        self.active.terminate(wanted, signal)
    }

    /// Changes the rate limit of a task, written as `text`; false when there is no such task.
    pub fn set_rate_limit(&self, task: &str, rate: Option<Rate>, text: &str) -> bool {
        let known = self.tasks.set_rate_limit(task, text);
        if known {
            self.rates.set(task, rate);
        }
        known
    }

    /// Changes the number of slots by so many, and with it how many messages are held; how many slots there are then.
    pub fn resize(&self, grow: u32, shrink: u32) -> u32 {
        self.slots.shrink(shrink);
        let slots = self.slots.grow(grow);
        self.prefetch.set_slots(slots);
        slots
    }

    /// Loads the components again (contract section 6.3, `pool_restart`). False while that goes on already.
    pub async fn reload(&self) -> bool {
        let done = self.tasks.reload().await;
        if done {
            set_rates(&self.rates, &self.tasks.registry(), self.options.rate_limit);
        }
        done
    }
}
