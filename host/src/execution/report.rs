//! What the log says about a task, in Celery's words.

use tracing::{error, info, warn};

use crate::happening::{About, Happening, Refused};
use crate::message::{Request, Unusable, repr, saferepr};
use crate::outcome::Outcome;
use crate::sandbox::Run;

/// Says what happens to a task.
pub(super) fn tell(about: &About<'_>, happening: Happening<'_>) {
    let request = about.request;
    let (name, id) = (request.shown_name(), &request.id);
    match happening {
        Happening::Received => info!(task_name = name, task_id = id, "Task {name}[{id}] received"),
        Happening::Discarded { stamp } => {
            let by = stamp.map_or_else(String::new, |(name, value)| {
                let shown = repr::value(&serde_json::json!({name: value}));
                format!(" (revoked by header: {shown})")
            });
            info!(
                task_name = name,
                task_id = id,
                "Discarding revoked task: {name}[{id}]{by}"
            );
        }
        Happening::Overflow => {
            error!(
                task_name = name,
                task_id = id,
                "Couldn't convert ETA to timestamp: date value out of range. Task: {name}[{id}]"
            );
        }
        Happening::DoneBefore(why) => {
            info!(task_name = name, task_id = id, "Task {name}[{id}] ignored: {why}")
        }
        Happening::Ran(run) => ran(request, run),
        Happening::Stopped(Outcome::Revoked(_)) => {
            warn!(task_name = name, task_id = id, "Task {name}[{id}] terminated")
        }
        Happening::Stopped(_) => {
            warn!(
                task_name = name,
                task_id = id,
                "Task {name}[{id}] cancelled by a cold shutdown or a lost connection"
            );
        }
        Happening::Forgotten => {
            info!(
                task_name = name,
                task_id = id,
                "Task {name}[{id}] is left to the broker, which sends it again: its connection is gone"
            )
        }
        Happening::Accepted | Happening::Started { .. } | Happening::Ended { .. } | Happening::PutBack => {}
    }
}

/// Says why a message is refused.
pub(super) fn refused(refused: Refused<'_>) {
    match refused {
        Refused::Unusable(reason @ Unusable::UnknownFormat(_)) => warn!("{reason}"),
        Refused::Unusable(reason) => error!("{reason}"),
        Refused::Unregistered(identity) => error!(
            "Received unregistered task of type {:?} (id {}).\nThe message has been ignored and discarded. Is the \
             component that declares it among those given with --tasks? `celerybox tasks` lists what they declare.",
            identity.task, identity.id
        ),
    }
}

/// A run came to its end.
fn ran(request: &Request, run: &Run) {
    let (name, id) = (request.shown_name(), &request.id);
    printed(request, run);
    match &run.outcome {
        Outcome::Success(value) => {
            if tracing::enabled!(tracing::Level::INFO) {
                let shown = saferepr::of_json(value);
                info!(
                    task_name = name,
                    task_id = id,
                    runtime = run.duration.as_secs_f64(),
                    "Task {name}[{id}] succeeded in {}s: {shown}",
                    run.duration.as_secs_f64()
                );
            }
        }
        Outcome::Failure(failure) => {
            let trace = failure.traceback.as_deref().unwrap_or_default();
            error!(
                task_name = name,
                task_id = id,
                "Task {name}[{id}] raised unexpected: {}\n{trace}",
                failure.repr()
            );
        }
        Outcome::TimeLimit(limit) => error!(
            task_name = name,
            task_id = id,
            "Hard time limit ({limit}s) exceeded for {name}[{id}]"
        ),
        Outcome::Retry(retry) => info!(task_name = name, task_id = id, "Task {name}[{id}] retry: {retry}"),
        Outcome::Reject { reason, requeue } => {
            info!(
                task_name = name,
                task_id = id,
                "Task {name}[{id}] rejected: {} (requeue: {requeue})",
                reason.as_deref().unwrap_or("no reason")
            );
        }
        Outcome::Ignore => info!(task_name = name, task_id = id, "Task {name}[{id}] ignored"),
        Outcome::Replaced => info!(task_name = name, task_id = id, "Task {name}[{id}] replaced"),
        Outcome::WorkerLost(reason) => error!(
            task_name = name,
            task_id = id,
            "Task {name}[{id}] lost its sandbox: {reason}"
        ),
        Outcome::Revoked(_)
        | Outcome::Refused(_)
        | Outcome::Duplicate
        | Outcome::Unfollowed { .. }
        | Outcome::Cancelled => {}
    }
}

/// What a run printed: one event, whose lines are records of their own in a log for people.
pub(super) fn printed(request: &Request, run: &Run) {
    if !run.output.is_empty() {
        let (name, id) = (request.shown_name(), &request.id);
        warn!(
            task_name = name,
            task_id = id,
            output = run.output,
            "{name}[{id}]"
        );
    }
}
