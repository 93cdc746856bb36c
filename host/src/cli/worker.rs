//! `celerybox worker`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::daemon::Daemon;
use super::global::Global;
use super::inert::Inert;
use super::log;
use super::telling::Telling;
use super::watch::{Watch, Watching};
use crate::broker::Broker;
use crate::config::Settings;
use crate::config::connect::{self, Folders};
use crate::control::Mailbox;
use crate::execution::active::Active;
use crate::execution::{Execution, Listeners};
use crate::masked::masked;
use crate::policy::annotate::annotate;
use crate::policy::autoscale::{Autoscale, KEEPALIVE};
use crate::queue::Queue;
use crate::sandbox::Sandbox;
use crate::sandbox::registry::Registry;
use crate::shutdown::{Shutdown, Stage, exec_again};
use crate::worker::{self, Ended};

/// How long the worker waits for its mailbox before it works without.
const MAILBOX_PATIENCE: Duration = Duration::from_secs(5);

/// Take tasks from a broker and run each in a sandbox of its own.
///
/// Without --broker it works in a folder, and prints what a Python client needs to reach it.
#[derive(Args)]
#[command(after_help = "\
Examples:
  celerybox worker --tasks tasks/
  celerybox worker --tasks tasks/ -b redis://localhost --result-backend redis://localhost -c 8 -Q celery,mail
  celerybox worker --tasks report.wasm -b amqp://guest:guest@localhost// --result-backend rpc:// --time-limit 30

All options of `celery worker` are accepted, and each can be set by an environment variable as well:
CELERY_WORKER_ and its name, for example CELERY_WORKER_CONCURRENCY=8.

Signals: TERM or INT lets running tasks finish, QUIT or a second INT ends them.")]
pub(super) struct Worker {
    #[command(flatten)]
    serving: Serving,

    /// Queues to take tasks from, separated by commas [default: all of task_queues, else celery]
    #[arg(
        short = 'Q',
        long,
        value_name = "QUEUES",
        value_delimiter = ',',
        env = "CELERY_WORKER_QUEUES",
        hide_env = true
    )]
    queues: Vec<String>,

    /// Queues not to take tasks from, separated by commas
    #[arg(
        short = 'X',
        long,
        value_name = "QUEUES",
        value_delimiter = ',',
        env = "CELERY_WORKER_EXCLUDE_QUEUES",
        hide_env = true
    )]
    exclude_queues: Vec<String>,

    /// Node name; %h is the host with its domain, %n the host's name, %d its domain
    #[arg(
        short = 'n',
        long,
        value_name = "NAME",
        default_value = "celery@%h",
        env = "CELERY_WORKER_HOSTNAME",
        hide_env = true
    )]
    hostname: String,

    /// Throw away all messages of the queues before the start
    #[arg(long, alias = "discard")]
    purge: bool,

    #[command(flatten)]
    watching: Watching,

    #[command(flatten)]
    telling: Telling,

    #[command(flatten)]
    daemon: Daemon,

    #[command(flatten)]
    inert: Inert,
}

/// What a worker serves, and how: `worker` and `check` take these.
#[derive(Args)]
pub(super) struct Serving {
    /// A component, or a folder of components; may be given several times
    #[arg(short = 't', long, value_name = "PATH")]
    tasks: Vec<PathBuf>,

    /// Tasks that run at the same time; `auto` or 0: one for each processor, which is also the default
    #[arg(short, long, value_name = "N", value_parser = concurrency, env = "CELERY_WORKER_CONCURRENCY", hide_env = true)]
    concurrency: Option<u32>,

    /// Tasks that run at the same time, between two numbers, as there is work: MAX,MIN
    #[arg(long, value_name = "MAX,MIN", value_parser = autoscale, env = "CELERY_WORKER_AUTOSCALE", hide_env = true)]
    autoscale: Option<String>,

    /// Messages held for each running task; 0: no limit
    #[arg(
        long,
        value_name = "N",
        env = "CELERY_WORKER_PREFETCH_MULTIPLIER",
        hide_env = true
    )]
    prefetch_multiplier: Option<u32>,

    /// Take no message before a task can run (Redis)
    #[arg(long)]
    disable_prefetch: bool,

    /// Hard time limit of a task, seconds
    #[arg(
        long,
        value_name = "SECONDS",
        env = "CELERY_WORKER_TIME_LIMIT",
        hide_env = true
    )]
    time_limit: Option<f64>,

    /// Soft time limit of a task, seconds
    #[arg(
        long,
        value_name = "SECONDS",
        env = "CELERY_WORKER_SOFT_TIME_LIMIT",
        hide_env = true
    )]
    soft_time_limit: Option<f64>,

    /// File that keeps revoked ids between runs
    #[arg(
        short = 'S',
        long,
        value_name = "FILE",
        env = "CELERY_WORKER_STATEDB",
        hide_env = true
    )]
    statedb: Option<PathBuf>,
}

fn autoscale(text: &str) -> Result<String, String> {
    Autoscale::parse(text, KEEPALIVE).map(|_| text.to_owned())
}

/// `auto` and 0 stand for one task for each processor, as in Celery.
fn concurrency(text: &str) -> Result<u32, String> {
    match (text, text.parse()) {
        ("auto", _) => Ok(0),
        (_, Ok(number)) => Ok(number),
        (_, Err(_)) => Err("expected a number or 'auto'".into()),
    }
}

impl Serving {
    pub(super) fn apply(&self, settings: &mut Settings) -> anyhow::Result<()> {
        if !self.tasks.is_empty() {
            settings.tasks = self.tasks.clone();
        }
        settings.worker_concurrency = match self.concurrency {
            Some(0) => None,
            given => given.or(settings.worker_concurrency),
        };
        settings.worker_disable_prefetch |= self.disable_prefetch;
        settings.worker_state_db = self.statedb.clone().or_else(|| settings.worker_state_db.take());
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
    /// Becomes what the daemon options ask for. `Some` when this process is to end now.
    pub(super) fn become_daemon(&self) -> anyhow::Result<Option<ExitCode>> {
        self.daemon.become_one()
    }

    pub(super) async fn main(self, global: &Global) -> anyhow::Result<ExitCode> {
        let hostname = node_name(&self.hostname);
        let logfile = self.daemon.logfile(&hostname);
        log::start(
            global.loglevel,
            global.log_format,
            global.no_color,
            logfile.as_deref(),
        )?;
        let mut settings = global.settings()?;
        global.mention_inert();
        self.inert.mention();
        self.watching.apply(&mut settings);
        self.serving.apply(&mut settings)?;
        let _pidfile = match self.daemon.pidfile(&hostname)? {
            Ok(file) => file,
            Err(code) => return Ok(code),
        };
        let queues = settings.consumed(&self.queues, &self.exclude_queues, &hostname)?;
        let broker = connect::broker(&settings)?;
        let mut backend = connect::backend(&settings, &broker)?;
        let watch = Watch::start(&settings, &hostname, &mut backend).await?;
        let options = settings.execution(&hostname, self.serving.autoscale.as_deref(), backend.as_ref())?;
        let shutdown = Shutdown::default();
        let active = Arc::<Active>::default();
        let dump = {
            let active = Arc::clone(&active);
            move || dump(&active)
        };
        shutdown
            .follow_signals(settings.soft_shutdown(), dump)
            .context("cannot follow signals")?;
        if self.purge {
            for queue in &queues {
                let count = broker.purge(queue).await?;
                eprintln!("purge: Erased {count} messages from the queue {}.", queue.name);
            }
        }
        let sandbox = super::sandbox(&settings, options.most_slots)?;
        let registry = load(&settings, &sandbox).await;
        anyhow::ensure!(
            registry.names().next().is_some(),
            "no component could be loaded; `celerybox check` says why"
        );
        let for_programs = global.log_format == log::Format::Json;
        if !global.quiet && !for_programs {
            banner(&settings, &hostname, &queues, &registry);
        }
        let listeners = Listeners {
            events: self.telling.events(&settings, &options),
            metrics: watch.metrics(),
            traces: watch.traces(),
        };
        let execution = Execution::new(registry, broker, backend, options, active, shutdown, listeners);
        let execution = Arc::new(execution);
        let settings = Arc::new(settings);
        execution.tasks.reload_with({
            let (settings, sandbox) = (Arc::clone(&settings), sandbox.clone());
            Box::new(move || {
                let (settings, sandbox) = (Arc::clone(&settings), sandbox.clone());
                async move { load(&settings, &sandbox).await }.boxed()
            })
        });
        let (mailbox, mingled) = tokio::join!(
            open_mailbox(&settings, &execution),
            self.telling.mingle(&settings, &execution)
        );
        let mailbox = mailbox?;
        mingled?;
        let own = mailbox.as_ref().map(|open| Arc::clone(&open.broker));
        let told = self.telling.start(&settings, &execution, own)?;
        let watch = watch.serve(&execution);
        let ended = worker::run(execution, &queues, || say_ready(&hostname, for_programs)).await;
        told.end().await;
        if let Some(mailbox) = mailbox {
            mailbox.close().await;
        }
        watch.end().await;
        let ended = ended?;
        match ended {
            Ended::Warm => Ok(ExitCode::SUCCESS),
            Ended::Cold => Ok(ExitCode::FAILURE),
            Ended::Restart => Err(exec_again()).context("cannot start again"),
        }
    }
}

/// The tasks of the components as they are on the disk now, with the worker's own.
async fn load(settings: &Settings, sandbox: &Sandbox) -> Registry {
    let mut registry = super::load(settings, sandbox).await;
    registry.add_builtins(settings.result_chord_retry_interval);
    registry.annotate(|definition| annotate(definition, &settings.task_annotations));
    registry
}

/// Opens the mailbox of remote control, if there is to be one: what comes after the worker said that it is ready is answered.
async fn open_mailbox(
    settings: &Settings,
    execution: &Arc<Execution>,
) -> anyhow::Result<Option<OpenMailbox>> {
    let Some((broker, options)) = connect::mailbox(settings)? else {
        return Ok(None);
    };
    let queue = options.queue(&execution.options.hostname);
    let mailbox = Mailbox::new(
        Arc::clone(&broker),
        Arc::clone(execution),
        options,
        settings.about(),
    );
    let (opened, open) = oneshot::channel();
    let serving = tokio::spawn(async move { mailbox.run(opened).await });
    tokio::select! {
        // Without it the worker works all the same.
        _ = tokio::time::timeout(MAILBOX_PATIENCE, open) => {}
        () = execution.shutdown.reached(Stage::Warm) => {}
    }
    Ok(Some(OpenMailbox {
        broker,
        queue,
        serving,
    }))
}

/// The mailbox of remote control while it is open.
struct OpenMailbox {
    broker: Arc<dyn Broker>,
    queue: Queue,
    serving: JoinHandle<()>,
}

impl OpenMailbox {
    /// Nobody is asked any more, nor left with questions that a worker of this name would find at its start.
    async fn close(self) {
        self.serving.abort();
        let closed = async {
            self.broker.cancel().await;
            let forgotten = self.broker.forget(&self.queue).await;
            self.broker.close().await.and(forgotten)
        };
        match tokio::time::timeout(MAILBOX_PATIENCE, closed).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("the mailbox did not close cleanly: {error}"),
            Err(_) => tracing::debug!("the mailbox did not close in time"),
        }
    }
}

/// Goes to stderr whatever the log's level is: people and their scripts wait for it.
fn say_ready(hostname: &str, for_programs: bool) {
    let ready = format!("{hostname} ready.");
    match for_programs {
        true => eprintln!("{}", log::json_line(ready)),
        false => eprintln!("{ready}"),
    }
}

/// Writes what is here to stderr, for USR1.
fn dump(active: &Active) {
    let entries = active.entries();
    eprintln!("\n{} tasks are here", entries.len());
    for entry in entries {
        eprintln!("  {}", entry.line());
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
