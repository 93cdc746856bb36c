//! The settings of a worker's execution, as values.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::canvas;
use crate::outcome::Nameable;
use crate::policy::admit::Defaults;
use crate::policy::autoscale::Autoscale;
use crate::policy::publish::RetryPolicy;
use crate::policy::rate::Rate;
use crate::queue::{Queues, Rules};

/// How much of what a bounded memory of ids keeps (contract sections 3.8 and 3.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How many ids.
    pub most: usize,
    /// For how long.
    pub expires: Duration,
}

/// Celery's three hours.
const EXPIRES: Duration = Duration::from_secs(10_800);

/// What [`Execution::new`](super::Execution::new) takes; the default is Celery's.
#[derive(Debug, Clone)]
pub struct Options {
    /// Node name.
    pub hostname: Arc<str>,
    /// The worker's settings for its tasks.
    pub defaults: Defaults,
    /// `task_publish_retry_policy`: how long a message that a task sends waits for a broker that is away.
    pub publish_retry: RetryPolicy,
    /// What holds for everything that is sent; the tasks' own options are added to it.
    pub canvas: canvas::Defaults,
    /// `result_chord_join_timeout`; `None`: no limit.
    pub chord_join_timeout: Option<Duration>,
    /// `result_extended`.
    pub result_extended: bool,
    /// Which exceptions tasks may name (`allowed_exceptions`).
    pub nameable: Arc<Nameable>,
    /// How many tasks may run at the same time; without `autoscale` this stays so.
    pub concurrency: u32,
    /// `worker_max_concurrency`: how many slots remote control may make of them.
    pub most_slots: u32,
    /// `--autoscale`.
    pub autoscale: Option<Autoscale>,
    /// `worker_prefetch_multiplier`; 0: no limit.
    pub prefetch_multiplier: u32,
    /// `worker_eta_task_limit`.
    pub eta_task_limit: Option<u32>,
    /// `worker_disable_prefetch`.
    pub disable_prefetch: bool,
    /// `worker_enable_prefetch_count_reduction`.
    pub prefetch_reduction: bool,
    /// `task_default_rate_limit`.
    pub rate_limit: Option<Rate>,
    /// `worker_disable_rate_limits`.
    pub disable_rate_limits: bool,
    /// `worker_deduplicate_successful_tasks`.
    pub deduplicate: bool,
    /// `worker_cancel_long_running_tasks_on_connection_loss`.
    pub cancel_on_connection_loss: bool,
    /// `worker_enable_soft_shutdown_on_idle`.
    pub soft_shutdown_on_idle: bool,
    /// Every queue of the settings, and the rules for those that are made on demand.
    pub queues: Queues,
    /// `worker_state_db`.
    pub state_db: Option<PathBuf>,
    /// `CELERY_WORKER_REVOKES_MAX`, `CELERY_WORKER_REVOKE_EXPIRES`.
    pub revokes: Bounds,
    /// `CELERY_WORKER_SUCCESSFUL_MAX`, `CELERY_WORKER_SUCCESSFUL_EXPIRES`.
    pub successful: Bounds,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hostname: "celery@localhost".into(),
            defaults: Defaults::default(),
            publish_retry: RetryPolicy::default(),
            canvas: canvas::Defaults::default(),
            chord_join_timeout: Some(Duration::from_secs(3)),
            result_extended: false,
            nameable: Arc::default(),
            concurrency: 1,
            most_slots: 32,
            autoscale: None,
            prefetch_multiplier: 4,
            eta_task_limit: None,
            disable_prefetch: false,
            prefetch_reduction: true,
            rate_limit: None,
            disable_rate_limits: false,
            deduplicate: false,
            cancel_on_connection_loss: false,
            soft_shutdown_on_idle: false,
            queues: Queues::new(Rules::default(), Vec::new()),
            state_db: None,
            revokes: Bounds {
                most: 50_000,
                expires: EXPIRES,
            },
            successful: Bounds {
                most: 1000,
                expires: EXPIRES,
            },
        }
    }
}
