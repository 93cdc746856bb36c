//! The tasks of this worker, as they change while it runs: their limits (contract section 6.3, `time_limit` and
//! `rate_limit`), and all of them when the components are loaded again (`pool_restart`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use futures_util::future::BoxFuture;

use crate::canvas;
use crate::sandbox::Component;
use crate::sandbox::registry::{Code, Registry};
use crate::task::Definition;

/// Loads the components again.
pub type Load = Box<dyn Fn() -> BoxFuture<'static, Registry> + Send + Sync>;

/// The tasks as they are now.
pub struct Tasks {
    current: RwLock<Current>,
    /// What was changed of single tasks; it stays when they are loaded again.
    changes: Mutex<BTreeMap<String, Changes>>,
    load: OnceLock<Load>,
    loading: tokio::sync::Mutex<()>,
}

struct Current {
    registry: Arc<Registry>,
    canvas: Arc<canvas::Defaults>,
}

#[derive(Debug, Clone, Default)]
struct Changes {
    rate_limit: Option<String>,
    /// Soft and hard, seconds.
    time_limits: Option<(Option<f64>, Option<f64>)>,
}

impl Changes {
    fn apply(&self, definition: &mut Definition) {
        if let Some(rate_limit) = &self.rate_limit {
            definition.rate_limit = Some(rate_limit.clone());
        }
        if let Some((soft, hard)) = self.time_limits {
            (definition.soft_time_limit, definition.time_limit) = (soft, hard);
        }
    }
}

impl Tasks {
    /// These tasks; `canvas` learns of their options.
    pub(super) fn new(registry: Registry, canvas: &canvas::Defaults) -> Self {
        Self {
            current: RwLock::new(Current::new(registry, canvas)),
            changes: Mutex::default(),
            load: OnceLock::new(),
            loading: tokio::sync::Mutex::default(),
        }
    }

    /// All of them.
    pub fn registry(&self) -> Arc<Registry> {
        self.current(|current| Arc::clone(&current.registry))
    }

    /// What holds for everything that is sent.
    pub fn canvas(&self) -> Arc<canvas::Defaults> {
        self.current(|current| Arc::clone(&current.canvas))
    }

    /// What runs a task, and its options.
    pub fn find(&self, task: &str) -> Option<(Code, Arc<Definition>)> {
        self.current(|current| current.registry.find(task))
    }

    /// The component that has a task.
    pub fn get(&self, task: &str) -> Option<(Arc<Component>, Arc<Definition>)> {
        self.current(|current| current.registry.get(task))
    }

    /// Changes the time limits of a task, seconds. False when there is no such task.
    pub fn set_time_limits(&self, task: &str, soft: Option<f64>, hard: Option<f64>) -> bool {
        self.change(task, |changes| changes.time_limits = Some((soft, hard)))
    }

    /// Changes what is shown of a task's rate limit. False when there is no such task.
    pub(super) fn set_rate_limit(&self, task: &str, text: &str) -> bool {
        self.change(task, |changes| changes.rate_limit = Some(text.to_owned()))
    }

    /// How to load the components again.
    pub fn reload_with(&self, load: Load) {
        // There is one who says so.
        let _ = self.load.set(load);
    }

    /// Loads the components again. What runs goes on with the one that it has. A component that is broken now stays as
    /// it was. One reload at a time: false, and nothing else, while another one goes on.
    pub(super) async fn reload(&self) -> bool {
        let (Ok(_alone), Some(load)) = (self.loading.try_lock(), self.load.get()) else {
            return false;
        };
        let mut registry = load().await;
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        registry.keep_broken(&self.registry());
        registry.annotate(|definition| {
            let mut definition = definition.clone();
            if let Some(changes) = changes.get(&definition.name) {
                changes.apply(&mut definition);
            }
            definition
        });
        self.replace(registry);
        true
    }

    fn change(&self, task: &str, change: impl FnOnce(&mut Changes)) -> bool {
        let mut all = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut registry = Registry::clone(&self.registry());
        if registry.find(task).is_none() {
            return false;
        }
        let changes = all.entry(task.to_owned()).or_default();
        change(changes);
        registry.annotate_one(task, |definition| changes.apply(definition));
        self.replace(registry);
        true
    }

    fn replace(&self, registry: Registry) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Current::new(registry, &current.canvas);
    }

    fn current<T>(&self, look: impl FnOnce(&Current) -> T) -> T {
        look(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Current {
    fn new(registry: Registry, canvas: &canvas::Defaults) -> Self {
        let canvas = canvas::Defaults {
            definitions: Arc::new(registry.known()),
            ..canvas.clone()
        };
        Self {
            registry: Arc::new(registry),
            canvas: Arc::new(canvas),
        }
    }
}
