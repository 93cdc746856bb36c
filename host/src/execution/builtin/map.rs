//! `celery.map` and `celery.starmap`: a task that is called for each item, one after the other, within one message.

use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::left;
use crate::builtin::{Arguments, Builtin, type_error};
use crate::execution::acked::Acked;
use crate::execution::{Execution, Task, report};
use crate::message::Request;
use crate::outcome::{Failure, Outcome};
use crate::sandbox::registry::Code;

/// Of the signature only the name counts.
#[derive(Deserialize)]
struct Mapped {
    task: String,
}

impl Execution {
    /// The list of what the task returned for each item; the first that ends in another way ends all.
    pub(super) async fn map(&self, task: &Task, builtin: Builtin, acked: &Acked) -> Outcome {
        match self.try_map(task, builtin, acked).await {
            Ok(results) => Outcome::Success(results.into()),
            Err(outcome) => outcome,
        }
    }

    async fn try_map(&self, task: &Task, builtin: Builtin, acked: &Acked) -> Result<String, Outcome> {
        let arguments = Arguments::of(builtin, &task.request.body).map_err(Outcome::Failure)?;
        let mapped: Mapped = arguments.read(0, "task").map_err(Outcome::Failure)?;
        let items: Vec<Box<RawValue>> = arguments.read(1, "it").map_err(Outcome::Failure)?;
        drop(arguments);
        let Some((Code::Component(component), definition)) = self.tasks.find(&mapped.task) else {
            let failure = Failure::new("celery.exceptions", "NotRegistered", mapped.task);
            return Err(Outcome::Failure(failure));
        };
        let mut request = Request::clone(&task.request);
        request.message.body = Vec::new();
        request.task = mapped.task;
        let (started, call) = (Instant::now(), self.call(task, &component, acked));
        let most = component.limits().result;
        let mut results = String::from("[");
        for item in items {
            let mut request = request.clone();
            request.body.args = match builtin {
                Builtin::Starmap => spread(item, &request.task).map_err(Outcome::Failure)?,
                _ => list_of(&item),
            };
            request.body.kwargs = map_of_nothing();
            let mut call = call.clone();
            call.time_limit = left(call.time_limit, started);
            call.soft_time_limit = left(call.soft_time_limit, started);
            call.request = Arc::new(request);
            call.definition = Arc::clone(&definition);
            let run = component.run(call).await;
            report::printed(&task.request, &run);
            self.listeners.ran_within(&definition.name, &run);
            let value = returned(run.outcome, task.plan.time_limit)?;
            if results.len() > 1 {
                results.push_str(", ");
            }
            results.push_str(&value);
            if results.len() > most {
                let detail = format!("the results are more than {most} bytes of JSON");
                return Err(Outcome::Failure(Failure::limit(
                    "ValueError",
                    "limits.result",
                    detail,
                )));
            }
        }
        results.push(']');
        Ok(results)
    }
}

/// The value, or how the whole task ends. The message is that of the whole task, so one item cannot be retried: Celery
/// raises the error that it would have been retried for.
fn returned(outcome: Outcome, limit: Option<f64>) -> Result<Box<str>, Outcome> {
    Err(match outcome {
        Outcome::Success(value) => return Ok(value),
        Outcome::TimeLimit(_) => Outcome::TimeLimit(limit.unwrap_or_default()),
        Outcome::Retry(retry) => Outcome::Failure(
            retry
                .exc
                .unwrap_or_else(|| Failure::new("celery.exceptions", "Retry", "Task can be retried")),
        ),
        other => other,
    })
}

/// The item as the only argument.
fn list_of(item: &RawValue) -> Box<RawValue> {
    RawValue::from_string(format!("[{}]", item.get())).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn map_of_nothing() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The item's own items as arguments.
fn spread(item: Box<RawValue>, task: &str) -> Result<Box<RawValue>, Failure> {
    match item.get().starts_with('[') {
        true => Ok(item),
        false => Err(type_error(format!(
            "{task}() argument after * must be an iterable, not {:.100}",
            item.get()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Retry;

    #[test]
    fn what_ends_one_item_ends_all() {
        assert_eq!(returned(Outcome::Success("1".into()), None), Ok("1".into()));
        assert_eq!(returned(Outcome::Ignore, None), Err(Outcome::Ignore));
        assert_eq!(
            returned(Outcome::TimeLimit(0.25), Some(3.0)),
            Err(Outcome::TimeLimit(3.0))
        );
        let boom = Failure::new("builtins", "ValueError", "boom");
        let retry = |exc| {
            Outcome::Retry(Box::new(Retry {
                exc,
                ..Retry::default()
            }))
        };
        assert_eq!(
            returned(retry(Some(boom.clone())), None),
            Err(Outcome::Failure(boom))
        );
        assert!(matches!(
            returned(retry(None), None),
            Err(Outcome::Failure(failure)) if failure.exc_type == "Retry"
        ));
        let raw = |text: &str| RawValue::from_string(text.into()).unwrap();
        assert_eq!(spread(raw("[1,2]"), "t").unwrap().get(), "[1,2]");
        assert!(spread(raw("1"), "t").is_err());
        assert_eq!(list_of(&raw("[1,2]")).get(), "[[1,2]]");
    }
}
