//! The tasks that are here, and how to end one that runs (contract section 3.8, terminate; 8.5, USR1).

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use crate::message::Request;

/// How far a task has come (contract section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// It waits for its rate limit, or was just received.
    Received,
    /// It waits for its ETA.
    Scheduled,
    /// It waits for a slot.
    Reserved,
    /// It runs.
    Active,
}

/// One task that is here.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What was asked for.
    pub request: Arc<Request>,
    /// How far it has come.
    pub progress: Progress,
    /// Since when.
    pub since: Instant,
    /// When it began to run.
    pub started: Option<Timestamp>,
    end: Arc<End>,
    /// Whether it is done with; its sender goes when the task leaves.
    done: watch::Receiver<bool>,
}

/// How a task that runs learns that it is to end.
#[derive(Debug, Default)]
struct End {
    wanted: Notify,
    signal: AtomicI32,
}

/// All tasks that are here.
#[derive(Debug, Default)]
pub struct Active {
    tasks: Mutex<Tasks>,
}

#[derive(Debug, Default)]
struct Tasks {
    /// In the order they came. An id may be here twice: brokers deliver at least once.
    entries: BTreeMap<u64, Entry>,
    next: u64,
    /// How many of each kind began to run; the kinds are those of the components.
    begun: BTreeMap<String, u64>,
}

impl Active {
    /// A task came. It is here until the answer is dropped.
    pub(super) fn enter(self: &Arc<Self>, request: &Arc<Request>) -> Here {
        let end = Arc::<End>::default();
        let (done, told) = watch::channel(false);
        let entry = Entry {
            request: Arc::clone(request),
            progress: Progress::Received,
            since: Instant::now(),
            started: None,
            end: Arc::clone(&end),
            done: told,
        };
        let mut tasks = self.tasks();
        let number = tasks.next;
        tasks.next += 1;
        tasks.entries.insert(number, entry);
        Here {
            active: Arc::clone(self),
            number,
            end,
            done,
        }
    }

    /// The same run that is active here already, if there is one: what tells of its end.
    fn twin(&self, request: &Request) -> Option<watch::Receiver<bool>> {
        let tasks = self.tasks();
        let mut entries = tasks.entries.values();
        let twin = entries.find(|entry| {
            // A retry has the id of the run before it.
            let same = entry.request.id == request.id && entry.request.retries == request.retries;
            entry.progress == Progress::Active && same
        });
        twin.map(|entry| entry.done.clone())
    }

    /// Waits for the end of the same run that is active here already, its message delivered once more; whether it is
    /// done with. False at once when there is none.
    pub(super) async fn twin_is_done(&self, request: &Request) -> bool {
        let Some(mut done) = self.twin(request) else {
            return false;
        };
        done.wait_for(|done| *done).await.is_ok()
    }

    /// The tasks that are here, in the order they came.
    pub fn entries(&self) -> Vec<Entry> {
        self.tasks().entries.values().cloned().collect()
    }

    /// How many wait for a slot or run.
    pub fn reserved(&self) -> u32 {
        let tasks = self.tasks();
        let reserved = tasks
            .entries
            .values()
            .filter(|entry| entry.progress >= Progress::Reserved);
        u32::try_from(reserved.count()).unwrap_or(u32::MAX)
    }

    /// How many run.
    pub fn running(&self) -> usize {
        let tasks = self.tasks();
        let running = tasks.entries.values();
        running.filter(|entry| entry.progress == Progress::Active).count()
    }

    /// The ids of the tasks that run.
    pub fn running_ids(&self) -> HashSet<String> {
        let tasks = self.tasks();
        let active = tasks
            .entries
            .values()
            .filter(|entry| entry.progress == Progress::Active);
        active.map(|entry| entry.request.id.clone()).collect()
    }

    /// How many tasks of each kind began to run.
    pub fn begun(&self) -> BTreeMap<String, u64> {
        self.tasks().begun.clone()
    }

    /// Ends tasks that run, in the name of a signal; those that are here, running or not.
    pub fn terminate(&self, wanted: impl Fn(&Request) -> bool, signal: i32) -> Vec<Arc<Request>> {
        let tasks = self.tasks();
        let here = tasks.entries.values().filter(|entry| wanted(&entry.request));
        let end = |entry: &Entry| {
            if entry.progress == Progress::Active {
                entry.end.signal.store(signal, Ordering::Relaxed);
                entry.end.wanted.notify_one();
            }
            Arc::clone(&entry.request)
        };
        here.map(end).collect()
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// One line for people.
    pub fn line(&self) -> String {
        let seconds = self.since.elapsed().max(Duration::from_millis(1)).as_secs_f64();
        let (name, id) = (self.request.shown_name(), &self.request.id);
        format!("{name}[{id}] {:?} for {seconds:.3}s", self.progress)
    }

    /// Whether it runs and its message was acknowledged before.
    pub fn is_acknowledged(&self) -> bool {
        self.progress == Progress::Active && *self.done.borrow()
    }
}

/// A task's place among those that are here.
#[derive(Debug)]
pub(super) struct Here {
    active: Arc<Active>,
    number: u64,
    end: Arc<End>,
    done: watch::Sender<bool>,
}

impl Here {
    /// The task is done with, and its message needs nothing but an acknowledgement.
    pub(super) fn done(&self) {
        self.done.send_replace(true);
    }

    /// The task has come so far.
    pub(super) fn at(&self, progress: Progress) {
        let mut tasks = self.active.tasks();
        let Tasks { entries, begun, .. } = &mut *tasks;
        let Some(entry) = entries.get_mut(&self.number) else {
            return;
        };
        entry.progress = progress;
        entry.since = Instant::now();
        if progress == Progress::Active {
            entry.started = Some(Timestamp::now());
            match begun.get_mut(&entry.request.task) {
                Some(count) => *count += 1,
                None => drop(begun.insert(entry.request.task.clone(), 1)),
            }
        }
    }

    /// Waits until somebody wants the task to end; in the name of which signal.
    pub(super) async fn terminated(&self) -> i32 {
        self.end.wanted.notified().await;
        self.end.signal.load(Ordering::Relaxed)
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.active.tasks().entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::message::request::fixture::request;

    #[tokio::test]
    async fn a_message_that_comes_again_learns_how_its_run_ended() {
        let active = Arc::<Active>::default();
        let first = Arc::new(request(json!({"id": "a"})));
        let retried = Arc::new(request(json!({"id": "a", "retries": 1})));
        for done in [true, false] {
            let here = active.enter(&first);
            assert!(!active.twin_is_done(&first).await, "it does not run yet");
            here.at(Progress::Active);
            assert!(!active.twin_is_done(&retried).await, "that is another run");
            let waiting = active.twin(&first).unwrap();
            if done {
                here.done();
            }
            drop(here);
            let mut waiting = waiting;
            assert_eq!(waiting.wait_for(|done| *done).await.is_ok(), done);
        }
    }

    #[tokio::test]
    async fn only_a_task_that_runs_is_ended_at_once() {
        let active = Arc::<Active>::default();
        let entered = |id: &str| active.enter(&Arc::new(request(json!({"id": id, "task": "t"}))));
        let (one, two) = (entered("a"), entered("b"));
        one.at(Progress::Active);
        two.at(Progress::Reserved);
        assert_eq!(active.reserved(), 2);
        let end = |id: &str| active.terminate(|request| request.id == id, 9).len();
        assert_eq!((end("b"), end("c")), (1, 0));
        assert_eq!(active.running_ids(), HashSet::from(["a".to_owned()]));
        // Ended before it looks: it is told all the same.
        assert_eq!(end("a"), 1);
        assert_eq!(one.terminated().await, 9);
        assert_eq!(active.begun(), BTreeMap::from([("t".to_owned(), 1)]));
        drop(one);
        assert_eq!((active.entries().len(), active.reserved()), (1, 1));
        assert!(active.entries()[0].line().starts_with("t[b] Reserved for 0."));
    }
}
