//! What an operator types: Celery's own commands and ours, against one worker of ours and one of Celery's. Both commands
//! must print the same of the same fleet (contract sections 6.7 and 8.3).

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use celerybox_tests::{Place, Process, Worker, celerybox, interpreter, send};
use serde_json::{Value, json};

use crate::cli::{command, output};
use crate::events::way_to;

const BOTH: &str = "ours@test,theirs@test";
/// For commands that ask both: they end with the second answer, so this is only a bound.
const PATIENCE: [&str; 4] = ["-t", "30", "-d", BOTH];

/// A fleet of two, and the two commands.
struct Fleet<'a> {
    place: &'a Place,
    _ours: Worker,
    _theirs: Worker,
}

impl<'a> Fleet<'a> {
    fn start(place: &'a Place) -> Self {
        let theirs = Worker::python_in_full(
            place,
            &json!({}),
            &["-E", "-c", "1", "--prefetch-multiplier", "1", "-n", "theirs@test"],
        );
        let ours = Worker::command_started(
            place,
            &json!({}),
            &["-c", "1", "--prefetch-multiplier", "1", "-n", "ours@test"],
        );
        Self {
            place,
            _ours: ours,
            _theirs: theirs,
        }
    }

    fn celerybox(&self, words: &[&str]) -> Command {
        let mut command = command(self.place.folder(), words);
        command.args(self.place.arguments());
        command
    }

    fn celery(&self, words: &[&str]) -> Command {
        let mut command = interpreter(self.place);
        command
            .args(["-W", "ignore", "-m", "celery", "-A", "proj"])
            .args(words);
        command
    }

    /// Both commands with the same words: they must end alike and print the same lines, in any order, for nodes answer in
    /// any order. The lines of ours.
    fn same(&self, words: &[&str]) -> Vec<String> {
        let sorted = |text: String| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let (code, out, error) = output(&mut self.celerybox(words));
        let (their_code, their_out, their_error) = output(&mut self.celery(words));
        assert_eq!(code, their_code, "{words:?}: {error}\n{their_error}");
        let lines = sorted(out);
        assert_eq!(lines, sorted(their_out), "{words:?}: {error}\n{their_error}");
        lines
    }

    /// The same for JSON.
    fn same_json(&self, words: &[&str]) -> Value {
        let words = [words, &["--json"]].concat();
        let read = |text: &str| -> Value {
            let first = text.lines().next().unwrap_or_default();
            serde_json::from_str(first).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
        };
        let (code, out, error) = output(&mut self.celerybox(&words));
        assert_eq!(code, 0, "{words:?}: {error}");
        assert_eq!(out.lines().count(), 1, "{out}");
        let (_, their_out, _) = output(&mut self.celery(&words));
        let mut theirs = read(&their_out);
        if let Value::Array(answers) = &mut theirs {
            answers.sort_by_key(Value::to_string);
        }
        let mut ours = read(&out);
        if let Value::Array(answers) = &mut ours {
            answers.sort_by_key(Value::to_string);
        }
        assert_eq!(ours, theirs, "{words:?}");
        ours
    }
}

fn asked(place: &Place) {
    let fleet = Fleet::start(place);
    let with_patience = |words: &[&'static str]| [words, &PATIENCE].concat();
    // Everybody who answers within two seconds, and everybody did before.
    fleet.same(&with_patience(&["inspect", "ping"]));
    let lines = fleet.same(&["status", "-t", "3"]);
    let expected = ["", "->  ours@test: OK", "->  theirs@test: OK", "2 nodes online."];
    assert_eq!(lines, expected);
    let pong = json!({"ours@test": {"ok": "pong"}, "theirs@test": {"ok": "pong"}});
    assert_eq!(fleet.same_json(&with_patience(&["status"])), pong);
    assert_eq!(fleet.same_json(&with_patience(&["inspect", "ping"])), pong);
    let empty = fleet.same(&with_patience(&["inspect", "active"]));
    assert_eq!(empty.iter().filter(|line| line.contains("- empty -")).count(), 2);

    // In a folder a worker of Celery's answers nobody while it has all the messages that it may have.
    if !place.broker_url().starts_with("filesystem") {
        busy(&fleet);
    }
    for (words, said) in [
        (
            &["control", "rate_limit", "arithmetic.add", "10/m"][..],
            "new rate limit set successfully",
        ),
        (&["control", "rate_limit", "nobody.has", "10/m"], "unknown task"),
        (
            &["control", "time_limit", "arithmetic.add", "30", "60"],
            "time limits set successfully",
        ),
        (&["control", "add_consumer", "another"], "add consumer another"),
        (
            &["control", "cancel_consumer", "another"],
            "no longer consuming from another",
        ),
        (&["control", "pool_grow", "1"], "pool will grow"),
    ] {
        let lines = fleet.same(&with_patience(words));
        let said = format!("        {said}");
        assert_eq!(lines.iter().filter(|line| **line == said).count(), 2, "{lines:?}");
    }
}

/// What runs, and what is done about it.
fn busy(fleet: &Fleet<'_>) {
    let with_patience = |words: &[&'static str]| [words, &PATIENCE].concat();
    // One slot each, and each takes at most one more.
    let ids = send(fleet.place, "probe.sleep", 6, &json!([600]), &json!({}));
    celerybox_tests::eventually("both run one", || {
        let (_, out, _) = output(&mut fleet.celerybox(&with_patience(&["inspect", "active", "-j"])));
        let active: Value = serde_json::from_str(&out).unwrap_or_default();
        ["ours@test", "theirs@test"]
            .iter()
            .all(|node| active[*node].as_array().is_some_and(|one| one.len() == 1))
    });
    let active = fleet.same_json(&with_patience(&["inspect", "active"]));
    assert!(
        ids.contains(&active["ours@test"][0]["id"].as_str().unwrap().to_owned()),
        "{active}"
    );
    let id = active["theirs@test"][0]["id"].as_str().unwrap().to_owned();
    let query: Vec<&str> = [&["inspect", "query_task", id.as_str()], &PATIENCE[..]].concat();
    let found = fleet.same_json(&query);
    assert_eq!(found["theirs@test"][&id][0], "active");
    assert_eq!(found["ours@test"], json!({}));

    // What all obey, and what each sees of it.
    let revoke: Vec<&str> = [&["control", "revoke", id.as_str()], &PATIENCE[..]].concat();
    let lines = fleet.same(&revoke);
    assert!(
        lines.contains(&format!("        tasks {{'{id}'}} flagged as revoked")),
        "{lines:?}"
    );
    let revoked = fleet.same_json(&with_patience(&["inspect", "revoked"]));
    assert_eq!(revoked, json!({"ours@test": [id], "theirs@test": [id]}));
    let own = active["ours@test"][0]["id"].as_str().unwrap();
    let words = ["control", "terminate", "TERM", own, "-d", "ours@test", "-t", "30"];
    let (code, out, error) = output(&mut fleet.celerybox(&words));
    assert_eq!(code, 0, "{error}");
    assert_eq!(out, format!("->  ours@test: OK\n        terminate: {own}\n"));
}

#[test]
fn redis_both_commands_see_the_same_fleet() {
    asked(&Place::redis());
}

#[test]
fn amqp_both_commands_see_the_same_fleet() {
    asked(&Place::amqp());
}

#[test]
fn files_both_commands_see_the_same_fleet() {
    asked(&Place::files());
}

/// Nobody there, no broker there, wrong words: what people and scripts are told.
#[test]
fn what_cannot_be_done_is_said() {
    let mut place = Place::redis();
    let fleet = |place: &Place, words: &[&str]| {
        let mut command = command(place.folder(), words);
        output(command.args(place.arguments()))
    };
    for words in [
        &["status", "-t", "0.3"][..],
        &["inspect", "ping", "-t", "0.3", "-j"],
    ] {
        let (code, out, error) = fleet(&place, words);
        assert_eq!((code, out.as_str()), (69, ""), "{error}");
        assert!(
            error.contains("No nodes replied within time constraint"),
            "{error}"
        );
    }
    for (words, part) in [
        (&["inspect", "pong"][..], "did you mean ping"),
        (&["control", "rate_limit", "x"], "<task_name> <rate_limit"),
        (&["inspect"], "COMMAND"),
        (&["inspect", "revoke", "x"], "celerybox control"),
    ] {
        let (code, out, error) = fleet(&place, words);
        assert_eq!((code, out.as_str()), (64, ""), "{error}");
        assert!(error.contains(part), "{error}");
    }
    let (code, out, _) = fleet(&place, &["control", "--list"]);
    assert_eq!(code, 0);
    assert!(out.contains("  rate_limit <task_name>"), "{out}");
    // Its keys expire and its binding is gone: nothing of those clients is left.
    let left = place.results().command(&["KEYS", "*reply*"]);
    assert_eq!(format!("{left:?}").matches("pidbox").count(), 0, "{left:?}");
    place.redis_broker().kill();
    let (code, _, error) = fleet(&place, &["status"]);
    assert_eq!(code, 69, "{error}");
    assert!(
        error.contains("Could not connect to the message broker"),
        "{error}"
    );
}

/// `celery events --dump` and `celerybox events` hear of a task on the worker of Celery and on ours.
fn events(place: &Place) {
    let fleet = Fleet::start(place);
    let mut streams = [
        Process::start("celerybox events", &mut fleet.celerybox(&["events"]), None),
        Process::start(
            "celerybox events --json",
            &mut fleet.celerybox(&["events", "--json"]),
            None,
        ),
        Process::start("celery events", &mut fleet.celery(&["events", "--dump"]), None),
    ];
    // Heartbeats were asked for, so that each of them has connected.
    for stream in &mut streams {
        stream.wait_for_line("theirs@test");
    }
    let ids = send(place, "probe.fail", 10, &json!(["\u{1b}[2J"]), &json!({}));
    let [dump, json, celery] = &mut streams;
    for id in &ids {
        let line = dump.wait_for_line(&format!("probe.fail({id})"));
        assert!(line.contains("args=") && !line.contains('\u{1b}'), "{line}");
        celery.wait_for_line(&format!("probe.fail({id})"));
        json.wait_for_line(id);
    }
    for (stream, failed) in [
        (dump, "task failed"),
        (celery, "task failed"),
        (json, "\"task-failed\""),
    ] {
        let line = stream.wait_for_line(failed);
        assert!(line.contains("ValueError"), "{line}");
    }
}

#[test]
fn redis_events_are_printed() {
    events(&Place::redis());
}

#[test]
fn amqp_events_are_printed() {
    events(&Place::amqp());
}

/// Both commands throw away the same messages, and ask before.
fn purged(place: &Place) {
    let run = |words: &[&str], answer: &str| {
        let mut command = command(place.folder(), words);
        command.args(place.arguments());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("celerybox starts");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(answer.as_bytes()).expect("it reads");
        drop(input);
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let celery = |words: &[&str]| {
        let mut command = interpreter(place);
        output(
            command
                .args(["-W", "ignore", "-m", "celery", "-A", "proj"])
                .args(words),
        )
    };
    let three = || send(place, "probe.echo", 3, &json!([1]), &json!({}));
    three();
    for (answer, aborted) in [("n\n", true), ("", true)] {
        let (code, out, error) = run(&["purge"], answer);
        assert_eq!(
            (code, error.contains("Aborted!")),
            (Some(1), aborted),
            "{out}{error}"
        );
        assert!(
            out.contains("This will remove all tasks from queue: celery."),
            "{out}"
        );
    }
    let (code, out, error) = run(&["purge", "-f", "-X", "celery"], "");
    assert_eq!((code, out.as_str()), (Some(0), ""), "{error}");
    let (code, out, error) = run(&["purge"], "y\n");
    assert_eq!(code, Some(0), "{error}");
    assert!(
        out.ends_with("Purged 3 messages from 1 known task queue.\n"),
        "{out}"
    );
    three();
    let (code, out, error) = celery(&["purge", "-f"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "Purged 3 messages from 1 known task queue.\n"),
        "{error}"
    );
    for words in [
        &["purge", "-f", "-Q", "celery"][..],
        &["purge", "-f", "-Q", "nobody-has-this"],
    ] {
        let (code, out, error) = run(words, "");
        assert_eq!(
            (code, out.as_str()),
            (Some(0), "No messages purged from 1 queue.\n"),
            "{error}"
        );
    }
    if place.broker_url().starts_with("amqp") {
        assert!(place.vhost().queue("nobody-has-this").is_none(), "it was made");
    }
}

#[test]
fn redis_queues_are_purged() {
    purged(&Place::redis());
}

#[test]
fn amqp_queues_are_purged() {
    purged(&Place::amqp());
}

#[test]
fn files_queues_are_purged() {
    purged(&Place::files());
}

/// `celery call`, `celery result` and `celery list bindings` with a worker of ours alone.
fn called(place: &Place) {
    let _worker = Worker::command_started(place, &json!({}), &["-c", "1", "-n", "ours@test"]);
    let celery = |words: &[&str]| {
        let mut command = interpreter(place);
        output(
            command
                .args(["-W", "ignore", "-m", "celery", "-A", "proj"])
                .args(words),
        )
    };
    let (code, out, error) = celery(&["call", "arithmetic.add", "-a", "[2, 40]"]);
    assert_eq!(code, 0, "{error}");
    let (code, out, error) = celery(&["result", out.trim()]);
    assert_eq!((code, out.as_str()), (0, "42\n"), "{error}");
    let (_, id, _) = celery(&["call", "probe.fail", "-a", "[\"boom\"]"]);
    let (code, out, error) = celery(&["result", id.trim()]);
    assert!(
        code == 1 && error.contains("ValueError: ('boom', 7)"),
        "{code} {out}{error}"
    );
    let (code, out, error) = celery(&["result", "--traceback", id.trim()]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("boom"), "{out}");
    if place.broker_url().starts_with("redis") {
        let (code, out, error) = celery(&["list", "bindings"]);
        assert_eq!(code, 0, "{error}");
        let words: Vec<Vec<&str>> = out
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert!(words.contains(&vec!["celery", "celery", "celery"]), "{out}");
        let mut ours = command(place.folder(), &["list", "bindings"]);
        assert_eq!(output(ours.args(place.arguments())), (0, out, String::new()));
    }
}

#[test]
fn redis_celery_calls_ours() {
    called(&Place::redis());
}

#[test]
fn amqp_celery_calls_ours() {
    called(&Place::amqp());
}

/// In a real terminal, with a worker of Celery, whose events are complete. The broker goes away and comes back.
#[test]
fn top_shows_a_worker_and_ends() {
    let place = Place::redis();
    let _worker = Worker::python(&place, &json!({}), &["-E", "-c", "1", "-n", "theirs@test"]);
    let celerybox = celerybox();
    let celerybox = celerybox.to_str().expect("UTF-8");
    let (way, through) = way_to(&place);
    let mut watching = interpreter(&place);
    watching.args(["top.py", "theirs@test", celerybox, "top", "--broker", &through]);
    let mut watching = Process::start("top.py", &mut watching, None);
    watching.wait_for_line("shown");
    way.set_open(false);
    watching.wait_for_line("away");
    way.set_open(true);
    let ended = watching.wait(Duration::from_secs(180));
    assert!(ended.success(), "{}", watching.lines().join("\n"));
    // Without a terminal it says what to do.
    let (code, _, error) = output(command(place.folder(), &["top"]).args(place.arguments()));
    assert_eq!(code, 1);
    assert!(error.contains("celerybox events"), "{error}");
}
