//! An unmodified Python client against the worker: every check of `tests/interop/checks.py`, over every broker and
//! result backend. The tests of one place share one worker and run side by side, as clients do.

use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, OnceLock, PoisonError};

use celerybox_tests::{Place, Worker, check};
use serde_json::json;

struct Fleet {
    place: Place,
    worker: Mutex<Worker>,
}

impl Fleet {
    fn start(place: Place) -> Fleet {
        let settings = json!({"task_track_started": true, "result_extended": true});
        let worker = Worker::start(&place, &settings, &["-c", "8"]);
        Fleet {
            place,
            worker: Mutex::new(worker),
        }
    }

    fn check(&self, name: &str) {
        let held = std::panic::catch_unwind(AssertUnwindSafe(|| check(&self.place, name)));
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(panic) = held {
            worker.print_log();
            std::panic::resume_unwind(panic);
        }
        assert!(worker.runs(), "the worker ended during {name}");
    }
}

macro_rules! checks {
    ($($place:ident: $start:expr => [$($name:ident),* $(,)?];)*) => { $(
        mod $place {
            use super::*;

            fn fleet() -> &'static Fleet {
                static FLEET: OnceLock<Fleet> = OnceLock::new();
                FLEET.get_or_init(|| Fleet::start($start))
            }

            $(
                #[test]
                fn $name() {
                    fleet().check(stringify!($name));
                }
            )*
        }
    )* };
}

checks! {
    redis: Place::redis() => [
        apply, values, many, progress, progress_state, request, retry, retry_state, retries_exhausted, failure,
        wrong_arguments, not_registered, expires, countdown, ignore_result, track_started, soft_limit, hard_limit,
        extended, reject, garbage, retry_arguments, max_retries_exceeded, autoretry, requeue, late_timeout, late_failure,
        soft_limit_ignored, eta, rate_limit, exceptions, large_result, maps, builtins, link, link_error, chain_of_three, chain_fails,
        chain_ends_in_group, lineage, stamps,
    ];
    amqp: Place::amqp() => [
        apply, values, many, progress, progress_state, request, retry, retry_state, retries_exhausted, failure,
        wrong_arguments, not_registered, expires, countdown, ignore_result, track_started, soft_limit, hard_limit,
        extended, reject, garbage, retry_arguments, max_retries_exceeded, autoretry, requeue, late_timeout, late_failure,
        soft_limit_ignored, eta, rate_limit, exceptions, large_result, maps, builtins, link, link_error, chain_of_three, chain_fails,
        chain_ends_in_group, lineage, stamps,
    ];
    rpc: Place::amqp_rpc() => [
        apply, values, many, progress, progress_state, retry, retry_state, retries_exhausted, failure,
        wrong_arguments, not_registered, expires, countdown, ignore_result, track_started, soft_limit, hard_limit,
        reject, retry_arguments, max_retries_exceeded, autoretry, requeue, soft_limit_ignored, eta, exceptions,
        maps, builtins, chain_of_three, link_error,
    ];
    files: Place::files() => [
        apply, values, many, progress, progress_state, request, retry, retry_state, retries_exhausted, failure,
        wrong_arguments, not_registered, expires, countdown, ignore_result, track_started, soft_limit, hard_limit,
        extended, reject, garbage, retry_arguments, max_retries_exceeded, autoretry, requeue, late_timeout, late_failure,
        soft_limit_ignored, eta, rate_limit, exceptions, large_result, maps, builtins, link, link_error, chain_of_three, chain_fails,
        chain_ends_in_group, lineage, stamps,
    ];
}
