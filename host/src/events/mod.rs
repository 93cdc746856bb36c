//! Events: what this worker tells monitors and its neighbours (contract section 7).
//!
//! [`Events`] is the handle: whoever has something to tell calls it. It never waits and never fails; what it takes is kept
//! in a bounded buffer, which a sender empties over a connection of its own. While events are off nothing is made at all.

mod buffer;
mod election;
mod event;
mod heart;
mod sender;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::Notify;

pub use buffer::{Batch, Buffer};
pub use election::{Elected, Elections};
pub use event::Event;
pub use heart::{FREQUENCY, beat_until};
pub use sender::Sender;

use crate::clock::Clock;
use crate::happening::{About, Happening, Refused};
use crate::message::{JsonMap, Outgoing};
use crate::task::Definition;

/// The handle of events. The default one sends nothing.
#[derive(Debug, Default)]
pub struct Events {
    hostname: Arc<str>,
    clock: Arc<Clock>,
    /// Whether anything is sent at all.
    dispatching: bool,
    /// Whether events of tasks are.
    tasks: AtomicBool,
    /// How many tasks began here.
    processed: AtomicU64,
    /// Who tells of what this worker sends, when that is told (`task_send_sent_event`).
    origin: Option<Arc<str>>,
    buffer: Buffer,
    /// The broker is back after it was away.
    back: Notify,
    elections: Mutex<Elections>,
}

impl Events {
    /// A handle of the node `hostname`. Events of workers are always sent, those of tasks when `tasks`, or once they
    /// are [enabled](Events::enable).
    pub fn new(hostname: Arc<str>, tasks: bool) -> Self {
        Self {
            hostname,
            dispatching: true,
            tasks: AtomicBool::new(tasks),
            ..Self::default()
        }
    }

    /// Also tells of what this worker sends, in the name of `origin`.
    #[must_use]
    pub fn telling_sent(self, origin: &str) -> Self {
        Self {
            origin: Some(origin.into()),
            ..self
        }
    }

    /// The clock of the worker.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// Sends events of tasks from now on; false when that was so before (contract section 6.3, `enable_events`).
    pub fn enable(&self) -> bool {
        self.dispatching && !self.tasks.swap(true, Ordering::Relaxed)
    }

    /// Sends none any more; false when that was so before.
    pub fn disable(&self) -> bool {
        self.tasks.swap(false, Ordering::Relaxed)
    }

    /// Whether events of tasks are sent.
    pub fn are_on(&self) -> bool {
        self.tasks.load(Ordering::Relaxed)
    }

    /// Whether events of this task are sent.
    pub fn hears(&self, definition: &Definition) -> bool {
        self.are_on() && definition.send_events != Some(false)
    }

    /// Whether events of workers are sent, and those of tasks can be.
    pub fn dispatches(&self) -> bool {
        self.dispatching
    }

    /// Whether anything is ever sent.
    pub fn sends(&self) -> bool {
        self.dispatching || self.hears_sent()
    }

    /// How many tasks began here.
    pub fn processed(&self) -> u64 {
        self.processed.load(Ordering::Relaxed)
    }

    /// Something happens to a task.
    pub fn hear(&self, about: &About<'_>, happening: Happening<'_>) {
        if matches!(happening, Happening::Started { .. }) {
            self.processed.fetch_add(1, Ordering::Relaxed);
        }
        if !self.hears(about.definition) {
            return;
        }
        for (kind, fields) in event::of(about, happening) {
            self.send(kind, fields);
        }
    }

    /// A message is refused.
    pub fn refused(&self, refused: Refused<'_>) {
        if !self.are_on() {
            return;
        }
        if let Some((kind, fields)) = event::of_refused(refused) {
            self.send(kind, fields);
        }
    }

    /// A message was sent, to this queue if it is known.
    pub fn sent(&self, outgoing: &Outgoing, queue: Option<&str>) {
        if let Some(origin) = &self.origin
            && let Some(fields) = event::of_sent(outgoing, queue)
        {
            let clock = self.clock.forward();
            self.buffer.put(Event::new("task-sent", origin, clock, fields));
        }
    }

    /// Whether somebody wants to know what is sent.
    pub fn hears_sent(&self) -> bool {
        self.origin.is_some()
    }

    /// Asks all workers who is to carry out an action (contract section 7.5). False, and nothing else, when it is too
    /// large or too many elections are under way.
    pub fn call_election(&self, id: &Value, topic: &Value, action: &Value) -> bool {
        if !self.elections().call(id, topic, action) {
            return false;
        }
        let fields = [
            ("id", id),
            ("topic", topic),
            ("action", action),
            ("cver", &Value::from(1)),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.clone()));
        self.send("worker-elect", fields.into_iter().collect());
        true
    }

    /// The elections that are under way.
    pub fn elections(&self) -> MutexGuard<'_, Elections> {
        self.elections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of this process in elections.
    pub fn candidate(&self) -> String {
        format!("{}.{}", self.hostname, std::process::id())
    }

    /// Sends an event of any kind with these fields of its own.
    pub fn send(&self, kind: &'static str, fields: JsonMap) {
        if self.dispatching {
            let clock = self.clock.forward();
            self.buffer.put(Event::new(kind, &self.hostname, clock, fields));
        }
    }
}
