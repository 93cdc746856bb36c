//! From the ended header of a chord to the arguments of its body, or to the error that the body fails with (contract
//! sections 4.6 and 4.7).

use std::collections::HashMap;

use serde_json::Value;

use super::CanvasError;
use crate::message::content;
use crate::outcome::{Failure, State};

/// The most results that a header may have.
const MOST: usize = 1_000_000;

/// Why a chord's body cannot run.
#[derive(Debug, Clone, PartialEq)]
pub struct Lost {
    text: String,
    cause: Option<Box<Failure>>,
    is_final: bool,
}

impl Lost {
    /// A task of the header failed.
    pub fn dependency(id: &str, cause: Failure) -> Self {
        Self {
            text: format!("Dependency {id} raised {}", cause.repr()),
            cause: Some(Box::new(cause)),
            is_final: true,
        }
    }

    /// The same, where looking again cannot come to anything else.
    #[must_use]
    pub fn finally(self) -> Self {
        Self {
            is_final: true,
            ..self
        }
    }

    /// Whether looking again cannot come to anything else, as a task of the header failed.
    pub fn is_final(&self) -> bool {
        self.is_final
    }

    /// The results could not be put together.
    pub fn join(error: &Failure) -> Self {
        Self {
            text: format!("Join error: {}", error.repr()),
            cause: None,
            is_final: false,
        }
    }

    /// The body could not be sent.
    pub fn callback(error: &Failure) -> Self {
        Self {
            text: format!("Callback error: {}", error.repr()),
            cause: None,
            is_final: false,
        }
    }

    /// Any other reason, with the error behind it.
    pub fn because(text: String, cause: Option<Failure>) -> Self {
        Self {
            text,
            cause: cause.map(Box::new),
            is_final: false,
        }
    }

    /// The body's error.
    pub fn error(&self) -> Failure {
        Failure::new("celery.exceptions", "ChordError", self.text.clone())
    }

    /// The error of a group body's members: the one of the header, where there is one.
    pub fn members_error(&self) -> Failure {
        self.cause.as_deref().cloned().unwrap_or_else(|| self.error())
    }
}

/// The results of a header out of its parts, which are lists `[1, task id, state, result]` in the order of the header.
/// The first part that failed fails the chord.
pub fn join(parts: &[String]) -> Result<Vec<Value>, Lost> {
    let wrong = || {
        let error = Failure::new("builtins", "ValueError", "a part of the chord cannot be read");
        Lost::join(&error)
    };
    let mut results = Vec::with_capacity(parts.len());
    for part in parts {
        let Some(Value::Array(part)) = content::value(part) else {
            return Err(wrong());
        };
        let Ok([_, Value::String(id), Value::String(state), result]) = <[Value; 4]>::try_from(part) else {
            return Err(wrong());
        };
        if is_lost(&state) {
            return Err(Lost::dependency(&id, Failure::read(&result)));
        }
        results.push(result);
    }
    Ok(results)
}

fn is_lost(state: &str) -> bool {
    [State::Failure, State::Revoked]
        .iter()
        .any(|lost| lost.as_str() == state)
}

fn is_ready(state: &str) -> bool {
    is_lost(state) || state == State::Success.as_str()
}

/// A result that others wait for: of a task, or of a group with its members (contract section 5.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree {
    /// A task's.
    Task(String),
    /// A group's.
    Group(Vec<Tree>),
}

/// A stored state with its result.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    state: String,
    result: Value,
}

impl Stored {
    /// Reads a result document. `None`: it is not one, or its task has not ended.
    pub fn read(document: &str) -> Option<Self> {
        let Some(Value::Object(mut document)) = content::value(document) else {
            return None;
        };
        let result = document.remove("result").unwrap_or_default();
        match document.remove("status") {
            Some(Value::String(state)) if is_ready(&state) => Some(Self { state, result }),
            _ => None,
        }
    }
}

impl Tree {
    /// Reads a saved group, `{"result": tuple}`; `None` where there is none.
    pub fn saved(document: &str) -> Result<Option<Self>, CanvasError> {
        let tuple =
            content::value(document).and_then(|mut document| Some(document.get_mut("result")?.take()));
        match tuple {
            None | Some(Value::Null) => Ok(None),
            Some(tuple) => Self::read(&tuple).map(Some),
        }
    }

    /// Reads a result tuple `[[id, parent], members]`, the id alone also without a list around it.
    pub fn read(tuple: &Value) -> Result<Self, CanvasError> {
        Self::within(tuple, &mut { MOST })
    }

    /// A group of these result tuples.
    pub fn group(members: &[Value]) -> Result<Self, CanvasError> {
        let mut left = MOST;
        let members = members.iter().map(|tuple| Self::within(tuple, &mut left));
        members.collect::<Result<_, _>>().map(Self::Group)
    }

    fn within(tuple: &Value, left: &mut usize) -> Result<Self, CanvasError> {
        let invalid = || CanvasError::Invalid("a result tuple makes no sense".into());
        *left = left
            .checked_sub(1)
            .ok_or_else(|| CanvasError::TooLarge(format!("a header has more than {MOST} results")))?;
        if let Value::String(id) = tuple {
            return Ok(Self::Task(id.clone()));
        }
        let own = tuple.get(0).ok_or_else(invalid)?;
        let id = own.as_str().or_else(|| own.get(0)?.as_str());
        match tuple.get(1) {
            Some(Value::Array(members)) => {
                let members = members.iter().map(|member| Self::within(member, left));
                members.collect::<Result<_, _>>().map(Self::Group)
            }
            None | Some(Value::Null) => id.map(|id| Self::Task(id.to_owned())).ok_or_else(invalid),
            Some(_) => Err(invalid()),
        }
    }

    /// The tasks whose results are needed, in order.
    pub fn ids(&self) -> Vec<&str> {
        let mut ids = Vec::new();
        self.add_ids(&mut ids);
        ids
    }

    fn add_ids<'a>(&'a self, ids: &mut Vec<&'a str>) {
        match self {
            Self::Task(id) => ids.push(id),
            Self::Group(members) => members.iter().for_each(|member| member.add_ids(ids)),
        }
    }

    /// The results in this structure. `Ok(None)`: one is missing; the first that failed is the error, unless one before
    /// it is missing.
    pub fn join(&self, stored: &HashMap<String, Stored>) -> Result<Option<Value>, Failure> {
        match self {
            Self::Task(id) => match stored.get(id) {
                None => Ok(None),
                Some(stored) if is_lost(&stored.state) => Err(Failure::read(&stored.result)),
                Some(stored) => Ok(Some(stored.result.clone())),
            },
            Self::Group(members) => {
                let joined = members.iter().map(|member| member.join(stored));
                // The order matters: what comes after a missing one is not looked at.
                let mut results = Vec::with_capacity(members.len());
                for joined in joined {
                    match joined? {
                        Some(result) => results.push(result),
                        None => return Ok(None),
                    }
                }
                Ok(Some(Value::Array(results)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_part_that_failed_fails_the_chord() {
        let part = |id: &str, state: &str, result: Value| json!([1, id, state, result]).to_string();
        let fine = part("a", "SUCCESS", json!({"exc_type": "just data"}));
        let big = r#"[1, "b", "SUCCESS", 123456789012345678901234567890]"#.to_owned();
        let joined = join(&[fine.clone(), big]).unwrap();
        assert_eq!(joined[0], json!({"exc_type": "just data"}));
        assert_eq!(joined[1]["__value__"], "123456789012345678901234567890");
        assert_eq!(join(&[]), Ok(Vec::new()));
        let boom = json!({"exc_type": "ValueError", "exc_message": ["boom", 42], "exc_module": "builtins"});
        let lost = join(&[
            fine.clone(),
            part("c", "FAILURE", boom),
            part("d", "REVOKED", json!("x")),
        ])
        .unwrap_err();
        assert_eq!(
            lost.error().repr(),
            "ChordError(\"Dependency c raised ValueError('boom', 42)\")"
        );
        assert_eq!(lost.members_error().repr(), "ValueError('boom', 42)");
        let revoked = json!({"exc_type": "TaskRevokedError", "exc_message": ["terminated"], "exc_module": "celery.exceptions"});
        let lost = join(&[part("d", "REVOKED", revoked)]).unwrap_err();
        assert_eq!(
            lost.error().exc_args,
            [json!("Dependency d raised TaskRevokedError('terminated')")]
        );
        for odd in ["", "{}", "[1]", "[1, 2, 3, 4]", "[1, \"a\", \"SUCCESS\"]"] {
            let lost = join(&[fine.clone(), odd.into()]).unwrap_err();
            assert_eq!(
                lost.error().exc_args,
                [json!(
                    "Join error: ValueError('a part of the chord cannot be read')"
                )],
                "{odd}"
            );
            assert_eq!(lost.members_error(), lost.error());
        }
    }

    fn stored(entries: &[(&str, &str, Value)]) -> HashMap<String, Stored> {
        let entry = |(id, state, result): &(&str, &str, Value)| {
            let document = json!({"status": state, "result": result}).to_string();
            Stored::read(&document).map(|stored| ((*id).to_owned(), stored))
        };
        entries.iter().filter_map(entry).collect()
    }

    #[test]
    fn a_tree_of_results_keeps_its_structure() {
        let document = json!({"result": [["g", null], [
            [["a", null], null],
            [["h", ["p", null]], [[["b", null], null], ["c", null], "d"]],
            [["e", null], []],
        ]]});
        let tree = Tree::saved(&document.to_string()).unwrap().unwrap();
        assert_eq!(tree.ids(), ["a", "b", "c", "d"]);
        let mut results = vec![
            ("a", "SUCCESS", json!(1)),
            ("b", "SUCCESS", json!([2])),
            ("d", "SUCCESS", json!(4)),
            ("c", "STARTED", json!({})),
        ];
        assert_eq!(tree.join(&stored(&results)), Ok(None), "one has not ended");
        results[3] = ("c", "SUCCESS", json!(null));
        assert_eq!(
            tree.join(&stored(&results)),
            Ok(Some(json!([1, [[2], null, 4], []])))
        );
        results[3] = (
            "c",
            "REVOKED",
            json!({"exc_type": "TaskRevokedError", "exc_message": ["x"]}),
        );
        let raised = tree.join(&stored(&results)).unwrap_err();
        assert_eq!(raised.repr(), "TaskRevokedError('x')");
        results[0] = (
            "a",
            "FAILURE",
            json!({"exc_type": "KeyError", "exc_message": "k"}),
        );
        let raised = tree.join(&stored(&results)).unwrap_err();
        assert_eq!(raised.repr(), "KeyError('k')");
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        for nothing in ["", "{}", r#"{"result": null}"#] {
            assert_eq!(Tree::saved(nothing), Ok(None), "{nothing}");
        }
        for odd in [json!(1), json!([]), json!([[], null]), json!([["a", null], 3])] {
            assert!(Tree::read(&odd).is_err(), "{odd}");
        }
        let many = vec![json!("a"); MOST + 1];
        assert!(matches!(Tree::group(&many), Err(CanvasError::TooLarge(_))));
    }
}
