//! What a task asks for through `publisher` and `results` (contract sections 4.9 and 4.10).
//!
//! [`Desk::plan`] decides, without doing anything, what an errand comes to: grants and limits are checked on every message
//! before the first one is sent. [`Execution::errands`] then carries the steps out.
//!
//! **Whose results.** `results = true` lets a component read whatever id it knows: ids are random UUIDs, so it knows those
//! of tasks it sent, of its own request (parent, group, chord), and what others chose to tell it; Celery's clients are no
//! different. Writing is narrower, because a stored result is what somebody else's `get()` believes: only results of tasks
//! that this very run sent can be stored or forgotten, and only groups that it sent can be saved or counted.

mod nested;
mod raw;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::acked::Acked;
use super::effects::within;
use super::steps::{StepError, Steps};
use super::{Execution, Task};
use crate::backend::{BackendError, ResultBackend};
use crate::canvas::{self, CanvasError, Partial, Publication, Signature, Step};
use crate::document;
use crate::message::{JsonMap, Request, content};
use crate::outcome::{State, StoredResult};
use crate::policy::grants::Grants;
use crate::sandbox::{Answer, Component, Errand, ErrandError, Errands, Limits};

/// The longest id, bytes.
const LONGEST_ID: usize = 255;

/// What a run sent so far. Shared with what is sent when it ends, so that `children` has one order.
#[derive(Debug, Default)]
pub struct Ledger {
    messages: u64,
    bytes: usize,
    tasks: HashSet<String>,
    groups: HashSet<String>,
    /// Result tuples, in sending order (contract section 4.9).
    pub children: Vec<Value>,
    /// What is sent in the place of the task, once it ends as replaced.
    pub replacement: Vec<Step>,
}

/// One run's errands: what it may do and what it did.
#[derive(Debug)]
pub struct Desk {
    /// The request of the run.
    pub request: Arc<Request>,
    /// What its component is granted.
    pub grants: Arc<Grants>,
    /// Its limits.
    pub limits: Arc<Limits>,
    /// What holds for everything that is sent.
    pub canvas: Arc<canvas::Defaults>,
    /// What it did.
    pub ledger: Arc<Mutex<Ledger>>,
}

/// What an errand comes to.
#[derive(Debug)]
pub enum Plan {
    /// These steps, in order, and then the answer.
    Send {
        /// What there is to do.
        steps: Vec<Step>,
        /// The result tuple.
        answer: Option<String>,
    },
    /// Nothing now; the replacement is sent when the task ends.
    Replace,
    /// Read a result.
    Get(String),
    /// Store one.
    Store(Box<StoredResult>),
    /// Forget one.
    Forget(String),
    /// Save a group's result tuple.
    SaveGroup(String, Value),
    /// Read one.
    RestoreGroup(String),
    /// Begin a chord.
    SetChordSize(String, u64),
}

impl From<CanvasError> for ErrandError {
    fn from(error: CanvasError) -> Self {
        match error {
            CanvasError::Invalid(text) => Self::Invalid(text),
            CanvasError::TooLarge(text) => Self::LimitExceeded(text),
            CanvasError::NoChords(text) => Self::NotSupported(text),
        }
    }
}

impl Desk {
    /// Decides about one errand. What is refused has not happened; what is planned is counted.
    pub fn plan(&self, errand: Errand) -> Result<Plan, ErrandError> {
        match errand {
            Errand::Apply {
                signature,
                args,
                kwargs,
                options,
            } => {
                let signature = Signature::parse(&signature)?;
                let partial = partial(&args, &kwargs, &options)?;
                self.check_nested(&signature, &partial.options)?;
                let applied = self.within(|context| canvas::apply(&signature, partial, context))?;
                self.send(applied)
            }
            Errand::Publish(message) => {
                let (mut publication, embedded) = raw::publication(*message)?;
                let headers = publication.outgoing.message.headers.get_or_insert_default();
                for (name, value) in self.request.trace_headers() {
                    headers.entry(name).or_insert(value);
                }
                let refuse = |task: &str| self.grants.check_send(task, &publication.outgoing.route);
                refuse(&publication.task).map_err(ErrandError::Denied)?;
                for signature in &embedded {
                    self.check_nested(signature, &JsonMap::new())?;
                }
                let tuple = json!([[publication.id, null], null]);
                self.send(canvas::Applied {
                    steps: vec![Step::Publish(Box::new(publication))],
                    result: tuple.clone(),
                    children: vec![tuple],
                })
            }
            // It is sent when the task ends as replaced, as a retry is: a task that asks and then fails has failed.
            Errand::Replace { signature } => {
                let signature = Signature::parse(&signature)?;
                self.check_nested(&signature, &JsonMap::new())?;
                let applied = self.within(|context| canvas::replace(&self.request, signature, context))?;
                let steps = self.count(&applied)?;
                self.ledger().replacement = steps;
                Ok(Plan::Replace)
            }
            Errand::AddToChord { signature } => {
                let signature = Signature::parse(&signature)?;
                self.check_nested(&signature, &JsonMap::new())?;
                let applied =
                    self.within(|context| canvas::add_to_chord(&self.request, signature, context))?;
                self.send(applied)
            }
            other => self.plan_results(other),
        }
    }

    fn plan_results(&self, errand: Errand) -> Result<Plan, ErrandError> {
        self.grants.check_results().map_err(ErrandError::Denied)?;
        match errand {
            Errand::GetResult { task_id } => Ok(Plan::Get(id(task_id, "task id")?)),
            Errand::RestoreGroup { group_id } => Ok(Plan::RestoreGroup(id(group_id, "group id")?)),
            Errand::StoreResult {
                task_id,
                state,
                value,
                traceback,
            } => {
                let task_id = self.own_task(task_id)?;
                let stored = stored(task_id, &state, &value, traceback.as_deref());
                stored.map(|stored| Plan::Store(Box::new(stored)))
            }
            Errand::Forget { task_id } => Ok(Plan::Forget(self.own_task(task_id)?)),
            Errand::SaveGroup { group_id, tuple } => {
                let tuple = content::value(&tuple).filter(Value::is_array);
                let tuple = tuple.ok_or_else(|| invalid("tuple: not a JSON list"))?;
                Ok(Plan::SaveGroup(self.own_group(group_id)?, tuple))
            }
            Errand::SetChordSize { group_id, size } => {
                Ok(Plan::SetChordSize(self.own_group(group_id)?, size.into()))
            }
            Errand::Apply { .. }
            | Errand::Publish(_)
            | Errand::Replace { .. }
            | Errand::AddToChord { .. } => Err(invalid("this is no errand about results")),
        }
    }

    /// Everything that some worker may send because of this signature, also later, has to be granted now.
    fn check_nested(&self, signature: &Signature, options: &JsonMap) -> Result<(), ErrandError> {
        let nested = nested::look(signature, options, &self.canvas)?;
        for (task, route) in &nested.destinations {
            self.grants.check_send(task, route).map_err(ErrandError::Denied)?;
        }
        // Before any of it is made.
        match nested.repeated > self.limits.message_bytes {
            true => Err(self.too_large()),
            false => Ok(()),
        }
    }

    fn within<T>(&self, act: impl FnOnce(&mut canvas::Context<'_>) -> T) -> T {
        within(&self.canvas, &self.request, act)
    }

    fn send(&self, applied: canvas::Applied) -> Result<Plan, ErrandError> {
        let steps = self.count(&applied)?;
        self.ledger().children.extend(applied.children);
        Ok(Plan::Send {
            steps,
            answer: Some(applied.result.to_string()),
        })
    }

    /// Checks every message and counts them; nothing is sent when one of them may not be.
    fn count(&self, applied: &canvas::Applied) -> Result<Vec<Step>, ErrandError> {
        let mut ledger = self.ledger();
        let (mut messages, mut bytes) = (ledger.messages, ledger.bytes);
        for step in &applied.steps {
            let Step::Publish(publication) = step else {
                continue;
            };
            let Publication { task, outgoing, .. } = &**publication;
            // The names of built-in tasks stand for those in their signatures, which were checked.
            let allowed = match nested::is_built_in(task) {
                true => self.grants.check_place(task, &outgoing.route),
                false => self.grants.check_send(task, &outgoing.route),
            };
            allowed.map_err(ErrandError::Denied)?;
            messages += 1;
            bytes = bytes.saturating_add(publication.outgoing.message.body.len());
        }
        let Limits {
            messages: most,
            message_bytes: most_bytes,
            ..
        } = *self.limits;
        if messages > most {
            let text = format!("more than {most} messages in one run (limits.messages)");
            return Err(ErrandError::LimitExceeded(text));
        }
        if bytes > most_bytes {
            return Err(self.too_large());
        }
        (ledger.messages, ledger.bytes) = (messages, bytes);
        for step in &applied.steps {
            match step {
                Step::Publish(publication) => {
                    ledger.tasks.insert(publication.id.clone());
                    let headers = publication.outgoing.message.headers.as_ref();
                    let group = headers.and_then(|headers| headers.get("group")?.as_str());
                    ledger.groups.extend(group.map(str::to_owned));
                }
                Step::ChordSize { group, .. } | Step::SaveGroup { group, .. } => {
                    ledger.groups.insert(group.clone());
                }
                Step::ChordGrows { .. } => {}
            }
        }
        Ok(applied.steps.clone())
    }

    fn too_large(&self) -> ErrandError {
        let most = self.limits.message_bytes;
        let text = format!("messages of more than {most} bytes in one run (limits.message_bytes)");
        ErrandError::LimitExceeded(text)
    }

    fn own_task(&self, task_id: String) -> Result<String, ErrandError> {
        let task_id = id(task_id, "task id")?;
        let own = self.ledger().tasks.contains(&task_id);
        let text = "only results of tasks that this run sent can be stored or forgotten";
        own.then_some(task_id)
            .ok_or_else(|| ErrandError::Denied(text.into()))
    }

    fn own_group(&self, group_id: String) -> Result<String, ErrandError> {
        let group_id = id(group_id, "group id")?;
        let own = self.ledger().groups.contains(&group_id);
        let text = "only groups that this run sent a task of can be saved or counted";
        own.then_some(group_id)
            .ok_or_else(|| ErrandError::Denied(text.into()))
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn invalid(text: impl Into<String>) -> ErrandError {
    ErrandError::Invalid(text.into())
}

/// An id as it may become part of a key or a file name.
fn id(id: String, what: &str) -> Result<String, ErrandError> {
    let fine = !id.is_empty()
        && id.len() <= LONGEST_ID
        && !id.chars().any(|c| c.is_control() || matches!(c, '/' | '\\'));
    fine.then_some(id).ok_or_else(|| {
        invalid(format!(
            "{what}: expected 1 to {LONGEST_ID} bytes without slashes"
        ))
    })
}

fn partial(args: &str, kwargs: &str, options: &str) -> Result<Partial, ErrandError> {
    let map = |text: &str, what: &str| match content::value(text) {
        Some(Value::Object(map)) => Ok(map),
        _ => Err(invalid(format!("{what}: not a JSON map"))),
    };
    let Some(Value::Array(args)) = content::value(args) else {
        return Err(invalid("args: not a JSON list"));
    };
    Ok(Partial {
        args,
        kwargs: map(kwargs, "kwargs")?,
        options: map(options, "options")?,
    })
}

/// A result for a task that is somebody else's to run: SUCCESS, or a state of one's own. Failures are left out, as their
/// readers make exceptions of them.
fn stored(
    task_id: String,
    state: &str,
    value: &str,
    traceback: Option<&str>,
) -> Result<StoredResult, ErrandError> {
    let state = match state {
        "SUCCESS" => State::Success,
        other => State::custom(other)
            .ok_or_else(|| invalid("state: expected SUCCESS or a name of the task's own"))?,
    };
    let value = content::value(value).ok_or_else(|| invalid("value: not JSON"))?;
    let value = document::raw(value.to_string());
    Ok(document::of_another(
        &task_id,
        state,
        &value,
        traceback,
        &[],
        Timestamp::now(),
    ))
}

impl Execution {
    /// What `publisher` and `results` do for this task. Nothing leaves before the task's message is acknowledged, where
    /// that comes first.
    pub(super) fn errands(&self, task: &Task, component: &Component, acked: &Acked) -> Errands {
        let desk = Arc::new(Desk {
            request: Arc::clone(&task.request),
            grants: Arc::clone(component.grants()),
            limits: Arc::clone(component.limits()),
            canvas: self.tasks.canvas(),
            ledger: Arc::clone(&task.ledger),
        });
        let clerk = Clerk {
            steps: self.steps.clone(),
            backend: self.backend.clone(),
            largest: desk.limits.host_call_bytes,
        };
        let acked = acked.clone();
        Arc::new(move |errand| {
            let (desk, clerk, acked) = (Arc::clone(&desk), clerk.clone(), acked.clone());
            async move {
                let plan = desk.plan(errand)?;
                if !acked.arrived().await {
                    let text = "the message of this task could not be acknowledged";
                    return Err(ErrandError::Unavailable(text.into()));
                }
                clerk.carry_out(plan).await
            }
            .boxed()
        })
    }
}

/// Who carries plans out.
#[derive(Clone)]
struct Clerk {
    steps: Steps,
    backend: Option<Arc<dyn ResultBackend>>,
    /// The most bytes of an answer.
    largest: usize,
}

impl Clerk {
    async fn carry_out(&self, plan: Plan) -> Answer {
        match plan {
            Plan::Send { steps, answer } => {
                for step in steps {
                    self.steps.carry_out(step).await.map_err(|error| match error {
                        StepError::Backend(error) => refused(error),
                        StepError::NoBackend => ErrandError::NotSupported(error.to_string()),
                        StepError::Broker(error) => ErrandError::Unavailable(error.to_string()),
                    })?;
                }
                Ok(answer)
            }
            Plan::Replace => Ok(None),
            Plan::Get(id) => self.read(self.backend()?.fetch(&id).await),
            Plan::RestoreGroup(id) => {
                let document = self.read(self.backend()?.fetch_group(&id).await)?;
                let result = |document: String| Some(content::value(&document)?.get("result")?.to_string());
                Ok(document.and_then(result))
            }
            Plan::Store(result) => done(self.backend()?.store(*result).await),
            Plan::Forget(id) => done(self.backend()?.forget(&id).await),
            Plan::SaveGroup(id, tuple) => done(self.backend()?.save_group(&id, &tuple.to_string()).await),
            Plan::SetChordSize(id, size) => done(self.backend()?.set_chord_size(&id, size).await),
        }
    }

    fn backend(&self) -> Result<&dyn ResultBackend, ErrandError> {
        let none = || ErrandError::NotSupported("this worker has no result backend (result_backend)".into());
        self.backend.as_deref().ok_or_else(none)
    }

    fn read(&self, read: Result<Option<String>, BackendError>) -> Answer {
        let document = read.map_err(refused)?;
        match document {
            Some(document) if document.len() > self.largest => {
                let (size, most) = (document.len(), self.largest);
                let text = format!("the result is {size} bytes, {most} are allowed (limits.host_call_bytes)");
                Err(ErrandError::LimitExceeded(text))
            }
            document => Ok(document),
        }
    }
}

fn refused(error: BackendError) -> ErrandError {
    match error {
        BackendError::Unsupported(text) => ErrandError::NotSupported(text),
        BackendError::Config(text) | BackendError::Connection(text) => ErrandError::Unavailable(text),
    }
}

fn done(result: Result<(), BackendError>) -> Answer {
    result.map(|()| None).map_err(refused)
}
