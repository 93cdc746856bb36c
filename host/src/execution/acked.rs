//! The acknowledgement of a task that is acknowledged before it runs (contract section 3.2).
//!
//! Such a task must not happen twice, so nothing of its run may be seen before the broker has the acknowledgement: until
//! then the message can come again, to another worker, when this one is killed or its connection goes. Waiting for that
//! before the run would cost a slot a round trip. A guest reaches nobody but through the worker, so its run may begin at
//! once, and everything that leaves it waits here. Only the run of a component that is granted more (network, files to
//! write) begins afterwards.
//!
//! Of such a run monitors hear `task-started` as soon as the acknowledgement has arrived, or together with its end when
//! that comes first: both are still in Celery's order, and the event carries the time at which the run began. A run whose
//! acknowledgement never arrives did not happen: nobody hears that it started, and the message that comes again is
//! received and started once more. Telling at once would let a monitor see a run that no result ever follows.

use std::time::Duration;

use futures_util::future::{FutureExt, Shared};
use tokio::sync::oneshot;

use super::{Execution, Task};
use crate::broker::Receipt;
use crate::shutdown::Stage;

/// How long a cold shutdown waits for acknowledgements on their way.
const COLD_PATIENCE: Duration = Duration::from_secs(5);

/// An acknowledgement on its way; none for a task that is acknowledged late.
#[derive(Debug, Clone)]
pub(super) struct Acked(Option<Shared<oneshot::Receiver<()>>>);

impl Acked {
    /// Acknowledges the message of a task that is not acknowledged late.
    pub(super) fn early(task: &Task, receipt: &mut Option<Receipt>) -> Self {
        let receipt = receipt.take_if(|_| !task.plan.acks_late);
        Self(receipt.map(|receipt| {
            task.here.done();
            receipt.ack_told().shared()
        }))
    }

    /// Whether the task is acknowledged early.
    pub(super) fn is_early(&self) -> bool {
        self.0.is_some()
    }

    /// Waits for the broker's word. False: it will never have the acknowledgement, and the message comes again.
    pub(super) async fn arrived(&self) -> bool {
        match &self.0 {
            Some(told) => told.clone().await.is_ok(),
            None => true,
        }
    }
}

impl Execution {
    /// The same, but a cold shutdown does not wait for long.
    pub(super) async fn acked(&self, acked: &Acked) -> bool {
        let out_of_patience = async {
            self.shutdown.reached(Stage::Cold).await;
            tokio::time::sleep(COLD_PATIENCE).await;
        };
        tokio::select! {
            biased;
            arrived = acked.arrived() => arrived,
            () = out_of_patience => false,
        }
    }
}
