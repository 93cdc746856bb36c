//! The way of a message: understand, admit, run, settle, apply. Start reading at [`handle`].

use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::watch;
use tracing::error;
use uuid::Uuid;

use crate::backend::ResultBackend;
use crate::broker::{Broker, Delivery, Receipt};
use crate::clock::Clock;
use crate::document::{self, Scene};
use crate::happening::{Happening, Refused};
use crate::message::request::{self, Identity};
use crate::message::{Message, Request, Unusable};
use crate::outcome::{Failure, Outcome, Revocation};
use crate::policy::admit::{self, Admission, Plan};
use crate::policy::autoretry;
use crate::policy::rate::Rate;
use crate::sandbox::registry::{Code, Registry};
use crate::sandbox::{Call, Component, Run};
use crate::settle;
use crate::shutdown::{Shutdown, Stage};
use crate::task::Definition;

mod acked;
pub mod active;
mod again;
mod builtin;
mod changes;
mod chords;
pub mod consuming;
mod effects;
pub mod errands;
mod errback;
pub mod known;
mod listeners;
mod options;
mod prefetch;
pub mod rates;
mod report;
mod revoking;
pub mod slots;
pub mod steps;
pub mod tasks;
mod updates;

pub use listeners::Listeners;
pub use options::{Bounds, Options};
pub use prefetch::Prefetch;

use acked::Acked;
use active::{Active, Here, Progress};
use consuming::Consuming;
use effects::Applied;
use errands::Ledger;
use known::Known;
use listeners::Marks;
use prefetch::Counted;
use rates::Rates;
use revoking::Revoking;
use slots::{Slot, Slots};
use steps::Steps;
use tasks::Tasks;

/// What every message needs on its way. What can change while the worker runs has a handle of its own.
pub struct Execution {
    /// The tasks of this worker.
    pub tasks: Tasks,
    /// The queues it takes them from.
    pub consuming: Consuming,
    /// Where messages come from and go to.
    pub broker: Arc<dyn Broker>,
    /// Where outcomes go; without one nothing is stored.
    pub backend: Option<Arc<dyn ResultBackend>>,
    /// The settings.
    pub options: Options,
    /// Who sends it.
    pub steps: Steps,
    /// The slots that tasks run in.
    pub slots: Arc<Slots>,
    /// How many messages this worker may hold.
    pub prefetch: Prefetch,
    /// The rate limits.
    pub rates: Rates,
    /// What is revoked, and what was done before.
    pub known: Known,
    /// The tasks that are here.
    pub active: Arc<Active>,
    /// Who stores that tasks are revoked which do not run here.
    revoking: Revoking,
    /// Who hears what happens to tasks.
    pub listeners: Listeners,
    /// Lamport's clock, for everything this worker sends and hears.
    pub clock: Arc<Clock>,
    /// Whether the worker is stopping.
    pub shutdown: Shutdown,
    /// True once no more messages come: what is given back from then on does not come again.
    pub(crate) drained: watch::Sender<bool>,
}

/// A request that this worker can run.
struct Task {
    request: Arc<Request>,
    definition: Arc<Definition>,
    code: Code,
    plan: Plan,
    here: Here,
    /// The queue it was taken from.
    queue: String,
    received: Instant,
    /// Whether it was told that its run began.
    started: AtomicBool,
    marks: Marks,
    /// What its run sends.
    ledger: Arc<Mutex<Ledger>>,
}

/// How a task came to its end.
enum Ended {
    /// Its run ended by itself.
    Ran(Run),
    /// Its run was ended from outside.
    Stopped(Outcome),
    /// It had no run.
    Unrun(Outcome),
}

/// Leave to run one task now. Only [`Execution::admit`] makes one, and it holds a slot.
struct Grant {
    _slot: Slot,
}

/// Why a task has no outcome of its own.
enum Stopped {
    /// It is not to run, and ends like this.
    Ended(Outcome),
    /// The worker is stopping; the message goes back.
    ShuttingDown,
    /// The connection is gone, and the broker sends the message again.
    Forgotten,
}

/// Handles one delivery from the first look at its headers to the last effect.
pub async fn handle(worker: Arc<Execution>, delivery: Delivery) {
    let way = async {
        let Some((mut task, receipt)) = worker.understand(delivery).await else {
            return;
        };
        let (lost, mut receipt) = (receipt.lost(), Some(receipt));
        let mut ended = match worker.run(&task, &mut receipt, lost).await {
            Ok(ended) => ended,
            Err(Stopped::Ended(outcome)) => Ended::Unrun(outcome),
            Err(Stopped::ShuttingDown) => return worker.give_back(receipt).await,
            Err(Stopped::Forgotten) => return worker.tell(&task, Happening::Forgotten),
        };
        let (settled, effects) = worker
            .settle(&mut task, receipt.is_none(), ended.outcome_mut())
            .await;
        worker.tell_over(&task, &ended);
        let happening = match worker.apply(effects, &mut receipt, Some(&task)).await {
            Applied::PutBack => Happening::PutBack,
            Applied::Done => Happening::Ended {
                outcome: ended.outcome(),
                runtime: ended.runtime(),
                settled,
            },
        };
        worker.tell(&task, happening);
    };
    if std::panic::AssertUnwindSafe(way).catch_unwind().await.is_err() {
        error!("a message was left unsettled: its handling panicked; please report this");
    }
}

impl Execution {
    /// Everything that the messages of a worker need.
    pub fn new(
        registry: Registry,
        broker: Arc<dyn Broker>,
        backend: Option<Arc<dyn ResultBackend>>,
        options: Options,
        active: Arc<Active>,
        shutdown: Shutdown,
        listeners: Listeners,
    ) -> Self {
        let rates = Rates::new(options.disable_rate_limits);
        set_rates(&rates, &registry, options.rate_limit);
        let retry = options.publish_retry.clone();
        Self {
            tasks: Tasks::new(registry, &options.canvas),
            consuming: Consuming::new(options.queues.clone()),
            revoking: Revoking::new(backend.clone()),
            steps: Steps::new(
                Arc::clone(&broker),
                backend.clone(),
                retry,
                Arc::clone(&listeners.events),
            ),
            rates,
            slots: Slots::new(options.concurrency, options.autoscale, options.most_slots),
            prefetch: Prefetch::new(Arc::clone(&broker), &options),
            known: Known::new(&options),
            clock: Arc::clone(listeners.events.clock()),
            listeners,
            active,
            drained: watch::Sender::new(false),
            broker,
            backend,
            options,
            shutdown,
        }
    }

    /// From the message to a task of this worker. What cannot be run is settled here.
    async fn understand(&self, delivery: Delivery) -> Option<(Task, Receipt)> {
        let Delivery {
            message,
            route,
            redelivered,
            receipt,
            queue,
        } = delivery;
        let (reader, now) = (&self.options.defaults.reader, Timestamp::now());
        let mut recognized = match request::recognize(message, reader, now) {
            Ok(recognized) => recognized,
            Err(reason) => return self.refuse(&reason, receipt).await,
        };
        let Some((code, definition)) = self.tasks.find(&recognized.identity.task) else {
            return self
                .refuse_unregistered(&recognized.identity, &recognized.message, receipt)
                .await;
        };
        let name = &recognized.identity.task;
        let marks = self.listeners.mark(name, &queue, &mut recognized.message);
        let request = match recognized.decode(route, redelivered, reader, now) {
            Ok(request) => request,
            Err(reason) => return self.refuse(&reason, receipt).await,
        };
        let request = Arc::new(request);
        let task = Task {
            plan: admit::plan(&request, &definition, &self.options.defaults),
            here: self.active.enter(&request),
            request,
            definition,
            code,
            queue,
            received: Instant::now(),
            started: AtomicBool::new(false),
            marks,
            ledger: Arc::default(),
        };
        self.tell(&task, Happening::Received);
        Some((task, receipt))
    }

    /// Waits until the task may run, unless it is revoked, the worker stops, or the message is lost.
    async fn admit(&self, task: &Task, lost: impl Future<Output = ()> + Send) -> Result<Grant, Stopped> {
        let admitted = tokio::select! {
            biased;
            () = self.shutdown.reached(Stage::Warm) => Err(Stopped::ShuttingDown),
            () = lost => Err(Stopped::Forgotten),
            admitted = self.wait(task) => admitted,
        };
        // A task that a cold shutdown ends frees its slot for one that was not woken by that shutdown yet.
        match admitted {
            Ok(_) if self.shutdown.stage() >= Stage::Warm => Err(Stopped::ShuttingDown),
            admitted => admitted,
        }
    }

    /// The order of contract section 3.1: revoked, ETA, rate limit, slot, and revoked once more.
    async fn wait(&self, task: &Task) -> Result<Grant, Stopped> {
        let request = &*task.request;
        let revoked = |why, stamp: Option<&_>| {
            self.tell(task, Happening::Discarded { stamp });
            Stopped::Ended(Outcome::Revoked(why))
        };
        if let Some(why) = self.known.test_at_receipt(request) {
            return Err(revoked(why, None));
        }
        self.tell(task, Happening::Accepted);
        loop {
            match admit::admit(request, Timestamp::now()) {
                Admission::Hold(eta) => {
                    task.here.at(Progress::Scheduled);
                    let _held = self.prefetch.count(Counted::Eta);
                    tokio::time::sleep(until(eta)).await;
                }
                Admission::Overflow => {
                    let failure = Failure::new("builtins", "OverflowError", "date value out of range");
                    self.tell(task, Happening::Overflow);
                    return Err(Stopped::Ended(Outcome::Refused(failure)));
                }
                // What expired meanwhile is found by the last test below.
                Admission::Run | Admission::Expired => break,
            }
        }
        if self.rates.is_limited(&request.task) {
            task.here.at(Progress::Received);
            let _held = self.prefetch.count(Counted::Limited);
            self.rates.turn(&request.task).await;
        }
        if request.redelivered && self.twin_is_done(task).await {
            return Err(Stopped::Ended(Outcome::Duplicate));
        }
        if request.is_sent_again() && Box::pin(self.first_is_done(task)).await {
            return Err(Stopped::Ended(Outcome::Duplicate));
        }
        task.here.at(Progress::Reserved);
        self.scale(true);
        let slot = self.slots.acquire().await;
        // Before the last test, so that whoever revokes it from now on finds it running.
        task.here.at(Progress::Active);
        match self.known.test_before_run(request) {
            Some((why, stamp)) => Err(revoked(why, stamp.as_ref())),
            None => Ok(Grant { _slot: slot }),
        }
    }

    /// Adapts the slots to the work (contract section 3.12); `received`: a task came.
    pub(crate) fn scale(&self, received: bool) {
        if self.slots.autoscale().is_some() {
            self.slots.scale(self.active.reserved(), received);
        }
    }

    /// Runs the task once it is admitted. Of a task that is acknowledged early nothing is seen before the broker has
    /// the acknowledgement.
    async fn run(
        &self,
        task: &Task,
        receipt: &mut Option<Receipt>,
        lost: impl Future<Output = ()> + Send,
    ) -> Result<Ended, Stopped> {
        let grant = self.admit(task, lost).await?;
        if let Some(outcome) = self.done_before(task).await {
            return Ok(Ended::Unrun(outcome));
        }
        let began = Timestamp::now();
        let lost = receipt.as_ref().map(Receipt::lost);
        let acked = Acked::early(task, receipt);
        let ended = self.run_granted(task, receipt, &acked, lost, grant, began).await;
        if !self.acked(&acked).await {
            return Err(Stopped::Forgotten);
        }
        self.tell_started(task, began);
        Ok(match ended {
            Ok(mut run) => {
                let random = || Uuid::new_v4().as_u64_pair().0;
                run.outcome = autoretry::apply(&task.request, &task.definition, run.outcome, random);
                Ended::Ran(run)
            }
            Err(outcome) => Ended::Stopped(outcome),
        })
    }

    /// Runs the task in a sandbox; what ends it from outside is its outcome.
    async fn run_granted(
        &self,
        task: &Task,
        receipt: &mut Option<Receipt>,
        acked: &Acked,
        lost: Option<impl Future<Output = ()> + Send>,
        _grant: Grant,
        began: Timestamp,
    ) -> Result<Run, Outcome> {
        let _counted = acked.is_early().then(|| self.prefetch.count(Counted::Acked));
        self.store_started(task, acked).await;
        if reaches_out(&task.code) && !self.acked(acked).await {
            return Err(Outcome::Cancelled);
        }
        tokio::select! {
            biased;
            () = self.shutdown.reached(Stage::Cold) => Err(Outcome::Cancelled),
            signal = task.here.terminated() => Err(Outcome::Revoked(Revocation::Terminated(signal))),
            () = self.connection_lost(task, acked, lost) => {
                // The broker sends the message again; this one cannot be settled.
                *receipt = None;
                Err(Outcome::Cancelled)
            }
            run = self.execute_and_tell(task, acked, began) => Ok(run),
        }
    }

    /// Runs it, and tells that its run began as soon as that counts.
    async fn execute_and_tell(&self, task: &Task, acked: &Acked, began: Timestamp) -> Run {
        if !acked.is_early() {
            self.tell_started(task, began);
        }
        let mut run = pin!(self.execute(task, acked));
        let arrived = tokio::select! {
            biased;
            run = &mut run => return run,
            arrived = acked.arrived() => arrived,
        };
        if arrived {
            self.tell_started(task, began);
        }
        run.await
    }

    async fn execute(&self, task: &Task, acked: &Acked) -> Run {
        match &task.code {
            Code::Component(component) => component.run(self.call(task, component, acked)).await,
            Code::Builtin(builtin) => Box::pin(self.run_builtin(task, *builtin, acked)).await,
        }
    }

    /// Watches the connection of a task that runs (contract section 3.13). Ends only when the task has to end with it;
    /// as a rule it goes on, and until it ends fewer messages are held.
    async fn connection_lost(
        &self,
        task: &Task,
        acked: &Acked,
        lost: Option<impl Future<Output = ()> + Send>,
    ) {
        let Some(lost) = lost else {
            return std::future::pending().await;
        };
        lost.await;
        if !acked.arrived().await || (!acked.is_early() && self.options.cancel_on_connection_loss) {
            return;
        }
        if acked.is_early() {
            // A broker that went down has perhaps forgotten the acknowledgement.
            self.known.done_unacked(&task.request);
        }
        let _stale = self.prefetch.count(Counted::Stale);
        std::future::pending().await
    }

    async fn store_started(&self, task: &Task, acked: &Acked) {
        if task.plan.track_started
            && let Some(backend) = &self.backend
            && acked.arrived().await
        {
            let started = document::started(&task.request, std::process::id(), self.scene());
            if let Err(error) = backend.store(started).await {
                error!("cannot store STARTED of {}: {error}", task.request.id);
            }
        }
    }

    fn call(&self, task: &Task, component: &Component, acked: &Acked) -> Call {
        // Its limits may have been changed while it waited.
        let limits = match self.tasks.find(&task.request.task) {
            Some((_, now)) if now.limits() != task.definition.limits() => {
                let plan = admit::plan(&task.request, &now, &self.options.defaults);
                (plan.time_limit, plan.soft_time_limit)
            }
            _ => (task.plan.time_limit, task.plan.soft_time_limit),
        };
        Call {
            request: Arc::clone(&task.request),
            definition: Arc::clone(&task.definition),
            hostname: Arc::clone(&self.options.hostname),
            time_limit: admit::seconds(limits.0),
            soft_time_limit: admit::seconds(limits.1),
            ignore_result: task.plan.ignore_result,
            nameable: Arc::clone(&self.options.nameable),
            updates: self.updates(&task.request, acked),
            errands: self.errands(&task.request, &task.ledger, component, acked),
        }
    }

    /// Puts a message back that will not be run any more, once this worker takes no more of them.
    async fn give_back(&self, receipt: Option<Receipt>) {
        let mut drained = self.drained.subscribe();
        let is_drained = tokio::select! {
            drained = drained.wait_for(|drained| *drained) => drained.is_ok(),
            // The broker gives back what is left when it closes.
            () = self.shutdown.reached(Stage::Cold) => false,
        };
        if is_drained && let Some(receipt) = receipt {
            receipt.give_back();
        }
    }

    async fn refuse(&self, reason: &Unusable, receipt: Receipt) -> Option<(Task, Receipt)> {
        self.listeners.refused(Refused::Unusable(reason));
        self.apply(vec![settle::unusable(reason)], &mut Some(receipt), None)
            .await;
        None
    }

    async fn refuse_unregistered(
        &self,
        identity: &Identity,
        message: &Message,
        receipt: Receipt,
    ) -> Option<(Task, Receipt)> {
        self.listeners.refused(Refused::Unregistered(identity));
        let effects = settle::not_registered(identity, message, self.scene());
        self.apply(effects, &mut Some(receipt), None).await;
        None
    }

    fn scene(&self) -> Scene<'_> {
        Scene {
            hostname: &self.options.hostname,
            extended: self.options.result_extended,
            now: Timestamp::now(),
        }
    }
}

/// The rate limits that tasks declare, or else that of the settings.
fn set_rates(rates: &Rates, registry: &Registry, default: Option<Rate>) {
    for definition in registry.definitions() {
        let own = definition.rate_limit.as_deref().and_then(Rate::parse);
        rates.set(&definition.name, own.unwrap_or(default));
    }
}

impl Ended {
    fn outcome(&self) -> &Outcome {
        match self {
            Self::Ran(run) => &run.outcome,
            Self::Stopped(outcome) | Self::Unrun(outcome) => outcome,
        }
    }

    fn outcome_mut(&mut self) -> &mut Outcome {
        match self {
            Self::Ran(run) => &mut run.outcome,
            Self::Stopped(outcome) | Self::Unrun(outcome) => outcome,
        }
    }

    /// How long it ran by itself.
    fn runtime(&self) -> Option<Duration> {
        match self {
            Self::Ran(run) => Some(run.duration),
            Self::Stopped(_) | Self::Unrun(_) => None,
        }
    }
}

/// Whether what a run does cannot be held back until its message is acknowledged.
fn reaches_out(code: &Code) -> bool {
    matches!(code, Code::Component(component) if component.grants().reaches_out())
}

/// Time from now until `eta`, in steps of at most an hour: the wall clock may be set meanwhile.
fn until(eta: Timestamp) -> Duration {
    let left = Duration::try_from(eta.duration_since(Timestamp::now())).unwrap_or_default();
    left.min(Duration::from_secs(3600))
}
