//! Options of `celery worker` that mean nothing here. They are accepted, so that a unit file goes on working, and
//! each says once why it does nothing.

use clap::Args;

/// Where these options stand in the help.
pub(super) const HEADING: &str = "Accepted and without effect";

/// Options without effect.
#[derive(Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct Inert {
    /// Scheduling of the pool: always fair
    #[arg(short = 'O', long, value_name = "PROFILE", value_parser = ["default", "fair"], env = "CELERY_WORKER_OPTIMIZATION", hide_env = true)]
    optimization: Option<String>,

    /// Implementation of the pool: always sandboxes
    #[arg(
        short = 'P',
        long,
        value_name = "POOL",
        env = "CELERY_WORKER_POOL",
        hide_env = true
    )]
    pool: Option<String>,

    /// Start method of processes: there are none
    #[arg(
        long,
        value_name = "METHOD",
        env = "CELERY_WORKER_POOL_START_METHOD",
        hide_env = true
    )]
    pool_start_method: Option<String>,

    /// Tasks of a process: each has a sandbox of its own
    #[arg(
        long,
        value_name = "N",
        env = "CELERY_WORKER_MAX_TASKS_PER_CHILD",
        hide_env = true
    )]
    max_tasks_per_child: Option<u32>,

    /// Memory of a process, KiB: the setting limits.memory bounds each sandbox
    #[arg(
        long,
        value_name = "KIB",
        env = "CELERY_WORKER_MAX_MEMORY_PER_CHILD",
        hide_env = true
    )]
    max_memory_per_child: Option<u64>,

    /// Python modules to import
    #[arg(
        short = 'I',
        long,
        value_name = "MODULES",
        env = "CELERY_WORKER_INCLUDE",
        hide_env = true
    )]
    include: Option<String>,

    /// Python executable
    #[arg(long, value_name = "FILE", env = "CELERY_WORKER_EXECUTABLE", hide_env = true)]
    executable: Option<String>,

    /// An embedded beat: run `celery beat` beside the worker
    #[arg(short = 'B', long)]
    beat: bool,

    /// Schedule of the embedded beat
    #[arg(
        short,
        long,
        alias = "schedule",
        value_name = "FILE",
        env = "CELERY_WORKER_SCHEDULE_FILENAME",
        hide_env = true
    )]
    schedule_filename: Option<String>,

    /// Scheduler of the embedded beat
    #[arg(long, value_name = "CLASS", env = "CELERY_WORKER_SCHEDULER", hide_env = true)]
    scheduler: Option<String>,
}

const PROCESSES: &str = "tasks run in sandboxes of this process, not in processes of a pool";
const BEAT: &str = "the scheduler is a program of its own: run `celery beat` beside the worker";

impl Inert {
    /// Says of each option that was given why it does nothing.
    pub(super) fn mention(&self) {
        for (name, why) in self.given() {
            tracing::warn!("{name} has no effect: {why}");
        }
    }

    fn given(&self) -> Vec<(&'static str, &'static str)> {
        let options = [
            (
                self.optimization.is_some(),
                "-O",
                "a task always goes to a free slot, as with -O fair",
            ),
            (self.pool.is_some(), "--pool", PROCESSES),
            (self.pool_start_method.is_some(), "--pool-start-method", PROCESSES),
            (
                self.max_tasks_per_child.is_some(),
                "--max-tasks-per-child",
                "every task has a fresh sandbox of its own",
            ),
            (
                self.max_memory_per_child.is_some(),
                "--max-memory-per-child",
                "every sandbox has its own limit, the setting limits.memory",
            ),
            (
                self.include.is_some(),
                "--include",
                "tasks come from components (--tasks)",
            ),
            (self.executable.is_some(), "--executable", "no Python is started"),
            (self.beat, "--beat", BEAT),
            (self.schedule_filename.is_some(), "--schedule-filename", BEAT),
            (self.scheduler.is_some(), "--scheduler", BEAT),
        ];
        let given = options.into_iter().filter(|(given, ..)| *given);
        given.map(|(_, name, why)| (name, why)).collect()
    }
}
