//! Serializers, compressions and signatures between real clients and the worker (contract sections 1.5 to 1.7, 5.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use celerybox::message::{Message, Properties, Route, request};
use celerybox_tests::{Place, Worker, celerybox, eventually, python};
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;
use std::process::Command;

const ACCEPT: [&str; 4] = ["json", "yaml", "msgpack", "pickle"];

/// Runs a part of `content.py`; prints the workers' logs where it fails.
fn content(place: &Place, workers: &[Worker], arguments: &[&str]) {
    let run = AssertUnwindSafe(|| python(place, "content.py", arguments));
    if let Err(panic) = std::panic::catch_unwind(run) {
        workers.iter().for_each(Worker::print_log);
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn every_serializer_with_every_compression_and_both_protocols() {
    let place = Place::redis();
    let settings = json!({"accept_content": ACCEPT});
    let workers = [Worker::start(&place, &settings, &["-c", "4"])];
    content(&place, &workers, &["messages"]);
}

/// Random values as each serializer of Python's writes them, in all its styles and protocols.
#[test]
fn whatever_python_writes_is_read_as_what_it_means() {
    let place = Place::files();
    let cases = python(&place, "content.py", &["cases", "60"]);
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 900, "{}", cases.len());
    for case in cases {
        let [content_type, body, meant] = [0, 1, 2].map(|n| case[n].as_str().unwrap());
        let body = BASE64.decode(body).unwrap();
        let shown = String::from_utf8_lossy(&body).into_owned();
        let message = Message {
            headers: json!({"task": "t", "id": "i"}).as_object().cloned(),
            properties: Properties {
                content_type: Some(content_type.to_owned()),
                ..Properties::default()
            },
            body,
        };
        let read = request::decode(message, Route::default(), false, &ACCEPT.map(str::to_owned));
        let read = read.unwrap_or_else(|error| panic!("{content_type} {shown:?}: {error}"));
        let read: Value = serde_json::from_str(read.body.args.get()).unwrap();
        let meant: Value = serde_json::from_str(meant).unwrap();
        assert_eq!(read[0], meant, "{content_type} {shown:?}");
    }
}

/// Each form of results on a queue of its name.
const FORMS: [&str; 6] = [
    "json-brotli",
    "yaml",
    "yaml-bzip2",
    "msgpack-lzma",
    "pickle",
    "pickle-zstd",
];

fn results_in_every_form(place: &Place, forms: &[&str]) {
    let workers: Vec<Worker> = forms
        .iter()
        .map(|form| {
            let (serializer, compression) = form.split_once('-').unwrap_or((form, ""));
            let settings = json!({"accept_content": ACCEPT, "result_serializer": serializer,
                "result_compression": compression, "task_track_started": true, "result_extended": true});
            Worker::start(place, &settings, &["-c", "1", "-Q", form, "-n", form])
        })
        .collect();
    content(place, &workers, &["results", &forms.join(" ")]);
}

#[test]
fn results_in_redis_in_every_form() {
    results_in_every_form(&Place::redis(), &FORMS);
}

#[test]
fn results_in_files_in_every_form() {
    results_in_every_form(&Place::files(), &["json-brotli", "msgpack-lzma", "pickle"]);
}

#[test]
fn results_as_messages_in_every_serializer() {
    results_in_every_form(&Place::amqp_rpc(), &["yaml", "msgpack", "pickle"]);
}

#[test]
fn signed_messages_and_results() {
    let place = Place::redis();
    let folder = place.folder().join("security");
    let folder = folder.to_str().unwrap();
    python(&place, "content.py", &["certificates", folder]);
    let settings = |store: &str| -> Value {
        json!({
            "accept_content": ["auth"],
            "task_serializer": "auth",
            "result_serializer": "auth",
            "security_key": format!("{folder}/worker.key"),
            "security_key_password": "secret",
            "security_certificate": format!("{folder}/trusted/worker.pem"),
            "security_cert_store": format!("{folder}/{store}"),
            "security_digest": "sha512",
        })
    };
    let workers = [Worker::start(&place, &settings("trusted/*.pem"), &["-c", "1"])];
    content(&place, &workers, &["auth", folder]);
    for reason in [
        "is not in security_cert_store",
        "the signature of",
        "accepted: application/data",
        "not base64",
    ] {
        eventually(reason, || workers[0].count_lines(reason) > 0);
    }

    // A store with a certificate that has expired is an error at the start, as is a wrong password.
    let mut wrong = settings("others/*.pem");
    wrong["security_key_password"] = json!("wrong");
    let mut command = Worker::command(&place, &wrong);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        text.contains("has expired") && text.contains("security_key:"),
        "{text}"
    );
}

#[test]
fn hostile_bodies_cost_little_and_do_nothing() {
    let place = Place::redis();
    let settings = json!({"accept_content": ACCEPT});
    let workers = [Worker::start(&place, &settings, &["-c", "1"])];
    let before = workers[0].peak_memory();
    let folder = place.folder().to_str().unwrap().to_owned();
    content(&place, &workers, &["hostile", &folder]);
    // Five bombs, the aliases, the memo and three that are too deep; JSON and YAML that never end; two that would call.
    for (reason, count) in [
        ("Refusing to decode message body", 9),
        ("the limit is limits.body", 7),
        ("nested more than", 1),
        ("the pickle imports posix.mkdir", 1),
        ("the YAML tag", 1),
    ] {
        let seen = || workers[0].count_lines(reason);
        eventually(reason, || seen() >= count);
        assert_eq!(seen(), count, "{reason}");
    }
    let grown = workers[0].peak_memory() - before;
    assert!(grown < 100 << 20, "the worker grew by {grown} bytes");
}

/// What one form wrote, `celerybox result` reads without being told which form it is.
#[test]
fn the_result_command_reads_every_form() {
    let place = Place::files();
    for form in ["json-zstd", "yaml", "msgpack-gzip", "pickle"] {
        let (serializer, compression) = form.split_once('-').unwrap_or((form, ""));
        let settings = json!({"result_serializer": serializer, "result_compression": compression});
        let _worker = Worker::start(&place, &settings, &["-c", "1"]);
        let run = |arguments: &[&str]| {
            let mut command = Command::new(celerybox());
            let output = command.args(arguments).args(place.arguments()).output().unwrap();
            assert!(
                output.status.success(),
                "{form}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let id = run(&["call", "arithmetic.add", "-a", "[2, 3]"]);
        assert_eq!(run(&["result", &id, "--timeout", "60"]), "5", "{form}");
    }
}
