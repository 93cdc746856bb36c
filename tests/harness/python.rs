use std::process::Command;

use serde_json::Value;

use crate::broker::Place;
use crate::place::{root, venv_python, venv_python_of};

/// Runs a script of `tests/interop` in the environment with real Celery, with the place's broker and backend in its
/// environment, and returns the JSON of its last output line (null where there is none).
///
/// # Panics
/// Where the script fails; with its output.
pub fn python(place: &Place, script: &str, arguments: &[&str]) -> Value {
    run(interpreter(place), script, arguments)
}

fn run(mut command: Command, script: &str, arguments: &[&str]) -> Value {
    command.arg(script).args(arguments);
    let output = command.output().expect("the interpreter starts");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{script} {arguments:?} failed:\n{stdout}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    match stdout.lines().last() {
        Some(line) => serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("{script} printed no JSON ({error}): {line}")),
        None => Value::Null,
    }
}

/// The same with Celery settings of the app.
///
/// # Panics
/// Where the script fails; with its output.
pub fn python_with(place: &Place, settings: &Value, script: &str, arguments: &[&str]) -> Value {
    let mut command = interpreter(place);
    command.env("TEST_SETTINGS", settings.to_string());
    run(command, script, arguments)
}

/// Runs one check of `tests/interop/checks.py`: what a Python client sees.
///
/// # Panics
/// Where the check does not hold; with the client's traceback.
pub fn check(place: &Place, name: &str) {
    python(place, "checks.py", &[name]);
}

/// Runs `tests/interop/old.py`: what a client of an older version of Celery sees, whose messages have this protocol. `line`
/// is the version's environment: 4.4, which only Python up to 3.11 can run, or 5.2.
///
/// # Panics
/// Where the check does not hold; with the client's traceback.
pub fn check_old(place: &Place, line: &str, version: &str, protocol: u8) {
    python_of(line, place, "old.py", &[version, &protocol.to_string()]);
}

/// Like [`python`], in the environment of an old line of Celery.
///
/// # Panics
/// Where the script fails; with its output.
pub fn python_of(line: &str, place: &Place, script: &str, arguments: &[&str]) -> Value {
    run(interpreter_of(line, place), script, arguments)
}

/// Runs `tests/interop/flower_pages.py`, in the environment with Flower: what an operator sees and does in a browser.
///
/// # Panics
/// Where something is not as it should be; with what the page showed.
pub fn flower(place: &Place, arguments: &[&str]) {
    let python = venv_python_of("flower");
    let command = with_environment(Command::new(python), &place.broker_url(), &place.backend_url());
    run(command, "flower_pages.py", arguments);
}

/// Sends a task `number` times with the same arguments (a JSON list) and returns the ids.
///
/// # Panics
/// Where the client fails.
pub fn send(place: &Place, task: &str, number: usize, args: &Value, options: &Value) -> Vec<String> {
    let (number, args, options) = (number.to_string(), args.to_string(), options.to_string());
    let ids = python(place, "send.py", &[task, &number, &args, &options]);
    let ids = ids.as_array().expect("send.py prints a list").iter();
    ids.map(|id| id.as_str().expect("an id is a text").to_owned())
        .collect()
}

/// The interpreter in `tests/interop`, with the environment that `proj.py` reads.
pub fn interpreter(place: &Place) -> Command {
    let mut command = interpreter_for(&place.broker_url(), &place.backend_url());
    command.env("TEST_DATA_DIR", place.data_dir());
    command
}

/// The same in the environment of an old line of Celery.
pub(crate) fn interpreter_of(line: &str, place: &Place) -> Command {
    let python = Command::new(venv_python_of(line));
    let mut command = with_environment(python, &place.broker_url(), &place.backend_url());
    command
        .arg("-W")
        .arg("ignore")
        .env("TEST_DATA_DIR", place.data_dir());
    command
}

/// The interpreter in `tests/interop`, for a broker and a result backend that are servers.
pub fn interpreter_for(broker: &str, backend: &str) -> Command {
    with_environment(Command::new(venv_python()), broker, backend)
}

fn with_environment(mut command: Command, broker: &str, backend: &str) -> Command {
    command
        .current_dir(root().join("tests/interop"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUNBUFFERED", "1")
        .env_remove("CELERY_BROKER_URL")
        .env_remove("CELERY_RESULT_BACKEND")
        .env("TEST_BROKER", broker)
        .env("TEST_BACKEND", backend);
    command
}
