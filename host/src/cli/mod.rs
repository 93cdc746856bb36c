//! The command line. Data goes to stdout, talk to stderr.
//!
//! Exit status: 0 fine, 1 failure, 64 wrong usage, 69 no answer (Celery's own, contract section 8.3).

mod call;
mod list;
mod log;
mod result;
mod run;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::config::Settings;
use crate::sandbox::Sandbox;
use crate::sandbox::registry::{self, Registry};

/// A Celery worker that runs each task as a WebAssembly component in a sandbox of its own.
#[derive(Parser)]
#[command(name = "celerybox", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  celerybox run arithmetic.wasm arithmetic.add '[2, 3]'   one task, no broker
  celerybox worker --tasks tasks/                         a worker in a folder, no server needed
  celerybox call arithmetic.add -a '[2, 3]'               send it a task; prints the id
  celerybox result ID                                     wait for its result
  celerybox worker --tasks tasks/ -b redis://localhost --result-backend redis://localhost

Exit status: 0 fine, 1 failure, 64 wrong usage, 69 no answer in time.";

#[derive(Subcommand)]
enum Command {
    /// Run one task of a component here and now, without a broker
    Run(run::Run),
    /// Take tasks from a broker and run them
    Worker(worker::Worker),
    /// List the tasks that components declare, and what they import
    Tasks(list::Tasks),
    /// Send a task to a worker; prints its id
    Call(call::Call),
    /// Wait for the result of a task; prints it as JSON
    Result(result::Wait),
    /// Do everything `worker` does before it connects, and say what is wrong
    Check(list::Check),
}

/// What every command that reads settings takes.
#[derive(Args)]
struct Common {
    /// Settings, a TOML file with Celery's names [default: celerybox.toml when it is there]
    #[arg(long, value_name = "FILE", env = "CELERYBOX_CONFIG")]
    config: Option<PathBuf>,

    /// Lines to log: debug, info, warning, error or critical
    #[arg(
        short,
        long,
        value_name = "LEVEL",
        default_value = "warning",
        ignore_case = true
    )]
    loglevel: log::Level,
}

/// What commands take that talk to a broker or result backend.
#[derive(Args)]
struct Connection {
    /// Broker: amqp://, amqps://, redis://, rediss://, redis+socket:// or filesystem://
    /// [default: the folder --data-dir]
    #[arg(
        short,
        long,
        value_name = "URL",
        env = "CELERY_BROKER_URL",
        hide_env_values = true
    )]
    broker: Option<String>,

    /// Result backend: redis://, rpc://, file:///folder or disabled://
    /// [default: the folder --data-dir, or none with another broker]
    #[arg(
        long,
        value_name = "URL",
        env = "CELERY_RESULT_BACKEND",
        hide_env_values = true
    )]
    result_backend: Option<String>,

    /// Folder of the embedded broker and result backend [default: celerybox-data]
    #[arg(long, value_name = "DIR", env = "CELERYBOX_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

impl Common {
    fn settings(&self) -> anyhow::Result<Settings> {
        log::start(self.loglevel);
        Ok(Settings::load(self.config.as_deref())?)
    }
}

impl Connection {
    fn apply(&self, settings: &mut Settings) {
        if let Some(broker) = &self.broker {
            settings.broker_url = Some(broker.as_str().into());
        }
        if let Some(backend) = &self.result_backend {
            settings.result_backend = Some(backend.clone());
        }
        if let Some(data_dir) = &self.data_dir {
            settings.data_dir = data_dir.clone();
        }
    }
}

/// Parses the command line, does what it says and reports an error with all its causes.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Run(run) => run.main().await,
            Command::Worker(worker) => worker.main().await,
            Command::Tasks(tasks) => tasks.main().await,
            Command::Call(call) => call.main().await,
            Command::Result(wait) => wait.main().await,
            Command::Check(check) => check.main().await,
        }
    });
    // A thread that waits for a file or compiles must not hold the exit up.
    runtime.shutdown_background();
    done.unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Compiles and describes every component; a broken one is reported and the others serve.
async fn load(settings: &Settings, concurrency: u32) -> anyhow::Result<Registry> {
    let sandbox = sandbox(settings, concurrency)?;
    let progress = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let registry = registry::load_all(&sandbox, &settings.tasks, progress).await;
    for (path, error) in registry.broken() {
        tracing::error!("{}: {error}", path.display());
    }
    Ok(registry)
}

fn sandbox(settings: &Settings, concurrency: u32) -> anyhow::Result<Sandbox> {
    let cache = settings.cache_dir.clone().or_else(default_cache);
    Sandbox::new(settings.limits.clone(), concurrency, cache).context("cannot set up the sandbox")
}

/// `$XDG_CACHE_HOME/celerybox`, else `~/.cache/celerybox`; without a home nothing is cached.
fn default_cache() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("celerybox"))
}

/// A command-line argument that must be JSON of a certain kind.
fn json_argument(text: &str, name: &str, first: char, example: &str) -> anyhow::Result<()> {
    serde_json::from_str::<&serde_json::value::RawValue>(text)
        .with_context(|| format!("{name} is not JSON; write for example {example}"))?;
    anyhow::ensure!(
        text.trim_start().starts_with(first),
        "{name} must be a JSON {}; write for example {example}",
        if first == '[' { "list" } else { "map" }
    );
    Ok(())
}
