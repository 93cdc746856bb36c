//! What an ending means: the one place that turns an outcome into effects, in the contract's order
//! (sections 3.2 and 3.10).

use serde_json::json;
use serde_json::value::RawValue;

use crate::document::{self, Scene, error_map, null, raw, stored};
use crate::message::request::Identity;
use crate::message::{Message, Outgoing, Request, Unusable, retry};
use crate::outcome::{Failure, Outcome, State, StoredResult};
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
            let stored = (!plan.ignore_result).then(|| {
                Effect::Store(stored(
                    request,
                    State::Retry,
                    &result,
                    traceback,
                    &[itself],
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
        Outcome::Expired => {
            let failure = Failure::new("celery.exceptions", "TaskRevokedError", "expired");
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
        Outcome::WorkerLost(_) if !acked && plan.reject_on_worker_lost => [None, None, ack_if(false, true)],
        Outcome::WorkerLost(reason) => {
            let failure = Failure::new("billiard.exceptions", "WorkerLostError", reason);
            [None, failed(&failure), ack_if(true, false)]
        }
    };
    effects.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::request::fixture::request;
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
        let table: [(Outcome, &[&str], &[&str]); 11] = [
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
            (Outcome::Expired, &["store REVOKED"], &["store REVOKED", "ack"]),
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
