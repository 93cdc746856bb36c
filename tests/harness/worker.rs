use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::broker::Place;
use crate::place::{celerybox, guests, root, tasks};
use crate::process::Process;
use crate::python::{interpreter, interpreter_of};

/// Set to `1`, the tests start a real Celery worker where they would start ours: so the expectations themselves are
/// tested against Celery.
pub const PYTHON_WORKER: &str = "CELERYBOX_TEST_PYTHON_WORKER";

/// For a Python worker that says nothing to its neighbours.
const ALONE: [&str; 3] = ["--without-gossip", "--without-mingle", "--without-heartbeat"];

/// Whether [`PYTHON_WORKER`] is set.
pub fn against_real_celery() -> bool {
    std::env::var_os(PYTHON_WORKER).is_some_and(|value| value == "1")
}

/// A running worker, ours or a real Celery worker, that has said it is ready.
#[derive(Debug)]
pub struct Worker {
    process: Process,
}

impl Worker {
    /// Starts the worker under test with the example tasks and the test guests, and waits until it is ready.
    ///
    /// `settings` is an object with Celery's names for what differs from the defaults. `arguments` are those that
    /// `celery worker` has too (`-c`, `-Q`, `-n`, `--prefetch-multiplier` …).
    pub fn start(place: &Place, settings: &Value, arguments: &[&str]) -> Worker {
        if against_real_celery() {
            return Worker::python(place, settings, arguments);
        }
        let mut command = Worker::command(place, settings);
        command.args(arguments);
        Worker::run("celerybox worker", &mut command)
    }

    /// `celerybox worker` with the place, the settings and the tasks, for a test that adds to it. It does not greet its
    /// neighbours, which takes a second.
    pub fn command(place: &Place, settings: &Value) -> Command {
        let mut command = Worker::sociable_command(place, settings);
        command.arg("--without-mingle");
        command
    }

    /// The same with another way to the broker, which is a server.
    pub fn command_through(place: &Place, broker: &str, settings: &Value) -> Command {
        let mut command = Worker::sociable_through(place, broker, settings);
        command.arg("--without-mingle");
        command
    }

    /// The same of a worker that greets its neighbours.
    pub fn sociable_through(place: &Place, broker: &str, settings: &Value) -> Command {
        let mut command = Worker::bare_command(&settings_file(place, settings), place);
        let backend = place.backend_url();
        with_tasks(&mut command).args(["--broker", broker, "--result-backend", &backend]);
        command
    }

    /// `celerybox worker` with the place and the settings, for tasks of the test's own.
    pub fn bare(place: &Place, settings: &Value) -> Command {
        let mut command = Worker::bare_command(&settings_file(place, settings), place);
        command.args(place.arguments()).arg("--without-mingle");
        command
    }

    fn sociable_command(place: &Place, settings: &Value) -> Command {
        let mut command = Worker::bare_command(&settings_file(place, settings), place);
        with_tasks(&mut command).args(place.arguments());
        command
    }

    fn bare_command(file: &Path, place: &Place) -> Command {
        let mut command = Command::new(celerybox());
        command
            .arg("worker")
            .arg("--config")
            .arg(file)
            .args(["-l", "info"])
            .env_remove("CELERY_BROKER_URL")
            .env_remove("CELERY_RESULT_BACKEND")
            .current_dir(place.folder())
            // Compiled components are shared by all tests, but not with the user's own workers.
            .env("XDG_CACHE_HOME", root().join(".build/cache"));
        command
    }

    /// Starts `celerybox worker` whatever [`PYTHON_WORKER`] says, for settings that only ours has.
    pub fn command_started(place: &Place, settings: &Value, arguments: &[&str]) -> Worker {
        let mut command = Worker::command(place, settings);
        command.args(arguments);
        Worker::run("celerybox worker", &mut command)
    }

    /// Starts a real Celery worker (prefork) with `tests/interop/proj.py`.
    pub fn python(place: &Place, settings: &Value, arguments: &[&str]) -> Worker {
        Worker::of_celery(interpreter(place), settings, &[&ALONE, arguments].concat())
    }

    /// The same of an older line of Celery, `5.2` for example.
    pub fn python_of(line: &str, place: &Place, settings: &Value, arguments: &[&str]) -> Worker {
        let interpreter = interpreter_of(line, place);
        Worker::of_celery(interpreter, settings, &[&ALONE, arguments].concat())
    }

    /// A real Celery worker with heartbeats and all that it says to its neighbours.
    pub fn python_in_full(place: &Place, settings: &Value, arguments: &[&str]) -> Worker {
        Worker::of_celery(interpreter(place), settings, arguments)
    }

    fn of_celery(mut command: Command, settings: &Value, arguments: &[&str]) -> Worker {
        command
            .env("TEST_SETTINGS", settings.to_string())
            .args(["-m", "celery", "-A", "proj", "worker", "-l", "INFO"])
            .args(arguments);
        Worker::run("celery worker", &mut command)
    }

    /// Starts `celerybox worker` so that it greets its neighbours.
    pub fn sociable(place: &Place, settings: &Value, arguments: &[&str]) -> Worker {
        let mut command = Worker::sociable_command(place, settings);
        command.args(arguments);
        Worker::run("celerybox worker", &mut command)
    }

    /// Starts `command` and waits until it says that it is ready.
    pub fn run(name: &str, command: &mut Command) -> Worker {
        let mut process = Process::start(name, command, None);
        process.wait_for_line("ready.");
        Worker { process }
    }

    /// Waits up to a minute for a log line that contains `text`.
    pub fn wait_for_line(&mut self, text: &str) -> String {
        self.process.wait_for_line(text)
    }

    /// The log lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.process.lines()
    }

    /// How many log lines contain `text`.
    pub fn count_lines(&self, text: &str) -> usize {
        let lines = self.process.lines();
        lines.iter().filter(|line| line.contains(text)).count()
    }

    /// Prints the last hundred log lines, for a test that failed without ending this worker.
    pub fn print_log(&self) {
        let lines = self.process.lines();
        let last = lines.len().saturating_sub(100);
        eprintln!("--- the worker's log:\n{}", lines[last..].join("\n"));
    }

    /// `SIGTERM`, `SIGINT`, `SIGQUIT` … to the worker itself.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// `kill -9` of the worker with all its processes.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// Where it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait(limit)
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.process.exit_status().is_none()
    }

    /// The largest resident memory so far, in bytes, without child processes.
    pub fn peak_memory(&self) -> u64 {
        self.process.peak_memory()
    }
}

/// Writes the settings into a file of the place.
fn settings_file(place: &Place, settings: &Value) -> PathBuf {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let file = place.folder().join(format!("settings-{number}.toml"));
    std::fs::write(&file, toml(settings)).expect("the folder is writable");
    file
}

/// The settings as TOML: one line for each, objects as inline tables. Strings and numbers are written alike in both.
fn toml(settings: &Value) -> String {
    let lines = settings.as_object().into_iter().flatten();
    lines
        .map(|(name, value)| format!("{name} = {}\n", inline(value)))
        .collect()
}

fn inline(value: &Value) -> String {
    let Value::Object(fields) = value else {
        return value.to_string();
    };
    let fields = fields
        .iter()
        .map(|(name, value)| format!("{name:?} = {}", inline(value)));
    format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
}

fn with_tasks(command: &mut Command) -> &mut Command {
    command.arg("--tasks").arg(tasks()).arg("--tasks").arg(guests())
}
