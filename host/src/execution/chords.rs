//! Reporting to chords, and what the last part of one does (contract section 4.6).
//!
//! Whoever brings the last part claims the chord for a few seconds, which are made longer while it works, sends the body,
//! and then says that it did. When it dies in between, the claim runs out. A late-acked task comes again, finds its part
//! counted and the chord complete, waits for the claim and takes it; it sends the body unless there is already something
//! stored of it, marked as one that may have been sent before.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tracing::{error, warn};
use uuid::Uuid;

use super::steps::StepError;
use super::{Execution, Task};
use crate::backend::{Arrival, BackendError, Chords, Claim, ResultBackend};
use crate::canvas::failing::{self, Failing};
use crate::canvas::join::{self, Lost, Stored, Tree};
use crate::canvas::{self, ChordPart, Partial, Sender, Signature, Step};
use crate::document::{self, error_map};
use crate::message::request::SENT_AGAIN;
use crate::outcome::{Failure, State};
use crate::settle::{Errback, Prevent};

/// How long a chord whose body was sent is remembered, at least.
const REMEMBERED: Duration = Duration::from_secs(300);

/// The longest pause between two looks at a claim of somebody else, or at results that are not there yet.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How many results are asked for at once.
const READ: usize = 500;

/// What became of joining the results of a header, when the backend answered.
type Joined = Result<Vec<Value>, Lost>;

impl Execution {
    /// Counts a part of a chord's header for this task; with the last one the body is sent, or fails.
    pub(super) fn report<'a>(
        &'a self,
        task: &'a Task,
        part: ChordPart,
    ) -> BoxFuture<'a, Result<(), StepError>> {
        // A chord may be a part of another one.
        async move {
            match self.backend.as_deref() {
                Some(backend) if backend.chords() == Chords::Native => self.count(backend, task, part).await,
                _ => Ok(()),
            }
        }
        .boxed()
    }

    async fn count(
        &self,
        backend: &dyn ResultBackend,
        task: &Task,
        part: ChordPart,
    ) -> Result<(), StepError> {
        let ChordPart { part, chord } = part;
        let (token, lease) = (Uuid::new_v4().simple().to_string(), self.lease());
        let again = loop {
            match backend.add_part(&part, &token, lease).await? {
                Arrival::Waiting | Arrival::Done => return Ok(()),
                Arrival::Complete { again } => break again,
                // Whoever has it may have died. This part's message is kept until it is known.
                Arrival::Taken(left) => sleep(left.min(LONGEST_PAUSE) + Duration::from_millis(5)).await,
            }
        };
        let claim = Claim {
            group: part.group,
            token,
        };
        let keep = async {
            loop {
                sleep(lease / 3).await;
                if let Err(error) = backend.extend_claim(&claim, lease).await {
                    warn!("the claim of chord {} was not extended: {error}", claim.group);
                }
            }
        };
        tokio::select! {
            done = self.complete(backend, task, &claim, chord.get(), again) => done,
            () = keep => Ok(()),
        }
    }

    /// How long a claim lasts at a time: as with Celery, whose workers may be the ones that wait for its end.
    fn lease(&self) -> Duration {
        let twice = self.options.chord_join_timeout.unwrap_or(Duration::from_secs(5)) * 2;
        Duration::from_secs(twice.as_secs().max(5))
    }

    /// Sends the body of a chord that is claimed, or fails it. `again`: somebody may have done so before.
    async fn complete(
        &self,
        backend: &dyn ResultBackend,
        task: &Task,
        claim: &Claim,
        chord: &str,
        again: bool,
    ) -> Result<(), StepError> {
        let group = &claim.group;
        let body = match Signature::parse(chord) {
            Ok(body) => body,
            Err(error) => {
                error!("Chord {group:?} has no body that could run: {error}");
                return Ok(backend.lose_chord(group).await?);
            }
        };
        let joined = self.joined(backend, group).await?;
        // What is stored of the body when a header task failed tells that somebody began to fail it: that is done once more,
        // as he may have died on the way. Any other error may have come after the body was sent.
        let is_sent = match &joined {
            Err(lost) if lost.is_final() => false,
            _ => again && self.was_sent(backend, &body).await?,
        };
        match joined {
            _ if is_sent => {}
            Err(lost) => {
                self.fail_body(task, &body, &lost).await?;
                return Ok(backend.lose_chord(group).await?);
            }
            Ok(results) => {
                if !backend.extend_claim(claim, self.lease()).await? {
                    warn!(
                        "Chord callback for {group:?} not published: dispatch claim is no longer owned by this worker"
                    );
                    return Ok(());
                }
                if let Err(lost) = self.send_body(task, &body, results, again).await {
                    self.fail_body(task, &body, &lost).await?;
                }
            }
        }
        let remembered = REMEMBERED.max(self.lease() * 2);
        if !backend.finish_chord(claim, remembered).await? {
            warn!(
                "Chord callback claim for {group:?} was lost before cleanup; chord data was left for expiry"
            );
        }
        Ok(())
    }

    /// Whether something is stored of what applying the body sends first.
    pub(super) async fn was_sent(
        &self,
        backend: &dyn ResultBackend,
        body: &Signature,
    ) -> Result<bool, BackendError> {
        for id in failing::first_ids(body).into_iter().take(READ) {
            if backend.fetch(id).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The results of a header of this backend. An error of the result is one that may pass.
    async fn joined(&self, backend: &dyn ResultBackend, group: &str) -> Result<Joined, BackendError> {
        let unreadable = |text: String| Lost::join(&Failure::new("builtins", "ValueError", text));
        let saved = match passing(backend.fetch_group(group).await)? {
            Ok(saved) => saved.as_deref().map(Tree::saved).transpose(),
            Err(text) => return Ok(Err(unreadable(text))),
        };
        match saved.map(Option::flatten) {
            Ok(None) => Ok(match passing(backend.parts(group).await)? {
                Ok(parts) => join::join(&parts),
                Err(text) => Err(unreadable(text)),
            }),
            Ok(Some(tree)) => {
                let read = self.read_tree(backend, &tree).await?;
                Ok(read.map_err(|error| match error == timed_out() {
                    true => Lost::join(&error),
                    false => Lost::join(&error).finally(),
                }))
            }
            Err(error) => Ok(Err(unreadable(error.to_string()))),
        }
    }

    /// The results of a tree, once they are all there; waits for them for `result_chord_join_timeout`.
    pub(super) async fn read_tree(
        &self,
        backend: &dyn ResultBackend,
        tree: &Tree,
    ) -> Result<Result<Vec<Value>, Failure>, BackendError> {
        let deadline = self
            .options
            .chord_join_timeout
            .map(|timeout| Instant::now() + timeout);
        let (mut stored, mut pause) = (HashMap::new(), Duration::from_millis(10));
        loop {
            read_missing(backend, tree, &mut stored).await?;
            match tree.join(&stored) {
                Ok(Some(Value::Array(results))) => return Ok(Ok(results)),
                Ok(Some(one)) => return Ok(Ok(vec![one])),
                Err(error) => return Ok(Err(error)),
                Ok(None) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    return Ok(Err(timed_out()));
                }
                Ok(None) => {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Applies the body with the list of results. An error: why it cannot be sent. `again`: perhaps somebody sent it before
    /// and died; then whoever runs it looks first whether it ran (contract section 4.6).
    pub(super) async fn send_body(
        &self,
        task: &Task,
        body: &Signature,
        results: Vec<Value>,
        again: bool,
    ) -> Result<(), Lost> {
        let partial = Partial {
            args: vec![Value::Array(results)],
            ..Partial::default()
        };
        let failed =
            |class: (&str, &str), text: String| Lost::callback(&Failure::new(class.0, class.1, text));
        let applied = self.within(task, |context| canvas::apply(body, partial, context));
        let applied = applied.map_err(|error| failed(("builtins", "ValueError"), error.to_string()))?;
        for mut step in applied.steps {
            if let (true, Step::Publish(publication)) = (again, &mut step) {
                let headers = publication.outgoing.message.headers.get_or_insert_default();
                headers.insert(SENT_AGAIN.into(), true.into());
            }
            let sent = self.steps.carry_out(step).await;
            sent.map_err(|error| failed(("kombu.exceptions", "OperationalError"), error.to_string()))?;
        }
        self.add_children(task, applied.children);
        Ok(())
    }

    /// Fails the body of a chord: errbacks first, then its state, then what waits for it. Everything is tried; the first
    /// error is that of the whole.
    pub(super) async fn fail_body(
        &self,
        task: &Task,
        body: &Signature,
        lost: &Lost,
    ) -> Result<(), StepError> {
        let error = lost.error();
        error!(
            "Chord of {:?} raised: {}",
            body.text("task_id").unwrap_or(&body.task),
            error.repr()
        );
        let is_group = matches!(body.kind, canvas::Kind::Group(_));
        let own = if is_group {
            lost.members_error()
        } else {
            error.clone()
        };
        let mut done = Ok(());
        for failing in failing::body(body, || Uuid::new_v4().to_string()) {
            done = done.and(self.fail_without_run(task, failing, &own).await);
        }
        let chain = body.options.get("chain").filter(|chain| !chain.is_null());
        let chain = chain.map(|chain| document::raw(chain.to_string()));
        let result = error_map(&error);
        match canvas::prevented(chain.as_deref()) {
            Ok(rest) => {
                for prevented in rest {
                    let stored = document::prevented(&prevented, &result, None, self.scene());
                    let part = prevented.part(&result, &task.request);
                    done = done.and(self.prevent(task, Prevent { stored, part }).await);
                }
            }
            Err(error) => error!("{error}"),
        }
        done
    }

    async fn fail_without_run(
        &self,
        task: &Task,
        failing: Failing,
        error: &Failure,
    ) -> Result<(), StepError> {
        let Failing {
            id: Some(id),
            errbacks,
        } = failing
        else {
            return Ok(());
        };
        let told = self.tell_errbacks(task, &id, errbacks, error).await;
        let (result, children) = (error_map(error), self.children(task));
        if let Some(backend) = &self.backend {
            let stored =
                document::of_another(&id, State::Failure, &result, None, &children, Timestamp::now());
            backend.store(stored).await?;
        }
        told
    }

    /// Calls the errbacks of a task that fails without a request of its own. One that makes no sense is only logged.
    async fn tell_errbacks(
        &self,
        task: &Task,
        id: &str,
        errbacks: Vec<Value>,
        error: &Failure,
    ) -> Result<(), StepError> {
        if errbacks.is_empty() {
            return Ok(());
        }
        let failed = Sender {
            id: id.to_owned(),
            root_id: None,
            priority: None,
            trace: crate::message::JsonMap::new(),
        };
        let signatures: Result<Vec<Signature>, _> = errbacks.into_iter().map(Signature::read).collect();
        let told = signatures
            .and_then(|signatures| self.within(task, |context| canvas::told(signatures, &failed, context)));
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                error!("the errbacks of task {id} cannot be called: {error}");
                return Ok(());
            }
        };
        for call in told.calls {
            let (args, kwargs) = call.arguments(serde_json::json!({"id": id}), error);
            let task_name = call.task;
            let errback = Errback {
                task: task_name,
                args,
                kwargs,
            };
            self.errback(task, errback).await;
        }
        let mut done = Ok(());
        for step in told.sent.steps {
            done = done.and(self.steps.carry_out(step).await);
        }
        self.add_children(task, told.sent.children);
        done
    }
}

/// The results of a header did not come in time.
fn timed_out() -> Failure {
    Failure::new("celery.exceptions", "TimeoutError", "The operation timed out.")
}

/// An answer that may come later is an error; what will always be the same is the text of the inner one.
fn passing<T>(answer: Result<T, BackendError>) -> Result<Result<T, String>, BackendError> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(BackendError::Unsupported(text)) => Ok(Err(text)),
        Err(error) => Err(error),
    }
}

/// Reads the results that are not known yet, up to the first part of them that is not complete.
pub(super) async fn read_missing(
    backend: &dyn ResultBackend,
    tree: &Tree,
    stored: &mut HashMap<String, Stored>,
) -> Result<(), BackendError> {
    let missing: Vec<&str> = tree
        .ids()
        .into_iter()
        .filter(|id| !stored.contains_key(*id))
        .collect();
    for ids in missing.chunks(READ) {
        let documents = join_all(ids.iter().map(|id| backend.fetch(id))).await;
        let mut complete = true;
        for (id, document) in ids.iter().zip(documents) {
            match document?.as_deref().and_then(Stored::read) {
                Some(read) => {
                    stored.insert((*id).to_owned(), read);
                }
                None => complete = false,
            }
        }
        if !complete {
            break;
        }
    }
    Ok(())
}
