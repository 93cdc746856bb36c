//! Hostile components against the sandbox (T01 to T08 and T36 to T40 of `host/docs/sandbox-hardening.md`, and what
//! belongs to them). Each test asserts how the attack ends, that a well-behaved neighbour answered meanwhile and
//! answers afterwards, and that nothing is left in the pool.

mod admission;
mod component;
mod compute;
mod describe;
mod endings;
mod grants;
mod loading;
mod memory;
mod names;
mod output;
mod secrets;
mod stack;
mod time;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use celerybox::message::{Message, Properties, Request, Route, request};
use celerybox::outcome::{Failure, Outcome};
use celerybox::sandbox::{
    Call, Component, ErrandError, Limits, LoadError, Occupancy, Run, Sandbox, StateSink,
};
use celerybox_tests::{guests, root, venv_python};
use component::Guest;
use serde_json::Value;

/// The hard limit of attacks that only it ends.
const HARD: Duration = Duration::from_millis(300);
/// What a test waits for at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// How late a hard limit may come on a machine that builds and tests other things meanwhile.
const LATE: Duration = Duration::from_millis(700);

/// A sandbox with a neighbour in it that answers with its arguments.
pub(crate) struct Lab {
    sandbox: Sandbox,
    neighbour: Arc<Component>,
    folder: tempfile::TempDir,
    files: AtomicUsize,
    /// What runs stored with `update-state`.
    states: Arc<Mutex<Vec<(String, String)>>>,
}

/// What to run, and how.
#[derive(Clone)]
pub(crate) struct Attack {
    /// The positional arguments.
    pub(crate) args: String,
    /// The hard limit.
    pub(crate) hard: Option<Duration>,
    /// The soft limit.
    pub(crate) soft: Option<Duration>,
}

impl Default for Attack {
    fn default() -> Self {
        Self {
            args: "[]".into(),
            hard: Some(PATIENCE),
            soft: None,
        }
    }
}

impl Attack {
    /// A run that only its hard limit ends.
    pub(crate) fn endless() -> Self {
        Self {
            hard: Some(HARD),
            ..Self::default()
        }
    }

    /// A run with these arguments.
    pub(crate) fn with(args: Value) -> Self {
        Self {
            args: args.to_string(),
            ..Self::default()
        }
    }
}

impl Lab {
    pub(crate) async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let sandbox = Sandbox::new(limits, 16, None).expect("a sandbox");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("neighbour.wasm");
        let neighbour = Guest {
            task: "neighbour.echo",
            ..Guest::default()
        };
        std::fs::write(&file, neighbour.component()).expect("a file");
        let neighbour = sandbox.load(&file).await.expect("the neighbour");
        Self {
            sandbox,
            neighbour: Arc::new(neighbour),
            folder,
            files: AtomicUsize::new(0),
            states: Arc::default(),
        }
    }

    /// Writes a component's file.
    pub(crate) fn file(&self, bytes: &[u8]) -> PathBuf {
        let n = self.files.fetch_add(1, Ordering::Relaxed);
        let file = self.folder.path().join(format!("guest{n}.wasm"));
        std::fs::write(&file, bytes).expect("a file");
        file
    }

    pub(crate) async fn load(&self, bytes: &[u8]) -> Result<Arc<Component>, LoadError> {
        self.sandbox.load(&self.file(bytes)).await.map(Arc::new)
    }

    /// Loads what has to be refused; afterwards the neighbour serves and the pool is empty.
    pub(crate) async fn refused(&self, bytes: &[u8]) -> LoadError {
        let error = match self.load(bytes).await {
            Ok(component) => panic!("{component:?} was loaded"),
            Err(error) => error,
        };
        self.is_well().await;
        error
    }

    /// The component of the Rust guest.
    pub(crate) async fn hostile(&self) -> Arc<Component> {
        let file = guests().join("hostile.wasm");
        Arc::new(self.sandbox.load(&file).await.expect("the hostile guest"))
    }

    /// Runs a task while the neighbour is asked again and again.
    pub(crate) async fn attack(&self, guest: &Arc<Component>, task: &str, attack: Attack) -> Run {
        let call = self.call(guest, task, &attack);
        let running = {
            let guest = Arc::clone(guest);
            tokio::spawn(async move { guest.run(call).await })
        };
        let started = Instant::now();
        let mut slowest = Duration::ZERO;
        loop {
            slowest = slowest.max(self.ask_neighbour().await);
            if running.is_finished() {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{task} does not end");
            tokio::task::yield_now().await;
        }
        assert!(
            slowest < Duration::from_secs(1),
            "the neighbour had to wait for {slowest:?}"
        );
        let run = running.await.expect("a run does not panic");
        self.is_well().await;
        run
    }

    /// Makes a component of the guest and runs its task.
    pub(crate) async fn run(&self, guest: &Guest, attack: Attack) -> Run {
        let component = self.load(&guest.component()).await.expect("the guest");
        self.attack(&component, guest.task, attack).await
    }

    /// Runs a task of the Rust guest.
    pub(crate) async fn run_hostile(&self, task: &str, attack: Attack) -> Run {
        let component = self.hostile().await;
        self.attack(&component, task, attack).await
    }

    /// The neighbour answers, and nothing is left of others.
    pub(crate) async fn is_well(&self) {
        self.ask_neighbour().await;
        assert_eq!(
            self.sandbox.occupancy(),
            Occupancy::default(),
            "something is left in the pool"
        );
    }

    async fn ask_neighbour(&self) -> Duration {
        let attack = Attack::with(serde_json::json!(["still", "here"]));
        let call = self.call(&self.neighbour, "neighbour.echo", &attack);
        let started = Instant::now();
        let run = self.neighbour.run(call).await;
        assert_eq!(run.outcome, Outcome::Success(r#"["still","here"]"#.into()));
        started.elapsed()
    }

    fn call(&self, component: &Component, task: &str, attack: &Attack) -> Call {
        let definition = component
            .definitions()
            .iter()
            .find(|definition| definition.name == task);
        let states = Arc::clone(&self.states);
        let updates: StateSink = Arc::new(move |state, meta| {
            let stored = (state.as_str().to_owned(), meta.get().to_owned());
            states.lock().expect("no panic before").push(stored);
            Box::pin(async { Ok(()) })
        });
        Call {
            request: Arc::new(message(task, &attack.args)),
            definition: Arc::clone(definition.unwrap_or_else(|| panic!("no task {task}"))),
            hostname: Arc::from("test@host"),
            time_limit: attack.hard,
            soft_time_limit: attack.soft,
            ignore_result: false,
            nameable: Arc::default(),
            updates,
            errands: Arc::new(|_| Box::pin(async { Err(ErrandError::Denied("nothing is granted".into())) })),
        }
    }

    /// What was stored with `update-state`.
    pub(crate) fn states(&self) -> Vec<(String, String)> {
        self.states.lock().expect("no panic before").clone()
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Runs tests of this program once more, in a process that a script of `tests/interop` prepares: the script's arguments, and
/// those of the tests.
pub(crate) fn prepared(script: &str, arguments: &[&str], tests: &[&str]) -> Output {
    let mut command = Command::new(venv_python());
    command
        .arg(root().join("tests/interop").join(script))
        .args(arguments)
        .arg(std::env::current_exe().expect("a program"))
        .args(tests);
    command.output().expect("the interpreter starts")
}

fn message(task: &str, args: &str) -> Request {
    let headers = serde_json::json!({"task": task, "id": "0c0c0c0c-0000-4000-8000-000000000001"});
    let message = Message {
        headers: headers.as_object().cloned(),
        properties: Properties {
            content_type: Some("application/json".into()),
            ..Properties::default()
        },
        body: format!("[{args}, {{}}, null]").into_bytes(),
    };
    request::decode(
        message,
        Route::to_queue("celery"),
        false,
        &["application/json".into()],
    )
    .expect("a request")
}

/// The failure of a run that has to fail.
pub(crate) fn failure(run: Run) -> Failure {
    match run.outcome {
        Outcome::Failure(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// The value of a run that has to succeed.
pub(crate) fn value(run: &Run) -> Value {
    match &run.outcome {
        Outcome::Success(json) => serde_json::from_str(json).expect("a result is JSON"),
        other => panic!("{other:?}\n{}", run.output),
    }
}

/// The run was ended by its hard limit, in time.
pub(crate) fn assert_hard_limit(run: &Run) {
    assert_eq!(run.outcome, Outcome::TimeLimit(HARD.as_secs_f64()));
    assert!(run.duration >= HARD, "after {:?}", run.duration);
    assert!(run.duration < HARD + LATE, "after {:?}", run.duration);
}

/// The failure is of this class, and its text has this part.
#[track_caller]
pub(crate) fn assert_fails(run: Run, class: &str, part: &str) -> Failure {
    let failure = failure(run);
    assert_eq!(failure.exc_type, class, "{failure:?}");
    assert!(failure.repr().contains(part), "{failure:?}");
    failure
}
