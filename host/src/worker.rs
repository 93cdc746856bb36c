//! The worker: takes deliveries, gives each a task of its own, and stops in order.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::broker::{BrokerError, Delivery};
use crate::execution::{self, Execution};
use crate::queue::Queue;
use crate::shutdown::Stage;

/// How often the revoked ids are written to `worker_state_db`, when there are new ones.
const SAVE: Duration = Duration::from_secs(30);

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything that ran could finish.
    Warm,
    /// A cold end was asked for.
    Cold,
    /// It is to start again.
    Restart,
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
        deliveries = execution.broker.consume(queues, execution.prefetch.start()) => deliveries?,
        () = shutdown.reached(Stage::Warm) => return Ok(ended(&execution)),
    };
    execution.consuming.begin(queues);
    let following = tokio::spawn({
        let execution = Arc::clone(&execution);
        async move { execution.consuming.follow(&*execution.broker).await }
    });
    ready();
    let housekeeping = tokio::spawn(keep_house(Arc::clone(&execution)));
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
    following.abort();
    shutdown.advance(Stage::Warm);
    execution.broker.cancel().await;
    give_back(deliveries);
    execution.drained.send_replace(true);
    info!("waiting for running tasks to finish");
    let _ = all_done.recv().await;
    if shutdown.stage() == Stage::Soft && execution.options.soft_shutdown_on_idle {
        shutdown.reached(Stage::Cold).await;
    }
    if let Err(error) = execution.broker.close().await {
        warn!("the connection to the broker did not close cleanly: {error}");
    }
    housekeeping.abort();
    save(&execution).await;
    if gave_up {
        return Err(BrokerError::Connection("the broker is gone for good".into()));
    }
    Ok(ended(&execution))
}

fn ended(execution: &Execution) -> Ended {
    match execution.shutdown.stage() {
        Stage::Soft | Stage::Cold => Ended::Cold,
        Stage::Running | Stage::Warm if execution.shutdown.is_restart() => Ended::Restart,
        Stage::Running | Stage::Warm => Ended::Warm,
    }
}

/// Puts back what was handed over and never looked at.
fn give_back(mut deliveries: mpsc::Receiver<Delivery>) {
    while let Ok(delivery) = deliveries.try_recv() {
        delivery.receipt.give_back();
    }
}

/// What happens from time to time: slots go that are not needed, and revoked ids are written down.
async fn keep_house(execution: Arc<Execution>) {
    let idle = execution
        .slots
        .autoscale()
        .map_or(Duration::MAX, |scale| scale.keepalive);
    let pause = idle.clamp(Duration::from_millis(100), SAVE);
    loop {
        tokio::time::sleep(pause).await;
        execution.scale(false);
        save(&execution).await;
    }
}

async fn save(execution: &Arc<Execution>) {
    let execution = Arc::clone(execution);
    // It writes a file.
    let saved = tokio::task::spawn_blocking(move || execution.known.save()).await;
    if let Err(error) = saved {
        warn!("worker_state_db was not written: {error}");
    }
}
