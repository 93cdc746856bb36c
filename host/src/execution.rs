//! The way of a message: understand, admit, run, settle, apply. Start reading at [`handle`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{error, info};

use crate::backend::ResultBackend;
use crate::broker::{self, Broker, BrokerError, Delivery, Receipt};
use crate::document::{self, Scene};
use crate::message::request::{self, Identity};
use crate::message::{Message, Request, Unusable};
use crate::outcome::{Outcome, State};
use crate::policy::admit::{self, Admission, Defaults, Plan};
use crate::policy::publish::RetryPolicy;
use crate::sandbox::registry::Registry;
use crate::sandbox::{Call, Component, StateSink};
use crate::settle::{self, Effect};
use crate::shutdown::{Shutdown, Stage};
use crate::task::Definition;

mod report;

/// What every message needs on its way.
pub struct Execution {
    /// The tasks of this worker.
    pub registry: Registry,
    /// Where messages come from and go to.
    pub broker: Arc<dyn Broker>,
    /// Where outcomes go; without one nothing is stored.
    pub backend: Option<Arc<dyn ResultBackend>>,
    /// `task_publish_retry_policy`: how long a message that a task sends waits for a broker that is away.
    pub publish_retry: RetryPolicy,
    /// The worker's settings for its tasks.
    pub defaults: Defaults,
    /// Node name.
    pub hostname: Arc<str>,
    /// `result_extended`.
    pub result_extended: bool,
    /// One permit for each task that may run at the same time.
    pub slots: Arc<Semaphore>,
    /// How many messages this worker may hold.
    pub prefetch: Prefetch,
    /// Whether the worker is stopping.
    pub shutdown: Shutdown,
}

/// A request that a component of this worker can run, with the right to settle its message.
struct Task {
    request: Arc<Request>,
    definition: Arc<Definition>,
    component: Arc<Component>,
    plan: Plan,
    receipt: Option<Receipt>,
}

/// Leave to run one task now. Only [`Execution::admit`] makes one, and it holds a slot.
struct Grant {
    _slot: OwnedSemaphorePermit,
}

/// Why a task was not admitted.
enum Stopped {
    /// It came too late.
    Expired,
    /// The worker is stopping; the message goes back.
    ShuttingDown,
}

/// Handles one delivery from the first look at its headers to the last effect.
pub async fn handle(worker: Arc<Execution>, delivery: Delivery) {
    let way = async {
        let Some(mut task) = worker.understand(delivery).await else {
            return;
        };
        let outcome = match worker.admit(&task.request).await {
            Ok(grant) => worker.run(&mut task, grant).await,
            Err(Stopped::Expired) => Outcome::Expired,
            Err(Stopped::ShuttingDown) => return,
        };
        let effects = worker.settle(&task, outcome);
        if let Err(error) = worker.apply(effects, &mut task.receipt).await {
            // Celery gives up a retry that cannot be sent as Reject (contract section 3.6, step 5).
            let reason = format!("the retry could not be sent: {error}");
            let refused = Outcome::Reject {
                reason: Some(reason),
                requeue: false,
            };
            let effects = worker.settle(&task, refused);
            let _ = worker.apply(effects, &mut task.receipt).await;
        }
    };
    if std::panic::AssertUnwindSafe(way).catch_unwind().await.is_err() {
        error!("a message was left unsettled: its handling panicked; please report this");
    }
}

impl Execution {
    /// From the message to a task of this worker. What cannot be run is settled here.
    async fn understand(&self, delivery: Delivery) -> Option<Task> {
        let Delivery {
            message,
            route,
            redelivered,
            receipt,
            queue: _,
        } = delivery;
        let identity = match request::identify(&message) {
            Ok(identity) => identity,
            Err(reason) => return self.refuse(&reason, receipt).await,
        };
        let Some((component, definition)) = self.registry.get(&identity.task) else {
            return self.refuse_unregistered(&identity, &message, receipt).await;
        };
        let request = match request::decode(message, route, redelivered, &self.defaults.accept_content) {
            Ok(request) => request,
            Err(reason) => return self.refuse(&reason, receipt).await,
        };
        info!("Task {}[{}] received", request.shown_name(), request.id);
        let plan = admit::plan(&request, &definition, &self.defaults);
        Some(Task {
            request: Arc::new(request),
            definition,
            component,
            plan,
            receipt: Some(receipt),
        })
    }

    /// Waits for the task's ETA and for a slot, unless it expires or the worker stops.
    async fn admit(&self, request: &Request) -> Result<Grant, Stopped> {
        let stopping = self.shutdown.reached(Stage::Warm);
        tokio::pin!(stopping);
        loop {
            match admit::admit(request, Timestamp::now()) {
                Admission::Run => break,
                Admission::Expired => return Err(Stopped::Expired),
                Admission::Hold(eta) => {
                    let _held = self.prefetch.hold(&*self.broker);
                    tokio::select! {
                        () = &mut stopping => return Err(Stopped::ShuttingDown),
                        () = tokio::time::sleep(until(eta)) => {}
                    }
                }
            }
        }
        let slot = tokio::select! {
            biased;
            () = &mut stopping => return Err(Stopped::ShuttingDown),
            slot = Arc::clone(&self.slots).acquire_owned() => slot,
        };
        match (slot, admit::admit(request, Timestamp::now())) {
            (_, Admission::Expired) => Err(Stopped::Expired),
            (Ok(slot), _) => Ok(Grant { _slot: slot }),
            (Err(_closed), _) => Err(Stopped::ShuttingDown),
        }
    }

    /// Runs the task in a sandbox, acknowledging first unless it asked for late acks.
    async fn run(&self, task: &mut Task, _grant: Grant) -> Outcome {
        if !task.plan.acks_late
            && let Some(receipt) = task.receipt.take()
        {
            receipt.ack();
        }
        if task.plan.track_started
            && let Some(backend) = &self.backend
        {
            let started = document::started(&task.request, std::process::id(), self.scene());
            if let Err(error) = backend.store(started).await {
                error!("cannot store STARTED of {}: {error}", task.request.id);
            }
        }
        let call = Call {
            request: Arc::clone(&task.request),
            definition: Arc::clone(&task.definition),
            hostname: Arc::clone(&self.hostname),
            time_limit: admit::seconds(task.plan.time_limit),
            soft_time_limit: admit::seconds(task.plan.soft_time_limit),
            ignore_result: task.plan.ignore_result,
            updates: self.updates(&task.request),
        };
        tokio::select! {
            biased;
            () = self.shutdown.reached(Stage::Cold) => {
                report::cancelled(&task.request);
                Outcome::Cancelled
            }
            run = task.component.run(call) => {
                report::finished(&task.request, &run);
                run.outcome
            }
        }
    }

    fn settle(&self, task: &Task, outcome: Outcome) -> Vec<Effect> {
        if outcome == Outcome::Expired {
            info!(
                "Discarding revoked task: {}[{}]",
                task.request.shown_name(),
                task.request.id
            );
        }
        settle::settle(
            &task.request,
            &task.plan,
            outcome,
            task.receipt.is_none(),
            self.scene(),
        )
    }

    /// Carries out effects in order. Only a message that cannot be sent is an error; a state that cannot be stored
    /// puts an unacknowledged message back, so that the task's result is not lost with it.
    async fn apply(&self, effects: Vec<Effect>, receipt: &mut Option<Receipt>) -> Result<(), BrokerError> {
        for effect in effects {
            match effect {
                Effect::Publish(outgoing) => {
                    broker::send(&*self.broker, outgoing, &self.publish_retry).await?;
                }
                Effect::Store(result) => {
                    let Some(backend) = &self.backend else { continue };
                    let task_id = result.task_id.clone();
                    if let Err(error) = backend.store(result).await {
                        error!("cannot store the result of task {task_id}: {error}");
                        if let Some(receipt) = receipt.take() {
                            receipt.reject(true);
                        }
                    }
                }
                Effect::Ack => {
                    if let Some(receipt) = receipt.take() {
                        receipt.ack();
                    }
                }
                Effect::Reject { requeue } => {
                    if let Some(receipt) = receipt.take() {
                        receipt.reject(requeue);
                    }
                }
            }
        }
        Ok(())
    }

    async fn refuse(&self, reason: &Unusable, receipt: Receipt) -> Option<Task> {
        report::unusable(reason);
        // Nothing is sent here, so nothing can fail.
        let _ = self
            .apply(vec![settle::unusable(reason)], &mut Some(receipt))
            .await;
        None
    }

    async fn refuse_unregistered(
        &self,
        identity: &Identity,
        message: &Message,
        receipt: Receipt,
    ) -> Option<Task> {
        report::unregistered(identity);
        let effects = settle::not_registered(identity, message, self.scene());
        let _ = self.apply(effects, &mut Some(receipt)).await;
        None
    }

    /// What `update_state` of this request does.
    fn updates(&self, request: &Arc<Request>) -> StateSink {
        let request = Arc::clone(request);
        let backend = self.backend.clone();
        let hostname = Arc::clone(&self.hostname);
        let extended = self.result_extended;
        Arc::new(move |state: State, value| {
            let scene = Scene {
                hostname: &hostname,
                extended,
                now: Timestamp::now(),
            };
            let stored = document::stored(&request, state, &value, None, &[], scene);
            let backend = backend.clone();
            async move {
                match backend {
                    Some(backend) => backend.store(stored).await.map_err(|error| error.to_string()),
                    None => Ok(()),
                }
            }
            .boxed()
        })
    }

    fn scene(&self) -> Scene<'_> {
        Scene {
            hostname: &self.hostname,
            extended: self.result_extended,
            now: Timestamp::now(),
        }
    }
}

/// Time from now until `eta`, in steps of at most an hour: the wall clock may be set meanwhile.
fn until(eta: Timestamp) -> Duration {
    let left = Duration::try_from(eta.duration_since(Timestamp::now())).unwrap_or_default();
    left.min(Duration::from_secs(3600))
}

/// The number of messages this worker may hold, and how it grows while tasks wait for their ETA, so that these do
/// not starve the others (contract section 3.4).
#[derive(Debug)]
pub struct Prefetch {
    base: u32,
    limit: Option<u32>,
    held: Arc<AtomicU32>,
}

impl Prefetch {
    /// `base` is concurrency times multiplier, 0 for no limit; `limit` is `worker_eta_task_limit`.
    pub fn new(base: u32, limit: Option<u32>) -> Self {
        Self {
            base,
            limit,
            held: Arc::default(),
        }
    }

    /// The number without tasks that wait.
    pub fn base(&self) -> u32 {
        self.base
    }

    fn hold<'a>(&'a self, broker: &'a dyn Broker) -> Held<'a> {
        self.held.fetch_add(1, Ordering::Relaxed);
        let held = Held {
            prefetch: self,
            broker,
        };
        held.tell();
        held
    }

    fn now(&self) -> u32 {
        if self.base == 0 {
            return 0;
        }
        let raised = self.base.saturating_add(self.held.load(Ordering::Relaxed));
        self.limit
            .map_or(raised, |limit| raised.min(limit.max(self.base)))
    }
}

/// One task that waits for its ETA.
struct Held<'a> {
    prefetch: &'a Prefetch,
    broker: &'a dyn Broker,
}

impl Held<'_> {
    fn tell(&self) {
        self.broker.set_prefetch(self.prefetch.now());
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.prefetch.held.fetch_sub(1, Ordering::Relaxed);
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_tasks_raise_the_prefetch_up_to_the_limit() {
        let prefetch = Prefetch::new(8, Some(10));
        prefetch.held.store(1, Ordering::Relaxed);
        assert_eq!(prefetch.now(), 9);
        prefetch.held.store(5, Ordering::Relaxed);
        assert_eq!(prefetch.now(), 10);
        let unlimited = Prefetch::new(0, None);
        unlimited.held.store(5, Ordering::Relaxed);
        assert_eq!(unlimited.now(), 0);
    }
}
