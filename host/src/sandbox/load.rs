//! From a file to a component that is ready to run: checks, compilation, and what it says about its tasks.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime::Trap;
use wasmtime_wasi::I32Exit;

use super::bindings::CanvasTaskPre;
use super::bindings::exports::celerybox::task::handler;
use super::guest::{Guest, Times, retry_limit};
use super::limiter::Refused;
use super::run::{Ended, supervise};
use super::turn::Turn;
use super::{Component, Granted, Inner, Limits, Sandbox, link};
use crate::outcome::is_class_name;
use crate::policy::grants::{Grants, Variable};
use crate::policy::rate::Rate;
use crate::task::{Autoretry, Definition};

/// How many tasks one component may have.
const MOST_TASKS: usize = 256;
/// How long a component may take to declare them; an interpreter on a busy machine needs some of it.
const DESCRIBE_TIME: Duration = Duration::from_secs(5);
/// What it may use for that, beside its memory.
const DESCRIBE_BYTES: usize = 256 * 1024;
const DESCRIBE_FUEL: u64 = 1_000_000_000;
/// The longest text of a definition, bytes.
const LONGEST_NAME: usize = 255;
const LONGEST_TEXT: usize = 4096;
/// How many exceptions a task may name for automatic retries.
const MOST_EXCEPTIONS: usize = 64;
/// The longest time of a definition, seconds: ten years.
const LONGEST_TIME: f64 = 10.0 * 365.0 * 24.0 * 3600.0;

/// Why a component does not serve. Each text completes "`file`: …".
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// Larger than `limits.component_size`.
    #[error("is larger than {0} bytes (limits.component_size)")]
    TooLarge(u64),
    /// Machine code, text, a core module or something else; the text says what.
    #[error("{0}")]
    NotAComponent(String),
    /// wasmtime does not accept it.
    #[error("is not a component this worker can run: {0}")]
    Invalid(String),
    /// It imports something that is not granted.
    #[error("imports {import}, which is not granted{}", .hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default())]
    Import {
        /// What it imports.
        import: String,
        /// What to write, where a setting grants it.
        hint: Option<String>,
    },
    /// A folder that it is granted cannot be opened.
    #[error("is granted the folder {}, which cannot be opened: {source}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It exports no `handler`, or not the right one.
    #[error("has no tasks: it does not export celerybox:task/handler@0.1.0 ({0})")]
    NoHandler(String),
    /// It needs more than a limit allows before it runs.
    #[error("needs more than a run may have: {0}")]
    Limit(String),
    /// It did not say what its tasks are.
    #[error("did not declare its tasks: {0}")]
    Undeclared(String),
    /// What it says about its tasks cannot be used.
    #[error("declares a task that cannot be served: {0}")]
    Definition(String),
    /// Another component has a task of that name.
    #[error("declares the task {task}, which {} declares too", .other.display())]
    Duplicate {
        /// The task.
        task: String,
        /// The component that serves it.
        other: PathBuf,
    },
    /// The worker's own fault.
    #[error("could not be loaded: {0}")]
    Host(String),
}

impl Sandbox {
    /// Reads, checks and compiles a component, and asks it for its tasks.
    pub async fn load(&self, path: &Path) -> Result<Component, LoadError> {
        let inner = Arc::clone(&self.inner);
        let path = path.to_owned();
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let granted = self.granted(&name)?;
        let compiling = inner.compiling.acquire().await;
        let compile = {
            let (inner, path, granted) = (Arc::clone(&inner), path.clone(), Arc::clone(&granted));
            move || compile(&inner, &path, &granted)
        };
        let compiled = tokio::task::spawn_blocking(compile)
            .await
            .map_err(|error| LoadError::Host(error.to_string()))??;
        drop(compiling);
        let definitions = describe(&inner, &compiled.pre, compiled.memories).await?;
        Ok(Component {
            sandbox: inner,
            path,
            name,
            digest: compiled.digest,
            definitions: definitions.into_iter().map(Arc::new).collect(),
            imports: compiled.imports,
            granted,
            pre: compiled.pre,
            memories: compiled.memories,
        })
    }
}

impl Sandbox {
    /// What a component is granted. Its folders have to be there now, so that a mistake shows at once.
    fn granted(&self, name: &str) -> Result<Arc<Granted>, LoadError> {
        let grants = self.granting.components.get(name).cloned();
        let grants = grants.unwrap_or_else(|| Grants::none(name));
        for folder in grants.files.values() {
            std::fs::read_dir(&folder.path).map_err(|source| LoadError::Folder {
                path: folder.path.clone(),
                source,
            })?;
        }
        let environment = grants.environment.iter().filter_map(|(variable, value)| {
            let text = match value {
                Variable::Text(text) => Some(text.clone()),
                Variable::Own => std::env::var(variable).ok(),
            };
            if text.is_none() {
                tracing::warn!("{name} is granted {variable}, which is not in the worker's environment");
            }
            Some((variable.clone(), text?))
        });
        Ok(Arc::new(Granted {
            environment: environment.collect(),
            own: self.granting.own.clone(),
            grants: Arc::new(grants),
        }))
    }
}

struct Compiled {
    pre: CanvasTaskPre<Guest>,
    digest: String,
    imports: Vec<String>,
    memories: u32,
}

fn compile(inner: &Inner, path: &Path, granted: &Granted) -> Result<Compiled, LoadError> {
    let bytes = read(path, inner.limits.component_size)?;
    check_kind(&bytes)?;
    let digest = format!("{:x}", Sha256::digest(&bytes));
    let invalid = |error: wasmtime::Error| LoadError::Invalid(format!("{error:#}"));
    let cached = inner
        .cache
        .as_ref()
        .and_then(|cache| cache.load(&inner.engine, &digest));
    let component = match cached {
        Some(component) => component,
        None => {
            let component = wasmtime::component::Component::from_binary(&inner.engine, &bytes);
            let component = component.map_err(|error| not_compiled(&error, &inner.limits))?;
            if let Some(cache) = &inner.cache {
                cache.save(&inner.engine, &digest, &component);
            }
            component
        }
    };
    let imports = link::imports(&inner.engine, &component);
    let grants = &granted.grants;
    if let Some(import) = imports.iter().find(|import| !link::is_granted(import, grants)) {
        return Err(LoadError::Import {
            import: import.clone(),
            hint: Grants::missing(&grants.component, import),
        });
    }
    let memories = check_needs(&component, &inner.limits)?;
    let mut linker = inner.linker.clone();
    let host = |error: wasmtime::Error| LoadError::Host(format!("{error:#}"));
    link::link_granted(&mut linker, grants).map_err(host)?;
    let pre = linker.instantiate_pre(&component).map_err(invalid)?;
    let pre = CanvasTaskPre::new(pre).map_err(|error| LoadError::NoHandler(format!("{error:#}")))?;
    Ok(Compiled {
        pre,
        digest,
        imports,
        memories,
    })
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, LoadError> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(LoadError::TooLarge(limit));
    }
    Ok(bytes)
}

/// Only a component in the binary format goes to the compiler: no text, no core module, and no machine code of
/// somebody else's.
fn check_kind(bytes: &[u8]) -> Result<(), LoadError> {
    let not = |text: &str| Err(LoadError::NotAComponent(text.into()));
    if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        return not("is compiled machine code, which is never loaded: give the component it was made from");
    }
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => {
            not("is a core module, not a component: build it for the target wasm32-wasip2")
        }
        Some([0, b'a', b's', b'm', _, 0, 1, 0]) => Ok(()),
        _ => not("is not a WebAssembly component"),
    }
}

/// Why wasmtime does not take a component. That it is too large for the pool, it tells in words only.
fn not_compiled(error: &wasmtime::Error, limits: &Limits) -> LoadError {
    let text = format!("{error:#}");
    let limit = [
        ("minimum byte size", format!("limits.memory: {}", limits.memory)),
        (
            "core module instances",
            format!("limits.instances: {}", limits.instances),
        ),
        ("linear memories", format!("limits.memories: {}", limits.memories)),
        (
            "minimum element",
            format!("limits.table_elements: {}", limits.table_elements),
        ),
        ("tables", format!("limits.tables: {}", limits.tables)),
    ]
    .into_iter()
    .find(|(says, _)| text.contains("pooling allocator") && text.contains(says));
    match limit {
        Some((_, limit)) => LoadError::Limit(format!("{} ({limit})", error.root_cause())),
        None => LoadError::Invalid(text),
    }
}

/// Refuses at once what could never start. Answers how many memories a run takes from the pool.
fn check_needs(component: &wasmtime::component::Component, limits: &Limits) -> Result<u32, LoadError> {
    let Some(needs) = component.resources_required() else {
        return Err(LoadError::Invalid("it imports core modules".into()));
    };
    let check = |needed: u64, limit: usize, name: &str| {
        if needed > limit as u64 {
            return Err(LoadError::Limit(format!("{needed} {name}, {limit} are allowed")));
        }
        Ok(())
    };
    let pages = needs.max_initial_memory_size.unwrap_or(0);
    check(
        pages.saturating_mul(65536),
        limits.memory,
        "bytes of memory (limits.memory)",
    )?;
    check(
        needs.num_memories.into(),
        limits.memories,
        "memories (limits.memories)",
    )?;
    check(needs.num_tables.into(), limits.tables, "tables (limits.tables)")?;
    let elements = needs.max_initial_table_size.unwrap_or(0);
    check(
        elements,
        limits.table_elements,
        "table elements (limits.table_elements)",
    )?;
    Ok(needs.num_memories)
}

/// Asks a component for its tasks. That is guest code too: it may loop, trap, grow or lie.
async fn describe(
    inner: &Arc<Inner>,
    pre: &CanvasTaskPre<Guest>,
    memories: u32,
) -> Result<Vec<Definition>, LoadError> {
    let limits = Arc::new(Limits {
        host_call_bytes: inner.limits.host_call_bytes.min(DESCRIBE_BYTES),
        host_calls: 1000,
        output: 4096,
        fuel: inner.limits.fuel.map(|_| DESCRIBE_FUEL),
        ..(*inner.limits).clone()
    });
    let _place = inner.place(memories).await;
    let times = Times::new(None, Some(DESCRIBE_TIME));
    let turn = Arc::new(Turn::new(Arc::clone(&inner.turns)));
    let guest = Guest::new(Arc::clone(&limits), Arc::clone(&turn), times, None, None);
    let mut store = inner
        .store(guest, &limits)
        .map_err(|error| LoadError::Host(format!("{error:#}")))?;
    let work = async {
        let instance = pre.instantiate_async(&mut store).await?;
        instance.celerybox_task_handler().call_tasks(&mut store).await
    };
    match supervise(work, times.hard, &turn).await {
        Ended::Done(Ok(definitions)) => check(definitions),
        Ended::Done(Err(error)) => Err(LoadError::Undeclared(why(&error, store.data(), &limits))),
        Ended::TimedOut => Err(LoadError::Undeclared(too_long())),
        Ended::Panicked(text) => Err(LoadError::Host(format!("the sandbox panicked: {text}"))),
    }
}

fn too_long() -> String {
    format!("it took longer than {} s", DESCRIBE_TIME.as_secs())
}

fn why(error: &wasmtime::Error, guest: &Guest, limits: &Limits) -> String {
    if error.downcast_ref() == Some(&Trap::Interrupt) {
        return too_long();
    }
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return format!("it called exit({code})");
    }
    if let Some(Refused::Memory) = guest.usage.refused() {
        return format!("it asked for more than {} bytes of memory", limits.memory);
    }
    let said = guest
        .output
        .as_ref()
        .map(|output| output.tail())
        .unwrap_or_default();
    match said.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => format!("{}: {line}", error.root_cause()),
        None => error.root_cause().to_string(),
    }
}

/// What a component says about its tasks, when it makes sense.
fn check(declared: Vec<handler::Definition>) -> Result<Vec<Definition>, LoadError> {
    if declared.is_empty() {
        return Err(LoadError::Definition("it has none".into()));
    }
    if declared.len() > MOST_TASKS {
        return Err(LoadError::Definition(format!(
            "it has {} tasks, {MOST_TASKS} are allowed",
            declared.len()
        )));
    }
    let mut names = HashSet::new();
    let mut definitions = Vec::with_capacity(declared.len());
    for definition in declared {
        check_one(&definition).map_err(LoadError::Definition)?;
        if !names.insert(definition.name.clone()) {
            return Err(LoadError::Definition(format!(
                "{} is declared twice",
                definition.name
            )));
        }
        definitions.push(convert(definition));
    }
    Ok(definitions)
}

fn check_one(definition: &handler::Definition) -> Result<(), String> {
    let name = &definition.name;
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(format!(
            "a name of {} bytes (1 to {LONGEST_NAME} are allowed)",
            name.len()
        ));
    }
    if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!(
            "{name:?}: a name has no spaces and no control characters"
        ));
    }
    if name.starts_with("celery.") {
        return Err(format!("{name}: names that start with celery. are Celery's own"));
    }
    let times = [
        ("default-retry-delay", definition.default_retry_delay),
        ("soft-time-limit", definition.soft_time_limit),
        ("time-limit", definition.time_limit),
        (
            "the countdown of autoretry",
            definition
                .autoretry
                .as_ref()
                .and_then(|autoretry| autoretry.countdown),
        ),
    ];
    for (option, seconds) in times {
        if seconds.is_some_and(|seconds| !(0.0..=LONGEST_TIME).contains(&seconds)) {
            return Err(format!("{name}: {option} is not a sensible number of seconds"));
        }
    }
    if definition.priority.is_some_and(|priority| priority > 9) {
        return Err(format!("{name}: priority is not within 0 and 9"));
    }
    if let Some(rate) = definition.rate_limit.as_deref()
        && Rate::parse(rate).is_none()
    {
        return Err(format!("{name}: rate-limit is not like 10/s, 100/m or 5/h"));
    }
    if let Some(autoretry) = &definition.autoretry {
        let names = || autoretry.retry_for.iter().chain(&autoretry.except_for);
        if names().count() > MOST_EXCEPTIONS || names().any(|name| !is_class_name(name)) {
            return Err(format!(
                "{name}: autoretry names something that is no exception, or more than {MOST_EXCEPTIONS} of them"
            ));
        }
    }
    let texts = [
        ("doc", &definition.doc),
        ("signature", &definition.signature),
        ("serializer", &definition.serializer),
        ("compression", &definition.compression),
    ];
    for (option, text) in texts {
        let text = text.as_deref().unwrap_or_default();
        if text.len() > LONGEST_TEXT || text.chars().any(|c| c.is_control() && c != '\n') {
            return Err(format!("{name}: {option} is too long or has control characters"));
        }
    }
    Ok(())
}

fn convert(declared: handler::Definition) -> Definition {
    Definition {
        name: declared.name,
        doc: declared.doc,
        signature: declared.signature,
        max_retries: declared.max_retries.map(retry_limit),
        default_retry_delay: declared.default_retry_delay,
        rate_limit: declared.rate_limit,
        // As in Python, a limit of 0 is none.
        soft_time_limit: declared.soft_time_limit.filter(|seconds| *seconds > 0.0),
        time_limit: declared.time_limit.filter(|seconds| *seconds > 0.0),
        acks_late: declared.acks_late,
        acks_on_failure: declared.acks_on_failure,
        acks_on_timeout: declared.acks_on_timeout,
        reject_on_worker_lost: declared.reject_on_worker_lost,
        retry_on_worker_lost: declared.retry_on_worker_lost,
        ignore_result: declared.ignore_result,
        store_errors_even_if_ignored: declared.store_errors_even_if_ignored,
        track_started: declared.track_started,
        trail: declared.trail,
        send_events: declared.send_events,
        serializer: declared.serializer,
        compression: declared.compression,
        priority: declared.priority,
        errback: declared.errback,
        autoretry: declared.autoretry.map(|declared| Autoretry {
            retry_for: declared.retry_for,
            except_for: declared.except_for,
            backoff: declared.backoff.filter(|factor| *factor > 0),
            backoff_max: declared.backoff_max,
            jitter: declared.jitter,
            countdown: declared.countdown,
            max_retries: declared.max_retries.map(retry_limit),
        }),
    }
}
