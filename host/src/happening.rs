//! What happens to a task, as it is told to those who listen: the log, events, metrics. Everything is borrowed: telling
//! costs nothing where nobody listens.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use crate::message::request::Identity;
use crate::message::{Request, Unusable};
use crate::outcome::Outcome;
use crate::sandbox::Run;
use crate::settle::{Effect, Sending, Settlement};
use crate::task::Definition;

/// The task that something happens to.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Its message.
    pub request: &'a Request,
    /// What its component and the settings say of it.
    pub definition: &'a Definition,
    /// The queue it was taken from.
    pub queue: &'a str,
    /// When it was taken.
    pub received: Instant,
}

/// What happens to it, as a rule in this order. After [`Happening::Accepted`] comes one of `Ended`, `PutBack`,
/// `Forgotten`, or nothing when the worker stops and the message goes back.
#[derive(Debug, Clone, Copy)]
pub enum Happening<'a> {
    /// Its message was understood (contract section 3.1, step 2).
    Received,
    /// It is revoked; `Ended` follows.
    Discarded {
        /// The stamp that it is revoked by.
        stamp: Option<&'a (String, Value)>,
    },
    /// It was not revoked when it came: it waits for its time, its turn and a slot (step 4).
    Accepted,
    /// Its ETA is no time; `Ended` follows.
    Overflow,
    /// It was done before, for this reason; `Ended` follows.
    DoneBefore(&'a str),
    /// Its run began. Of a task that is acknowledged early this is told once its acknowledgement has arrived.
    Started {
        /// When it began.
        at: Timestamp,
    },
    /// Its run came to an end by itself, and what has to follow at once is sent. Nothing of its outcome is stored yet.
    Ran(&'a Run),
    /// Its run was ended from outside.
    Stopped(&'a Outcome),
    /// Its outcome is stored, what follows it is sent, its message is settled.
    Ended {
        /// How it ended.
        outcome: &'a Outcome,
        /// How long it ran, if it did.
        runtime: Option<Duration>,
        /// What became of its message.
        settled: Settled,
    },
    /// What had to follow it could not be done: its message went back instead, and it runs again.
    PutBack,
    /// It is left to the broker, which sends it again: its connection is gone.
    Forgotten,
}

/// What became of a task's message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settled {
    /// It was refused instead of acknowledged; whether it went back to its queue.
    pub rejected: Option<bool>,
    /// The task was sent once more.
    pub retried: bool,
}

impl Settled {
    /// What becomes of it with this settlement.
    pub fn by(settlement: &Settlement) -> Self {
        let rejected = settlement.effects.iter().find_map(|effect| match effect {
            Effect::Reject { requeue } => Some(*requeue),
            _ => None,
        });
        let retried = settlement
            .sends
            .iter()
            .any(|sending| matches!(sending, Sending::Retry(_)));
        Self { rejected, retried }
    }
}

/// Why a message is refused that could not become a task.
#[derive(Debug, Clone, Copy)]
pub enum Refused<'a> {
    /// It makes no sense.
    Unusable(&'a Unusable),
    /// No component of this worker has its task.
    Unregistered(&'a Identity),
}
