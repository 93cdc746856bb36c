//! Settings that a whole worker shows, from the file, with the real client. Those that need a look inside are tested where
//! they are decided.

use celerybox::config::{Settings, connect};
use celerybox_tests::{Place, Redis, Worker, eventually, send};
use serde_json::{Value, json};

fn start(place: &Place, settings: Value) -> Worker {
    Worker::start(place, &settings, &[])
}

fn state_is(place: &Place, ids: &[String], state: &str) {
    eventually(state, || place.results().count_state(ids, state) == ids.len());
}

/// Two slots, two messages for each: two run, two more are held, the rest stays in the queue.
#[test]
fn slots_and_prefetch_are_as_they_are_set() {
    let place = Place::redis();
    let settings = json!({"worker_concurrency": 2, "worker_prefetch_multiplier": 2, "task_acks_late": true, "task_track_started": true});
    let _worker = start(&place, settings);
    let ids = send(&place, "probe.sleep", 8, &json!([600]), &json!({}));
    eventually("two run", || place.results().count_state(&ids, "STARTED") == 2);
    eventually("four are held", || place.queue() == (4, 4));
}

/// Tasks that wait for their ETA are held beyond the prefetch count, up to this many.
#[test]
fn messages_that_wait_are_limited() {
    let place = Place::redis();
    let settings =
        json!({"worker_concurrency": 1, "worker_prefetch_multiplier": 1, "worker_eta_task_limit": 3});
    let _worker = start(&place, settings);
    send(
        &place,
        "arithmetic.add",
        6,
        &json!([1, 1]),
        &json!({"countdown": 600}),
    );
    eventually("three are held", || place.queue() == (3, 3));
}

/// Results and failures are kept for their own times.
#[test]
fn results_expire() {
    let place = Place::redis();
    let _worker = start(
        &place,
        json!({"result_expires": 5000, "result_failure_expires": 300}),
    );
    let fine = send(&place, "arithmetic.add", 1, &json!([1, 1]), &json!({}));
    let wrong = send(&place, "probe.fail", 1, &json!(["no"]), &json!({}));
    state_is(&place, &fine, "SUCCESS");
    state_is(&place, &wrong, "FAILURE");
    let left = |id: &String| {
        place
            .results()
            .command(&["TTL", &format!("celery-task-meta-{id}")])
            .integer()
    };
    assert!((4900..=5000).contains(&left(&fine[0])), "{}", left(&fine[0]));
    assert!((200..=300).contains(&left(&wrong[0])), "{}", left(&wrong[0]));
}

/// The queue that is consumed when none is named, and sent to by `celerybox call`.
#[test]
fn the_default_queue_has_another_name() {
    let place = Place::redis();
    let _worker = start(&place, json!({"task_default_queue": "mail"}));
    let ids = send(
        &place,
        "arithmetic.add",
        1,
        &json!([1, 1]),
        &json!({"queue": "mail"}),
    );
    state_is(&place, &ids, "SUCCESS");
}

/// `worker_direct`: a queue of this worker alone, found through its exchange.
#[test]
fn a_worker_has_a_queue_of_its_own() {
    let place = Place::redis();
    let settings = json!({"worker_direct": true});
    let _one = Worker::start(&place, &settings, &["-n", "one@test"]);
    let _two = Worker::start(
        &place,
        &json!({"worker_direct": true, "result_extended": true}),
        &["-n", "two@test"],
    );
    let options = json!({"exchange": "C.dq2", "routing_key": "two@test"});
    let ids = send(&place, "arithmetic.add", 4, &json!([1, 1]), &options);
    state_is(&place, &ids, "SUCCESS");
    assert!(
        place
            .results()
            .stored(&ids)
            .iter()
            .all(|document| document["worker"] == "two@test")
    );
}

/// `redis_backend_use_ssl`: the authority of a server's certificate is named in the settings and not in its URL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_stored_over_tls() {
    let server = Redis::start();
    let url = server.tls_url();
    let (url, _) = url.split_once('?').unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("celerybox.toml");
    let text = format!(
        "broker_url = {url:?}\nresult_backend = {url:?}\nredis_backend_use_ssl = {{ ssl_cert_reqs = 'required', ssl_ca_certs = {:?} }}",
        server.authority()
    );
    std::fs::write(&file, text).unwrap();
    let settings = Settings::load(Some(&file)).unwrap();
    let broker = connect::broker(&settings).unwrap();
    let backend = connect::backend(&settings, &broker).unwrap().unwrap();
    assert!(backend.fetch("nothing").await.unwrap().is_none());
}
