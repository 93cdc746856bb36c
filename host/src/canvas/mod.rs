//! Canvas: from a signature to the messages that apply it, and to what follows a task (contract section 4).
//!
//! Pure: a signature and a [`Context`] go in, [`Step`]s come out; `execution` carries them out. The rules are those of
//! `celery/canvas.py`, whose clients and workers have to be able to go on from any point with what is written here.

mod chain;
mod chord;
pub mod failing;
mod follow;
mod freeze;
mod group;
pub mod join;
mod link;
mod message;
mod replace;
mod results;
mod signature;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::message::content::Writer;
use crate::message::{JsonMap, Outgoing};
use crate::queue::{Queue, Queues, Router, Rules};
use crate::task::Definition;
use results::Results;

pub use follow::{Call, ChordPart, Errbacks, Prevented, described, errbacks, prevented, succeeded, told};
pub use replace::{add_to_chord, replace};
pub use signature::{Kind, Signature};

/// The most bytes of bodies that one signature may become.
const LARGEST: usize = 256 << 20;

/// Why a signature cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanvasError {
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It would become more than a worker can send.
    #[error("{0}")]
    TooLarge(String),
    /// The result backend keeps no chords, or there is none.
    #[error("{0}")]
    NoChords(String),
}

/// What is added to a signature when it is applied.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Partial {
    /// In front of its own arguments.
    pub args: Vec<Value>,
    /// Over its own keyword arguments.
    pub kwargs: JsonMap,
    /// Over its own options. A null counts as not given, except that a composite hands it on.
    pub options: JsonMap,
}

/// How a result backend keeps chords (contract sections 4.6 and 4.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chords {
    /// It counts the parts itself; whoever brings the last one sends the body.
    Native,
    /// Whoever starts the chord sends `celery.chord_unlock`, which looks for the results until all are there.
    Unlock,
    /// Not at all: RPC, or no backend.
    Refused,
}

/// What holds for everything that a worker sends.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// `task_routes`.
    pub router: Arc<Router>,
    /// `task_queues` and the rules for queues.
    pub queues: Queues,
    /// `task_serializer` and `task_compression`.
    pub writer: Writer,
    /// `task_default_priority`.
    pub priority: Option<u8>,
    /// `task_ignore_result`.
    pub ignore_result: bool,
    /// `task_inherit_parent_priority`.
    pub inherit_parent_priority: bool,
    /// `task_allow_error_cb_on_chord_header`.
    pub errbacks_on_headers: bool,
    /// How chords are kept.
    pub chords: Chords,
    /// The header `origin`, for example `gen1@host`.
    pub origin: String,
    /// The options of the tasks of this worker, built-in ones included, by name.
    pub definitions: Arc<BTreeMap<String, Arc<Definition>>>,
}

/// Celery's, without tasks, and without a result backend.
impl Default for Defaults {
    fn default() -> Self {
        Self {
            router: Arc::default(),
            queues: Queues::new(Rules::default(), Vec::new()),
            writer: Writer::default(),
            priority: None,
            ignore_result: false,
            inherit_parent_priority: false,
            errbacks_on_headers: false,
            chords: Chords::Refused,
            origin: String::new(),
            definitions: Arc::default(),
        }
    }
}

/// The task that sends.
#[derive(Debug, Clone, PartialEq)]
pub struct Sender {
    /// Its id: the parent of what it sends.
    pub id: String,
    /// First task of its workflow.
    pub root_id: Option<String>,
    /// The priority its message came with.
    pub priority: Option<u8>,
    /// The headers of OpenTelemetry that its message has, which go on to what it sends.
    pub trace: JsonMap,
}

/// Where and when a signature is applied.
pub struct Context<'a> {
    /// What holds for everything.
    pub defaults: &'a Defaults,
    /// The task that sends; `None` for a client.
    pub sender: Option<Sender>,
    /// The time.
    pub now: Timestamp,
    /// How ids are made.
    pub new_id: &'a mut dyn FnMut() -> String,
}

/// A message of a task, and the queue that is declared before it is sent (contract section 1.8).
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// Task name.
    pub task: String,
    /// Task id.
    pub id: String,
    /// The queue, where the message goes to one by its name.
    pub declare: Option<Queue>,
    /// The message.
    pub outgoing: Outgoing,
}

/// One thing to do, in its order.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Send a message.
    Publish(Box<Publication>),
    /// Tell the backend how many parts a chord has: just before the last of them is sent.
    ChordSize {
        /// The chord's group.
        group: String,
        /// How many parts.
        size: u64,
    },
    /// Keep the result tuple of a header whose members are groups, so that the body gets results in that structure.
    SaveGroup {
        /// The chord's group.
        group: String,
        /// `[[group id, parent], [members]]`.
        tuple: Value,
    },
    /// Count one more part of a chord (`add_to_chord`).
    ChordGrows {
        /// The chord's group.
        group: String,
    },
}

/// What applying a signature means.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applied {
    /// What there is to do.
    pub steps: Vec<Step>,
    /// The result tuple `[[id, parent], members]`; null for an empty chain.
    pub result: Value,
    /// The result tuples that are added to the sender's `children` (contract section 4.9).
    pub children: Vec<Value>,
}

/// Applies a signature with partial arguments and options (contract sections 4.1 to 4.4).
pub fn apply(
    signature: &Signature,
    partial: Partial,
    context: &mut Context<'_>,
) -> Result<Applied, CanvasError> {
    let mut work = Work::new(context);
    let result = work.apply(signature.clone(), partial)?;
    Ok(Applied {
        result: result.map_or(Value::Null, |node| work.results.tuple(node)),
        children: work
            .children
            .iter()
            .map(|node| work.results.tuple(*node))
            .collect(),
        steps: work.steps,
    })
}

/// A signature being applied.
struct Work<'a, 'b> {
    context: &'a mut Context<'b>,
    steps: Vec<Step>,
    results: Results,
    children: Vec<results::Node>,
    /// Bytes that may still be written.
    left: usize,
}

impl<'a, 'b> Work<'a, 'b> {
    fn new(context: &'a mut Context<'b>) -> Self {
        Self {
            context,
            steps: Vec::new(),
            results: Results::default(),
            children: Vec::new(),
            left: LARGEST,
        }
    }

    fn apply(
        &mut self,
        signature: Signature,
        partial: Partial,
    ) -> Result<Option<results::Node>, CanvasError> {
        match signature.kind {
            Kind::Task | Kind::Map => self.task(signature, partial).map(Some),
            Kind::Chain(_) => self.chain(signature, partial),
            Kind::Group(_) => self.group(signature, partial).map(Some),
            Kind::Chord { .. } => self.chord(signature, partial).map(Some),
            Kind::Chunks => self.chunks(&signature, partial).map(Some),
        }
    }

    /// Takes bytes from what may still be written.
    fn spend(&mut self, bytes: usize) -> Result<(), CanvasError> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            CanvasError::TooLarge(format!(
                "the messages of a signature have more than {LARGEST} bytes"
            ))
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod fixture;
