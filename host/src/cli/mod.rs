//! The command line. Data goes to stdout, talk to stderr.
//!
//! Exit status: 0 fine, 1 failure, 64 wrong usage, 69 no answer (Celery's own, contract section 8.3).

mod bindings;
mod call;
mod daemon;
mod events;
mod feed;
mod global;
mod inert;
mod list;
mod log;
mod purge;
mod remote;
mod result;
mod run;
mod telling;
mod terminal;
mod top;
mod watch;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

use self::global::Global;
use crate::config::{Settings, SettingsError};
use crate::nearest::did_you_mean;
use crate::sandbox::Sandbox;
use crate::sandbox::registry::{self, Registry};

/// Exit status of wrong usage (contract section 8.3).
const USAGE: u8 = 64;

/// Exit status when there was no answer in time (contract section 8.3).
const NO_ANSWER: u8 = 69;

/// A Celery worker that runs each task as a WebAssembly component in a sandbox of its own.
#[derive(Parser)]
#[command(name = "celerybox", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,

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
    Worker(Box<worker::Worker>),
    /// List the tasks that components declare, and what they import
    Tasks(list::Tasks),
    /// Send a task to a worker; prints its id
    Call(call::Call),
    /// Wait for the result of a task; prints it as JSON
    Result(result::Wait),
    /// Show the workers that are online
    Status(remote::Status),
    /// Ask workers what they do, without changing anything
    Inspect(remote::Inspect),
    /// Tell workers to change what they do: revoke, rate_limit, pool_grow, shutdown …
    Control(remote::Control),
    /// Watch workers and tasks in the terminal, live
    Top(top::Top),
    /// Print what happens in the fleet, as it happens
    Events(events::Events),
    /// Throw away the messages of queues
    Purge(purge::Purge),
    /// Show what the broker knows: bindings
    List(bindings::List),
    /// Do everything `worker` does before it connects, and say what is wrong
    Check(list::Check),
}

/// One option of `celerybox worker`, for the table of the README.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerOption {
    /// As it is written: `-c, --concurrency`.
    pub name: String,
    /// What it does, or why it does nothing.
    pub help: String,
    /// Whether it does something.
    pub works: bool,
}

/// All options of `celerybox worker`.
pub fn worker_options() -> Vec<WorkerOption> {
    let mut cli = Cli::command();
    cli.build();
    let worker = cli.find_subcommand("worker").map(clap::Command::get_arguments);
    let option = |arg: &clap::Arg| {
        let long = format!("--{}", arg.get_long()?);
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        Some(WorkerOption {
            name: arg
                .get_short()
                .map_or(long.clone(), |short| format!("-{short}, {long}")),
            works: arg.get_help_heading() != Some(inert::HEADING)
                && !help.starts_with("Accepted and without effect"),
            help,
        })
    };
    worker.into_iter().flatten().filter_map(option).collect()
}

/// Parses the command line, does what it says and reports an error with all its causes.
pub fn main() -> ExitCode {
    let Cli { global, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let prepared = global.enter().and_then(|()| match &command {
        Command::Worker(worker) => worker.become_daemon(),
        _ => Ok(None),
    });
    match prepared {
        Ok(None) => {}
        Ok(Some(code)) => return code,
        Err(error) => return failed(&error),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match command {
            Command::Run(run) => run.main(&global).await,
            Command::Worker(worker) => worker.main(&global).await,
            Command::Tasks(tasks) => tasks.main(&global).await,
            Command::Call(call) => call.main(&global).await,
            Command::Result(wait) => wait.main(&global).await,
            Command::Status(status) => status.main(&global).await,
            Command::Inspect(inspect) => inspect.main(&global).await,
            Command::Control(control) => control.main(&global).await,
            Command::Top(top) => top.main(&global).await,
            Command::Events(events) => events.main(&global).await,
            Command::Purge(purge) => purge.main(&global).await,
            Command::List(list) => list.main(&global).await,
            Command::Check(check) => check.main(&global).await,
        }
    });
    // A thread that waits for a file or compiles must not hold the exit up.
    runtime.shutdown_background();
    done.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("Error: {error:#}");
    ExitCode::FAILURE
}

/// Compiles and describes every component; a broken one is reported and the others serve.
async fn load(settings: &Settings, sandbox: &Sandbox) -> Registry {
    let progress = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let registry = registry::load_all(sandbox, &settings.tasks, progress).await;
    for (path, error) in registry.broken() {
        tracing::error!("{}: {error}", path.display());
    }
    for name in settings.component.keys() {
        let serves = registry
            .components()
            .iter()
            .any(|component| component.name() == name);
        let broken = || {
            registry
                .broken()
                .iter()
                .any(|(path, _)| path.file_stem().is_some_and(|stem| *stem == **name))
        };
        if !serves && !broken() {
            let names = registry.components().iter().map(|component| component.name());
            tracing::warn!(
                "component.{name}: there is no such component{}",
                did_you_mean(name, names)
            );
        }
    }
    registry
}

fn sandbox(settings: &Settings, concurrency: u32) -> anyhow::Result<Sandbox> {
    let cache = settings.cache_dir.clone().or_else(default_cache);
    let granting = settings.granting().map_err(SettingsError::Invalid)?;
    let sandbox = Sandbox::new(settings.limits.clone(), concurrency, cache);
    Ok(sandbox.context("cannot set up the sandbox")?.granting(granting))
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
