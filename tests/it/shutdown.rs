//! What a signal does to a worker: TERM and the first INT end it warmly, QUIT and the second INT coldly.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use celerybox_tests::{Place, Signal, Worker, against_real_celery, eventually, send};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

/// A worker with two slots, two running tasks and six that wait.
fn busy(place: &Place, task: &str, seconds: f64) -> (Worker, Vec<String>) {
    let settings = json!({"task_track_started": true});
    let worker = Worker::start(place, &settings, &["-c", "2"]);
    let ids = send(place, task, 8, &json!([seconds]), &json!({}));
    eventually("two tasks run", || {
        place.results().count_state(&ids, "STARTED") == 2
    });
    (worker, ids)
}

/// 0 after a warm end, 1 after a cold one. Celery 5.7 means the same, but ends with 1 after a warm INT and with 0 after
/// every cold end that was seen.
fn exits_with(status: ExitStatus, code: i32) {
    if !against_real_celery() {
        assert_eq!(status.code(), Some(code));
    }
}

/// Running tasks finish, nothing new begins, what was only reserved goes back, and the exit status is 0.
fn warm(place: &Place, signal: Signal) {
    let (mut worker, ids) = busy(place, "probe.sleep", 2.0);
    worker.signal(signal);
    let status = worker.wait(SOON);
    exits_with(status, 0);
    assert_eq!(place.results().count_state(&ids, "SUCCESS"), 2);
    assert_eq!(place.results().stored(&ids).len(), 2, "a third task began");
    eventually("six messages wait again", || place.queue() == (6, 0));
    let _next = Worker::start(place, &json!({}), &["-c", "8"]);
    eventually("the next worker does the rest", || {
        place.results().count_state(&ids, "SUCCESS") == 8
    });
}

/// Running tasks are stopped at once; those with late acknowledgement go back and are done by the next worker.
fn cold(place: &Place, signals: &[Signal]) {
    let (mut worker, ids) = busy(place, "probe.late", 6.0);
    for signal in signals {
        worker.signal(*signal);
        if signals.len() > 1 {
            worker.wait_for_line("arm shutdown");
        }
    }
    // Not the six seconds that its tasks still need.
    let status = worker.wait(Duration::from_secs(4));
    exits_with(status, 1);
    assert_eq!(place.results().count_state(&ids, "SUCCESS"), 0);
    let _next = Worker::start(place, &json!({}), &["-c", "8"]);
    eventually("the next worker does all of them", || {
        place.results().count_state(&ids, "SUCCESS") == 8
    });
}

#[test]
fn term_is_warm_on_redis() {
    warm(&Place::redis(), Signal::TERM);
}

#[test]
fn term_is_warm_on_amqp() {
    warm(&Place::amqp(), Signal::TERM);
}

#[test]
fn the_first_int_is_warm() {
    warm(&Place::redis(), Signal::INT);
}

#[test]
fn the_second_int_is_cold_on_redis() {
    cold(&Place::redis(), &[Signal::INT, Signal::INT]);
}

#[test]
fn the_second_int_is_cold_on_amqp() {
    cold(&Place::amqp(), &[Signal::INT, Signal::INT]);
}

#[test]
fn quit_is_cold() {
    cold(&Place::redis(), &[Signal::QUIT]);
}

/// Tasks that were acknowledged when they began cannot go back: their clients are told with the state RETRY.
#[test]
fn a_cold_end_tells_the_clients_of_early_acked_tasks() {
    let place = Place::redis();
    let (mut worker, ids) = busy(&place, "probe.sleep", 30.0);
    worker.signal(Signal::QUIT);
    exits_with(worker.wait(SOON), 1);
    assert_eq!(place.results().count_state(&ids, "RETRY"), 2);
    eventually("the others wait again", || place.queue() == (6, 0));
}

/// `worker_soft_shutdown_timeout`: after QUIT short tasks end, and those that still run when the time is up are stopped.
#[test]
fn a_soft_end_gives_running_tasks_some_time() {
    let place = Place::redis();
    let settings = json!({"task_track_started": true, "worker_soft_shutdown_timeout": 6.0});
    let mut worker = Worker::start(&place, &settings, &["-c", "2"]);
    let short = send(&place, "probe.sleep", 1, &json!([1.5]), &json!({}));
    let long = send(&place, "probe.late", 1, &json!([600]), &json!({}));
    let started = |ids: &[String]| place.results().count_state(ids, "STARTED") == 1;
    eventually("both run", || started(&short) && started(&long));
    worker.signal(Signal::QUIT);
    worker.wait_for_line("Initiating Soft Shutdown");
    exits_with(worker.wait(SOON), 1);
    assert_eq!(place.results().count_state(&short, "SUCCESS"), 1);
    eventually("the long one waits again", || place.queue() == (1, 0));
}

/// Without a task that runs there is nothing to wait for, unless `worker_enable_soft_shutdown_on_idle` says so.
#[test]
fn a_soft_end_waits_for_nothing_only_when_it_is_told_to() {
    for (on_idle, at_least) in [(false, 0), (true, 5)] {
        let place = Place::redis();
        let settings = json!({
            "worker_soft_shutdown_timeout": 5.0,
            "worker_enable_soft_shutdown_on_idle": on_idle,
        });
        let mut worker = Worker::start(&place, &settings, &["-c", "2"]);
        let begun = Instant::now();
        worker.signal(Signal::QUIT);
        exits_with(worker.wait(SOON), 1);
        let took = begun.elapsed();
        assert!(
            took >= Duration::from_secs(at_least),
            "on idle {on_idle}: {took:?}"
        );
        assert!(
            on_idle || took < Duration::from_secs(5),
            "on idle {on_idle}: {took:?}"
        );
    }
}

/// A signal in the time of a soft end makes it a cold one.
#[test]
fn a_soft_end_can_be_cut_short() {
    let place = Place::redis();
    let settings = json!({"task_track_started": true, "worker_soft_shutdown_timeout": 600.0});
    let mut worker = Worker::start(&place, &settings, &["-c", "2"]);
    let ids = send(&place, "probe.late", 1, &json!([600]), &json!({}));
    eventually("it runs", || place.results().count_state(&ids, "STARTED") == 1);
    worker.signal(Signal::QUIT);
    worker.wait_for_line("Initiating Soft Shutdown");
    worker.signal(Signal::INT);
    if against_real_celery() {
        return; // It ends its tasks and waits for its time all the same.
    }
    exits_with(worker.wait(SOON), 1);
    eventually("it waits again", || place.queue() == (1, 0));
}

#[test]
fn term_can_be_made_cold() {
    let place = Place::redis();
    if against_real_celery() {
        return; // The command below starts only ours.
    }
    let mut command = Worker::command(&place, &json!({"task_track_started": true}));
    command.args(["-c", "2"]).env("REMAP_SIGTERM", "SIGQUIT");
    let mut worker = Worker::run("celerybox worker", &mut command);
    let ids = send(&place, "probe.sleep", 1, &json!([600]), &json!({}));
    eventually("it runs", || place.results().count_state(&ids, "STARTED") == 1);
    worker.signal(Signal::TERM);
    exits_with(worker.wait(SOON), 1);
    assert_eq!(place.results().count_state(&ids, "RETRY"), 1);
}

/// HUP starts the worker again with the same command line, in the same process.
#[test]
fn hup_starts_the_worker_again() {
    let place = Place::redis();
    let mut worker = Worker::start(&place, &json!({}), &["-c", "2"]);
    let first = send(&place, "probe.sleep", 1, &json!([2]), &json!({}));
    worker.wait_for_line("probe.sleep[");
    worker.signal(Signal::HUP);
    eventually("it is ready again", || worker.count_lines("ready.") == 2);
    assert_eq!(
        place.results().count_state(&first, "SUCCESS"),
        1,
        "it was not waited for"
    );
    let second = send(&place, "probe.echo", 1, &json!([1]), &json!({}));
    eventually("it serves", || {
        place.results().count_state(&second, "SUCCESS") == 1
    });
    worker.signal(Signal::TERM);
    exits_with(worker.wait(SOON), 0);
}

/// USR1 shows what the worker does, and it goes on.
#[test]
fn usr1_shows_what_runs() {
    if against_real_celery() {
        return; // It shows its stacks.
    }
    let place = Place::redis();
    let (mut worker, ids) = busy(&place, "probe.sleep", 600.0);
    worker.signal(Signal::USR1);
    worker.wait_for_line(" tasks are here");
    let shown = |id: &&String| worker.count_lines(&format!("probe.sleep[{id}] Active for ")) == 1;
    eventually("the running ones are shown", || {
        ids.iter().filter(shown).count() == 2
    });
    let more = send(&place, "probe.echo", 1, &json!([1]), &json!({}));
    worker.wait_for_line(&format!("probe.echo[{}] received", more[0]));
}

/// A worker that cannot end (its broker does not answer) ends at the third signal.
#[test]
fn a_signal_during_a_cold_end_ends_the_process() {
    if against_real_celery() {
        return; // It ends already at the second one.
    }
    let mut place = Place::redis();
    let (mut worker, _) = busy(&place, "probe.late", 600.0);
    place.redis_broker().pause();
    worker.signal(Signal::QUIT);
    worker.wait_for_line("Cold shutdown");
    worker.signal(Signal::QUIT);
    exits_with(worker.wait(Duration::from_secs(4)), 1);
    place.redis_broker().resume();
}

/// Messages in a folder have no broker behind them that would give them back: the worker itself puts them back.
#[test]
fn term_puts_messages_back_into_the_folder() {
    let place = Place::files();
    let mut worker = Worker::start(&place, &json!({}), &["-c", "2"]);
    let ids = send(&place, "probe.sleep", 8, &json!([2.0]), &json!({}));
    eventually("the worker has begun", || worker.count_lines("received") >= 2);
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait(SOON).code(), Some(0));
    let done = |id: &&String| place.file_result(id)["status"] == "SUCCESS";
    let first = ids.iter().filter(done).count();
    // A worker that polls the folder may begin two more before it sees the signal.
    assert!((2..=4).contains(&first), "{first} were done");
    assert_eq!(place.queue().0, i64::try_from(8 - first).unwrap());
    let _next = Worker::start(&place, &json!({}), &["-c", "8"]);
    eventually("the next worker does the rest", || {
        ids.iter().filter(done).count() == 8
    });
}
