//! What waits to be sent: bounded, and never in the way of who has something to tell.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Event;

/// The most events of tasks that wait, and the most bytes they may have together.
const MOST: (usize, usize) = (100_000, 32 << 20);
/// The same of workers: an election brings an action of its own.
const MOST_OF_WORKERS: (usize, usize) = (100, 1 << 20);
/// The most events in one message.
const BATCH: usize = 256;
/// The most bytes of a message that has more than one event.
const BATCH_BYTES: usize = 256 << 10;

/// Events that wait.
#[derive(Debug, Default)]
pub struct Buffer {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    workers: VecDeque<Event>,
    workers_bytes: usize,
    tasks: VecDeque<Event>,
    bytes: usize,
    /// Events that went because there was no room, since that was last asked.
    dropped: u64,
}

/// What goes into one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Batch {
    /// One event of a worker, or a `task-sent`.
    One(Event),
    /// Events of tasks.
    Tasks(Vec<Event>),
}

impl Buffer {
    /// One more event. When there is no room the oldest goes.
    pub(super) fn put(&self, event: Event) {
        let mut waiting = self.waiting();
        let wake = waiting.is_empty();
        if event.is_of_a_task() {
            waiting.bytes += event.json.len();
            waiting.tasks.push_back(event);
            waiting.trim();
        } else {
            waiting.workers_bytes += event.json.len();
            waiting.workers.push_back(event);
            let (most, bytes) = MOST_OF_WORKERS;
            while waiting.workers.len() > most || waiting.workers_bytes > bytes {
                waiting.pop_of_worker();
            }
        }
        drop(waiting);
        if wake {
            self.more.notify_one();
        }
    }

    /// The next message's events; waits until there are some.
    pub async fn take(&self) -> Batch {
        loop {
            if let Some(batch) = self.take_now() {
                return batch;
            }
            self.more.notified().await;
        }
    }

    /// The next message's events, if there are some.
    pub fn take_now(&self) -> Option<Batch> {
        let mut waiting = self.waiting();
        if let Some(event) = waiting.pop_of_worker() {
            return Some(Batch::One(event));
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        if let Some(event) = waiting.tasks.pop_front_if(|event| event.goes_alone()) {
            waiting.bytes -= event.json.len().min(waiting.bytes);
            return Some(Batch::One(event));
        }
        while batch.len() < BATCH
            && let Some(event) = waiting.tasks.front()
            && !event.goes_alone()
            && (batch.is_empty() || bytes + event.json.len() <= BATCH_BYTES)
            && let Some(event) = waiting.tasks.pop_front()
        {
            bytes += event.json.len();
            batch.push(event);
        }
        waiting.bytes -= bytes.min(waiting.bytes);
        (!batch.is_empty()).then_some(Batch::Tasks(batch))
    }

    /// Puts back what could not be sent: events of tasks to their place, as Celery keeps them while the broker is away.
    /// Those of workers say how things are just now, and are made anew.
    pub fn put_back(&self, batch: Batch) {
        let events = match batch {
            Batch::Tasks(events) => events,
            Batch::One(event) => vec![event],
        };
        let mut waiting = self.waiting();
        for event in events.into_iter().rev().filter(Event::is_of_a_task) {
            waiting.bytes += event.json.len();
            waiting.tasks.push_front(event);
        }
        waiting.trim();
    }

    /// How many events were lost since this was last asked, because there was no room for them.
    pub fn dropped(&self) -> u64 {
        std::mem::take(&mut self.waiting().dropped)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.workers.is_empty() && self.tasks.is_empty()
    }

    fn pop_of_worker(&mut self) -> Option<Event> {
        let event = self.workers.pop_front()?;
        self.workers_bytes -= event.json.len().min(self.workers_bytes);
        Some(event)
    }

    fn trim(&mut self) {
        let (most, bytes) = MOST;
        while (self.tasks.len() > most || self.bytes > bytes)
            && let Some(event) = self.tasks.pop_front()
        {
            self.bytes -= event.json.len().min(self.bytes);
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &'static str, text: &str) -> Event {
        Event {
            kind,
            hostname: "w1@h".into(),
            json: text.to_owned(),
        }
    }

    fn texts(batch: &Batch) -> Vec<&str> {
        match batch {
            Batch::One(event) => vec![&event.json],
            Batch::Tasks(events) => events.iter().map(|event| event.json.as_str()).collect(),
        }
    }

    #[tokio::test]
    async fn workers_go_first_and_one_by_one_and_what_was_not_sent_keeps_its_place() {
        let buffer = Buffer::default();
        for text in ["1", "2"] {
            buffer.put(event("task-started", text));
        }
        buffer.put(event("worker-heartbeat", "w"));
        let first = buffer.take().await;
        assert_eq!(first, Batch::One(event("worker-heartbeat", "w")));
        buffer.put_back(first);
        let tasks = buffer.take().await;
        assert_eq!(texts(&tasks), ["1", "2"]);
        buffer.put(event("task-started", "3"));
        buffer.put_back(tasks);
        assert_eq!(texts(&buffer.take().await), ["1", "2", "3"]);
        buffer.put(event("task-started", "4"));
        buffer.put(event("task-sent", "5"));
        assert_eq!(texts(&buffer.take().await), ["4"]);
        let sent = buffer.take().await;
        assert_eq!(sent, Batch::One(event("task-sent", "5")));
        buffer.put_back(sent.clone());
        assert_eq!(buffer.take().await, sent);
        assert_eq!((buffer.take_now(), buffer.dropped()), (None, 0));
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room() {
        let buffer = Buffer::default();
        let large = "x".repeat(MOST.1 / 4);
        for text in ["a", "b", "c"] {
            buffer.put(event("task-started", text));
        }
        for _ in 0..4 {
            buffer.put(event("task-started", &large));
        }
        assert_eq!(buffer.dropped(), 3);
        for _ in 0..4 {
            assert_eq!(texts(&buffer.take_now().unwrap()).len(), 1);
        }
        for number in 0..MOST.0 + 2 {
            buffer.put(event("task-started", &number.to_string()));
        }
        assert_eq!(buffer.dropped(), 2);
        let first = buffer.take_now().unwrap();
        assert_eq!((texts(&first).len(), texts(&first)[0]), (BATCH, "2"));
        let (most, bytes) = MOST_OF_WORKERS;
        let kept = |text: &str| {
            for _ in 0..2 * most {
                buffer.put(event("worker-elect", text));
            }
            let workers = std::iter::from_fn(|| buffer.take_now());
            workers.take_while(|batch| matches!(batch, Batch::One(_))).count()
        };
        assert_eq!(kept("w"), most);
        assert_eq!(kept(&"x".repeat(bytes / 4)), 4);
        assert_eq!(kept(&"x".repeat(bytes + 1)), 0);
        assert_eq!(kept("w"), most);
    }
}
