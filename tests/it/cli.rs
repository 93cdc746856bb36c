//! The command line as a user types it.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use celerybox_tests::{Place, Process, Signal, Worker, celerybox, guests, interpreter_for, root, tasks};
use serde_json::json;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// `celerybox` with these arguments, in this folder, with nothing from the user's own environment.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(celerybox());
    command
        .args(arguments)
        .current_dir(folder)
        .env("XDG_CACHE_HOME", root().join(".build/cache"))
        .env_remove("CELERY_BROKER_URL")
        .env_remove("CELERY_RESULT_BACKEND")
        .env_remove("CELERYBOX_CONFIG")
        .env_remove("CELERYBOX_DATA_DIR");
    command
}

/// Runs it to its end: exit status, stdout, stderr.
pub(crate) fn output(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("celerybox starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let code = status.code().expect("not ended by a signal");
    (code, text(stdout), text(stderr))
}

fn celerybox_in(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    output(&mut command(folder, arguments))
}

fn component(name: &str) -> String {
    tasks().join(name).to_string_lossy().into_owned()
}

/// A worker in `folder/celerybox-data` with the example tasks and the probe's.
fn embedded_worker(folder: &Path) -> Process {
    let mut command = command(folder, &["worker", "-c", "4"]);
    for tasks in [tasks(), guests().join("probe.wasm")] {
        command.arg("--tasks").arg(tasks);
    }
    let mut worker = Process::start("celerybox worker", &mut command, None);
    worker.wait_for_line("ready.");
    worker
}

#[test]
fn help_names_every_command() {
    let folder = folder();
    let (code, out, _) = celerybox_in(folder.path(), &["--help"]);
    assert_eq!(code, 0);
    for name in [
        "run", "worker", "tasks", "call", "result", "status", "inspect", "control", "events", "top", "purge",
        "list", "check",
    ] {
        let line = format!("\n  {name} ");
        assert!(out.contains(&line), "{name} is missing:\n{out}");
        let (code, out, _) = celerybox_in(folder.path(), &[name, "--help"]);
        assert_eq!(code, 0);
        assert!(out.contains("Usage: celerybox "), "{out}");
        assert!(out.contains("Example"), "{name} --help shows no example:\n{out}");
    }
}

#[test]
fn wrong_usage_is_status_64() {
    let folder = folder();
    for arguments in [&["wroker"][..], &["run"], &["call", "x", "--no-such-flag"]] {
        let (code, out, error) = celerybox_in(folder.path(), arguments);
        assert_eq!((code, out.as_str()), (64, ""), "{error}");
    }
    let (_, _, error) = celerybox_in(folder.path(), &["wroker"]);
    assert!(error.contains("worker"), "no suggestion: {error}");
}

#[test]
fn run_prints_the_value() {
    let folder = folder();
    let arithmetic = component("arithmetic.wasm");
    let run = |more: &[&str]| celerybox_in(folder.path(), &[&["run", &arithmetic], more].concat());
    assert_eq!(
        run(&["arithmetic.add", "[2, 3]"]),
        (0, "5\n".into(), String::new())
    );
    let (code, out, _) = run(&["arithmetic.add", "[2]", r#"{"y": 40}"#]);
    assert_eq!((code, out.as_str()), (0, "42\n"));

    // Nobody who reads is no error.
    let mut command = command(folder.path(), &["run", &arithmetic, "arithmetic.add", "[2, 3]"]);
    let mut closed = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(closed.stdout.take());
    let output = closed.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );

    let (code, out, error) = run(&["arithmetic.add", "[2]"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        error.contains("add() missing 1 required positional argument: 'y'"),
        "{error}"
    );
    let (code, _, error) = run(&["arithmetic.nothing"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("arithmetic.add"),
        "no hint at what there is: {error}"
    );
    let (code, _, error) = run(&["arithmetic.add", "2, 3"]);
    assert_eq!(code, 1);
    assert!(error.contains("ARGS") && error.contains("[2, 3]"), "{error}");
}

#[test]
fn run_ends_an_endless_loop() {
    let folder = folder();
    let start = Instant::now();
    let spin = component("spin.wasm");
    let arguments = ["run", &spin, "spin.forever", "--time-limit", "1"];
    let (code, out, error) = celerybox_in(folder.path(), &arguments);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.contains("TimeLimitExceeded(1)"), "{error}");
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[test]
fn a_broken_component_is_reported_and_the_others_are_listed() {
    let folder = folder();
    let components = folder.path().join("components");
    std::fs::create_dir(&components).unwrap();
    std::fs::copy(component("arithmetic.wasm"), components.join("arithmetic.wasm")).unwrap();
    let (code, out, _) = celerybox_in(folder.path(), &["tasks", "components"]);
    assert_eq!(code, 0);
    assert!(out.contains("arithmetic.add(x, y)"), "{out}");

    std::fs::write(components.join("broken.wasm"), "no component").unwrap();
    let (code, out, error) = celerybox_in(folder.path(), &["tasks", "components"]);
    assert_eq!(code, 1);
    assert!(out.contains("arithmetic.add(x, y)"), "{out}");
    assert!(error.contains("broken.wasm"), "{error}");
    let (code, _, error) = celerybox_in(folder.path(), &["check", "--tasks", "components"]);
    assert_eq!(code, 1);
    assert!(error.contains("broken.wasm"), "{error}");
}

#[test]
fn check_says_what_is_wrong_with_the_settings() {
    let folder = folder();
    let file = folder.path().join("celerybox.toml");
    let arithmetic = component("arithmetic.wasm");
    let check = || celerybox_in(folder.path(), &["check", "--tasks", &arithmetic]);
    let (code, _, error) = check();
    assert_eq!(code, 0, "{error}");

    std::fs::write(&file, "task_time_limt = 3\n").unwrap();
    let (code, _, error) = check();
    assert_eq!(code, 1);
    assert!(
        error.contains("task_time_limt") && error.contains("celerybox.toml"),
        "{error}"
    );

    std::fs::write(&file, "task_time_limit = -1\nworker_concurrency = 0\n").unwrap();
    let (code, _, error) = check();
    assert_eq!(code, 1);
    assert!(
        error.contains("task_time_limit") && error.contains("worker_concurrency"),
        "not all at once: {error}"
    );
}

#[test]
fn a_password_is_never_shown() {
    let folder = folder();
    let arithmetic = component("arithmetic.wasm");
    let url = "redis://user:s3cret@127.0.0.1:1/0";
    let arguments = [
        "check",
        "--tasks",
        &arithmetic,
        "-b",
        url,
        "--result-backend",
        url,
    ];
    let (code, out, error) = celerybox_in(folder.path(), &arguments);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("127.0.0.1:1"), "{out}");
    assert!(
        !out.contains("s3cret") && !error.contains("s3cret"),
        "{out}{error}"
    );
}

#[test]
fn call_and_result_reach_the_embedded_worker() {
    let folder = folder();
    let mut worker = embedded_worker(folder.path());
    let send = |arguments: &[&str]| {
        let (code, out, error) = celerybox_in(folder.path(), &[&["call"], arguments].concat());
        assert_eq!(code, 0, "{error}");
        out.trim_end().to_owned()
    };
    let result = |id: &str| celerybox_in(folder.path(), &["result", id, "--timeout", "30"]);

    let id = send(&["arithmetic.add", "-a", "[2, 40]"]);
    assert_eq!(result(&id), (0, "42\n".into(), String::new()));
    let id = send(&["arithmetic.add", "-k", r#"{"x": 1, "y": 2}"#]);
    assert_eq!(result(&id).1, "3\n");

    let id = send(&["arithmetic.add", "-a", "[1, 2, 3]"]);
    let (code, out, error) = result(&id);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        error.contains("TypeError") && error.contains("takes 2 positional"),
        "{error}"
    );

    let id = send(&["spin.forever", "--time-limit", "1"]);
    let (code, _, error) = result(&id);
    assert_eq!(code, 1);
    assert!(error.contains("TimeLimitExceeded"), "{error}");

    // What a client or a task put into it goes to no terminal as it is.
    let id = send(&["probe.echo", "-a", "[\"\u{9b}2J\u{202e}\\u001b é\"]"]);
    let shown = "\"\\u009b2J\\u202e\\u001b é\"\n";
    assert_eq!(result(&id), (0, shown.into(), String::new()));
    let (code, meta, _) = celerybox_in(folder.path(), &["result", &id, "--meta"]);
    assert!(code == 0 && meta.contains(shown.trim_end()), "{meta}");
    let id = send(&["probe.fail", "-a", "[\"\u{9b}2J\u{202e}\\u001b[2J\"]"]);
    let (code, _, error) = celerybox_in(folder.path(), &["result", &id, "--traceback", "--timeout", "30"]);
    assert!(code == 1 && error.contains("[2J"), "{error}");
    assert!(!error.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{error:?}");

    let (code, out, _) = celerybox_in(folder.path(), &["result", "nobody-sent-this", "--timeout", "0.2"]);
    assert_eq!((code, out.as_str()), (69, ""));

    worker.signal(Signal::TERM);
    assert_eq!(worker.wait(Duration::from_secs(10)).code(), Some(0));
}

/// The worker prints the lines that connect a Python client; here they are used as they are.
#[test]
fn the_printed_lines_connect_a_python_client() {
    let folder = folder();
    let mut worker = embedded_worker(folder.path());
    let first = worker.wait_for_line("app = Celery(");
    let second = worker.wait_for_line("app.conf.broker_transport_options");
    let script = format!(
        "from celery import Celery\n{}\n{}\n\
         print(app.send_task('arithmetic.add', (2, 40)).get(timeout=30))",
        first.trim(),
        second.trim()
    );
    let mut python = interpreter_for("", "");
    let output = python.args(["-c", &script]).current_dir(folder.path()).output();
    let output = output.expect("the interpreter starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "42",
        "{script}\n{error}"
    );
}

#[test]
fn call_and_result_work_over_redis() {
    let place = Place::redis();
    let _worker = Worker::start(&place, &json!({}), &["-c", "2"]);
    let folder = folder();
    let url = place.broker_url();
    let arguments = ["call", "arithmetic.mul", "-a", "[6, 7]", "-b", &url];
    let (code, id, error) = celerybox_in(folder.path(), &arguments);
    assert_eq!(code, 0, "{error}");
    let backend = place.backend_url();
    let arguments = [
        "result",
        id.trim_end(),
        "--result-backend",
        &backend,
        "--timeout",
        "30",
    ];
    assert_eq!(
        celerybox_in(folder.path(), &arguments),
        (0, "42\n".into(), String::new())
    );
}

/// What `celerybox call` sends, as the message lies in its queue.
#[test]
fn call_writes_the_message_that_was_asked_for() {
    let place = Place::redis();
    let folder = folder();
    std::fs::write(
        folder.path().join("celerybox.toml"),
        "task_default_priority = 3\ntask_compression = 'zstd'\ntask_routes = { 'mail.*' = { queue = 'mail', serializer = 'yaml' } }",
    )
    .unwrap();
    let url = place.broker_url();
    let sent = |list: &str, arguments: &[&str]| {
        let arguments = [&["call", "-b", &url, "-a", "[1]"], arguments].concat();
        let (code, _, error) = celerybox_in(folder.path(), &arguments);
        assert_eq!(code, 0, "{error}");
        let text = place.results().command(&["RPOP", list]);
        let envelope: serde_json::Value = serde_json::from_str(text.text()).unwrap();
        (
            envelope["content-type"].as_str().unwrap().to_owned(),
            envelope["headers"]["compression"].as_str().map(str::to_owned),
            envelope["properties"]["priority"].clone(),
        )
    };
    let some = |text: &str| Some(text.to_owned());
    let step3 = "celery\u{6}\u{16}3";
    assert_eq!(
        sent(step3, &["arithmetic.add"]),
        ("application/json".into(), some("application/zstd"), json!(3))
    );
    assert_eq!(
        sent("mail\u{6}\u{16}9", &["mail.send", "--priority", "9"]),
        ("application/x-yaml".into(), some("application/zstd"), json!(9))
    );
    assert_eq!(
        sent(
            "other",
            &[
                "arithmetic.add",
                "--queue",
                "other",
                "--serializer",
                "msgpack",
                "--compression",
                "gzip",
                "--priority",
                "0"
            ]
        ),
        (
            "application/x-msgpack".into(),
            some("application/x-gzip"),
            json!(0)
        )
    );
    let (code, _, error) = celerybox_in(folder.path(), &["call", "a", "-b", &url, "--serializer", "xml"]);
    assert_eq!(code, 1);
    assert!(error.contains("\"xml\"") && error.contains("msgpack"), "{error}");
}

#[test]
fn call_refuses_malformed_arguments() {
    let folder = folder();
    let (code, out, error) = celerybox_in(folder.path(), &["call", "arithmetic.add", "-a", "{not json"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.contains("--args"), "{error}");
}

#[test]
fn worker_without_tasks_says_what_to_do() {
    let folder = folder();
    let (code, _, error) = celerybox_in(folder.path(), &["worker"]);
    assert_eq!(code, 1);
    assert!(error.contains("--tasks"), "{error}");
}
