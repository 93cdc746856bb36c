//! `result_backend_always_retry`: a result backend that is asked again (contract section 5.7).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;

use super::{Arrival, BackendError, Chords, Claim, Part, ResultBackend, StoredResult};

/// How often and after which pauses a backend that does not answer is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// `result_backend_max_retries`; `None`: for ever.
    pub most: Option<u32>,
    /// `result_backend_base_sleep_between_retries_ms`.
    pub base: Duration,
    /// `result_backend_max_sleep_between_retries_ms`.
    pub longest: Duration,
}

impl Retries {
    /// The pause before attempt `n` after the first (counted from 0); `None` when there are no more. Celery draws each
    /// from zero to this; here it is the whole, so that no attempt comes early.
    fn pause(&self, n: u32) -> Option<Duration> {
        if self.most.is_some_and(|most| n >= most) {
            return None;
        }
        Some(
            self.base
                .saturating_mul(2u32.saturating_pow(n.saturating_add(1)))
                .min(self.longest),
        )
    }
}

/// A result backend with more patience than its own.
pub struct Persistent {
    inner: Arc<dyn ResultBackend>,
    retries: Retries,
}

impl Persistent {
    /// Asks `inner` again as `retries` says.
    pub fn new(inner: Arc<dyn ResultBackend>, retries: Retries) -> Self {
        Self { inner, retries }
    }
}

impl Persistent {
    /// Does it until it is done, or may not be tried again; `what` says what it is about.
    async fn again<T, F: Future<Output = Result<T, BackendError>>>(
        &self,
        what: impl std::fmt::Display,
        once: impl Fn() -> F,
    ) -> Result<T, BackendError> {
        let mut attempt = 0;
        loop {
            let error = match once().await {
                Err(BackendError::Connection(error)) => error,
                done => return done,
            };
            let Some(pause) = self.retries.pause(attempt) else {
                return Err(BackendError::Connection(error));
            };
            tracing::warn!("cannot store {what}: {error}; trying again");
            sleep(pause).await;
            attempt = attempt.saturating_add(1);
        }
    }
}

#[async_trait]
impl ResultBackend for Persistent {
    async fn store(&self, result: StoredResult) -> Result<(), BackendError> {
        let what = format!("the result of task {}", result.task_id);
        self.again(what, || self.inner.store(result.clone())).await
    }

    async fn fetch(&self, task_id: &str) -> Result<Option<String>, BackendError> {
        self.inner.fetch(task_id).await
    }

    async fn forget(&self, task_id: &str) -> Result<(), BackendError> {
        self.inner.forget(task_id).await
    }

    async fn cleanup(&self) -> Result<(), BackendError> {
        self.inner.cleanup().await
    }

    async fn save_group(&self, group: &str, tuple: &str) -> Result<(), BackendError> {
        let what = format!("the group {group}");
        self.again(what, || self.inner.save_group(group, tuple)).await
    }

    async fn fetch_group(&self, group: &str) -> Result<Option<String>, BackendError> {
        self.inner.fetch_group(group).await
    }

    fn chords(&self) -> Chords {
        self.inner.chords()
    }

    async fn set_chord_size(&self, group: &str, size: u64) -> Result<(), BackendError> {
        let what = format!("the size of chord {group}");
        self.again(what, || self.inner.set_chord_size(group, size)).await
    }

    async fn grow_chord(&self, group: &str) -> Result<(), BackendError> {
        self.inner.grow_chord(group).await
    }

    async fn add_part(
        &self,
        part: &Part,
        token: &str,
        claimed_for: Duration,
    ) -> Result<Arrival, BackendError> {
        let what = format!("the part of task {} in chord {}", part.task_id, part.group);
        self.again(what, || self.inner.add_part(part, token, claimed_for))
            .await
    }

    async fn parts(&self, group: &str) -> Result<Vec<String>, BackendError> {
        self.inner.parts(group).await
    }

    async fn extend_claim(&self, claim: &Claim, by: Duration) -> Result<bool, BackendError> {
        self.inner.extend_claim(claim, by).await
    }

    async fn finish_chord(&self, claim: &Claim, remembered: Duration) -> Result<bool, BackendError> {
        let what = format!("the end of chord {}", claim.group);
        self.again(what, || self.inner.finish_chord(claim, remembered))
            .await
    }

    async fn lose_chord(&self, group: &str) -> Result<(), BackendError> {
        let what = format!("the end of chord {group}");
        self.again(what, || self.inner.lose_chord(group)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::outcome::State;

    /// Fails so often, then works.
    struct Failing(AtomicU32, fn() -> BackendError);

    #[async_trait]
    impl ResultBackend for Failing {
        async fn store(&self, _: StoredResult) -> Result<(), BackendError> {
            match self
                .0
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            {
                Ok(_) => Err((self.1)()),
                Err(_) => Ok(()),
            }
        }

        async fn fetch(&self, _: &str) -> Result<Option<String>, BackendError> {
            Ok(None)
        }
    }

    async fn store(failures: u32, most: Option<u32>, error: fn() -> BackendError) -> (bool, u32) {
        let inner = Arc::new(Failing(failures.into(), error));
        let retries = Retries {
            most,
            base: Duration::from_millis(1),
            longest: Duration::from_millis(4),
        };
        let backend = Persistent::new(Arc::clone(&inner) as Arc<dyn ResultBackend>, retries);
        let result = StoredResult {
            task_id: "i".into(),
            state: State::Success,
            meta: "{}".into(),
            reply_to: None,
            correlation_id: None,
        };
        let stored = backend.store(result).await.is_ok();
        (stored, inner.0.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn only_a_lost_connection_is_tried_again_and_only_so_often() {
        let lost = || BackendError::Connection("lost".into());
        assert_eq!(store(3, Some(3), lost).await, (true, 0));
        assert_eq!(store(5, Some(3), lost).await, (false, 1));
        assert_eq!(store(20, None, lost).await, (true, 0));
        assert_eq!(
            store(2, None, || BackendError::Unsupported("no".into())).await,
            (false, 1)
        );
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let retries = Retries {
            most: None,
            base: Duration::from_millis(10),
            longest: Duration::from_secs(10),
        };
        let pauses: Vec<u128> = (0..4)
            .filter_map(|n| retries.pause(n))
            .map(|p| p.as_millis())
            .collect();
        assert_eq!(pauses, [20, 40, 80, 160]);
        assert_eq!(retries.pause(1000), Some(Duration::from_secs(10)));
    }
}
