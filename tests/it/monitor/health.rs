//! Whether a worker says that it can take tasks.

use std::net::SocketAddr;
use std::time::Duration;

use celerybox_tests::{Place, Signal, eventually, send, within};
use serde_json::{Value, json};

use super::{get, watched};

fn ready(address: SocketAddr) -> (u16, Value) {
    let (status, body) = get(address, "/health/ready");
    (status, serde_json::from_str(&body).unwrap())
}

fn comes_and_goes(mut place: Place, lose: fn(&mut Place)) {
    let (mut worker, address) = watched(&place, json!({}), &["-c", "1"]);
    assert_eq!(get(address, "/health/live").0, 200);
    assert_eq!(ready(address), (200, json!({"status": "ready"})));
    lose(&mut place);
    worker.wait_for_line("Trying");
    within(Duration::from_secs(120), "it is ready again", || {
        let text = get(address, "/metrics").1;
        let again = super::value(&text, "celerybox_broker_reconnects_total", &[]) >= Some(1.0);
        (again && ready(address).0 == 200).then_some(())
    });
    send(&place, "probe.sleep", 1, &json!([600]), &json!({}));
    worker.wait_for_line("received");
    worker.signal(Signal::TERM);
    eventually("it says that it is stopping", || {
        let (status, said) = ready(address);
        let stopping = said["reasons"] == json!(["the worker is stopping"]);
        stopping && status == 503
    });
    // It still answers: an orchestrator does not kill it meanwhile.
    assert_eq!(get(address, "/health/live").0, 200);
    worker.signal(Signal::QUIT);
    worker.wait(Duration::from_secs(60));
}

#[test]
fn redis_readiness_follows_broker_and_shutdown() {
    comes_and_goes(Place::redis(), Place::restart_broker);
}

#[test]
fn amqp_readiness_follows_broker_and_shutdown() {
    comes_and_goes(Place::amqp(), |place| {
        eventually("its connections are closed", || {
            place.vhost().close_connections() > 0
        });
    });
}

/// While the broker is away, the answer says so.
#[test]
fn a_worker_without_its_broker_is_alive_and_not_ready() {
    let place = Place::files();
    let (_worker, address) = watched(&place, json!({}), &["-c", "1"]);
    assert_eq!(ready(address).0, 200);
    std::fs::remove_dir_all(place.data_dir().join("queue")).unwrap();
    eventually("it is not ready", || {
        let (status, said) = ready(address);
        status == 503 && said["reasons"] == json!(["the broker is not connected"])
    });
    assert_eq!(get(address, "/health/live").0, 200);
}
