//! What an ending means: the one place that turns an outcome into effects, in the contract's order
//! (sections 3.2 and 3.10).

use serde_json::json;
use serde_json::value::RawValue;

use crate::document::{self, Scene, error_map, null, raw, stored};
use crate::message::request::Identity;
use crate::message::{Message, Outgoing, Request, Unusable, retry};
use crate::outcome::{Failure, Outcome, Retry, RetryWhen, State, StoredResult};
use crate::policy::admit::Plan;

/// One thing to do. Effects are carried out in order; after a store that failed, an unacknowledged message goes back
/// instead of being settled as the list says.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send a message.
    Publish(Outgoing),
    /// Store a state.
    Store(StoredResult),
    /// Acknowledge the message.
    Ack,
    /// Refuse the message.
    Reject {
        /// Put it back on its queue.
        requeue: bool,
    },
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

/// What becomes of a run whose message could not be sent: a lost one is settled without a retry, and any other retry is
/// given up as `Reject` (contract sections 3.2 and 3.6, step 5). `lost` is the reason of a lost run.
pub fn unsent(plan: &mut Plan, lost: Option<String>, error: &dyn std::fmt::Display) -> Outcome {
    plan.retry_on_worker_lost = None;
    match lost {
        Some(reason) => Outcome::WorkerLost(reason),
        None => Outcome::Reject {
            reason: Some(format!("the retry could not be sent: {error}")),
            requeue: false,
        },
    }
}

/// What an outcome means. `acked` tells whether the message was acknowledged before the run.
pub fn settle(
    request: &Request,
    plan: &Plan,
    outcome: Outcome,
    acked: bool,
    scene: Scene<'_>,
) -> Vec<Effect> {
    let store = |wanted: bool, state: State, result: &RawValue, traceback: Option<&str>| {
        wanted.then(|| Effect::Store(stored(request, state, result, traceback, &[], scene)))
    };
    let failed = |failure: &Failure| {
        store(
            plan.store_errors,
            State::Failure,
            &error_map(failure),
            failure.traceback.as_deref(),
        )
    };
    let ack_if = |ack: bool, requeue: bool| {
        let effect = if ack {
            Effect::Ack
        } else {
            Effect::Reject { requeue }
        };
        (!acked).then_some(effect)
    };
    let effects: [Option<Effect>; 3] = match outcome {
        Outcome::Success(value) => {
            let result = raw(value.into());
            [
                None,
                store(!plan.ignore_result, State::Success, &result, None),
                ack_if(true, false),
            ]
        }
        Outcome::Failure(failure) => [None, failed(&failure), ack_if(plan.acks_on_failure, false)],
        Outcome::TimeLimit(limit) => {
            let failure = Failure::time_limit_exceeded(limit);
            [None, failed(&failure), ack_if(plan.acks_on_timeout, true)]
        }
        Outcome::Retry(asked) => {
            let result = asked.exc.as_ref().map_or_else(null, error_map);
            let traceback = asked.exc.as_ref().and_then(|exc| exc.traceback.as_deref());
            let itself = json!([[request.id, null], null]);
            let children = if plan.trail { vec![itself] } else { Vec::new() };
            let stored = (!plan.ignore_result).then(|| {
                Effect::Store(stored(
                    request,
                    State::Retry,
                    &result,
                    traceback,
                    &children,
                    scene,
                ))
            });
            [
                Some(Effect::Publish(retry::message(request, plan, &asked, scene.now))),
                stored,
                ack_if(true, false),
            ]
        }
        Outcome::Reject { requeue: true, .. } => [None, None, ack_if(false, true)],
        Outcome::Reject {
            reason,
            requeue: false,
        } => {
            let failure = Failure {
                exc_args: vec![json!(reason), json!(false)],
                ..Failure::new("celery.exceptions", "Reject", "")
            };
            [None, failed(&failure), ack_if(false, false)]
        }
        Outcome::Ignore => [None, None, ack_if(true, false)],
        Outcome::Duplicate => [None, None, ack_if(true, false)],
        Outcome::Refused(failure) => [None, failed(&failure), ack_if(false, false)],
        Outcome::Revoked(why) => {
            let failure = Failure::new("celery.exceptions", "TaskRevokedError", why.as_str());
            [
                None,
                store(plan.store_errors, State::Revoked, &error_map(&failure), None),
                ack_if(true, false),
            ]
        }
        // A late-acked task gets no state: the broker delivers it again (contract section 3.14).
        Outcome::Cancelled if !acked => [None, None, None],
        Outcome::Cancelled => {
            let failure = Failure::new("celery.exceptions", "Retry", "cancelled by Celery");
            [
                None,
                store(!plan.ignore_result, State::Retry, &error_map(&failure), None),
                None,
            ]
        }
        Outcome::WorkerLost(reason) => {
            let failure = Failure::new("billiard.exceptions", "WorkerLostError", reason);
            match plan.retry_on_worker_lost {
                Some(delay) => {
                    let retry = Retry {
                        when: RetryWhen::Countdown(delay),
                        ..Retry::default()
                    };
                    [
                        Some(Effect::Publish(retry::message(request, plan, &retry, scene.now))),
                        store(plan.store_errors, State::Retry, &error_map(&failure), None),
                        ack_if(true, false),
                    ]
                }
                None if !acked && plan.reject_on_worker_lost => [None, None, ack_if(false, true)],
                None => [None, failed(&failure), ack_if(plan.acks_on_failure, false)],
            }
        }
    };
    effects.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::request::fixture::request;
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

    /// Effects in a form that reads as a table: what is done, in order.
    fn names(effects: &[Effect]) -> Vec<String> {
        effects
            .iter()
            .map(|effect| match effect {
                Effect::Publish(_) => "publish".into(),
                Effect::Store(result) => format!("store {}", result.state.as_str()),
                Effect::Ack => "ack".into(),
                Effect::Reject { requeue } => format!("reject requeue={requeue}"),
            })
            .collect()
    }

    fn failure() -> Failure {
        Failure::new("builtins", "ValueError", "boom")
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
        let table: [(Outcome, &[&str], &[&str]); 13] = [
            (
                Outcome::Success("5".into()),
                &["store SUCCESS"],
                &["store SUCCESS", "ack"],
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
            let effects = |acked| names(&settle(&request, &plan, outcome.clone(), acked, scene()));
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
        let effects = |outcome| names(&settle(&request, &plan, outcome, false, scene()));
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
        let effects = |plan: &Plan| settle(&request, plan, lost(), false, scene());
        let sent = effects(&plan);
        assert_eq!(names(&sent), ["publish", "store RETRY", "ack"]);
        let Effect::Publish(again) = &sent[0] else {
            panic!("{sent:?}")
        };
        let headers = again.message.headers.clone().unwrap();
        assert_eq!(headers["retries"], json!(1));
        assert_eq!(headers["eta"], json!("2026-11-21T10:03:00+00:00"));
        assert_eq!(unsent(&mut plan, Some("x".into()), &"away"), lost());
        assert_eq!(names(&effects(&plan)), ["reject requeue=true"]);
        assert!(matches!(
            unsent(&mut plan, None, &"away"),
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
            let effects = settle(&request, &plan, Outcome::Retry(Box::default()), true, scene());
            let Some(Effect::Store(stored)) = effects.into_iter().nth(1) else {
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
        let effects = |plan: &Plan, outcome| names(&settle(&request, plan, outcome, true, scene()));
        assert!(effects(&ignoring(false), Outcome::Success("5".into())).is_empty());
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
}
