//! What an ending means: the one place that turns an outcome into effects, in the contract's order
//! (sections 3.2 and 3.10).

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::canvas::{self, CanvasError, ChordPart, Chords, Context, Step};
use crate::document::{self, Scene, borrowed, error_map, null, stored};
use crate::message::request::Identity;
use crate::message::{Message, Outgoing, Request, Unusable, retry};
use crate::outcome::{Failure, Outcome, Retry, RetryWhen, State, StoredResult};
use crate::policy::admit::Plan;

/// What an outcome means.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settlement {
    /// What is sent, in order and before anything else. A failure of this settles the task anew: see [`unsent`].
    pub sends: Vec<Sending>,
    /// What is done then.
    pub effects: Vec<Effect>,
}

/// One thing to send.
#[derive(Debug, Clone, PartialEq)]
pub enum Sending {
    /// The task once more.
    Retry(Outgoing),
    /// A step of what follows a task that succeeded, or takes the place of one.
    Follow(Step),
}

/// One thing to do. Effects are carried out in order; after a store that failed, an unacknowledged message goes back
/// instead of being settled as the list says.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Store a state.
    Store(StoredResult),
    /// Report to the chord that the task is in.
    ChordPart(Box<ChordPart>),
    /// Fail a task of the chain that can never run now.
    Prevent(Box<Prevent>),
    /// Call an errback in a sandbox of this worker. What becomes of it is only logged.
    Errback(Box<Errback>),
    /// Do a step of telling errbacks.
    Tell(Step),
    /// Remember that the task succeeded, with all that follows it (contract section 3.9).
    Remember,
    /// Tell the people.
    Log(String),
    /// Acknowledge the message.
    Ack,
    /// Refuse the message.
    Reject {
        /// Put it back on its queue.
        requeue: bool,
    },
}

/// What failing a task means that never ran.
#[derive(Debug, Clone, PartialEq)]
pub struct Prevent {
    /// Its state.
    pub stored: Option<StoredResult>,
    /// What it reports to its chord, unless its own stored state says that it did.
    pub part: Option<ChordPart>,
}

/// An errback that this worker calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Errback {
    /// Task name.
    pub task: String,
    /// A JSON list.
    pub args: String,
    /// A JSON map.
    pub kwargs: String,
}

/// What to do with a message that cannot be run (the table of contract section 1.1).
pub fn unusable(reason: &Unusable) -> Effect {
    match reason {
        Unusable::Undecodable(_) => Effect::Ack,
        Unusable::UnknownFormat(_)
        | Unusable::Invalid(_)
        | Unusable::ContentDisallowed(_)
        | Unusable::TooLarge(_) => Effect::Reject { requeue: false },
    }
}

/// What to do with a task that no component has: reject before the store (contract section 1.1).
pub fn not_registered(identity: &Identity, message: &Message, scene: Scene<'_>) -> Vec<Effect> {
    let stored = document::not_registered(identity, message, scene);
    vec![Effect::Reject { requeue: false }, Effect::Store(stored)]
}

/// How a task with this outcome ends when what it sends cannot be sent: a lost run is settled without a retry, any other
/// retry is given up as `Reject` (contract sections 3.2 and 3.6, step 5), a task whose callbacks cannot be sent has failed,
/// and the message of one that was done before comes once more.
pub fn unsent(outcome: &Outcome, plan: &mut Plan, error: &dyn std::fmt::Display) -> Outcome {
    match outcome {
        Outcome::WorkerLost(reason) => {
            plan.retry_on_worker_lost = None;
            Outcome::WorkerLost(reason.clone())
        }
        Outcome::Success(_) | Outcome::Replaced => Outcome::Failure(Failure::new(
            "kombu.exceptions",
            "OperationalError",
            error.to_string(),
        )),
        Outcome::Unfollowed { .. } => Outcome::Reject {
            reason: None,
            requeue: true,
        },
        _ => Outcome::Reject {
            reason: Some(format!("the retry could not be sent: {error}")),
            requeue: false,
        },
    }
}

/// What a run leaves besides its outcome.
pub struct Left<'a, 'b> {
    /// Result tuples of what it sent (contract section 4.9).
    pub children: Vec<Value>,
    /// How it goes on.
    pub context: &'a mut Context<'b>,
}

/// What an outcome means. `acked` tells whether the message was acknowledged before the run. A task that succeeded, and is
/// followed by something that makes no sense, failed instead: that failure is the error.
pub fn settle(
    request: &Request,
    plan: &Plan,
    outcome: &Outcome,
    acked: bool,
    scene: Scene<'_>,
    left: Left<'_, '_>,
) -> Result<Settlement, Failure> {
    let mut settling = Settling {
        request,
        plan,
        acked,
        scene,
        is_awaited: left.context.defaults.chords == Chords::Unlock && ChordPart::is_of(request),
        sends: Vec::new(),
        effects: Vec::new(),
    };
    settling.ended(outcome, left)?;
    let Settling { sends, effects, .. } = settling;
    Ok(Settlement { sends, effects })
}

/// The effects of one ending, as they come.
struct Settling<'a> {
    request: &'a Request,
    plan: &'a Plan,
    acked: bool,
    scene: Scene<'a>,
    /// Whether a chord waits for its stored result: then it has one, even if it is to be ignored (contract section 4.7).
    is_awaited: bool,
    sends: Vec<Sending>,
    effects: Vec<Effect>,
}

impl Settling<'_> {
    fn ended(&mut self, outcome: &Outcome, left: Left<'_, '_>) -> Result<(), Failure> {
        let plan = self.plan;
        match outcome {
            Outcome::Success(value) => self.succeeded(value, left)?,
            Outcome::Failure(failure) => {
                self.failed(failure, left);
                self.settle(plan.acks_on_failure, false);
            }
            Outcome::TimeLimit(limit) => {
                self.failed_outside(&Failure::time_limit_exceeded(*limit), left);
                self.settle(plan.acks_on_timeout, true);
            }
            Outcome::Retry(asked) => {
                self.retry(asked);
                let result = asked.exc.as_ref().map_or_else(null, error_map);
                let traceback = asked.exc.as_ref().and_then(|exc| exc.traceback.as_deref());
                let mut children = left.children;
                children.push(json!([[self.request.id, null], null]));
                self.store(!plan.ignore_result, State::Retry, &result, traceback, &children);
                self.settle(true, false);
            }
            Outcome::Reject { requeue: true, .. } => self.settle(false, true),
            Outcome::Reject {
                reason,
                requeue: false,
            } => {
                let failure = Failure {
                    exc_args: vec![json!(reason), json!(false)],
                    ..Failure::new("celery.exceptions", "Reject", "")
                };
                self.failed_outside(&failure, left);
                self.settle(false, false);
            }
            Outcome::Ignore | Outcome::Replaced | Outcome::Duplicate => self.settle(true, false),
            Outcome::Unfollowed { result, unsent } => {
                if *unsent {
                    match canvas::succeeded(self.request, result, left.context) {
                        Ok(applied) => self.sends.extend(applied.steps.into_iter().map(Sending::Follow)),
                        Err(error) => self.effects.push(Effect::Log(error.to_string())),
                    }
                }
                self.part(State::Success, borrowed(result));
                self.effects.push(Effect::Remember);
                self.settle(true, false);
            }
            Outcome::Refused(failure) => {
                self.failed_outside(failure, left);
                self.settle(false, false);
            }
            Outcome::Revoked(why) => {
                let failure = Failure::new("celery.exceptions", "TaskRevokedError", why.as_str());
                let result = error_map(&failure);
                self.store(plan.store_errors, State::Revoked, &result, None, &[]);
                self.part(State::Revoked, &result);
                self.settle(true, false);
            }
            // A late-acked task gets no state: the broker delivers it again (contract section 3.14).
            Outcome::Cancelled if !self.acked => {}
            Outcome::Cancelled => {
                let failure = Failure::new("celery.exceptions", "Retry", "cancelled by Celery");
                self.store(!plan.ignore_result, State::Retry, &error_map(&failure), None, &[]);
            }
            Outcome::WorkerLost(reason) => {
                let failure = Failure::new("billiard.exceptions", "WorkerLostError", reason);
                match plan.retry_on_worker_lost {
                    Some(delay) => {
                        self.retry(&Retry {
                            when: RetryWhen::Countdown(delay),
                            ..Retry::default()
                        });
                        self.store(plan.store_errors, State::Retry, &error_map(&failure), None, &[]);
                        self.settle(true, false);
                    }
                    None if !self.acked && plan.reject_on_worker_lost => self.settle(false, true),
                    None => {
                        self.failed_outside(&failure, left);
                        self.settle(plan.acks_on_failure, false);
                    }
                }
            }
        }
        Ok(())
    }

    /// Callbacks and the next task of the chain go first, so that the stored result names them (contract section 4.9).
    fn succeeded(&mut self, value: &str, left: Left<'_, '_>) -> Result<(), Failure> {
        let Left {
            mut children,
            context,
        } = left;
        let applied = canvas::succeeded(self.request, value, context).map_err(|error| {
            let class = match error {
                CanvasError::NoChords(_) => "NotImplementedError",
                CanvasError::Invalid(_) | CanvasError::TooLarge(_) => "ValueError",
            };
            Failure::new("builtins", class, format!("what follows the task: {error}"))
        })?;
        self.sends.extend(applied.steps.into_iter().map(Sending::Follow));
        children.extend(applied.children);
        let result = borrowed(value);
        self.store(!self.plan.ignore_result, State::Success, result, None, &children);
        self.part(State::Success, result);
        self.effects.push(Effect::Remember);
        self.settle(true, false);
        Ok(())
    }

    /// A failure that the run itself does not see: what it sent is not known.
    fn failed_outside(&mut self, failure: &Failure, left: Left<'_, '_>) {
        let children = Vec::new();
        self.failed(failure, Left { children, ..left });
    }

    /// The order of `mark_as_failure`: the state, the part of a chord, the rest of the chain, the errbacks.
    fn failed(&mut self, failure: &Failure, left: Left<'_, '_>) {
        let (request, result) = (self.request, error_map(failure));
        let (traceback, stored) = (failure.traceback.as_deref(), self.plan.store_errors);
        self.store(stored, State::Failure, &result, traceback, &left.children);
        self.part(State::Failure, &result);
        match canvas::prevented(request.body.chain.as_deref()) {
            Ok(prevented) => {
                for task in prevented {
                    let meta = document::prevented(&task, &result, traceback, self.scene);
                    let part = task.part(&result, request);
                    let is_awaited = left.context.defaults.chords == Chords::Unlock && part.is_some();
                    let stored = meta.filter(|_| stored || is_awaited);
                    if stored.is_some() || part.is_some() {
                        self.effects
                            .push(Effect::Prevent(Box::new(Prevent { stored, part })));
                    }
                }
            }
            Err(error) => self.effects.push(Effect::Log(error.to_string())),
        }
        match canvas::errbacks(request, left.context) {
            Ok(errbacks) => {
                let hostname = self.scene.hostname;
                for call in errbacks.calls {
                    let (args, kwargs) = call.arguments(canvas::described(request, hostname), failure);
                    let task = call.task;
                    self.effects
                        .push(Effect::Errback(Box::new(Errback { task, args, kwargs })));
                }
                self.effects
                    .extend(errbacks.sent.steps.into_iter().map(Effect::Tell));
            }
            Err(error) => self.effects.push(Effect::Log(error.to_string())),
        }
    }

    fn store(
        &mut self,
        wanted: bool,
        state: State,
        result: &RawValue,
        traceback: Option<&str>,
        children: &[Value],
    ) {
        if wanted || (self.is_awaited && state.is_ready()) {
            let children = if self.plan.trail { children } else { &[] };
            let stored = stored(self.request, state, result, traceback, children, self.scene);
            self.effects.push(Effect::Store(stored));
        }
    }

    fn part(&mut self, state: State, result: &RawValue) {
        let part = ChordPart::of(self.request, state, result);
        self.effects
            .extend(part.map(|part| Effect::ChordPart(Box::new(part))));
    }

    fn retry(&mut self, retry: &Retry) {
        let message = retry::message(self.request, self.plan, retry, self.scene.now);
        self.sends.push(Sending::Retry(message));
    }

    /// Acknowledges or refuses a message that was not acknowledged before.
    fn settle(&mut self, ack: bool, requeue: bool) {
        if !self.acked {
            self.effects.push(match ack {
                true => Effect::Ack,
                false => Effect::Reject { requeue },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::request::fixture::with_embed;
    use crate::outcome::Revocation;
    use crate::policy::admit;
    use crate::task::Definition;

    fn plan(request: &Request, definition: Definition) -> Plan {
        admit::plan(request, &definition, &admit::Defaults::default())
    }

    fn scene() -> Scene<'static> {
        Scene {
            hostname: "w1@h",
            extended: false,
            now: "2026-11-21T10:00:00Z".parse().unwrap(),
        }
    }

    /// What an outcome means when nothing was sent before.
    fn settle(
        request: &Request,
        plan: &Plan,
        outcome: &Outcome,
        acked: bool,
        scene: Scene<'_>,
    ) -> Result<Settlement, Failure> {
        let defaults = canvas::Defaults {
            chords: canvas::Chords::Native,
            definitions: std::sync::Arc::new(
                [(
                    "new".to_owned(),
                    std::sync::Arc::new(Definition {
                        errback: true,
                        ..Definition::default()
                    }),
                )]
                .into(),
            ),
            ..canvas::Defaults::default()
        };
        let mut count = 0;
        let mut context = Context {
            defaults: &defaults,
            sender: Some(canvas::Sender::of(request)),
            now: scene.now,
            new_id: &mut || {
                count += 1;
                format!("n{count}")
            },
        };
        let left = Left {
            children: Vec::new(),
            context: &mut context,
        };
        super::settle(request, plan, outcome, acked, scene, left)
    }

    fn step(step: &Step) -> String {
        match step {
            Step::Publish(publication) => {
                let body: Value = serde_json::from_slice(&publication.outgoing.message.body).unwrap();
                format!("{} {} {}", publication.id, publication.task, body[0])
            }
            other => format!("{other:?}"),
        }
    }

    fn part(part: &ChordPart) -> String {
        let part = &part.part;
        format!(
            "{} of {} {:?} {}",
            part.task_id,
            part.group,
            part.index,
            part.state.as_str()
        )
    }

    /// What is done in order, in a form that reads as a table.
    fn names(settlement: &Result<Settlement, Failure>) -> Vec<String> {
        let settlement = settlement.as_ref().unwrap();
        let sends = settlement.sends.iter().map(|sending| match sending {
            Sending::Retry(_) => "publish".into(),
            Sending::Follow(follow) => format!("follow {}", step(follow)),
        });
        sends
            .chain(settlement.effects.iter().map(|effect| match effect {
                Effect::Remember => "remember".into(),
                Effect::Tell(tell) => format!("tell {}", step(tell)),
                Effect::ChordPart(reported) => format!("part {}", part(reported)),
                Effect::Prevent(prevent) => {
                    let stored = prevent.stored.as_ref().map(|stored| stored.task_id.as_str());
                    let reported = prevent.part.as_ref().map(part);
                    format!(
                        "prevent {} {}",
                        stored.unwrap_or("-"),
                        reported.unwrap_or("-".into())
                    )
                }
                Effect::Errback(errback) => format!("call {} {}", errback.task, errback.kwargs),
                Effect::Log(_) => "log".into(),
                Effect::Store(result) => format!("store {}", result.state.as_str()),
                Effect::Ack => "ack".into(),
                Effect::Reject { requeue } => format!("reject requeue={requeue}"),
            }))
            .collect()
    }

    /// A request without links.
    fn request(headers: Value) -> Request {
        with_embed(headers, &json!({}))
    }

    fn failure() -> Failure {
        Failure::new("builtins", "ValueError", "boom")
    }

    fn unfollowed(unsent: bool) -> Outcome {
        Outcome::Unfollowed {
            result: "7".into(),
            unsent,
        }
    }

    fn reject(requeue: bool) -> Outcome {
        Outcome::Reject {
            reason: Some("no".into()),
            requeue,
        }
    }

    /// Contract section 3.2: when what is acknowledged, and section 3.10: what is stored.
    #[test]
    fn every_ending_has_its_effects_in_the_contracts_order() {
        let table: [(Outcome, &[&str], &[&str]); 14] = [
            (
                Outcome::Success("5".into()),
                &["store SUCCESS", "remember"],
                &["store SUCCESS", "remember", "ack"],
            ),
            (
                Outcome::Failure(failure()),
                &["store FAILURE"],
                &["store FAILURE", "ack"],
            ),
            (
                Outcome::TimeLimit(1.0),
                &["store FAILURE"],
                &["store FAILURE", "ack"],
            ),
            (
                Outcome::Retry(Box::default()),
                &["publish", "store RETRY"],
                &["publish", "store RETRY", "ack"],
            ),
            (
                reject(false),
                &["store FAILURE"],
                &["store FAILURE", "reject requeue=false"],
            ),
            (reject(true), &[], &["reject requeue=true"]),
            (Outcome::Ignore, &[], &["ack"]),
            (
                Outcome::Revoked(Revocation::Expired),
                &["store REVOKED"],
                &["store REVOKED", "ack"],
            ),
            (Outcome::Duplicate, &[], &["ack"]),
            (unfollowed(true), &["remember"], &["remember", "ack"]),
            (
                Outcome::Refused(failure()),
                &["store FAILURE"],
                &["store FAILURE", "reject requeue=false"],
            ),
            (Outcome::Cancelled, &["store RETRY"], &[]),
            (
                Outcome::WorkerLost("x".into()),
                &["store FAILURE"],
                &["store FAILURE", "ack"],
            ),
            (
                Outcome::Failure(failure()),
                &["store FAILURE"],
                &["store FAILURE", "ack"],
            ),
        ];
        let request = request(json!({}));
        let plan = plan(&request, Definition::default());
        for (outcome, early, late) in table {
            let effects = |acked| names(&settle(&request, &plan, &outcome, acked, scene()));
            assert_eq!(effects(true), early, "{outcome:?}, acknowledged before");
            assert_eq!(effects(false), late, "{outcome:?}, acknowledged late");
        }
    }

    #[test]
    fn settings_decide_what_becomes_of_late_acked_failures() {
        let request = request(json!({}));
        let definition = Definition {
            acks_on_failure: Some(false),
            acks_on_timeout: Some(false),
            ..Definition::default()
        };
        let mut plan = plan(&request, definition);
        plan.reject_on_worker_lost = true;
        let effects = |outcome: Outcome| names(&settle(&request, &plan, &outcome, false, scene()));
        assert_eq!(
            effects(Outcome::Failure(failure())),
            ["store FAILURE", "reject requeue=false"]
        );
        assert_eq!(
            effects(Outcome::TimeLimit(1.0)),
            ["store FAILURE", "reject requeue=true"]
        );
        assert_eq!(effects(Outcome::WorkerLost("x".into())), ["reject requeue=true"]);
    }

    /// Contract section 3.2, the row of the lost worker.
    #[test]
    fn a_lost_task_is_sent_again_when_that_is_asked_for_and_can_be_done() {
        let request = request(json!({}));
        let definition = Definition {
            retry_on_worker_lost: Some(true),
            reject_on_worker_lost: Some(true),
            ..Definition::default()
        };
        let mut plan = plan(&request, definition);
        let lost = || Outcome::WorkerLost("x".into());
        let effects = |plan: &Plan| settle(&request, plan, &lost(), false, scene());
        let sent = effects(&plan);
        assert_eq!(names(&sent), ["publish", "store RETRY", "ack"]);
        let sends = sent.unwrap().sends;
        let [Sending::Retry(again)] = &sends[..] else {
            panic!("{sends:?}")
        };
        let headers = again.message.headers.clone().unwrap();
        assert_eq!(headers["retries"], json!(1));
        assert_eq!(headers["eta"], json!("2026-11-21T10:03:00+00:00"));
        assert_eq!(unsent(&lost(), &mut plan, &"away"), lost());
        assert_eq!(names(&effects(&plan)), ["reject requeue=true"]);
        assert!(matches!(
            unsent(&Outcome::Retry(Box::default()), &mut plan, &"away"),
            Outcome::Reject { requeue: false, reason: Some(reason) } if reason.contains("away")
        ));
    }

    #[test]
    fn without_trail_a_retry_has_no_children() {
        let request = request(json!({}));
        let children = |trail| {
            let definition = Definition {
                trail,
                ..Definition::default()
            };
            let plan = plan(&request, definition);
            let settlement = settle(&request, &plan, &Outcome::Retry(Box::default()), true, scene());
            let Some(Effect::Store(stored)) = settlement.unwrap().effects.into_iter().next() else {
                panic!("no state")
            };
            let meta: serde_json::Value = serde_json::from_str(&stored.meta).unwrap();
            meta["children"].clone()
        };
        assert_eq!(children(None), json!([[["i1", null], null]]));
        assert_eq!(children(Some(false)), json!([]));
    }

    /// Contract section 3.11.
    #[test]
    fn an_ignored_result_is_not_stored_and_its_errors_only_on_request() {
        let request = request(json!({"ignore_result": null}));
        let ignoring = |store_errors| {
            let definition = Definition {
                ignore_result: Some(true),
                store_errors_even_if_ignored: Some(store_errors),
                ..Definition::default()
            };
            plan(&request, definition)
        };
        let effects = |plan: &Plan, outcome: Outcome| names(&settle(&request, plan, &outcome, true, scene()));
        assert_eq!(
            effects(&ignoring(false), Outcome::Success("5".into())),
            ["remember"]
        );
        assert!(effects(&ignoring(false), Outcome::Failure(failure())).is_empty());
        assert_eq!(
            effects(&ignoring(false), Outcome::Retry(Box::default())),
            ["publish"]
        );
        assert_eq!(
            effects(&ignoring(true), Outcome::Failure(failure())),
            ["store FAILURE"]
        );
    }

    /// Everything at once: callbacks, a chain with a chord in it, errbacks of both kinds, a chord that waits.
    fn member() -> Request {
        let errback = |task: &str| json!({"task": task, "kwargs": {"k": 1}});
        let body = json!({"task": "body", "options": {"task_id": "b1", "chord": {"task": "outer"}, "group_id": "g2",
            "group_index": 5}});
        let chord = json!({"task": "celery.chord", "subtask_type": "chord", "options": {"task_id": "g3"},
            "kwargs": {"header": [{"task": "h"}], "body": body}});
        with_embed(
            json!({"group": "g1", "group_index": 2}),
            &json!({
                "callbacks": [{"task": "cb1"}, {"task": "cb2", "args": [5], "immutable": true}],
                "errbacks": [errback("old1"), errback("new"), errback("old2")],
                "chain": [{"task": "last"}, chord, {"task": "next", "options": {"task_id": "x1"}}],
                "chord": {"task": "sum"},
            }),
        )
    }

    /// Contract sections 4.2, 4.4 and 4.5, and Celery's `trace_task` and `mark_as_failure`.
    #[test]
    fn what_follows_an_ending_comes_in_celerys_order() {
        let request = member();
        let plan = plan(&request, Definition::default());
        let effects = |outcome: Outcome| names(&settle(&request, &plan, &outcome, false, scene()));
        assert_eq!(
            effects(Outcome::Success("7".into())),
            [
                "follow n2 cb1 [7]",
                "follow n3 cb2 [5]",
                "follow x1 next [7]",
                "store SUCCESS",
                "part i1 of g1 Some(2) SUCCESS",
                "remember",
                "ack"
            ]
        );
        let failed = [
            "store FAILURE",
            "part i1 of g1 Some(2) FAILURE",
            "prevent g3 -",
            "prevent x1 -",
            "prevent b1 b1 of g2 Some(5) FAILURE",
            "call new {\"k\":1}",
            "tell n2 old1 [\"i1\"]",
            "tell n3 old2 [\"i1\"]",
        ];
        for outcome in [
            Outcome::Failure(failure()),
            Outcome::TimeLimit(1.0),
            reject(false),
            Outcome::Refused(failure()),
            Outcome::WorkerLost("x".into()),
        ] {
            let all = effects(outcome.clone());
            assert_eq!(all[..8], failed, "{outcome:?}");
            assert!(
                all.len() == 9 && (all[8] == "ack" || all[8].starts_with("reject")),
                "{all:?}"
            );
        }
        assert_eq!(
            effects(Outcome::Revoked(Revocation::Revoked)),
            ["store REVOKED", "part i1 of g1 Some(2) REVOKED", "ack"]
        );
        for outcome in [Outcome::Ignore, Outcome::Duplicate, reject(true)] {
            assert_eq!(effects(outcome).len(), 1);
        }
        // What was stored before was perhaps all that its worker came to.
        let done_before = effects(unfollowed(true));
        assert_eq!(
            done_before[..3],
            ["follow n2 cb1 [7]", "follow n3 cb2 [5]", "follow x1 next [7]"]
        );
        let counted = ["part i1 of g1 Some(2) SUCCESS", "remember", "ack"];
        assert_eq!(done_before[3..], counted);
        assert_eq!(effects(unfollowed(false)), counted);
        assert_eq!(
            effects(Outcome::Retry(Box::default())),
            ["publish", "store RETRY", "ack"]
        );
    }

    #[test]
    fn without_results_what_follows_is_done_all_the_same() {
        let mut request = member();
        request.ignore_result = Some(true);
        let plan = plan(&request, Definition::default());
        let effects = |outcome: Outcome| names(&settle(&request, &plan, &outcome, true, scene()));
        assert_eq!(effects(Outcome::Success("7".into())).len(), 5);
        let failed = effects(Outcome::Failure(failure()));
        assert_eq!(
            failed[..2],
            [
                "part i1 of g1 Some(2) FAILURE",
                "prevent - b1 of g2 Some(5) FAILURE"
            ]
        );
    }

    #[test]
    fn children_are_in_the_stored_result_in_sending_order() {
        let request = member();
        let plan = plan(&request, Definition::default());
        let settlement = settle(&request, &plan, &Outcome::Success("7".into()), true, scene());
        let stored = settlement
            .unwrap()
            .effects
            .iter()
            .find_map(|effect| match effect {
                Effect::Store(stored) => Some(serde_json::from_str::<Value>(&stored.meta).unwrap()),
                _ => None,
            });
        let group = json!([["n1", null], [[["n2", null], null], [["n3", null], null]]]);
        assert_eq!(stored.unwrap()["children"], json!([group, [["x1", null], null]]));
    }

    #[test]
    fn a_callback_that_makes_no_sense_fails_the_task_and_one_that_cannot_be_sent_does() {
        let success = Outcome::Success("7".into());
        let broken = with_embed(
            json!({}),
            &json!({"callbacks": [{"task": "cb", "options": {"countdown": "x"}}]}),
        );
        let mut plan = plan(&broken, Definition::default());
        let failure = settle(&broken, &plan, &success, false, scene()).unwrap_err();
        assert_eq!(failure.exc_type, "ValueError");
        let settlement = settle(&broken, &plan, &Outcome::Failure(failure), false, scene());
        assert_eq!(names(&settlement), ["store FAILURE", "ack"]);
        let unsent = unsent(&success, &mut plan, &"away");
        assert!(matches!(unsent, Outcome::Failure(failure) if failure.exc_type == "OperationalError"));
        let errbacks = with_embed(json!({}), &json!({"errbacks": [{"task": ""}]}));
        let settlement = settle(
            &errbacks,
            &plan,
            &Outcome::Failure(self::failure()),
            false,
            scene(),
        );
        assert_eq!(names(&settlement), ["store FAILURE", "log", "ack"]);
    }
}
