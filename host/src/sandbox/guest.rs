//! What the worker knows about one run, and the functions of `celerybox:task` that the guest calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;
use wasmtime::UpdateDeadline;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock};
use wasmtime_wasi::sockets::WasiSocketsCtxView;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder};

use super::bindings::celerybox::task::{context, publisher, results, types};
use super::errand::{Errand, ErrandError, RawMessage};
use super::limiter::{Refused, Usage};
use super::network::{Asked as AskedNames, Lookup, Network};
use super::output::{Output, Pipe, Stream, one_line, safe};
use super::turn::Turn;
use super::{Call, Granted, Limits, fault, json};
use crate::message::envelope::properties_to_json;
use crate::message::request::format_time;
use crate::outcome::{Failure, Nameable, Retry, State};
use crate::policy::retry::{self, Asked, Refusal};
use crate::task::RetryLimit;

/// The longest log line of a guest, bytes.
const LOG_LINE: usize = 8 * 1024;
/// The limits that a guest is told of while it runs.
const TOLD: [&str; 6] = [
    "messages",
    "message_bytes",
    "host_call_bytes",
    "state_bytes",
    "state_updates",
    "depth",
];
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
    /// The limits that answers told it of.
    told: Vec<&'static str>,
    pub(super) retry: Option<Retry>,
    /// Whether `replace` was accepted.
    pub(super) replaced: bool,
    granted: Option<Arc<Granted>>,
    network: Option<Arc<Network>>,
    names: AskedNames,
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

    pub(super) fn soft_passed(&self) -> bool {
        self.soft.is_some_and(|soft| Instant::now() >= soft)
    }
}

impl Guest {
    /// `granted`: nothing while a component declares its tasks, whatever it is granted later.
    pub(super) fn new(
        limits: Arc<Limits>,
        turn: Arc<Turn>,
        times: Times,
        call: Option<Call>,
        granted: Option<Arc<Granted>>,
    ) -> Self {
        let network = granted.as_ref().and_then(|granted| {
            let grants = &granted.grants;
            let open = || Network::new(&grants.component, &grants.network, granted.own.clone());
            (!grants.network.is_empty()).then(open)
        });
        let mut guest = Self {
            wasi: None,
            table: ResourceTable::new(),
            usage: Usage::new(&limits),
            limits,
            output: None,
            turn,
            times,
            call,
            host_calls: 0,
            state_updates: 0,
            log_is_full: false,
            told: Vec::new(),
            retry: None,
            replaced: false,
            granted,
            network,
            names: AskedNames::default(),
        };
        let (most, _) = guest.most_handles();
        guest.table.set_max_capacity(most);
        guest
    }

    /// How many handles of WASI may be open at once, and the limit that says so.
    pub(super) fn most_handles(&self) -> (usize, &'static str) {
        let Limits {
            handles, descriptors, ..
        } = *self.limits;
        let files = self
            .granted
            .as_ref()
            .is_some_and(|granted| !granted.grants.files.is_empty());
        if (files || self.network.is_some()) && descriptors < handles {
            (descriptors, "limits.descriptors")
        } else {
            (handles, "limits.handles")
        }
    }

    /// The limits that the run ran into so far, by the names of their settings.
    pub(super) fn limits_hit(&self) -> Vec<&'static str> {
        let mut hit = self.told.clone();
        if self.times.soft_passed() {
            hit.push("soft_time_limit");
        }
        match self.usage.refused() {
            Some(Refused::Memory) => hit.push("memory"),
            Some(Refused::Elements) => hit.push("table_elements"),
            None => {}
        }
        if self.log_is_full || self.output.as_ref().is_some_and(|output| output.is_truncated()) {
            hit.push("output");
        }
        hit
    }

    /// What a guest that computes hears at each tick: take turns, or stop.
    pub(super) fn tick(&self) -> UpdateDeadline {
        if self.times.hard.is_some_and(|hard| Instant::now() >= hard) {
            return UpdateDeadline::Interrupt;
        }
        UpdateDeadline::YieldCustom(1, Arc::clone(&self.turn).next())
    }

    /// WASI with what is granted to reach: by default no files, no environment, no network, and never arguments or stdin.
    pub(super) fn wasi(&mut self) -> (&mut WasiCtx, &mut ResourceTable) {
        if self.wasi.is_none() {
            self.wasi = Some(self.open());
        }
        (self.wasi.get_or_insert_default(), &mut self.table)
    }

    fn open(&mut self) -> WasiCtx {
        let output = self.output();
        let pipe = |stream| Pipe {
            output: Arc::clone(&output),
            stream,
        };
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(pipe(Stream::Stdout))
            .stderr(pipe(Stream::Stderr))
            .wall_clock(Coarse(self.times.started))
            .monotonic_clock(Coarse(self.times.started))
            .max_random_size(RANDOM)
            .allow_blocking_current_thread(false)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        if let Some(network) = &self.network {
            network.open(&mut wasi);
        }
        if let Some(granted) = &self.granted {
            wasi.envs(&granted.environment);
            for (path, folder) in &granted.grants.files {
                let perms = match folder.writable {
                    true => FsPerms::ReadWrite,
                    false => FsPerms::ReadOnly,
                };
                if let Err(error) = wasi.preopened_dir(&folder.path, path, perms) {
                    // It was there when the component was loaded.
                    tracing::error!("the folder {} cannot be opened: {error:#}", folder.path.display());
                }
            }
        }
        wasi.build()
    }

    /// The worker's resolver, for the names that are listed.
    pub(super) fn lookup(&mut self) -> Lookup<'_> {
        let network = self.network.clone();
        self.wasi();
        Lookup {
            view: WasiSocketsCtxView {
                ctx: self.wasi.get_or_insert_default().sockets(),
                table: &mut self.table,
            },
            network,
            asked: &mut self.names,
        }
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

    /// Hands an errand to the worker and waits for its answer; the hard limit ends the wait.
    async fn errand(&mut self, errand: Errand) -> wasmtime::Result<Result<Option<String>, types::Error>> {
        if let Err(error) = self.enter()? {
            return Ok(Err(error));
        }
        let Some(call) = &self.call else {
            return Ok(Err(no_request()));
        };
        let answer = (call.errands)(errand).await.map_err(ErrandError::into);
        Ok(self.noted(answer))
    }

    /// Remembers the limit that an answer tells the guest of; it goes on, and may have many such answers.
    fn noted<T>(&mut self, answer: Result<T, types::Error>) -> Result<T, types::Error> {
        if let Err(types::Error::LimitExceeded(text)) = &answer {
            let told = TOLD
                .iter()
                .find(|limit| text.ends_with(&format!("(limits.{limit})")));
            if let Some(limit) = told.filter(|limit| !self.told.contains(limit)) {
                self.told.push(limit);
            }
        }
        answer
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
        let checked = self.check_state(&state, meta);
        let meta = match self.noted(checked) {
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
                tracing::warn!(
                    task_name = task,
                    task_id = id,
                    "{task}[{id}]: … log truncated (limit output: {limit} bytes)"
                );
            }
            return Ok(());
        }
        let line = one_line(line);
        match level {
            context::Level::Debug => tracing::debug!(task_name = task, task_id = id, "{task}[{id}]: {line}"),
            context::Level::Info => tracing::info!(task_name = task, task_id = id, "{task}[{id}]: {line}"),
            context::Level::Warning => tracing::warn!(task_name = task, task_id = id, "{task}[{id}]: {line}"),
            context::Level::Error => tracing::error!(task_name = task, task_id = id, "{task}[{id}]: {line}"),
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

/// What the answer of an errand that has one is.
fn answer(done: Result<Option<String>, types::Error>) -> Result<String, types::Error> {
    done.map(Option::unwrap_or_default)
}

impl publisher::Host for Guest {
    async fn apply(
        &mut self,
        signature: String,
        args: String,
        kwargs: String,
        options: String,
    ) -> wasmtime::Result<Result<String, types::Error>> {
        let errand = Errand::Apply {
            signature,
            args,
            kwargs,
            options,
        };
        Ok(answer(self.errand(errand).await?))
    }

    async fn publish(&mut self, message: publisher::Message) -> wasmtime::Result<Result<(), types::Error>> {
        let message = RawMessage {
            exchange: message.exchange,
            routing_key: message.routing_key,
            headers: message.headers,
            properties: message.properties,
            content_type: message.content_type,
            content_encoding: message.content_encoding,
            body: message.body,
        };
        let done = self.errand(Errand::Publish(Box::new(message))).await?;
        Ok(done.map(drop))
    }

    async fn replace(&mut self, signature: String) -> wasmtime::Result<Result<(), types::Error>> {
        if self.replaced {
            let text = "the task is replaced already: end it with `replaced`";
            return Ok(Err(types::Error::Invalid(text.into())));
        }
        let done = self.errand(Errand::Replace { signature }).await?;
        self.replaced = done.is_ok();
        Ok(done.map(drop))
    }

    async fn add_to_chord(&mut self, signature: String) -> wasmtime::Result<Result<String, types::Error>> {
        Ok(answer(self.errand(Errand::AddToChord { signature }).await?))
    }
}

impl results::Host for Guest {
    async fn get(&mut self, task_id: String) -> wasmtime::Result<Result<Option<String>, types::Error>> {
        self.errand(Errand::GetResult { task_id }).await
    }

    async fn store(
        &mut self,
        task_id: String,
        state: String,
        value: String,
        traceback: Option<String>,
    ) -> wasmtime::Result<Result<(), types::Error>> {
        let errand = Errand::StoreResult {
            task_id,
            state,
            value,
            traceback,
        };
        Ok(self.errand(errand).await?.map(drop))
    }

    async fn forget(&mut self, task_id: String) -> wasmtime::Result<Result<(), types::Error>> {
        Ok(self.errand(Errand::Forget { task_id }).await?.map(drop))
    }

    async fn save_group(
        &mut self,
        group_id: String,
        tuple: String,
    ) -> wasmtime::Result<Result<(), types::Error>> {
        let errand = Errand::SaveGroup { group_id, tuple };
        Ok(self.errand(errand).await?.map(drop))
    }

    async fn restore_group(
        &mut self,
        group_id: String,
    ) -> wasmtime::Result<Result<Option<String>, types::Error>> {
        self.errand(Errand::RestoreGroup { group_id }).await
    }

    async fn set_chord_size(
        &mut self,
        group_id: String,
        size: u32,
    ) -> wasmtime::Result<Result<(), types::Error>> {
        let errand = Errand::SetChordSize { group_id, size };
        Ok(self.errand(errand).await?.map(drop))
    }
}
