//! The options of `celery worker`: a unit file that starts Celery's starts ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use celerybox_tests::{
    Place, Process, Signal, Worker, celerybox, eventually, root, send, tasks, venv_python,
};
use rustix::process::{Pid, kill_process};
use serde_json::{Value, json};

use crate::cli::{command, output};

/// Real Celery's options of a command: their names, and whether they take a value.
fn options_of_celery() -> Vec<(String, bool)> {
    let script = "import json
from celery.bin.worker import worker
from celery.bin.celery import celery
options = [p for c in (celery, worker) for p in c.params if p.opts != ['--help'] and p.opts != ['--version']]
print(json.dumps([[o, not p.is_flag] for p in options for o in p.opts + p.secondary_opts]))";
    let listed = Command::new(venv_python()).args(["-c", script]).output().unwrap();
    let listed: Vec<(String, bool)> = serde_json::from_slice(&listed.stdout).expect("a list of options");
    assert!(listed.len() > 50, "{listed:?}");
    listed
}

/// A value that Celery takes for the option.
fn value_of(option: &str) -> &str {
    match option {
        "-O" | "--optimization" => "fair",
        "-l" | "--loglevel" => "INFO",
        "--autoscale" => "10,3",
        "-P" | "--pool" => "prefork",
        "--umask" => "022",
        _ => "1",
    }
}

#[test]
fn every_option_of_celery_worker_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    for (option, takes_value) in options_of_celery() {
        let mut arguments = vec!["worker", &option];
        if takes_value {
            arguments.push(value_of(&option));
        }
        // Wrong usage is found before anything is done; what the error names is not the option in question.
        arguments.push("--no-such-option");
        let (code, _, error) = output(&mut command(folder.path(), &arguments));
        assert_eq!(code, 64, "{option}: {error}");
        assert!(
            error.contains("unexpected argument '--no-such-option'"),
            "{option}: {error}"
        );
    }
}

#[test]
fn options_stand_in_front_of_the_command_or_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let arithmetic = tasks().join("arithmetic.wasm");
    let arithmetic = arithmetic.to_str().unwrap();
    for arguments in [
        &[
            "-A",
            "proj",
            "-b",
            "redis://h",
            "-q",
            "check",
            "--tasks",
            arithmetic,
        ][..],
        &[
            "check",
            "-A",
            "proj",
            "-b",
            "redis://h",
            "-q",
            "--tasks",
            arithmetic,
        ],
    ] {
        let (code, out, error) = output(&mut command(folder.path(), arguments));
        assert_eq!(code, 0, "{error}");
        assert!(out.contains("redis://h"), "{out}");
    }
}

#[test]
fn options_are_read_from_the_environment_and_the_command_line_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("celerybox.toml"), "worker_concurrency = 2").unwrap();
    let arithmetic = tasks().join("arithmetic.wasm");
    let check = |more: &[&str], environment: &[(&str, &str)]| {
        let arguments = [&["check", "--tasks", arithmetic.to_str().unwrap()], more].concat();
        let mut command = command(folder.path(), &arguments);
        let (code, out, error) = output(command.envs(environment.iter().copied()));
        assert_eq!(code, 0, "{error}");
        out
    };
    let environment = [
        ("CELERY_WORKER_CONCURRENCY", "7"),
        ("BROKER_URL", "redis://elsewhere"),
    ];
    assert!(check(&[], &[]).contains("concurrency:    2\n"));
    assert!(check(&[], &environment).contains("concurrency:    7\n"));
    assert!(check(&[], &environment).contains("redis://elsewhere"));
    let both = [
        ("CELERY_BROKER_URL", "redis://first"),
        ("BROKER_URL", "redis://second"),
    ];
    assert!(check(&[], &both).contains("redis://first"));
    assert!(check(&["-c", "9"], &environment).contains("concurrency:    9\n"));
    let urls = [
        ("CELERY_BROKER_READ_URL", "redis://one"),
        ("CELERY_BROKER_WRITE_URL", "redis://two"),
        ("CELERY_RESULT_BACKEND", "redis://:secret@three"),
    ];
    let out = check(&[], &urls);
    for url in [
        "taken from:     redis://one",
        "sent to:        redis://two",
        "result backend: redis://:**@three",
    ] {
        assert!(out.contains(url), "{out}");
    }
}

/// On a terminal a warning has a colour, unless somebody does not want it.
#[test]
fn colours_can_be_switched_off() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("celerybox.toml"), "worker_pool = 'solo'").unwrap();
    let arithmetic = tasks().join("arithmetic.wasm");
    let on_a_terminal = |more: &str, no_color: &str| {
        let line = format!(
            "{} {more} check --tasks {}",
            celerybox().display(),
            arithmetic.display()
        );
        let mut script = Command::new("script");
        script
            .args(["-qec", &line, "/dev/null"])
            .env("NO_COLOR", no_color);
        script
            .current_dir(folder.path())
            .env("XDG_CACHE_HOME", root().join(".build/cache"));
        let (code, out, error) = output(&mut script);
        assert_eq!(code, 0, "{out}{error}");
        assert!(out.contains("worker_pool has no effect"), "{out}");
        out.contains("\u{1b}[33m")
    };
    assert!(on_a_terminal("", ""));
    assert!(!on_a_terminal("", "1"));
    assert!(!on_a_terminal("-C", ""));
}

#[test]
fn revoked_ids_are_kept_in_the_file_of_the_command_line() {
    let place = Place::redis();
    let file = place.folder().join("state");
    let (mut worker, _) = banner(&place, &json!({}), &["-S", file.to_str().unwrap()]);
    let ids = send(
        &place,
        "arithmetic.add",
        1,
        &json!([1, 1]),
        &json!({"expires": -10}),
    );
    eventually("it is revoked", || {
        place.results().count_state(&ids, "REVOKED") == 1
    });
    worker.signal(Signal::TERM);
    worker.wait(std::time::Duration::from_secs(60));
    assert!(std::fs::read_to_string(&file).unwrap().contains(&ids[0]));
}

#[test]
fn values_that_make_no_sense_are_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["-c", "many"][..],
        &["--autoscale", "ten"],
        &["--autoscale", "0,0"],
        &["--umask", "999"],
        &["-O", "slow"],
        &["-l", "loud"],
    ] {
        let (code, _, error) = output(&mut command(folder.path(), &[&["worker"], arguments].concat()));
        assert_eq!(code, 64, "{arguments:?}: {error}");
    }
}

/// What a unit file or an init script for Celery says, with every option that means nothing here.
#[test]
fn a_detached_worker_logs_to_its_file_and_holds_its_pid_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let arithmetic = tasks().join("arithmetic.wasm");
    let arguments = [
        "-A",
        "proj",
        "worker",
        "-D",
        "-n",
        "w1@%h",
        "--pidfile",
        "%n.pid",
        "-f",
        "%n%I.log",
        "-l",
        "INFO",
        "-c",
        "1",
        "-P",
        "prefork",
        "-O",
        "fair",
        "--max-tasks-per-child",
        "100",
        "--max-memory-per-child",
        "200000",
        "-E",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        "--heartbeat-interval",
        "5",
        "-I",
        "a,b",
        "-B",
        "-s",
        "schedule",
        "--scheduler",
        "x",
        "--executable",
        "python",
        "--pool-start-method",
        "fork",
        "--umask",
        "027",
        "--tasks",
    ];
    let mut start = command(folder.path(), &arguments);
    let (code, out, error) = output(start.arg(&arithmetic));
    assert_eq!((code, out.as_str()), (0, ""), "{error}");

    let log = || std::fs::read_to_string(path("w1.log")).unwrap_or_default();
    let worker = Detached(path("w1.pid"));
    eventually("a pid file", || worker.pid().is_some());
    eventually("the last of the lines", || log().contains("--scheduler"));
    for option in [
        "-O",
        "--pool",
        "--max-tasks-per-child",
        "--max-memory-per-child",
        "--beat",
        "--include",
    ] {
        assert!(
            log().contains(&format!("{option} has no effect: ")),
            "{option}:\n{}",
            log()
        );
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path("w1.log")).unwrap());
    assert_eq!(mode & 0o777, 0o640, "the umask");

    let mut second = command(
        folder.path(),
        &["worker", "-n", "w1", "--pidfile", "%n.pid", "--tasks"],
    );
    let (code, _, error) = output(second.arg(&arithmetic));
    assert_eq!(code, 73, "{error}");
    assert!(error.contains("already running"), "{error}");

    worker.signal(Signal::TERM);
    eventually("the end of the worker", || !path("w1.pid").exists());
}

/// A worker that is no child of this process, by its pid file. It ends with the test.
struct Detached(PathBuf);

impl Detached {
    fn pid(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(&self.0).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[test]
fn a_worker_runs_as_another_group() {
    let own = std::fs::metadata("/proc/self").unwrap();
    if std::os::unix::fs::MetadataExt::uid(&own) != 0 {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let arithmetic = tasks().join("arithmetic.wasm");
    let mut command = command(folder.path(), &["worker", "--gid", "nogroup", "--tasks"]);
    let mut worker = Process::start("celerybox worker", command.arg(arithmetic), None);
    worker.wait_for_line("ready.");
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let groups = status.lines().find(|line| line.starts_with("Gid:")).unwrap();
    let groups: Vec<&str> = groups.split_whitespace().skip(1).collect();
    let nogroup = std::fs::read_to_string("/etc/group").unwrap();
    let nogroup = nogroup.lines().find(|line| line.starts_with("nogroup:")).unwrap();
    let number = nogroup.split(':').nth(2).unwrap();
    assert_eq!(groups, [number; 4]);
}

/// A worker on the tasks' own Redis, with more options; what its banner says.
fn banner(place: &Place, settings: &Value, arguments: &[&str]) -> (Worker, String) {
    let mut command = Worker::command(place, settings);
    let worker = Worker::run("celerybox worker", command.args(arguments));
    let banner = worker.lines().join("\n");
    (worker, banner)
}

#[test]
fn queues_are_chosen_left_out_and_purged() {
    let place = Place::redis();
    let queues = json!({"task_queues": {"a": {}, "b": {}, "c": {}}});
    let (worker, text) = banner(&place, &queues, &["-X", "b"]);
    assert!(text.contains("queues:      a, c\n"), "{text}");
    drop(worker);
    let (worker, text) = banner(&place, &queues, &["-Q", "b,new"]);
    assert!(text.contains("queues:      b, new\n"), "{text}");
    drop(worker);

    let strict = json!({"task_queues": {"mail": {}}, "task_create_missing_queues": false});
    let mut command = Worker::command(&place, &strict);
    let (code, _, error) = output(command.args(["-Q", "mial"]));
    assert_eq!(code, 1);
    assert!(error.contains("mial") && error.contains("mail"), "{error}");

    let old = send(&place, "arithmetic.add", 3, &json!([1, 1]), &json!({}));
    let (_worker, text) = banner(&place, &json!({}), &["--purge"]);
    assert!(
        text.contains("purge: Erased 3 messages from the queue celery."),
        "{text}"
    );
    let new = send(&place, "arithmetic.add", 1, &json!([1, 1]), &json!({}));
    eventually("the new one is done", || {
        place.results().count_state(&new, "SUCCESS") == 1
    });
    assert_eq!(place.results().count_state(&old, "SUCCESS"), 0);
}

#[test]
fn time_limits_are_given_on_the_command_line() {
    let place = Place::redis();
    let (_worker, _) = banner(
        &place,
        &json!({}),
        &["--time-limit", "1.5", "--soft-time-limit", "0.5", "-c", "2"],
    );
    let soft = send(&place, "probe.soft", 1, &json!([]), &json!({}));
    let hard = send(&place, "spin.forever", 1, &json!([]), &json!({}));
    eventually("both are ended", || {
        place.results().count_state(&soft, "SUCCESS") == 1
            && place.results().count_state(&hard, "FAILURE") == 1
    });
    assert_eq!(place.results().stored(&soft)[0]["result"], "ended in good order");
    let failure = &place.results().stored(&hard)[0]["result"];
    assert_eq!(
        failure,
        &json!({"exc_type": "TimeLimitExceeded", "exc_message": [1.5], "exc_module": "billiard.exceptions"})
    );
}

/// One slot: with a multiplier of 3 three messages are held, with 0 all of them, and one with no prefetch at all.
#[test]
fn the_prefetch_is_given_on_the_command_line() {
    for (arguments, held) in [
        (&["-c", "1", "--prefetch-multiplier", "3"][..], 3),
        (&["-c", "1", "--prefetch-multiplier", "0"], 8),
        (&["-c", "1", "--disable-prefetch"], 1),
    ] {
        let place = Place::redis();
        send(&place, "probe.late", 8, &json!([600]), &json!({}));
        let (_worker, _) = banner(&place, &json!({}), arguments);
        eventually("as many messages are held as are allowed", || {
            place.results().unacked() == held
        });
    }
}

#[test]
fn slots_come_with_the_work() {
    let place = Place::redis();
    let (mut worker, _) = banner(&place, &json!({}), &["--autoscale", "4,1"]);
    let ids = send(&place, "probe.sleep", 4, &json!([1]), &json!({}));
    worker.wait_for_line("Scaling up");
    eventually("all are done", || {
        place.results().count_state(&ids, "SUCCESS") == 4
    });
}

#[test]
fn it_works_in_the_folder_it_is_told_and_says_nothing_more_than_it_must() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("celerybox.toml"), "worker_concurrency = 5").unwrap();
    let arithmetic = tasks().join("arithmetic.wasm");
    let workdir = folder.path().to_str().unwrap();
    let arguments = [
        "check",
        "--workdir",
        workdir,
        "--tasks",
        arithmetic.to_str().unwrap(),
    ];
    let (code, out, error) = output(&mut command(Path::new("/"), &arguments));
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("concurrency:    5\n"), "{out}");

    let mut quiet = command(folder.path(), &["-q", "-C", "worker", "--tasks"]);
    let mut worker = Process::start("celerybox worker", quiet.arg(&arithmetic), None);
    worker.wait_for_line("ready.");
    assert_eq!(worker.lines().len(), 1, "{:?}", worker.lines());
}

/// Every name of Celery's own table is known, so that a configuration shared with Python workers does not break.
#[test]
fn every_setting_of_celery_is_known() {
    let script = "import json
from celery.app.defaults import NAMESPACES, flatten
print(json.dumps(sorted(dict(flatten(NAMESPACES)))))";
    let listed = Command::new(venv_python()).args(["-c", script]).output().unwrap();
    let listed: Vec<String> = serde_json::from_slice(&listed.stdout).expect("a list of settings");
    assert!(listed.len() > 200, "{listed:?}");
    let works = |name: &str| {
        celerybox::config::SETTINGS
            .iter()
            .any(|(known, _)| *known == name)
    };
    let unknown: Vec<&String> = listed
        .iter()
        .filter(|name| !works(name) && celerybox::config::elsewhere::reason(name).is_none())
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// Settings without effect are mentioned once and the worker works; a wrong name is an error with the right one.
#[test]
fn settings_without_effect_are_mentioned() {
    let place = Place::files();
    let settings =
        json!({"worker_pool": "prefork", "timezone": "Europe/Berlin", "worker_max_tasks_per_child": 10});
    let mut worker = Worker::run("celerybox worker", &mut Worker::command(&place, &settings));
    worker.wait_for_line("the setting worker_pool has no effect: ");
    assert_eq!(worker.count_lines("has no effect"), 3);
    drop(worker);

    let wrong: Value = json!({"worker_prefetch_multiplyer": 1, "task_acks_lat": true});
    let (code, _, error) = output(&mut Worker::command(&place, &wrong));
    assert_eq!(code, 1);
    for right in [
        "did you mean worker_prefetch_multiplier?",
        "did you mean task_acks_late?",
    ] {
        assert!(error.contains(right), "{error}");
    }
}
