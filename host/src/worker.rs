//! The worker: takes deliveries, gives each a task of its own, and stops in order.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::broker::BrokerError;
use crate::execution::{self, Execution};
use crate::queue::Queue;
use crate::shutdown::Stage;

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything that ran could finish.
    Warm,
    /// What ran was ended.
    Cold,
}

/// Works until the shutdown that `execution` follows: consumes from `queues`, calls `ready` once the first connection
/// stands, and gives every message a task of its own. Capacity comes first: the broker hands over no more than the
/// prefetch count allows, so there are never more such tasks than that.
pub async fn run(
    execution: Arc<Execution>,
    queues: &[Queue],
    ready: impl FnOnce(),
) -> Result<Ended, BrokerError> {
    let shutdown = execution.shutdown.clone();
    let mut deliveries = tokio::select! {
        deliveries = execution.broker.consume(queues, execution.prefetch.base()) => deliveries?,
        () = shutdown.reached(Stage::Warm) => return Ok(Ended::Warm),
    };
    ready();
    // Every running task holds a clone; when all are gone the channel ends.
    let (running, mut all_done) = mpsc::channel::<()>(1);
    let gave_up = loop {
        tokio::select! {
            biased;
            () = shutdown.reached(Stage::Warm) => break false,
            delivery = deliveries.recv() => {
                let Some(delivery) = delivery else { break true };
                let (execution, running) = (Arc::clone(&execution), running.clone());
                tokio::spawn(async move {
                    execution::handle(execution, delivery).await;
                    drop(running);
                });
            }
        }
    };
    drop(running);
    shutdown.advance(Stage::Warm);
    execution.broker.cancel().await;
    drop(deliveries);
    info!("waiting for running tasks to finish");
    let _ = all_done.recv().await;
    if let Err(error) = execution.broker.close().await {
        warn!("the connection to the broker did not close cleanly: {error}");
    }
    match (gave_up, shutdown.stage()) {
        (true, _) => Err(BrokerError::Connection("the broker is gone for good".into())),
        (false, Stage::Cold) => Ok(Ended::Cold),
        (false, _) => Ok(Ended::Warm),
    }
}
