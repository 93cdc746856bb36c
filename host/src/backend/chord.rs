//! What a result backend does for chords (contract sections 4.6 and 4.7).

use std::time::Duration;

use serde_json::value::RawValue;

use crate::outcome::State;

/// How a result backend keeps chords.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chords {
    /// It counts the parts itself; whoever brings the last one sends the body.
    Native,
    /// Whoever starts the chord sends `celery.chord_unlock`, which looks for the results until all are there.
    Unlock,
    /// Not at all.
    Refused,
}

/// One task of a chord's header that ended.
#[derive(Debug, Clone)]
pub struct Part {
    /// The header's group id.
    pub group: String,
    /// The task's id.
    pub task_id: String,
    /// Its position in the header; a part without one comes last.
    pub index: Option<u32>,
    /// How it ended.
    pub state: State,
    /// Its value, or the error map.
    pub result: Box<RawValue>,
}

/// Leave to send a chord's body, or to fail it, for a limited time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The header's group id.
    pub group: String,
    /// Who holds it: 32 hexadecimal digits.
    pub token: String,
}

/// What a part means for its chord.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Others are missing, or how many there are is not known yet.
    Waiting,
    /// All are there, and the chord is whose part it was.
    Complete {
        /// The part had been counted before: somebody may have come far with this chord and then died.
        again: bool,
    },
    /// All are there, and somebody else holds the chord for so long.
    Taken(Duration),
    /// The body was sent.
    Done,
}

impl Part {
    /// As it is kept, before it is serialized: a list of four.
    pub(crate) fn to_json(&self) -> String {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        format!(
            "[1, {}, {}, {}]",
            text(&self.task_id),
            text(self.state.as_str()),
            self.result.get()
        )
    }
}
