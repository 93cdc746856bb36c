//! The end of a message's way: what its outcome means, and carrying that out (contract sections 3.2, 3.10 and 4).

use std::sync::{MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::Value;
use tracing::error;
use uuid::Uuid;

use super::errands::Ledger;
use super::steps::StepError;
use super::{Execution, Task};
use crate::broker::Receipt;
use crate::canvas::{self, Context, Sender};
use crate::document::{self, Scene};
use crate::message::Request;
use crate::outcome::{Outcome, StoredResult};
use crate::settle::{self, Effect, Left, Prevent};

/// What became of effects.
pub(super) enum Applied {
    /// They are done, as far as that could be.
    Done,
    /// One could not be done, and the message went back instead.
    PutBack,
}

impl Execution {
    pub(super) fn settle(&self, task: &Task, receipt: &Option<Receipt>, outcome: Outcome) -> Vec<Effect> {
        let replacement = match outcome {
            Outcome::Replaced => std::mem::take(&mut ledger(task).replacement),
            _ => Vec::new(),
        };
        let mut effects: Vec<Effect> = replacement.into_iter().map(Effect::Follow).collect();
        let children = self.children(task);
        effects.extend(self.within(task, |context| {
            let scene = Scene {
                now: context.now,
                ..self.scene()
            };
            let left = Left { children, context };
            settle::settle(&task.request, &task.plan, outcome, receipt.is_none(), scene, left)
        }));
        effects
    }

    /// The result tuples of what a task sent so far.
    pub(super) fn children(&self, task: &Task) -> Vec<Value> {
        ledger(task).children.clone()
    }

    pub(super) fn add_children(&self, task: &Task, added: Vec<Value>) {
        ledger(task).children.extend(added);
    }

    /// What this task sends, it sends in this context.
    pub(super) fn within<T>(&self, task: &Task, act: impl FnOnce(&mut Context<'_>) -> T) -> T {
        within(&self.tasks.canvas(), &task.request, act)
    }

    /// Carries out effects in order. Only a retry or a callback that cannot be sent is an error. When anything after
    /// them fails, an unacknowledged message goes back, so that nothing that must follow is lost with it; of one that
    /// was acknowledged early the rest is done all the same.
    ///
    /// What few tasks need is boxed, here and in [`Execution::execute`]: every message in flight has room for all of this.
    pub(super) async fn apply(
        &self,
        effects: Vec<Effect>,
        receipt: &mut Option<Receipt>,
        task: Option<&Task>,
    ) -> Result<Applied, StepError> {
        for effect in effects {
            let done = match effect {
                Effect::Publish(outgoing) => {
                    self.steps.send(outgoing, None).await?;
                    Ok(())
                }
                Effect::Follow(step) => {
                    Box::pin(self.steps.carry_out(step)).await?;
                    Ok(())
                }
                Effect::Store(result) => self.store(result).await,
                Effect::ChordPart(part) => match task {
                    Some(task) => Box::pin(self.report(task, *part)).await,
                    None => Ok(()),
                },
                Effect::Prevent(prevent) => match task {
                    Some(task) => Box::pin(self.prevent(task, *prevent)).await,
                    None => Ok(()),
                },
                Effect::Tell(step) => Box::pin(self.steps.carry_out(step)).await,
                Effect::Errback(errback) => {
                    if let Some(task) = task {
                        Box::pin(self.errback(task, *errback)).await;
                    }
                    Ok(())
                }
                Effect::Remember => {
                    if let Some(task) = task {
                        self.known.succeeded(&task.request);
                    }
                    Ok(())
                }
                Effect::Log(text) => {
                    error!("{text}");
                    Ok(())
                }
                Effect::Ack => {
                    if let Some(receipt) = receipt.take() {
                        if let Some(task) = task {
                            task.here.done();
                            if receipt.is_lost() {
                                self.known.done_unacked(&task.request);
                            }
                        }
                        receipt.ack();
                    }
                    Ok(())
                }
                Effect::Reject { requeue } => {
                    if let Some(receipt) = receipt.take() {
                        receipt.reject(requeue);
                    }
                    Ok(())
                }
            };
            if let Err(error) = done {
                let id = task.map_or("", |task| &task.request.id);
                error!("what follows the end of task {id} is not done: {error}");
                if let Some(receipt) = receipt.take() {
                    receipt.reject(true);
                    return Ok(Applied::PutBack);
                }
            }
        }
        Ok(Applied::Done)
    }

    async fn store(&self, result: StoredResult) -> Result<(), StepError> {
        match &self.backend {
            Some(backend) => Ok(backend.store(result).await?),
            None => Ok(()),
        }
    }

    /// A task that failed before has reported to its chord already.
    pub(super) async fn prevent(&self, task: &Task, prevent: Prevent) -> Result<(), StepError> {
        let Prevent { stored, part } = prevent;
        let failed_before = match (&part, &self.backend) {
            (Some(part), Some(backend)) => {
                let stored = backend.fetch(&part.part.task_id).await?;
                let status = stored.and_then(|stored| document::status(&stored));
                matches!(status.as_deref(), Some("FAILURE" | "REVOKED"))
            }
            _ => false,
        };
        if let Some(stored) = stored {
            self.store(stored).await?;
        }
        match part.filter(|_| !failed_before) {
            Some(part) => self.report(task, part).await,
            None => Ok(()),
        }
    }
}

/// What the task of this request sends, it sends in this context.
pub(super) fn within<T>(
    defaults: &canvas::Defaults,
    request: &Request,
    act: impl FnOnce(&mut Context<'_>) -> T,
) -> T {
    act(&mut Context {
        defaults,
        sender: Some(Sender::of(request)),
        now: Timestamp::now(),
        new_id: &mut || Uuid::new_v4().to_string(),
    })
}

fn ledger(task: &Task) -> MutexGuard<'_, Ledger> {
    task.ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
