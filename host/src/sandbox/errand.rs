//! What a guest asks of the worker through `publisher` and `results`: one value for each function, handed to one closure.
//! How large its texts are together
//! is bounded by `limits.host_call_bytes`; everything else, grants included, is decided by who carries errands out.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::bindings::celerybox::task::types;

/// One call of `publisher` or `results`. The texts are those of the guest and not yet known to be JSON.
#[derive(Debug, Clone, PartialEq)]
pub enum Errand {
    /// `publisher.apply`; the answer is the result tuple.
    Apply {
        /// A signature of any kind.
        signature: String,
        /// Positional arguments that go in front, a list.
        args: String,
        /// Keyword arguments, a map.
        kwargs: String,
        /// Options, a map.
        options: String,
    },
    /// `publisher.publish`.
    Publish(Box<RawMessage>),
    /// `publisher.replace`; when it is done the run may end as replaced.
    Replace {
        /// A signature of any kind.
        signature: String,
    },
    /// `publisher.add-to-chord`; the answer is the result tuple.
    AddToChord {
        /// A signature of any kind.
        signature: String,
    },
    /// `results.get`; the answer is the document, if there is one.
    GetResult {
        /// The task.
        task_id: String,
    },
    /// `results.store`.
    StoreResult {
        /// The task.
        task_id: String,
        /// The state.
        state: String,
        /// The value.
        value: String,
        /// The traceback.
        traceback: Option<String>,
    },
    /// `results.forget`.
    Forget {
        /// The task.
        task_id: String,
    },
    /// `results.save-group`.
    SaveGroup {
        /// The group.
        group_id: String,
        /// Its result tuple.
        tuple: String,
    },
    /// `results.restore-group`; the answer is the result tuple, if there is one.
    RestoreGroup {
        /// The group.
        group_id: String,
    },
    /// `results.set-chord-size`.
    SetChordSize {
        /// The group.
        group_id: String,
        /// How many parts.
        size: u32,
    },
}

/// A message that the guest made itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    /// Exchange; empty for the default exchange.
    pub exchange: String,
    /// Routing key.
    pub routing_key: String,
    /// Headers, a map.
    pub headers: String,
    /// Properties, a map.
    pub properties: String,
    /// Content type.
    pub content_type: String,
    /// Content encoding.
    pub content_encoding: String,
    /// The serialized body.
    pub body: Vec<u8>,
}

/// Why an errand was not done; the text is for the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrandError {
    /// This worker cannot do it.
    #[error("{0}")]
    NotSupported(String),
    /// It is not granted.
    #[error("{0}")]
    Denied(String),
    /// A value is malformed.
    #[error("{0}")]
    Invalid(String),
    /// A limit is reached.
    #[error("{0}")]
    LimitExceeded(String),
    /// The broker or the result backend does not answer.
    #[error("{0}")]
    Unavailable(String),
}

/// What an errand answers: a JSON text where there is one.
pub type Answer = Result<Option<String>, ErrandError>;

/// Carries errands out, one at a time. Dropping the future leaves undone what was not begun.
pub type Errands = Arc<dyn Fn(Errand) -> BoxFuture<'static, Answer> + Send + Sync>;

impl From<ErrandError> for types::Error {
    fn from(error: ErrandError) -> Self {
        match error {
            ErrandError::NotSupported(text) => Self::NotSupported(text),
            ErrandError::Denied(text) => Self::Denied(text),
            ErrandError::Invalid(text) => Self::Invalid(text),
            ErrandError::LimitExceeded(text) => Self::LimitExceeded(text),
            ErrandError::Unavailable(text) => Self::Unavailable(text),
        }
    }
}
