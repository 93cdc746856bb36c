//! Celery's own integration tests, unchanged, against our worker (contract sections 10.2 and 10.3). `make python` unpacks
//! its source package into `.build`; only the fixture that starts the worker is another one
//! (`tests/interop/suite_worker.py`). The tasks are the component `tests/guests/t`.
//!
//! `tests/cases/celery-suite.json` names every test that does not pass, with its reason. A test that fails and is not
//! there is an error, and so is one that is there and passes. Some tests look at a result in the moment in which it comes
//! (contract section 10.3): one that fails is given a second chance, and named.
//!
//! `CELERYBOX_SUITE='-k chord'` chooses tests by pytest's options; the worker's log is added to `CELERYBOX_SUITE_LOG`.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::Command;

use celerybox_tests::{Place, Worker, guests, root};
use serde_json::{Value, json};

/// How each test ended: `passed`, `failed`, `skipped` or `xfailed`, and what a failure says.
type Ended = BTreeMap<String, (String, String)>;

/// Runs the tests that these arguments of pytest choose.
fn run(chosen: &[String]) -> Ended {
    let place = Place::redis();
    let server = place.results();
    let (host, port) = address(&server.url());
    let files = place.folder().join("files");
    std::fs::create_dir(&files).unwrap();
    let settings = json!({
        "result_extended": true,
        "task_create_missing_queues": false,
        "allowed_exceptions": {"t.integration.tasks": ["ExpectedException", "UnpickleableException"]},
    });
    // The tables of grants are too deep for the settings of other tests.
    let grants = format!(
        "[component.t]\nresults = true\nnetwork = [\"{host}:{port}\"]\n\
         send_to = {{ queues = [\"*\"], tasks = [\"*\"] }}\n\
         environment = {{ REDIS_HOST = \"{host}\", REDIS_PORT = \"{port}\" }}\n\
         files = {{ {0:?} = {{ path = {0:?}, writable = true }} }}\n",
        files.display().to_string()
    );
    let mut command = Worker::command(&place, &settings);
    let mut arguments: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let config = arguments.iter().position(|word| word == "--config").unwrap() + 1;
    let text = std::fs::read_to_string(&arguments[config]).unwrap();
    std::fs::write(&arguments[config], format!("{text}\n{grants}")).unwrap();
    let folder = guests().display().to_string();
    for word in &mut arguments {
        if *word == folder {
            *word = guests().join("t.wasm").display().to_string();
        }
    }
    arguments.extend(["-c".into(), "1".into()]);
    command.args(["-c", "1"]);
    let report = place.folder().join("report.json");
    let log = place.folder().join("worker.log");
    let mut pytest = Command::new(root().join(".build/venv-suite/bin/python"));
    pytest
        .current_dir(root().join(".build/venv-suite/source"))
        .args([
            "-m",
            "pytest",
            "-q",
            "-p",
            "suite_worker",
            "-p",
            "celery.contrib.pytest",
            "-p",
            "no:cacheprovider",
            "--tb=short",
        ])
        .args(chosen)
        .env("PYTHONPATH", root().join("tests/interop"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("XDG_CACHE_HOME", root().join(".build/cache"))
        .env("TMPDIR", &files)
        .env("TEST_BROKER", server.url())
        .env("TEST_BACKEND", server.url())
        .env("REDIS_HOST", &host)
        .env("REDIS_PORT", &port)
        .env("SUITE_WORKER", json!(arguments).to_string())
        .env("SUITE_LOG", &log)
        .env("SUITE_REPORT", &report);
    let output = pytest.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    if let Some(kept) = std::env::var_os("CELERYBOX_SUITE_LOG") {
        // A second chance must not take away the log of the first.
        let mut kept = File::options().create(true).append(true).open(kept).unwrap();
        std::io::copy(&mut File::open(&log).unwrap(), &mut kept).unwrap();
    }
    println!("{stdout}");
    let text = std::fs::read_to_string(&report).unwrap_or_else(|error| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        panic!("{error}: {stdout}{stderr}")
    });
    serde_json::from_str(&text).unwrap()
}

fn address(url: &str) -> (String, String) {
    let (_, rest) = url.split_once("://").unwrap();
    let (host, port) = rest.split('/').next().unwrap().rsplit_once(':').unwrap();
    (host.to_owned(), port.to_owned())
}

/// What is wrong: how tests ended, beside the list of those that do not pass.
fn differences(ended: &Ended, listed: &BTreeMap<String, Value>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, (outcome, text)) in ended {
        let reason = listed.get(name).and_then(Value::as_str);
        match (outcome.as_str(), reason) {
            ("passed", Some(_)) => wrong.push(format!("{name} passes: take it off the list")),
            ("passed", None) | ("failed" | "skipped" | "xfailed", Some(_)) => {}
            (outcome, _) => wrong.push(format!("{name} {outcome}\n{text}")),
        }
    }
    wrong
}

/// Runs a file; at least so many of its tests pass.
fn suite(file: &str, least: usize) {
    let text = std::fs::read_to_string(root().join("tests/cases/celery-suite.json")).unwrap();
    let listed: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(&text).unwrap();
    let listed = &listed[file];
    let options = std::env::var("CELERYBOX_SUITE").unwrap_or_default();
    let mut chosen: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
    chosen.push(format!("t/integration/{file}"));
    let mut ended = run(&chosen);
    let again: Vec<String> = ended
        .iter()
        .filter(|(name, (outcome, _))| outcome == "failed" && !listed.contains_key(*name))
        .map(|(name, _)| format!("t/integration/{name}"))
        .collect();
    if !again.is_empty() {
        println!("once more: {}", again.join(" "));
        ended.extend(run(&again));
    }
    let passed = ended.values().filter(|(outcome, _)| outcome == "passed").count();
    println!(
        "{file}: {passed} of {} passed, {} are listed",
        ended.len(),
        listed.len()
    );
    let wrong = differences(&ended, listed);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    if std::env::var_os("CELERYBOX_SUITE").is_none() {
        assert!(passed >= least, "only {passed} passed");
        for name in listed.keys() {
            assert!(ended.contains_key(name), "{name} is listed and not there");
        }
    }
}

#[test]
#[ignore = "minutes: make suite"]
fn test_canvas() {
    suite("test_canvas.py", 234);
}

#[test]
fn test_group_chains() {
    suite("test_group_chains.py", 21);
}

#[test]
#[ignore = "minutes: make suite"]
fn test_tasks() {
    suite("test_tasks.py", 43);
}

#[test]
fn what_is_listed_and_what_fails_are_the_same() {
    let ended = |outcome: &str| BTreeMap::from([("t".to_owned(), (outcome.to_owned(), String::new()))]);
    let listed = BTreeMap::from([("t".to_owned(), json!("because"))]);
    let none = BTreeMap::new();
    assert!(differences(&ended("passed"), &none).is_empty());
    assert!(differences(&ended("failed"), &listed).is_empty());
    assert!(differences(&ended("skipped"), &listed).is_empty());
    assert_eq!(differences(&ended("passed"), &listed).len(), 1);
    assert_eq!(differences(&ended("failed"), &none).len(), 1);
    assert_eq!(differences(&ended("skipped"), &none).len(), 1);
}
