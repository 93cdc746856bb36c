//! Clients of older versions of Celery, with the messages of both protocols.

use std::process::Command;

use celerybox_tests::{Place, Worker, check_old, venv_python};
use serde_json::json;

/// Whether the tests' Python can run Celery 4.4: it needs modules that Python 3.12 no longer has.
fn runs_celery_4() -> bool {
    let code = "import sys; sys.exit(sys.version_info >= (3, 12))";
    let status = Command::new(venv_python()).args(["-c", code]).status().unwrap();
    status.success()
}

fn old_clients(place: &Place) {
    let mut worker = Worker::start(place, &json!({}), &["-c", "4"]);
    let mut clients = vec![("5.2", "5.2.7")];
    if runs_celery_4() {
        clients.push(("4.4", "4.4.7"));
    }
    for (line, version) in clients {
        for protocol in [2, 1] {
            check_old(place, line, version, protocol);
        }
    }
    assert!(worker.runs());
}

#[test]
fn redis() {
    old_clients(&Place::redis());
}

#[test]
fn amqp() {
    old_clients(&Place::amqp());
}

#[test]
fn rpc() {
    old_clients(&Place::amqp_rpc());
}
