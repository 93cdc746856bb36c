//! Chords with the real Python client: ours alone, and a Celery worker beside it in the same chord.

mod crash;
mod proxy;

use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, OnceLock, PoisonError};

use celerybox_tests::{Place, Worker, python};
use serde_json::json;

/// The queue of our worker, and that of Celery's.
const OURS: &str = "ours";
const THEIRS: &str = "theirs";

struct Fleet {
    place: Place,
    workers: Mutex<Vec<Worker>>,
}

impl Fleet {
    fn start(place: Place, mixed: bool) -> Fleet {
        let settings = json!({"result_chord_retry_interval": 0.2, "worker_send_task_events": true});
        // What names no queue is sent to `celery`.
        let queues = format!("{OURS},celery");
        let ours = Worker::start(&place, &settings, &["-c", "8", "-Q", &queues, "-n", "ours@h"]);
        let mut workers = vec![ours];
        if mixed {
            let arguments = ["-c", "4", "-Q", THEIRS, "-n", "theirs@h"];
            workers.push(Worker::python(&place, &settings, &arguments));
        }
        Fleet {
            place,
            workers: Mutex::new(workers),
        }
    }

    fn check(&self, name: &str, queues: &[&str]) {
        let arguments = [&[name], queues].concat();
        let held = std::panic::catch_unwind(AssertUnwindSafe(|| {
            python(&self.place, "chords.py", &arguments);
        }));
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(panic) = held {
            workers.iter().for_each(Worker::print_log);
            std::panic::resume_unwind(panic);
        }
        assert!(
            workers.iter_mut().all(Worker::runs),
            "a worker ended during {name}"
        );
    }
}

macro_rules! chords {
    ($($place:ident: $start:expr, $mixed:expr, $queues:expr => [$($name:ident),* $(,)?];)*) => { $(
        mod $place {
            use super::*;

            fn fleet() -> &'static Fleet {
                static FLEET: OnceLock<Fleet> = OnceLock::new();
                FLEET.get_or_init(|| Fleet::start($start, $mixed))
            }

            $(
                #[test]
                fn $name() {
                    fleet().check(stringify!($name), $queues);
                }
            )*
        }
    )* };
}

chords! {
    redis: Place::redis(), true, &[OURS] => [
        simple, failing, group_body, nested, chains, counted_once, chunks, old_clients,
    ];
    redis_mixed: Place::redis(), true, &[THEIRS, OURS] => [crossing];
    amqp: Place::amqp(), true, &[OURS] => [simple, failing, nested, chains];
    amqp_mixed: Place::amqp(), true, &[THEIRS, OURS] => [crossing];
    files: Place::files(), true, &[OURS] => [
        simple, failing, group_body, nested, chains, chunks, ignored, unlock_gives_up,
    ];
    files_mixed: Place::files(), true, &[THEIRS, OURS] => [crossing];
    rpc: Place::amqp_rpc(), false, &[OURS] => [refused];
}
