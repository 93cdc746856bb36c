//! Results of tasks that were sent.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::context::Context;
use crate::error::TaskError;
use crate::failure::Failure;

/// The result of a task or a group that was sent: Celery's `AsyncResult` and `GroupResult`.
///
/// It is read without waiting: a task that waited for another one would keep a place of the worker from it. What comes
/// after a task is a callback, a chain or a chord. Reading needs the grant `results`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsyncResult {
    id: String,
    parent: Option<Box<AsyncResult>>,
    /// Of a group.
    results: Option<Vec<AsyncResult>>,
}

impl AsyncResult {
    /// The result of the task with this id: Celery's `AsyncResult(id)`.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            parent: None,
            results: None,
        }
    }

    /// Reads a result tuple, `[[id, parent], members]`.
    pub(crate) fn from_tuple(tuple: &Value) -> Option<Self> {
        let (head, members) = match tuple.as_array()?.as_slice() {
            [head, members] => (head, members),
            _ => return None,
        };
        let (id, parent) = match head {
            Value::String(id) => (id, &Value::Null),
            Value::Array(head) => match head.as_slice() {
                [Value::String(id), parent] => (id, parent),
                _ => return None,
            },
            _ => return None,
        };
        let results = members
            .as_array()
            .map(|members| members.iter().filter_map(Self::from_tuple).collect());
        Some(Self {
            id: id.clone(),
            parent: Self::from_tuple(parent).map(Box::new),
            results,
        })
    }

    /// The task's or group's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The result of what runs before it: of a chain, the last task's parent is the one before.
    #[must_use]
    pub fn parent(&self) -> Option<&AsyncResult> {
        self.parent.as_deref()
    }

    /// The members of a group; of a task there are none.
    #[must_use]
    pub fn results(&self) -> &[AsyncResult] {
        self.results.as_deref().unwrap_or_default()
    }

    /// The state: `PENDING` when nothing is known of it.
    ///
    /// # Errors
    ///
    /// `PermissionError` without the grant `results`, `ConnectionError` when the result backend is away.
    #[track_caller]
    pub fn state(&self, ctx: &Context) -> Result<String, TaskError> {
        let document = self.document(ctx)?;
        let state = document
            .as_ref()
            .and_then(|document| document.get("status")?.as_str());
        Ok(state.unwrap_or("PENDING").to_owned())
    }

    /// Whether it ended; of a group, whether all did.
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    #[track_caller]
    pub fn ready(&self, ctx: &Context) -> Result<bool, TaskError> {
        if self.results.is_some() {
            for result in self.results() {
                if !result.ready(ctx)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        Ok(matches!(
            self.state(ctx)?.as_str(),
            "SUCCESS" | "FAILURE" | "REVOKED"
        ))
    }

    /// The value, if it is there; of a group, the list of all of them. It does not wait.
    ///
    /// # Errors
    ///
    /// The error of a task that failed; `TypeError` for a value of another type; and as [`state`](Self::state).
    #[track_caller]
    pub fn get<T: DeserializeOwned>(&self, ctx: &Context) -> Result<Option<T>, TaskError> {
        match self.value(ctx)? {
            Some(value) => match serde_json::from_value(value) {
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(TaskError::new(
                    "TypeError",
                    format!("result of {}: {error}", self.id),
                )),
            },
            None => Ok(None),
        }
    }

    #[track_caller]
    fn value(&self, ctx: &Context) -> Result<Option<Value>, TaskError> {
        if self.results.is_some() {
            let mut values = Vec::new();
            for result in self.results() {
                match result.value(ctx)? {
                    Some(value) => values.push(value),
                    None => return Ok(None),
                }
            }
            return Ok(Some(Value::Array(values)));
        }
        let Some(mut document) = self.document(ctx)? else {
            return Ok(None);
        };
        let result = document.get_mut("result").map(Value::take).unwrap_or_default();
        match document.get("status").and_then(Value::as_str) {
            Some("SUCCESS") => Ok(Some(result)),
            Some("FAILURE" | "REVOKED") => Err(failure(&result).into()),
            _ => Ok(None),
        }
    }

    /// The results of the tasks that it sent.
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    #[track_caller]
    pub fn children(&self, ctx: &Context) -> Result<Vec<AsyncResult>, TaskError> {
        let document = self.document(ctx)?;
        let children = document
            .as_ref()
            .and_then(|document| document.get("children")?.as_array());
        Ok(children
            .into_iter()
            .flatten()
            .filter_map(Self::from_tuple)
            .collect())
    }

    /// Forgets the stored result. Only for tasks that this run sent.
    ///
    /// # Errors
    ///
    /// `PermissionError` for any other task, and as [`state`](Self::state).
    #[track_caller]
    pub fn forget(&self, ctx: &Context) -> Result<(), TaskError> {
        ctx.forget(&self.id)
    }

    #[track_caller]
    fn document(&self, ctx: &Context) -> Result<Option<Value>, TaskError> {
        ctx.result(&self.id)
    }
}

/// The error of a result document.
#[track_caller]
fn failure(result: &Value) -> Failure {
    let text = |key: &str| result.get(key).and_then(Value::as_str);
    let message = match result.get("exc_message") {
        Some(Value::Array(args)) => args.clone(),
        Some(one) => vec![one.clone()],
        None => Vec::new(),
    };
    let failure = Failure::new(text("exc_type").unwrap_or("Exception"), "").with_args(&message);
    match text("exc_module") {
        Some(module) => failure.with_module(module),
        None => failure,
    }
}
