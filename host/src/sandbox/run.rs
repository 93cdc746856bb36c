//! One run: a fresh store and instance, the call, and what became of it.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use wasmtime::{Store, Trap};

use super::bindings::exports::celerybox::task::handler::Ending;
use super::guest::{Guest, Times};
use super::turn::Turn;
use super::{Component, Errands, Inner, Limits, fault};
use crate::message::Request;
use crate::outcome::{Failure, Nameable, Outcome, State};
use crate::task::Definition;

/// Stores a state of the task's own; an error is told to the guest.
pub type StateSink =
    Arc<dyn Fn(State, Box<RawValue>) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// One task to run.
#[derive(Clone)]
pub struct Call {
    /// The message.
    pub request: Arc<Request>,
    /// The task, as its component declared it.
    pub definition: Arc<Definition>,
    /// Node name of this worker.
    pub hostname: Arc<str>,
    /// The hard limit; nothing runs longer.
    pub time_limit: Option<Duration>,
    /// From then on the guest is told to end.
    pub soft_time_limit: Option<Duration>,
    /// Whether the result will not be stored; only shown to the guest.
    pub ignore_result: bool,
    /// Which exceptions the task may name.
    pub nameable: Arc<Nameable>,
    /// Where `update-state` leads.
    pub updates: StateSink,
    /// Where `publisher` and `results` lead.
    pub errands: Errands,
}

/// What became of a run.
#[derive(Debug)]
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// What it printed, as lines that are safe to show; empty as a rule.
    pub output: String,
    /// From the first instruction to the last.
    pub duration: Duration,
    /// Fuel used, when it is counted.
    pub fuel: Option<u64>,
    /// The most bytes all memories had together.
    pub peak_memory: usize,
    /// How long it took to make the instance; none was made without it.
    pub instantiation: Option<Duration>,
    /// The limits it ran into, each once, by the names of their settings.
    pub limits_hit: Vec<&'static str>,
}

/// The longest reason of a reject that is stored, bytes.
const LONGEST_REASON: usize = 4096;

/// How supervised work ended.
pub(super) enum Ended<T> {
    /// By itself.
    Done(wasmtime::Result<T>),
    /// Its time was up.
    TimedOut,
    /// A panic of the worker's own code, or of wasmtime.
    Panicked(String),
}

impl Component {
    /// Runs one task in an instance of its own. Whatever the guest does is an outcome. Waits while all places are
    /// taken; dropping the future ends the run.
    pub async fn run(&self, call: Call) -> Run {
        let sandbox = &*self.sandbox;
        let limits = &sandbox.limits;
        let request = Arc::clone(&call.request);
        let body = &request.body;
        let size = body.args.get().len() + body.kwargs.get().len();
        if size > limits.arguments {
            let detail = format!(
                "the arguments are {size} bytes of JSON, {} are allowed",
                limits.arguments
            );
            return Run::refused(Failure::limit("ValueError", "limits.arguments", detail));
        }
        let _place = sandbox.place(self.memories).await;
        let time_limit = call.time_limit;
        let times = Times::new(call.soft_time_limit, time_limit);
        let turn = Arc::new(Turn::new(Arc::clone(&sandbox.turns)));
        let granted = Arc::clone(&self.granted);
        let guest = Guest::new(
            Arc::clone(limits),
            Arc::clone(&turn),
            times,
            Some(call),
            Some(granted),
        );
        let mut store = match sandbox.store(guest, limits) {
            Ok(store) => store,
            Err(error) => return Run::lost(format!("no store: {error:#}")),
        };

        let mut instantiation = None;
        let work = async {
            let (args, kwargs) = (body.args.get().to_owned(), body.kwargs.get().to_owned());
            let begun = Instant::now();
            let instance = self.pre.instantiate_async(&mut store).await?;
            instantiation = Some(begun.elapsed());
            let handler = instance.celerybox_task_handler();
            handler.call_run(&mut store, &request.task, &args, &kwargs).await
        };
        let ended = supervise(work, times.hard, &turn).await;

        let duration = times.started.elapsed();
        let fuel = fuel_used(&store, limits);
        let mut guest = store.into_data();
        let mut limits_hit = guest.limits_hit();
        let outcome = outcome(ended, &mut guest, limits, time_limit);
        if let Some(limit) = limit_of(&outcome)
            && !limits_hit.contains(&limit)
        {
            limits_hit.push(limit);
        }
        Run {
            outcome,
            output: guest
                .output
                .as_ref()
                .map(|output| output.shown(limits.output))
                .unwrap_or_default(),
            duration,
            fuel,
            peak_memory: guest.usage.peak_memory(),
            instantiation,
            limits_hit,
        }
    }
}

/// The limit that ended a run.
fn limit_of(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::TimeLimit(_) => Some("time_limit"),
        Outcome::Failure(failure) => failure.limit.map(|limit| limit.trim_start_matches("limits.")),
        _ => None,
    }
}

impl Run {
    fn refused(failure: Failure) -> Self {
        Self::without_start(Outcome::Failure(failure))
    }

    fn lost(reason: String) -> Self {
        Self::without_start(Outcome::WorkerLost(reason))
    }

    fn without_start(outcome: Outcome) -> Self {
        Self {
            limits_hit: limit_of(&outcome).into_iter().collect(),
            outcome,
            output: String::new(),
            duration: Duration::ZERO,
            fuel: None,
            peak_memory: 0,
            instantiation: None,
        }
    }
}

impl Inner {
    /// A store with every limit set.
    pub(super) fn store(&self, guest: Guest, limits: &Limits) -> wasmtime::Result<Store<Guest>> {
        let mut store = Store::try_new(&self.engine, guest)?;
        store.limiter(|guest| &mut guest.usage);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|store| Ok(store.data().tick()));
        store.set_hostcall_fuel(limits.host_call_bytes);
        store.set_max_component_handles(limits.handles);
        if let Some(fuel) = limits.fuel {
            store.set_fuel(fuel)?;
        }
        Ok(store)
    }
}

fn fuel_used(store: &Store<Guest>, limits: &Limits) -> Option<u64> {
    let given = limits.fuel?;
    store.get_fuel().ok().map(|left| given.saturating_sub(left))
}

/// Lets work go on until it ends, its time is up, or the worker's own code panics.
pub(super) async fn supervise<T>(
    work: impl Future<Output = wasmtime::Result<T>>,
    hard: Option<Instant>,
    turn: &Turn,
) -> Ended<T> {
    let mut work = pin!(AssertUnwindSafe(work).catch_unwind());
    let work = poll_fn(|context| {
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            // It waits for something: another one may compute.
            turn.end();
        }
        polled
    });
    let ended = match hard {
        // Costs nothing for work that ends without waiting. It also covers time spent in the host, which epochs
        // do not see.
        Some(hard) => tokio::time::timeout_at(hard.into(), work).await,
        None => Ok(work.await),
    };
    turn.end();
    match ended {
        Ok(Ok(done)) => Ended::Done(done),
        Ok(Err(panic)) => Ended::Panicked(panic_text(&*panic)),
        Err(_) => Ended::TimedOut,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("unknown").to_owned()
}

fn outcome(
    ended: Ended<Result<String, Ending>>,
    guest: &mut Guest,
    limits: &Limits,
    time_limit: Option<Duration>,
) -> Outcome {
    let seconds = time_limit.unwrap_or_default().as_secs_f64();
    match ended {
        Ended::Done(Ok(Ok(value))) => fault::result(value, limits),
        Ended::Done(Ok(Err(ending))) => ended_with(ending, guest, limits),
        Ended::Done(Err(error)) if error.downcast_ref() == Some(&Trap::Interrupt) => {
            Outcome::TimeLimit(seconds)
        }
        Ended::Done(Err(error)) => fault::broken(&error, guest, limits),
        Ended::TimedOut => Outcome::TimeLimit(seconds),
        Ended::Panicked(text) => {
            tracing::error!("a panic in the sandbox, please report it: {text}");
            Outcome::WorkerLost(format!("the sandbox panicked: {text}"))
        }
    }
}

fn ended_with(ending: Ending, guest: &mut Guest, limits: &Limits) -> Outcome {
    let not_accepted = |what: &str| {
        let text = format!("the task ended with `{what}`, but the worker accepted none");
        Outcome::Failure(Failure::new("builtins", "RuntimeError", text))
    };
    match ending {
        Ending::Failure(failure) => Outcome::Failure(fault::failure(failure, limits, &guest.nameable())),
        Ending::Retry => match guest.retry.take() {
            Some(retry) => Outcome::Retry(Box::new(retry)),
            None => not_accepted("retry"),
        },
        Ending::Reject(reject) => Outcome::Reject {
            reason: reject
                .reason
                .map(|reason| fault::cut(&reason, LONGEST_REASON).to_owned()),
            requeue: reject.requeue,
        },
        Ending::Ignore => Outcome::Ignore,
        Ending::Replaced if guest.replaced => Outcome::Replaced,
        Ending::Replaced => not_accepted("replaced"),
    }
}
