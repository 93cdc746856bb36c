//! Contract sections 3.2 and 3.13 over a real RabbitMQ.

use celerybox_tests::{Place, Worker, against_real_celery, eventually, python, send};
use serde_json::json;

/// The connection goes while one late-acked task runs and another one waits for its ETA: the first runs once, and what
/// comes again of it is only acknowledged; the second is forgotten and comes again.
#[test]
fn a_lost_connection_runs_nothing_twice() {
    if against_real_celery() {
        return; // It does run the first one twice.
    }
    let place = Place::amqp();
    let mut worker = Worker::start(&place, &json!({"task_track_started": true}), &["-c", "2"]);
    let running = send(&place, "probe.late", 1, &json!([15]), &json!({}));
    let held = send(&place, "probe.late", 1, &json!([0]), &json!({"countdown": 16}));
    eventually("it runs", || {
        place.results().count_state(&running, "STARTED") == 1
    });
    worker.wait_for_line(&format!("probe.late[{}] received", held[0]));
    eventually("its connections are closed", || {
        place.amqp_broker().close_connections();
        worker.count_lines("Connection to broker lost") > 0
    });
    worker.wait_for_line(&format!("probe.late[{}] is left to the broker", held[0]));
    worker.wait_for_line(&format!(
        "probe.late[{}] ignored: it ran here when its message",
        running[0]
    ));
    eventually("both are done", || {
        place.results().count_state(&running, "SUCCESS") == 1
            && place.results().count_state(&held, "SUCCESS") == 1
    });
    for id in [&running[0], &held[0]] {
        assert_eq!(
            worker.count_lines(&format!("probe.late[{id}] succeeded")),
            1,
            "{id}"
        );
    }
    eventually("all are acknowledged", || place.queue() == (0, 0));
}

/// A message that is refused goes to its dead letter exchange, and says there why.
#[test]
fn a_refused_message_keeps_its_cause() {
    let place = Place::amqp();
    let queue = json!({"queue_arguments": {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead",
    }});
    let settings = json!({"task_queues": {"refusing": queue}});
    let _worker = Worker::start(&place, &settings, &["-c", "1", "-Q", "refusing"]);
    let found = python(&place, "dead_letter.py", &["probe.late_fail"]);
    let death = &found["x-death"][0];
    assert_eq!(death["reason"], "rejected", "{found}");
    assert_eq!(
        (&death["queue"], &death["count"]),
        (&json!("refusing"), &json!(1)),
        "{found}"
    );
    assert_eq!(found["task"], "probe.late_fail");
}
