//! Carrying out the steps of canvas: messages, and what the result backend does for groups and chords.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::{BackendError, ResultBackend};
use crate::broker::{Broker, BrokerError, send};
use crate::canvas::{Publication, Step};
use crate::events::Events;
use crate::message::Outgoing;
use crate::policy::publish::RetryPolicy;
use crate::queue::Queue;

/// For how long a queue that was declared counts as there.
const DECLARED: Duration = Duration::from_secs(60);

/// How many declared queues are remembered.
const MOST: usize = 1000;

/// Why a step could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The message was not sent.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The result backend did not do it.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// There is no result backend.
    #[error("this worker has no result backend (result_backend)")]
    NoBackend,
}

/// Who carries steps out.
#[derive(Clone)]
pub struct Steps {
    broker: Arc<dyn Broker>,
    backend: Option<Arc<dyn ResultBackend>>,
    retry: RetryPolicy,
    declared: Arc<Mutex<HashMap<String, Instant>>>,
    events: Arc<Events>,
}

impl Steps {
    /// Sends through `broker`, as often as `retry` says; keeps groups and chords in `backend`; `events` tell of what was sent.
    pub fn new(
        broker: Arc<dyn Broker>,
        backend: Option<Arc<dyn ResultBackend>>,
        retry: RetryPolicy,
        events: Arc<Events>,
    ) -> Self {
        Self {
            broker,
            backend,
            retry,
            declared: Arc::default(),
            events,
        }
    }

    /// Does one step.
    pub async fn carry_out(&self, step: Step) -> Result<(), StepError> {
        match step {
            Step::Publish(publication) => Ok(self.publish(*publication).await?),
            Step::ChordSize { group, size } => Ok(self.backend()?.set_chord_size(&group, size).await?),
            Step::SaveGroup { group, tuple } => {
                Ok(self.backend()?.save_group(&group, &tuple.to_string()).await?)
            }
            Step::ChordGrows { group } => Ok(self.backend()?.grow_chord(&group).await?),
        }
    }

    async fn publish(&self, publication: Publication) -> Result<(), BrokerError> {
        if let Some(queue) = publication
            .declare
            .as_ref()
            .filter(|queue| !self.is_declared(queue))
        {
            self.declare(queue).await?;
        }
        let queue = publication.declare.as_ref().map(|queue| queue.name.as_str());
        self.send(publication.outgoing, queue).await
    }

    /// Sends a message, and tells of it; `queue` is where it is known to go.
    pub(super) async fn send(&self, outgoing: Outgoing, queue: Option<&str>) -> Result<(), BrokerError> {
        let told = self.events.hears_sent().then(|| outgoing.clone());
        send(&*self.broker, outgoing, &self.retry).await?;
        if let Some(outgoing) = told {
            self.events.sent(&outgoing, queue);
        }
        Ok(())
    }

    async fn declare(&self, queue: &Queue) -> Result<(), BrokerError> {
        for attempt in 0.. {
            let error = match self.broker.declare(queue).await {
                Ok(()) => break,
                Err(BrokerError::Connection(error)) => error,
                Err(error) => return Err(error),
            };
            let Some(pause) = self.retry.pause(attempt) else {
                return Err(BrokerError::Connection(error));
            };
            tokio::time::sleep(pause).await;
        }
        let mut declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        if declared.len() >= MOST {
            declared.clear();
        }
        declared.insert(queue.name.clone(), Instant::now());
        Ok(())
    }

    fn is_declared(&self, queue: &Queue) -> bool {
        let declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        declared
            .get(&queue.name)
            .is_some_and(|since| since.elapsed() < DECLARED)
    }

    fn backend(&self) -> Result<&dyn ResultBackend, StepError> {
        self.backend.as_deref().ok_or(StepError::NoBackend)
    }
}
