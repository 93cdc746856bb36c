//! `celery.chord_unlock`: looks whether the results of a chord's header are there, and sends its body (contract section
//! 4.7). For backends that do not count parts themselves.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::backend::{BackendError, ResultBackend};
use crate::builtin::{Arguments, Builtin};
use crate::canvas::Signature;
use crate::canvas::join::{Lost, Tree};
use crate::execution::chords::read_missing;
use crate::execution::{Execution, Task};
use crate::message::JsonMap;
use crate::message::request::SENT_AGAIN;
use crate::outcome::{Failure, Outcome, Retry, RetryWhen};

/// What the task was given.
struct Unlock {
    group: String,
    body: Signature,
    header: Tree,
    /// Seconds until it looks again.
    interval: f64,
    max_retries: Option<u32>,
    /// Of the exchange that it goes through when it looks again.
    exchange_type: Option<Value>,
}

impl Execution {
    pub(super) async fn unlock(&self, task: &Task) -> Outcome {
        let Some(backend) = self.backend.as_deref() else {
            let text = "there is no result backend (result_backend)";
            return Outcome::Failure(Failure::new("builtins", "NotImplementedError", text));
        };
        let unlock = match self.unlock_arguments(task) {
            Ok(unlock) => unlock,
            Err(failure) => return Outcome::Failure(failure),
        };
        match self.look(backend, task, &unlock).await {
            Ok(true) => Outcome::Success("null".into()),
            Ok(false) => self.look_again(task, &unlock, None).await,
            Err(error) => {
                let error = Failure::new("builtins", "OSError", error.to_string());
                self.look_again(task, &unlock, Some(error)).await
            }
        }
    }

    fn unlock_arguments(&self, task: &Task) -> Result<Unlock, Failure> {
        let arguments = Arguments::of(Builtin::ChordUnlock, &task.request.body)?;
        let invalid =
            |error: crate::canvas::CanvasError| Failure::new("builtins", "ValueError", error.to_string());
        let body = arguments.get(1, "callback").map_or("null", |raw| raw.get());
        let members: Vec<Value> = arguments.read(4, "result")?;
        let interval: Option<f64> = arguments.read_optional(2, "interval")?;
        Ok(Unlock {
            group: arguments.read(0, "group_id")?,
            body: Signature::parse(body).map_err(invalid)?,
            header: Tree::group(&members).map_err(invalid)?,
            interval: interval.unwrap_or_else(|| task.definition.default_retry_delay()),
            max_retries: arguments.read_optional(3, "max_retries")?,
            exchange_type: arguments.read_optional(usize::MAX, "_chord_unlock_exchange_type")?,
        })
    }

    /// Sends the body, or fails it, when all results are there; whether they were.
    async fn look(
        &self,
        backend: &dyn ResultBackend,
        task: &Task,
        unlock: &Unlock,
    ) -> Result<bool, BackendError> {
        let mut stored = HashMap::new();
        read_missing(backend, &unlock.header, &mut stored).await?;
        // The first delivery of this message may have come as far as sending the body, or have begun to fail it.
        let again = task.request.redelivered;
        if unlock.header.ids().iter().any(|id| !stored.contains_key(*id)) {
            return Ok(again && self.was_sent(backend, &unlock.body).await?);
        }
        let sent = match self.read_tree(backend, &unlock.header).await? {
            Ok(_) if again && self.was_sent(backend, &unlock.body).await? => Ok(()),
            Ok(results) => self.send_body(task, &unlock.body, results, again).await,
            // Celery means to name the task, but finds it only among those that it remembers, and never there.
            Err(error) => Err(Lost::because(error.repr(), Some(error))),
        };
        match sent {
            Ok(()) => Ok(true),
            Err(lost) => self.lose(task, unlock, &lost).await.map(|()| true),
        }
    }

    async fn lose(&self, task: &Task, unlock: &Unlock, lost: &Lost) -> Result<(), BackendError> {
        let failed = self.fail_body(task, &unlock.body, lost).await;
        failed.map_err(|error| BackendError::Connection(error.to_string()))
    }

    /// Asks to be sent again, unless it was sent too often: then nothing looks any more, and the body fails.
    async fn look_again(&self, task: &Task, unlock: &Unlock, error: Option<Failure>) -> Outcome {
        let exhausted = unlock
            .max_retries
            .is_some_and(|most| task.request.retries >= most);
        if !exhausted {
            let mut options = JsonMap::new();
            if let Some(kind) = &unlock.exchange_type {
                options.insert("exchange_type".into(), kind.clone());
            }
            // The first delivery may have sent a retry, too, before its worker died: then two messages look from now on.
            if task.request.redelivered {
                options.insert("headers".into(), json!({SENT_AGAIN: true}));
            }
            return Outcome::Retry(Box::new(Retry {
                when: RetryWhen::Countdown(unlock.interval),
                exc: error,
                options,
                ..Retry::default()
            }));
        }
        let cause = error.unwrap_or_else(|| {
            let text = format!("Can't retry {}[{}]", task.request.task, task.request.id);
            Failure::new("celery.exceptions", "MaxRetriesExceededError", text)
        });
        let text = format!("chord_unlock could not be retried: {}", cause.repr());
        let lost = Lost::because(text, Some(cause.clone()));
        if let Err(error) = self.lose(task, unlock, &lost).await {
            tracing::error!("Chord {:?} could not be failed: {error}", unlock.group);
        }
        Outcome::Failure(cause)
    }
}

/// A list of signatures, or a group of them.
pub(super) fn header(value: Value) -> Value {
    match value {
        Value::Object(mut group) => group
            .get_mut("kwargs")
            .and_then(|kwargs| Some(kwargs.get_mut("tasks")?.take()))
            .unwrap_or_else(|| json!([])),
        list => list,
    }
}
