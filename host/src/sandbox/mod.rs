//! The sandbox: each task runs in a fresh WebAssembly instance that owns nothing it was not granted and that cannot
//! outlive its limits. Only this module knows wasmtime.
//!
//! `load` makes a [`Component`] from a file, [`registry`] keeps all of them, [`Component::run`] runs one task.
//! The reasons for the settings are in `docs/sandbox-hardening.md`.

mod bindings;
mod cache;
mod engine;
mod errand;
mod fault;
mod guest;
mod json;
mod limiter;
mod limits;
mod link;
mod load;
mod network;
mod output;
pub mod registry;
mod run;
mod turn;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::Engine;
use wasmtime::component::Linker;

pub use errand::{Answer, Errand, ErrandError, Errands, RawMessage};
pub use limits::Limits;
pub use load::LoadError;
pub use run::{Call, Run, StateSink};

use crate::policy::grants::Grants;
use crate::policy::network::Servers;
use crate::task::Definition;
use bindings::CanvasTaskPre;
use cache::Cache;
use engine::Places;
use guest::Guest;

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The engine refuses its settings, or its pool gets no addresses.
    #[error(
        "cannot prepare {runs} sandboxes: {reason}\nEach reserves some GiB of addresses, not of memory: lower the \
         concurrency, or lift the limit on address space (ulimit -v) or on mappings (sysctl vm.max_map_count)"
    )]
    Engine {
        /// How many were asked for.
        runs: u32,
        /// What wasmtime says.
        reason: String,
    },
    /// The thread that interrupts endless loops cannot start; without it nothing runs.
    #[error("cannot start the thread that enforces time limits: {0}")]
    Ticker(std::io::Error),
}

/// Everything that components share: engine, linker, places. Cheap to clone. One per process.
#[derive(Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
    granting: Arc<Granting>,
}

/// What components are granted.
#[derive(Debug, Default)]
pub struct Granting {
    /// By the component's name.
    pub components: BTreeMap<String, Grants>,
    /// The worker's own broker and result backend: closed to components unless one of them lists the very address.
    pub own: Servers,
}

struct Inner {
    engine: Engine,
    linker: Linker<Guest>,
    limits: Arc<Limits>,
    /// One permit for each run that the pool has a place for.
    runs: Semaphore,
    /// One permit for each memory of the pool.
    memories: Semaphore,
    /// Who computes; see [`turn`].
    turns: Arc<Semaphore>,
    /// How many components are compiled at once.
    compiling: Semaphore,
    cache: Option<Cache>,
}

/// A place in the pool, given back when it is dropped.
struct Place<'a> {
    _run: Option<SemaphorePermit<'a>>,
    _memories: Option<SemaphorePermit<'a>>,
}

impl Sandbox {
    /// Prepares for `concurrency` runs at once. `cache` is the folder for compiled code; a folder that is not safe
    /// is not used, which is logged.
    pub fn new(limits: Limits, concurrency: u32, cache: Option<PathBuf>) -> Result<Self, SandboxError> {
        let places = Places::new(&limits, concurrency);
        let engine = engine::engine(&limits, places)?;
        let linker = link::linker(&engine).map_err(|error| SandboxError::Engine {
            runs: places.runs,
            reason: format!("{error:#}"),
        })?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            granting: Arc::default(),
            inner: Arc::new(Inner {
                engine,
                linker,
                limits: Arc::new(limits),
                runs: Semaphore::new(places.runs as usize),
                memories: Semaphore::new(places.memories as usize),
                turns: Arc::new(Semaphore::new(cores)),
                compiling: Semaphore::new(cores),
                cache: cache.and_then(|folder| open_cache(&folder)),
            }),
        })
    }

    /// The same sandbox, in which components get these grants when they are loaded.
    #[must_use]
    pub fn granting(mut self, granting: Granting) -> Self {
        self.granting = Arc::new(granting);
        self
    }

    /// The limits of a run.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// What is in use now; all zero when nothing runs.
    pub fn occupancy(&self) -> Occupancy {
        let metrics = self.inner.engine.pooling_allocator_metrics();
        metrics.map_or_else(Occupancy::default, |metrics| Occupancy {
            instances: metrics.core_instances(),
            memories: metrics.memories(),
            tables: metrics.tables(),
            stacks: metrics.stacks(),
        })
    }
}

fn open_cache(folder: &Path) -> Option<Cache> {
    match Cache::open(folder) {
        Ok(cache) => Some(cache),
        Err(error) => {
            tracing::warn!(
                "compiled components are not kept in {}: {error}",
                folder.display()
            );
            None
        }
    }
}

/// What runs take from the pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Core instances.
    pub instances: u64,
    /// Linear memories.
    pub memories: usize,
    /// Tables.
    pub tables: usize,
    /// Stacks.
    pub stacks: usize,
}

impl Inner {
    /// Waits for a place in the pool: a full one is back-pressure, never a failed task.
    async fn place(&self, memories: u32) -> Place<'_> {
        // The semaphores are never closed.
        Place {
            _run: self.runs.acquire().await.ok(),
            _memories: self.memories.acquire_many(memories).await.ok(),
        }
    }
}

/// A component that is ready to run. Share it in an `Arc`.
pub struct Component {
    sandbox: Arc<Inner>,
    path: PathBuf,
    name: String,
    digest: String,
    definitions: Vec<Arc<Definition>>,
    imports: Vec<String>,
    granted: Arc<Granted>,
    pre: CanvasTaskPre<Guest>,
    memories: u32,
}

/// What one component is granted, ready for its runs.
#[derive(Debug)]
struct Granted {
    grants: Arc<Grants>,
    /// The environment variables it sees.
    environment: Vec<(String, String)>,
    own: Servers,
}

impl Component {
    /// The name of its file without the ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of its file, in hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Its tasks.
    pub fn definitions(&self) -> &[Arc<Definition>] {
        &self.definitions
    }

    /// The limits of its runs.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.sandbox.limits
    }

    /// What it is granted.
    pub fn grants(&self) -> &Arc<Grants> {
        &self.granted.grants
    }

    /// The names of everything it imports.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component")
            .field("path", &self.path)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}
