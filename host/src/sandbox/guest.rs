//! What the worker knows about one run, and the functions of `celerybox:task` that the guest calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;
use wasmtime::UpdateDeadline;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder};

use super::bindings::celerybox::task::{context, publisher, results, types};
use super::limiter::Usage;
use super::output::{Output, Pipe, Stream, one_line, safe};
use super::turn::Turn;
use super::{Call, Limits, fault, json};
use crate::message::envelope::properties_to_json;
use crate::message::request::format_time;
use crate::outcome::{Failure, Nameable, Retry, State};
use crate::policy::retry::{self, Asked, Refusal};
use crate::task::RetryLimit;

/// The longest log line of a guest, bytes.
const LOG_LINE: usize = 8 * 1024;
/// The most random bytes for one call: the worker allocates them.
const RANDOM: u64 = 64 * 1024;

/// The data of a store: one run, from its first instruction to its last.
pub(super) struct Guest {
    /// Made when the guest first asks for something of WASI: many tasks never do, and it costs to make.
    wasi: Option<WasiCtx>,
    pub(super) table: ResourceTable,
    pub(super) usage: Usage,
    limits: Arc<Limits>,
    pub(super) output: Option<Arc<Output>>,
    turn: Arc<Turn>,
    times: Times,
    /// Nothing while a component declares its tasks.
    call: Option<Call>,
    host_calls: u64,
    state_updates: u64,
    log_is_full: bool,
    pub(super) retry: Option<Retry>,
}

/// When the run began and when it has to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) started: Instant,
    soft: Option<Instant>,
    pub(super) hard: Option<Instant>,
    /// The soft limit is an error once.
    soft_told: bool,
}

/// A limit that ends the run from inside of a function of ours.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} calls to the worker (limits.host_calls)")]
pub(super) struct TooManyCalls(pub(super) u64);

impl Times {
    pub(super) fn new(soft: Option<Duration>, hard: Option<Duration>) -> Self {
        let started = Instant::now();
        let after = |limit: Option<Duration>| limit.and_then(|limit| started.checked_add(limit));
        Self {
            started,
            soft: after(soft),
            hard: after(hard),
            soft_told: false,
        }
    }

    fn soft_passed(&self) -> bool {
        self.soft.is_some_and(|soft| Instant::now() >= soft)
    }
}

impl Guest {
    pub(super) fn new(limits: Arc<Limits>, turn: Arc<Turn>, times: Times, call: Option<Call>) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        Self {
            wasi: None,
            table,
            usage: Usage::new(&limits),
            limits,
            output: None,
            turn,
            times,
            call,
            host_calls: 0,
            state_updates: 0,
            log_is_full: false,
            retry: None,
        }
    }

    /// What a guest that computes hears at each tick: take turns, or stop.
    pub(super) fn tick(&self) -> UpdateDeadline {
        if self.times.hard.is_some_and(|hard| Instant::now() >= hard) {
            return UpdateDeadline::Interrupt;
        }
        UpdateDeadline::YieldCustom(1, Arc::clone(&self.turn).next())
    }

    /// WASI without anything to reach: no files, no environment, no arguments, no network, nothing on stdin.
    pub(super) fn wasi(&mut self) -> (&mut WasiCtx, &mut ResourceTable) {
        if self.wasi.is_none() {
            let output = self.output();
            let pipe = |stream| Pipe {
                output: Arc::clone(&output),
                stream,
            };
            let wasi = WasiCtxBuilder::new()
                .stdout(pipe(Stream::Stdout))
                .stderr(pipe(Stream::Stderr))
                .wall_clock(Coarse(self.times.started))
                .monotonic_clock(Coarse(self.times.started))
                .max_random_size(RANDOM)
                .allow_blocking_current_thread(false)
                .allow_tcp(false)
                .allow_udp(false)
                .allow_ip_name_lookup(false)
                .build();
            self.wasi = Some(wasi);
        }
        (self.wasi.get_or_insert_default(), &mut self.table)
    }

    /// Which exceptions the task may name.
    pub(super) fn nameable(&self) -> Arc<Nameable> {
        let call = self.call.as_ref();
        call.map(|call| Arc::clone(&call.nameable)).unwrap_or_default()
    }

    fn output(&mut self) -> Arc<Output> {
        let limit = self.limits.output;
        Arc::clone(self.output.get_or_insert_with(|| Output::new(limit)))
    }

    /// Counts a call. What is past the limit ends the run: the guest would only try again.
    fn count(&mut self) -> wasmtime::Result<()> {
        self.host_calls += 1;
        if self.host_calls > self.limits.host_calls {
            return Err(wasmtime::Error::new(TooManyCalls(self.limits.host_calls)));
        }
        Ok(())
    }

    /// What every function that can fail does first: count, and tell of the soft limit once.
    fn enter(&mut self) -> wasmtime::Result<Result<(), types::Error>> {
        self.count()?;
        if !self.times.soft_told && self.times.soft_passed() {
            self.times.soft_told = true;
            return Ok(Err(types::Error::SoftTimeLimitExceeded));
        }
        Ok(Ok(()))
    }

    fn not_built(&mut self, what: &str) -> wasmtime::Result<types::Error> {
        Ok(match self.enter()? {
            Err(error) => error,
            Ok(()) => {
                types::Error::NotSupported(format!("{what} is not supported by this version of celerybox"))
            }
        })
    }
}

fn no_request() -> types::Error {
    types::Error::NotSupported("there is no request while a component declares its tasks".into())
}

/// Clocks good enough for tasks and too coarse to time the worker's caches: whole milliseconds, the monotonic one
/// from the start of the run.
struct Coarse(Instant);

const MILLISECOND: u64 = 1_000_000;

impl HostWallClock for Coarse {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
    }
}

impl HostMonotonicClock for Coarse {
    fn resolution(&self) -> u64 {
        MILLISECOND
    }

    fn now(&self) -> u64 {
        let milliseconds = u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX);
        milliseconds.saturating_mul(MILLISECOND)
    }
}

impl types::Host for Guest {}

impl context::Host for Guest {
    fn get_request(&mut self) -> wasmtime::Result<context::Request> {
        self.count()?;
        match &self.call {
            Some(call) => Ok(request(call)),
            None => Err(wasmtime::Error::msg(
                "there is no request while a component declares its tasks",
            )),
        }
    }

    async fn update_state(
        &mut self,
        state: String,
        meta: String,
    ) -> wasmtime::Result<Result<(), types::Error>> {
        if let Err(error) = self.enter()? {
            return Ok(Err(error));
        }
        let meta = match self.check_state(&state, meta) {
            Ok((state, meta)) => (state, meta),
            Err(error) => return Ok(Err(error)),
        };
        let Some(call) = &self.call else {
            return Ok(Err(no_request()));
        };
        let (state, meta) = meta;
        let stored = (call.updates)(state, meta).await;
        Ok(stored.map_err(types::Error::Unavailable))
    }

    fn retry(&mut self, options: context::RetryOptions) -> wasmtime::Result<Result<(), context::RetryError>> {
        if let Err(error) = self.enter()? {
            return Ok(Err(context::RetryError::Other(error)));
        }
        Ok(self.accept_retry(options))
    }

    fn get_time_left(&mut self) -> wasmtime::Result<context::TimeLeft> {
        let now = Instant::now();
        let left = |end: Option<Instant>| {
            end.map(|end| u64::try_from(end.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX))
        };
        Ok(context::TimeLeft {
            soft: left(self.times.soft),
            hard: left(self.times.hard),
        })
    }

    fn soft_time_limit_exceeded(&mut self) -> wasmtime::Result<bool> {
        Ok(self.times.soft_passed())
    }

    fn log(&mut self, level: context::Level, message: String) -> wasmtime::Result<()> {
        self.count()?;
        let line = message
            .get(..message.floor_char_boundary(LOG_LINE))
            .unwrap_or_default();
        let (task, id) = match &self.call {
            Some(call) => (one_line(call.request.shown_name()), one_line(&call.request.id)),
            None => Default::default(),
        };
        // As much as the guest may print; what is more is dropped like what it prints.
        if !self.output().spend(line.len() + 1) {
            if !std::mem::replace(&mut self.log_is_full, true) {
                let limit = self.limits.output;
                tracing::warn!("{task}[{id}]: … log truncated (limit output: {limit} bytes)");
            }
            return Ok(());
        }
        let line = one_line(line);
        match level {
            context::Level::Debug => tracing::debug!("{task}[{id}]: {line}"),
            context::Level::Info => tracing::info!("{task}[{id}]: {line}"),
            context::Level::Warning => tracing::warn!("{task}[{id}]: {line}"),
            context::Level::Error => tracing::error!("{task}[{id}]: {line}"),
        }
        Ok(())
    }
}

impl Guest {
    fn check_state(&mut self, state: &str, meta: String) -> Result<(State, Box<RawValue>), types::Error> {
        let state = State::custom(state).ok_or_else(|| {
            let state = safe(
                state
                    .get(..state.floor_char_boundary(64))
                    .unwrap_or_default()
                    .as_bytes(),
            );
            types::Error::Invalid(format!("state: {state:?} is not a name that a task may store"))
        })?;
        if meta.len() > self.limits.state_bytes {
            return Err(types::Error::LimitExceeded(format!(
                "meta: {} bytes are more than {} (limits.state_bytes)",
                meta.len(),
                self.limits.state_bytes
            )));
        }
        json::check(&meta, self.limits.depth).map_err(|fault| match fault {
            json::Fault::Malformed(reason) => types::Error::Invalid(format!("meta: not JSON: {reason}")),
            json::Fault::Deep => types::Error::LimitExceeded(format!(
                "meta: nested deeper than {} (limits.depth)",
                self.limits.depth
            )),
        })?;
        self.state_updates += 1;
        if self.state_updates > self.limits.state_updates {
            return Err(types::Error::LimitExceeded(format!(
                "more than {} states (limits.state_updates)",
                self.limits.state_updates
            )));
        }
        let meta =
            RawValue::from_string(meta).map_err(|error| types::Error::Invalid(format!("meta: {error}")))?;
        Ok((state, meta))
    }

    fn accept_retry(&mut self, options: context::RetryOptions) -> Result<(), context::RetryError> {
        let other = |error| Err(context::RetryError::Other(error));
        let Some(call) = &self.call else {
            return other(no_request());
        };
        let size = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        if size(&options.args) + size(&options.kwargs) + size(&options.options) > self.limits.arguments {
            return other(types::Error::LimitExceeded(format!(
                "args, kwargs: more than {} bytes (limits.arguments)",
                self.limits.arguments
            )));
        }
        let asked = Asked {
            args: options.args,
            kwargs: options.kwargs,
            countdown: options.countdown,
            eta: options.eta,
            expires: options.expires,
            max_retries: options.max_retries.map(retry_limit),
            exc: options
                .exc
                .map(|failure| fault::failure(failure, &self.limits, &call.nameable)),
            options: options.options,
        };
        match retry::accept(&call.request, &call.definition, asked) {
            Ok(retry) => {
                self.retry = Some(retry);
                Ok(())
            }
            Err(Refusal::MaxRetriesExceeded(failure)) => {
                Err(context::RetryError::MaxRetriesExceeded(wit_failure(failure)))
            }
            Err(Refusal::Invalid(reason)) => other(types::Error::Invalid(reason)),
            Err(Refusal::NotSupported(reason)) => other(types::Error::NotSupported(reason)),
        }
    }
}

pub(super) fn retry_limit(limit: types::RetryLimit) -> RetryLimit {
    match limit {
        types::RetryLimit::Unlimited => RetryLimit::Unlimited,
        types::RetryLimit::AtMost(n) => RetryLimit::AtMost(n),
    }
}

fn wit_failure(failure: Failure) -> types::Failure {
    types::Failure {
        exc_type: failure.exc_type,
        exc_module: failure.exc_module,
        exc_args: Value::Array(failure.exc_args).to_string(),
        traceback: failure.traceback,
    }
}

/// The request as the guest sees it.
fn request(call: &Call) -> context::Request {
    let request = &call.request;
    let body = &request.body;
    let text = |raw: &Option<Box<RawValue>>| raw.as_ref().map(|raw| raw.get().to_owned());
    let seconds = |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64());
    context::Request {
        id: request.id.clone(),
        task: request.task.clone(),
        shadow: request.shadow.clone(),
        retries: request.retries,
        eta: request.eta.map(format_time),
        expires: request.expires.map(format_time),
        time_limit: seconds(call.time_limit),
        soft_time_limit: seconds(call.soft_time_limit),
        root_id: request.root_id.clone(),
        parent_id: request.parent_id.clone(),
        group: request.group.clone(),
        group_index: request.group_index,
        origin: request.origin.clone(),
        reply_to: request.message.properties.reply_to.clone(),
        correlation_id: request.message.properties.correlation_id.clone(),
        hostname: call.hostname.to_string(),
        delivery_info: context::DeliveryInfo {
            exchange: request.route.exchange.clone(),
            routing_key: request.route.routing_key.clone(),
            priority: request.message.properties.priority,
            redelivered: request.redelivered,
        },
        callbacks: text(&body.callbacks),
        errbacks: text(&body.errbacks),
        chain: text(&body.chain),
        chord: text(&body.chord),
        ignore_result: call.ignore_result,
        replaced_task_nesting: request.replaced_task_nesting,
        stamped_headers: request.stamped_headers.clone(),
        stamps: Value::Object(request.stamps()).to_string(),
        headers: Value::Object(request.custom_headers()).to_string(),
        properties: Value::Object(properties_to_json(&request.message.properties)).to_string(),
        args: body.args.get().to_owned(),
        kwargs: body.kwargs.get().to_owned(),
    }
}

impl publisher::Host for Guest {
    fn apply(
        &mut self,
        _signature: String,
        _args: String,
        _kwargs: String,
        _options: String,
    ) -> wasmtime::Result<Result<String, types::Error>> {
        self.not_built("publisher.apply: sending tasks from a task")
            .map(Err)
    }

    fn publish(&mut self, _message: publisher::Message) -> wasmtime::Result<Result<(), types::Error>> {
        self.not_built("publisher.publish: sending messages from a task")
            .map(Err)
    }

    fn replace(&mut self, _signature: String) -> wasmtime::Result<Result<(), types::Error>> {
        self.not_built("publisher.replace: replacing a task").map(Err)
    }

    fn add_to_chord(&mut self, _signature: String) -> wasmtime::Result<Result<String, types::Error>> {
        self.not_built("publisher.add-to-chord: adding to a chord")
            .map(Err)
    }
}

impl results::Host for Guest {
    fn get(&mut self, _task_id: String) -> wasmtime::Result<Result<Option<String>, types::Error>> {
        self.not_built("results.get: reading a result").map(Err)
    }

    fn store(
        &mut self,
        _task_id: String,
        _state: String,
        _value: String,
        _traceback: Option<String>,
    ) -> wasmtime::Result<Result<(), types::Error>> {
        self.not_built("results.store: storing a result").map(Err)
    }

    fn forget(&mut self, _task_id: String) -> wasmtime::Result<Result<(), types::Error>> {
        self.not_built("results.forget: forgetting a result").map(Err)
    }

    fn save_group(
        &mut self,
        _group_id: String,
        _tuple: String,
    ) -> wasmtime::Result<Result<(), types::Error>> {
        self.not_built("results.save-group: saving a group").map(Err)
    }

    fn restore_group(&mut self, _group_id: String) -> wasmtime::Result<Result<Option<String>, types::Error>> {
        self.not_built("results.restore-group: restoring a group")
            .map(Err)
    }

    fn set_chord_size(
        &mut self,
        _group_id: String,
        _size: u32,
    ) -> wasmtime::Result<Result<(), types::Error>> {
        self.not_built("results.set-chord-size: counting a chord")
            .map(Err)
    }
}
