//! `celerybox worker`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use tokio::sync::Semaphore;

use super::{Common, Connection};
use crate::config::Settings;
use crate::config::connect::{self, Folders};
use crate::execution::{Execution, Prefetch};
use crate::masked::masked;
use crate::queue::Queue;
use crate::sandbox::registry::Registry;
use crate::shutdown::Shutdown;
use crate::worker::{self, Ended};

/// Take tasks from a broker and run each in a sandbox of its own.
///
/// Without --broker it works in a folder, and prints what a Python client needs to reach it.
#[derive(Args)]
#[command(after_help = "\
Examples:
  celerybox worker --tasks tasks/
  celerybox worker --tasks tasks/ -b redis://localhost --result-backend redis://localhost -c 8 -Q celery,mail
  celerybox worker --tasks report.wasm -b amqp://guest:guest@localhost// --result-backend rpc:// --time-limit 30

Signals: TERM or INT lets running tasks finish, QUIT or a second INT ends them.")]
pub(super) struct Worker {
    #[command(flatten)]
    common: Common,

    #[command(flatten)]
    connection: Connection,

    #[command(flatten)]
    serving: Serving,

    /// Queues to take tasks from, separated by commas [default: celery]
    #[arg(short = 'Q', long, value_name = "QUEUES", value_delimiter = ',')]
    queues: Vec<String>,

    /// Node name; %h is the host with its domain, %n the host's name, %d its domain
    #[arg(short = 'n', long, value_name = "NAME", default_value = "celery@%h")]
    hostname: String,
}

/// What a worker serves, and how: `worker` and `check` take these.
#[derive(Args)]
pub(super) struct Serving {
    /// A component, or a folder of components; may be given several times
    #[arg(short = 't', long, value_name = "PATH")]
    tasks: Vec<PathBuf>,

    /// Tasks that run at the same time [default: one for each processor]
    #[arg(short, long, value_name = "N")]
    concurrency: Option<u32>,

    /// Messages held for each running task; 0: no limit
    #[arg(long, value_name = "N")]
    prefetch_multiplier: Option<u32>,

    /// Hard time limit of a task, seconds
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<f64>,

    /// Soft time limit of a task, seconds
    #[arg(long, value_name = "SECONDS")]
    soft_time_limit: Option<f64>,
}

impl Serving {
    pub(super) fn apply(&self, settings: &mut Settings) -> anyhow::Result<()> {
        if !self.tasks.is_empty() {
            settings.tasks = self.tasks.clone();
        }
        settings.worker_concurrency = self.concurrency.or(settings.worker_concurrency);
        settings.worker_prefetch_multiplier = self
            .prefetch_multiplier
            .unwrap_or(settings.worker_prefetch_multiplier);
        settings.task_time_limit = self.time_limit.or(settings.task_time_limit);
        settings.task_soft_time_limit = self.soft_time_limit.or(settings.task_soft_time_limit);
        settings.validate()?;
        anyhow::ensure!(
            !settings.tasks.is_empty(),
            "no tasks: name a component or a folder of components with --tasks, for example --tasks tasks/"
        );
        Ok(())
    }
}

impl Worker {
    pub(super) async fn main(self) -> anyhow::Result<ExitCode> {
        let mut settings = self.common.settings()?;
        self.connection.apply(&mut settings);
        self.serving.apply(&mut settings)?;
        let hostname: Arc<str> = node_name(&self.hostname).into();
        let queues = settings.consumed(&self.queues, &[], &hostname)?;
        let shutdown = Shutdown::default();
        shutdown.follow_signals().context("cannot follow signals")?;
        let broker = connect::broker(&settings)?;
        let backend = connect::backend(&settings, &broker)?;
        let registry = super::load(&settings, settings.concurrency()).await?;
        anyhow::ensure!(
            registry.names().next().is_some(),
            "no component could be loaded; `celerybox check` says why"
        );
        banner(&settings, &hostname, &queues, &registry);
        let execution = Arc::new(Execution {
            registry,
            broker,
            backend,
            publish_retry: settings.publish_retry(),
            defaults: settings.task_defaults(),
            hostname: Arc::clone(&hostname),
            result_extended: settings.result_extended,
            slots: Arc::new(Semaphore::new(settings.concurrency() as usize)),
            prefetch: Prefetch::new(settings.prefetch(), settings.worker_eta_task_limit),
            shutdown,
        });
        let ended = worker::run(execution, &queues, || eprintln!("{hostname} ready.")).await?;
        Ok(match ended {
            Ended::Warm => ExitCode::SUCCESS,
            Ended::Cold => ExitCode::FAILURE,
        })
    }
}

/// Fills Celery's `%h`, `%n`, `%d` in a node name; a name without `@` gets the host.
fn node_name(pattern: &str) -> String {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().into_owned();
    let (name, domain) = host.split_once('.').unwrap_or((&host, ""));
    let filled = pattern
        .replace("%h", &host)
        .replace("%n", name)
        .replace("%d", domain);
    if filled.contains('@') {
        filled
    } else {
        format!("{filled}@{host}")
    }
}

/// What the worker is about to do, for the person who started it.
fn banner(settings: &Settings, hostname: &str, queues: &[Queue], registry: &Registry) {
    let broker = settings
        .broker_url
        .as_ref()
        .map_or("the folder below".into(), |urls| masked(&urls.to_string()));
    let results = match (&settings.result_backend, &settings.broker_url) {
        (Some(url), _) => masked(url),
        (None, None) => "the folder below".into(),
        (None, Some(_)) => "disabled://".into(),
    };
    eprintln!("\n -- {hostname} celerybox {}", env!("CARGO_PKG_VERSION"));
    eprintln!("  > transport:   {broker}");
    eprintln!("  > results:     {results}");
    eprintln!("  > concurrency: {} (sandboxes)", settings.concurrency());
    let queues: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
    eprintln!("  > queues:      {}", queues.join(", "));
    eprintln!("\n[tasks]");
    for name in registry.names() {
        eprintln!("  . {name}");
    }
    if settings.broker_url.is_none()
        && let Ok(folders) = Folders::of(&settings.data_dir)
    {
        eprintln!(
            "\nA Python client reaches this worker with\n{}",
            python_client(&folders, settings)
        );
    }
    eprintln!();
}

/// The two lines that connect a Python client to the embedded default.
fn python_client(folders: &Folders, settings: &Settings) -> String {
    let Folders {
        queue,
        control,
        results,
    } = folders;
    let text = |path: &std::path::Path| crate::message::repr::value(&path.to_string_lossy().into());
    let backend = match &settings.result_backend {
        Some(url) => crate::message::repr::value(&masked(url).into()),
        None => crate::message::repr::value(&format!("file://{}", results.display()).into()),
    };
    format!(
        "  app = Celery(broker='filesystem://', backend={backend})\n  app.conf.broker_transport_options = \
         {{'data_folder_in': {queue}, 'data_folder_out': {queue}, 'control_folder': {control}}}",
        queue = text(queue),
        control = text(control),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_always_has_a_host() {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        assert_eq!(node_name("w1"), format!("w1@{host}"));
        assert_eq!(node_name("w1@%h"), format!("w1@{host}"));
        assert_eq!(node_name("w1@elsewhere"), "w1@elsewhere");
    }
}
