//! Events: what this worker tells monitors and its neighbours (contract section 7).
//!
//! [`Events`] is the handle: whoever has something to tell calls it. It never waits and never fails; what it takes is kept
//! in a bounded buffer, which a sender empties over a connection of its own. While events are off nothing is made at all.

mod buffer;
mod event;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use buffer::{Batch, Buffer};
pub use event::Event;

use crate::clock::Clock;
use crate::happening::{About, Happening, Refused};
use crate::message::JsonMap;
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
    buffer: Buffer,
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

    /// Sends an event of any kind with these fields of its own.
    pub fn send(&self, kind: &'static str, fields: JsonMap) {
        if self.dispatching {
            let clock = self.clock.forward();
            self.buffer.put(Event::new(kind, &self.hostname, clock, fields));
        }
    }
}
