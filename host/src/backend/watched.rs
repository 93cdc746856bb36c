//! A result backend that remembers whether it answered: for those who watch a worker.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Arrival, BackendError, Chords, Claim, Part, ResultBackend, StoredResult};
use crate::broker::Presence;

/// A result backend, and whether it answered when it was asked last.
pub struct Watched {
    inner: Arc<dyn ResultBackend>,
    presence: Presence,
}

impl Watched {
    /// Watches `inner`. Until it is asked for the first time it counts as there.
    pub fn new(inner: Arc<dyn ResultBackend>) -> Self {
        let presence = Presence::default();
        presence.came();
        Self { inner, presence }
    }

    /// Whether it answered when it was asked last.
    pub fn presence(&self) -> Presence {
        self.presence.clone()
    }

    fn seen<T>(&self, answer: Result<T, BackendError>) -> Result<T, BackendError> {
        match &answer {
            Ok(_) => self.presence.came(),
            Err(BackendError::Connection(_)) => self.presence.went(),
            Err(BackendError::Config(_) | BackendError::Unsupported(_)) => {}
        }
        answer
    }
}

#[async_trait]
impl ResultBackend for Watched {
    async fn store(&self, result: StoredResult) -> Result<(), BackendError> {
        self.seen(self.inner.store(result).await)
    }

    async fn fetch(&self, task_id: &str) -> Result<Option<String>, BackendError> {
        self.seen(self.inner.fetch(task_id).await)
    }

    async fn forget(&self, task_id: &str) -> Result<(), BackendError> {
        self.seen(self.inner.forget(task_id).await)
    }

    async fn cleanup(&self) -> Result<(), BackendError> {
        self.seen(self.inner.cleanup().await)
    }

    async fn save_group(&self, group: &str, tuple: &str) -> Result<(), BackendError> {
        self.seen(self.inner.save_group(group, tuple).await)
    }

    async fn fetch_group(&self, group: &str) -> Result<Option<String>, BackendError> {
        self.seen(self.inner.fetch_group(group).await)
    }

    fn chords(&self) -> Chords {
        self.inner.chords()
    }

    async fn set_chord_size(&self, group: &str, size: u64) -> Result<(), BackendError> {
        self.seen(self.inner.set_chord_size(group, size).await)
    }

    async fn grow_chord(&self, group: &str) -> Result<(), BackendError> {
        self.seen(self.inner.grow_chord(group).await)
    }

    async fn add_part(
        &self,
        part: &Part,
        token: &str,
        claimed_for: Duration,
    ) -> Result<Arrival, BackendError> {
        self.seen(self.inner.add_part(part, token, claimed_for).await)
    }

    async fn parts(&self, group: &str) -> Result<Vec<String>, BackendError> {
        self.seen(self.inner.parts(group).await)
    }

    async fn extend_claim(&self, claim: &Claim, by: Duration) -> Result<bool, BackendError> {
        self.seen(self.inner.extend_claim(claim, by).await)
    }

    async fn finish_chord(&self, claim: &Claim, remembered: Duration) -> Result<bool, BackendError> {
        self.seen(self.inner.finish_chord(claim, remembered).await)
    }

    async fn lose_chord(&self, group: &str) -> Result<(), BackendError> {
        self.seen(self.inner.lose_chord(group).await)
    }
}
