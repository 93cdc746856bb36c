//! What the log says about a task, in Celery's words.

use tracing::{error, info, warn};

use crate::message::request::Identity;
use crate::message::{Request, Unusable, repr};
use crate::outcome::Outcome;
use crate::sandbox::Run;

/// A run came to its end.
pub(super) fn finished(request: &Request, run: &Run) {
    let (name, id) = (request.shown_name(), &request.id);
    printed(request, run);
    match &run.outcome {
        Outcome::Success(value) => {
            if tracing::enabled!(tracing::Level::INFO) {
                let shown = serde_json::from_str(value)
                    .map(|value| repr::value(&value))
                    .unwrap_or_default();
                info!(
                    "Task {name}[{id}] succeeded in {}s: {shown}",
                    run.duration.as_secs_f64()
                );
            }
        }
        Outcome::Failure(failure) => {
            let trace = failure.traceback.as_deref().unwrap_or_default();
            error!("Task {name}[{id}] raised unexpected: {}\n{trace}", failure.repr());
        }
        Outcome::TimeLimit(limit) => error!("Hard time limit ({limit}s) exceeded for {name}[{id}]"),
        Outcome::Retry(retry) => info!("Task {name}[{id}] retry: {retry}"),
        Outcome::Reject { reason, requeue } => {
            info!(
                "Task {name}[{id}] rejected: {} (requeue: {requeue})",
                reason.as_deref().unwrap_or("no reason")
            );
        }
        Outcome::Ignore => info!("Task {name}[{id}] ignored"),
        Outcome::Replaced => info!("Task {name}[{id}] replaced"),
        Outcome::WorkerLost(reason) => error!("Task {name}[{id}] lost its sandbox: {reason}"),
        Outcome::Revoked(_)
        | Outcome::Refused(_)
        | Outcome::Duplicate
        | Outcome::Unfollowed(_)
        | Outcome::Cancelled => {}
    }
}

/// What a run printed.
pub(super) fn printed(request: &Request, run: &Run) {
    for line in run.output.lines() {
        warn!("{}[{}] {line}", request.shown_name(), request.id);
    }
}

/// A run was ended from outside.
pub(super) fn ended(request: &Request, outcome: &Outcome) {
    let (name, id) = (request.shown_name(), &request.id);
    match outcome {
        Outcome::Revoked(_) => warn!("Task {name}[{id}] terminated"),
        _ => warn!("Task {name}[{id}] cancelled by a cold shutdown or a lost connection"),
    }
}

/// A task waits no longer, because its connection is gone.
pub(super) fn forgotten(request: &Request) {
    info!(
        "Task {}[{}] is left to the broker, which sends it again: its connection is gone",
        request.shown_name(),
        request.id
    );
}

/// A task whose message came again is not run again.
pub(super) fn done_before(request: &Request, why: &str) {
    info!("Task {}[{}] ignored: {why}", request.shown_name(), request.id);
}

/// A task's ETA is no time.
pub(super) fn overflow(request: &Request) {
    error!(
        "Couldn't convert ETA to timestamp: date value out of range. Task: {}[{}]",
        request.shown_name(),
        request.id
    );
}

/// A message cannot be run.
pub(super) fn unusable(reason: &Unusable) {
    match reason {
        Unusable::UnknownFormat(_) => warn!("{reason}"),
        _ => error!("{reason}"),
    }
}

/// A task that no component of this worker has.
pub(super) fn unregistered(identity: &Identity) {
    error!(
        "Received unregistered task of type {:?} (id {}).\nThe message has been ignored and discarded. Is the \
         component that declares it among those given with --tasks? `celerybox tasks` lists what they declare.",
        identity.task, identity.id
    );
}
