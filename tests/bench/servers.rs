//! The servers of a benchmark, and the workers that stand before them.

use std::process::Command;

use celerybox_tests::{
    Process, RabbitMq, Redis, against_real_celery, celerybox, interpreter_for, root, tasks,
};

/// Slots of this worker: tasks in flight, not threads.
pub(crate) const SLOTS: &str = "64";
/// Database of the results; messages are in database 0 (or in RabbitMQ).
pub(crate) const RESULTS: u8 = 1;

/// Whose worker it is.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Celerybox,
    Celery,
}

/// Where messages and results are.
pub(crate) struct Servers {
    pub(crate) name: &'static str,
    pub(crate) redis: Redis,
    pub(crate) rabbitmq: Option<RabbitMq>,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Celerybox => "celerybox",
            Kind::Celery => "celery (prefork)",
        }
    }
}

impl Servers {
    fn broker(&self) -> String {
        self.rabbitmq
            .as_ref()
            .map_or_else(|| self.redis.url(), RabbitMq::url)
    }

    fn results(&self) -> String {
        self.redis.database_url(RESULTS)
    }

    /// Starts a worker; `prepare` adds to its command.
    pub(crate) fn worker(&self, kind: Kind, prepare: impl FnOnce(&mut Command)) -> Process {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mut command = match kind {
            Kind::Celerybox if !against_real_celery() => {
                let mut command = Command::new(celerybox());
                command
                    .arg("worker")
                    .arg("--tasks")
                    .arg(tasks().join("arithmetic.wasm"));
                command.args([
                    "-b",
                    &self.broker(),
                    "--result-backend",
                    &self.results(),
                    "-c",
                    SLOTS,
                ]);
                command.current_dir(root().join(".build"));
                command
            }
            _ => {
                let mut command = interpreter_for(&self.broker(), &self.results());
                command.args(["-m", "celery", "-A", "proj", "worker", "-P", "prefork"]);
                command.args(["-c", &processors.to_string()]);
                command.args(["--without-gossip", "--without-mingle", "--without-heartbeat"]);
                command
            }
        };
        command.args(["-l", "warning"]);
        prepare(&mut command);
        Process::start(kind.name(), &mut command, None)
    }

    /// A script of this folder, with its arguments.
    pub(crate) fn script(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = interpreter_for(&self.broker(), &self.results());
        let interop = root().join("tests/interop");
        command
            .env("PYTHONPATH", interop)
            .arg(root().join("tests/bench").join(script))
            .args(arguments);
        command
    }

    /// Runs a script of this folder and returns its last output line.
    pub(crate) fn python(&self, script: &str, arguments: &[&str]) -> String {
        let output = self
            .script(script, arguments)
            .output()
            .expect("the interpreter starts");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{script}:\n{stdout}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        stdout.lines().last().unwrap_or_default().to_owned()
    }
}
