//! What this worker remembers of tasks: the revoked ones, those that succeeded, and those whose acknowledgement was
//! lost with its connection (contract sections 3.8, 3.9 and 3.13).

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use tracing::warn;

use super::options::Options;
use crate::message::Request;
use crate::outcome::Revocation;
use crate::policy::limited_set::LimitedSet;
use crate::policy::revoked::Revoked;
use crate::state_db;

/// How many tasks with a lost acknowledgement are remembered, and for how long.
const UNACKED: (usize, Duration) = (10_000, Duration::from_secs(10_800));

/// The longest id that is taken over from another worker, bytes.
const LONGEST_ID: usize = 1024;

/// All of it, bounded.
#[derive(Debug)]
pub struct Known {
    revoked: Mutex<Revoked>,
    successful: Mutex<LimitedSet>,
    unacked: Mutex<LimitedSet>,
    /// `worker_state_db`, and the ids that are in it.
    file: Option<PathBuf>,
    saved: Mutex<Vec<String>>,
}

impl Known {
    /// Nothing but what the file remembers.
    pub(super) fn new(options: &Options) -> Self {
        let mut revoked = Revoked::new(options.revokes.most, options.revokes.expires);
        let saved = options
            .state_db
            .as_deref()
            .map(state_db::load)
            .unwrap_or_default();
        for id in &saved {
            revoked.ids.add(id, Instant::now());
        }
        Self {
            revoked: Mutex::new(revoked),
            successful: Mutex::new(LimitedSet::new(
                options.successful.most,
                options.successful.expires,
            )),
            unacked: Mutex::new(LimitedSet::new(UNACKED.0, UNACKED.1)),
            file: options.state_db.clone(),
            saved: Mutex::new(saved),
        }
    }

    /// Revokes a task, here or still to come.
    pub fn revoke(&self, id: &str) {
        self.revoke_all(&[id]);
    }

    /// Revokes tasks, here or still to come. Of more than are remembered the last ones are.
    pub fn revoke_all(&self, ids: &[&str]) {
        let (mut revoked, now) = (lock(&self.revoked), Instant::now());
        ids.iter().for_each(|id| revoked.ids.add(id, now));
    }

    /// Revokes what another worker has revoked: a list of ids, or a map whose keys are ids (contract section 7.5).
    pub fn merge_revoked(&self, theirs: &Value) {
        let mut revoked = lock(&self.revoked);
        let mut add = |id: &str| {
            if id.len() <= LONGEST_ID {
                revoked.ids.add(id, Instant::now());
            }
        };
        match theirs {
            Value::Array(ids) => ids.iter().filter_map(Value::as_str).for_each(&mut add),
            Value::Object(ids) => ids.keys().for_each(|id| add(id)),
            _ => {}
        }
    }

    /// Revokes every task with one of these stamps. False when too many stamps are revoked already, or they are too large.
    pub fn revoke_by_stamp(&self, name: &str, values: &[&Value]) -> bool {
        lock(&self.revoked).add_stamp(name, values)
    }

    /// The revoked ids, oldest first.
    pub fn revoked(&self) -> Vec<String> {
        let revoked = lock(&self.revoked);
        let ids = revoked.ids.iter(Instant::now());
        ids.map(|(id, _)| id.to_owned()).collect()
    }

    /// The revoked test when a message arrives: by expiry and by id (contract section 3.1, step 3).
    pub(super) fn test_at_receipt(&self, request: &Request) -> Option<Revocation> {
        let mut revoked = lock(&self.revoked);
        if request.expires.is_some_and(|expires| Timestamp::now() > expires) {
            revoked.ids.add(&request.id, Instant::now());
            return Some(Revocation::Expired);
        }
        let known = revoked.by_id(request, Instant::now());
        known.then_some(Revocation::Revoked)
    }

    /// The revoked test when a task is about to run: also by stamps (contract section 3.1, step 7). The answer names
    /// the stamp.
    pub(super) fn test_before_run(&self, request: &Request) -> Option<(Revocation, Option<(String, Value)>)> {
        if let Some(revocation) = self.test_at_receipt(request) {
            return Some((revocation, None));
        }
        let stamp = lock(&self.revoked).by_stamp(request)?;
        Some((Revocation::Revoked, Some(stamp)))
    }

    pub(super) fn succeeded(&self, request: &Request) {
        lock(&self.successful).add(&request.id, Instant::now());
    }

    pub(super) fn has_succeeded(&self, request: &Request) -> bool {
        lock(&self.successful).contains(&request.id, Instant::now())
    }

    /// The task is done, and its acknowledgement cannot be sent any more.
    pub(super) fn done_unacked(&self, request: &Request) {
        lock(&self.unacked).add(&run_key(request), Instant::now());
    }

    /// Whether this is such a task once more; it is told so once.
    pub(super) fn was_done_unacked(&self, request: &Request) -> bool {
        request.redelivered && lock(&self.unacked).remove(&run_key(request))
    }

    /// Writes the file when there is one and something changed. It blocks.
    pub fn save(&self) {
        let Some(file) = &self.file else { return };
        let ids = self.revoked();
        let mut saved = lock(&self.saved);
        if *saved == ids {
            return;
        }
        match state_db::save(file, &ids) {
            Ok(()) => *saved = ids,
            Err(error) => warn!("cannot write worker_state_db {}: {error}", file.display()),
        }
    }
}

/// A retry has the id of the run before it.
fn run_key(request: &Request) -> String {
    format!("{}:{}", request.retries, request.id)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::message::request::fixture::request;

    #[test]
    fn expiry_and_ids_count_at_once_and_stamps_before_the_run() {
        let known = Known::new(&Options::default());
        let expired = request(json!({"id": "late", "expires": "2020-01-01T00:00:00+00:00"}));
        assert_eq!(known.test_at_receipt(&expired), Some(Revocation::Expired));
        assert_eq!(known.revoked(), ["late"]);
        known.revoke("i1");
        assert_eq!(
            known.test_at_receipt(&request(json!({}))),
            Some(Revocation::Revoked)
        );
        known.revoke_by_stamp("customer", &[&json!(7)]);
        let stamped =
            request(json!({"id": "i2", "stamps": {"customer": 7}, "stamped_headers": ["customer"]}));
        assert_eq!(known.test_at_receipt(&stamped), None);
        let stamp = ("customer".to_owned(), json!(7));
        assert_eq!(
            known.test_before_run(&stamped),
            Some((Revocation::Revoked, Some(stamp)))
        );
    }

    #[test]
    fn what_another_worker_has_revoked_comes_as_a_list_or_as_a_map() {
        let known = Known::new(&Options::default());
        known.merge_revoked(&json!(["a", 1, null, "x".repeat(LONGEST_ID + 1)]));
        known.merge_revoked(&json!({"b": 1.5, "c": [1.5, "c"]}));
        known.merge_revoked(&json!("d"));
        assert_eq!(known.revoked(), ["a", "b", "c"]);
    }

    #[test]
    fn a_task_done_without_an_ack_is_known_when_it_comes_again_but_not_its_retry() {
        let known = Known::new(&Options::default());
        let first = request(json!({"redelivered": true}));
        known.done_unacked(&first);
        assert!(!known.was_done_unacked(&request(json!({"redelivered": true, "retries": 1}))));
        assert!(!known.was_done_unacked(&request(json!({"redelivered": false}))));
        assert!(known.was_done_unacked(&first));
        assert!(!known.was_done_unacked(&first));
    }

    #[test]
    fn revoked_ids_are_kept_between_runs() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            state_db: Some(folder.path().join("state")),
            ..Options::default()
        };
        let known = Known::new(&options);
        known.save();
        assert!(!folder.path().join("state").exists(), "nothing to remember");
        known.revoke("a");
        known.revoke("b");
        known.save();
        assert_eq!(Known::new(&options).revoked(), ["a", "b"]);
    }
}
