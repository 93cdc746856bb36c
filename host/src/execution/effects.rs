//! The end of a message's way: what its outcome means, and carrying that out (contract sections 3.2, 3.10 and 4).

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::sleep;
use tracing::error;
use uuid::Uuid;

use super::errands::Ledger;
use super::steps::StepError;
use super::{Execution, Task};
use crate::broker::Receipt;
use crate::builtin::Builtin;
use crate::canvas::{self, Context, Sender};
use crate::document::Scene;
use crate::happening::Settled;
use crate::message::Request;
use crate::outcome::{Failure, Outcome, StoredResult};
use crate::sandbox::registry::Code;
use crate::settle::{self, Effect, Left, Prevent, Sending, Settlement};
use crate::shutdown::Stage;

/// How long a message waits here before it goes back because what follows its task could not be done.
const PAUSE: Duration = Duration::from_secs(1);

/// What became of effects.
pub(super) enum Applied {
    /// They are done, as far as that could be.
    Done,
    /// One could not be done, and the message went back instead.
    PutBack,
}

impl Execution {
    /// What the outcome means, once everything is sent that has to be sent first. What makes no sense or cannot be sent
    /// changes the outcome, and then nothing has to be sent any more. `acked`: the message is acknowledged already.
    pub(super) async fn settle(
        &self,
        task: &mut Task,
        acked: bool,
        outcome: &mut Outcome,
    ) -> (Settled, Vec<Effect>) {
        loop {
            *outcome = match self.meaning(task, acked, outcome) {
                Err(failure) => Outcome::Failure(failure),
                Ok(settlement) => {
                    let settled = Settled::by(&settlement);
                    match self.send_first(settlement.sends).await {
                        Ok(()) => return (settled, settlement.effects),
                        Err(error) => unsent(task, outcome, &error),
                    }
                }
            };
        }
    }

    fn meaning(&self, task: &Task, acked: bool, outcome: &Outcome) -> Result<Settlement, Failure> {
        let children = self.children(task);
        let mut settlement = self.within(task, |context| {
            let scene = Scene {
                now: context.now,
                ..self.scene()
            };
            let left = Left { children, context };
            settle::settle(&task.request, &task.plan, outcome, acked, scene, left)
        })?;
        if matches!(outcome, Outcome::Replaced) {
            let replacement = std::mem::take(&mut ledger(task).replacement);
            settlement
                .sends
                .extend(replacement.into_iter().map(Sending::Follow));
        }
        Ok(settlement)
    }

    async fn send_first(&self, sends: Vec<Sending>) -> Result<(), StepError> {
        for sending in sends {
            match sending {
                Sending::Retry(outgoing) => self.steps.send(outgoing, None).await?,
                Sending::Follow(step) => Box::pin(self.steps.carry_out(step)).await?,
            }
        }
        Ok(())
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

    /// Carries out effects in order. When one fails, an unacknowledged message goes back, so that nothing that must follow
    /// is lost with it; of one that was acknowledged early the rest is done all the same.
    ///
    /// What few tasks need is boxed, here and in [`Execution::execute`]: every message in flight has room for all of this.
    pub(super) async fn apply(
        &self,
        effects: Vec<Effect>,
        receipt: &mut Option<Receipt>,
        task: Option<&Task>,
    ) -> Applied {
        let mut effects = effects.into_iter().peekable();
        while let Some(effect) = effects.next() {
            let done = match effect {
                Effect::Store(result) => {
                    let part = effects.next_if(|next| matches!(next, Effect::ChordPart(_)));
                    match (task, part) {
                        // Both travel together, the result in front.
                        (Some(task), Some(Effect::ChordPart(part))) => {
                            let (stored, reported) = Box::pin(async {
                                tokio::join!(biased; self.store(result), self.report(task, *part))
                            })
                            .await;
                            stored.and(reported)
                        }
                        _ => self.store(result).await,
                    }
                }
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
                    if let Some(task) = task
                        && self.options.deduplicate
                    {
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
                    // It may come again at once, and what failed may fail for long.
                    tokio::select! {
                        () = sleep(PAUSE) => {}
                        () = self.shutdown.reached(Stage::Warm) => {}
                    }
                    receipt.reject(true);
                    return Applied::PutBack;
                }
            }
        }
        Applied::Done
    }

    async fn store(&self, result: StoredResult) -> Result<(), StepError> {
        match &self.backend {
            Some(backend) => Ok(backend.store(result).await?),
            None => Ok(()),
        }
    }

    /// Celery does not report a task that has failed before; here that may be what a first delivery left, and a part counts
    /// once (contract section 4.6).
    pub(super) async fn prevent(&self, task: &Task, prevent: Prevent) -> Result<(), StepError> {
        let Prevent { stored, part } = prevent;
        if let Some(stored) = stored {
            self.store(stored).await?;
        }
        match part {
            Some(part) => self.report(task, part).await,
            None => Ok(()),
        }
    }
}

/// How the task ends when what it sends cannot be sent.
fn unsent(task: &mut Task, outcome: &Outcome, error: &StepError) -> Outcome {
    match task.code {
        // Its message is all that is left of a chord that waits.
        Code::Builtin(Builtin::ChordUnlock) => Outcome::Reject {
            reason: Some(error.to_string()),
            requeue: true,
        },
        _ => settle::unsent(outcome, &mut task.plan, error),
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
