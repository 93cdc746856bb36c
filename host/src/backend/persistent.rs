//! `result_backend_always_retry`: a result backend that is asked again (contract section 5.7).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;

use super::{BackendError, ResultBackend, StoredResult};

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

#[async_trait]
impl ResultBackend for Persistent {
    async fn store(&self, result: StoredResult) -> Result<(), BackendError> {
        let mut attempt = 0;
        loop {
            let error = match self.inner.store(result.clone()).await {
                Err(BackendError::Connection(error)) => error,
                done => return done,
            };
            let Some(pause) = self.retries.pause(attempt) else {
                return Err(BackendError::Connection(error));
            };
            tracing::warn!(
                "cannot store the result of task {}: {error}; trying again",
                result.task_id
            );
            sleep(pause).await;
            attempt = attempt.saturating_add(1);
        }
    }

    async fn fetch(&self, task_id: &str) -> Result<Option<String>, BackendError> {
        self.inner.fetch(task_id).await
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
