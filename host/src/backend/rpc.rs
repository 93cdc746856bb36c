//! Results as messages to the client's own queue (contract section 5.3).

use std::sync::Arc;

use async_trait::async_trait;

use super::{BackendError, Documents, ResultBackend, StoredResult};
use crate::broker::{Broker, BrokerError, send};
use crate::message::{JsonMap, Message, Outgoing, Properties, Route};
use crate::policy::publish::RetryPolicy;

/// How long a result waits for a broker that is away: as in Celery.
const PATIENCE: RetryPolicy = RetryPolicy {
    max_retries: Some(20),
    interval_start: 0.0,
    interval_step: 1.0,
    interval_max: 1.0,
};

/// Sends every state to the queue that the request names in `reply_to`, through the broker that tasks come from.
///
/// The client declares that queue; when it is gone the broker drops the message. Without `reply_to` nothing is sent.
pub struct RpcBackend {
    broker: Arc<dyn Broker>,
    persistent: bool,
    documents: Documents,
}

impl RpcBackend {
    /// A backend that publishes through `broker`. Results do not survive a restart of the broker.
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self {
            broker,
            persistent: false,
            documents: Documents::default(),
        }
    }

    /// `result_serializer`. Messages with results are never compressed, as in Celery.
    #[must_use]
    pub fn documents(self, documents: Documents) -> Self {
        Self { documents, ..self }
    }

    /// `result_persistent`: whether results survive a restart of the broker.
    #[must_use]
    pub fn persistent(self, persistent: bool) -> Self {
        Self { persistent, ..self }
    }
}

#[async_trait]
impl ResultBackend for RpcBackend {
    async fn store(&self, result: StoredResult) -> Result<(), BackendError> {
        let delivery_mode = if self.persistent { 2 } else { 1 };
        let Some(outgoing) = self.reply(result, delivery_mode)? else {
            return Ok(());
        };
        let sent = send(&*self.broker, outgoing, &PATIENCE).await;
        sent.map_err(|error| match error {
            BrokerError::Config(text) => BackendError::Config(text),
            BrokerError::Refused(text) | BrokerError::Connection(text) => BackendError::Connection(text),
        })
    }

    async fn fetch(&self, _task_id: &str) -> Result<Option<String>, BackendError> {
        Err(BackendError::Unsupported(
            "RPC results are messages to the client that asked; nobody else can read them".into(),
        ))
    }
}

impl RpcBackend {
    /// The message for a result, unless nobody waits for it.
    fn reply(&self, result: StoredResult, delivery_mode: u8) -> Result<Option<Outgoing>, BackendError> {
        let Some(reply_to) = result.reply_to.filter(|queue| !queue.is_empty()) else {
            return Ok(None);
        };
        let serializer = self.documents.writer.serializer;
        let properties = Properties {
            content_type: Some(serializer.content_type().into()),
            content_encoding: Some(serializer.content_encoding().into()),
            correlation_id: Some(result.correlation_id.unwrap_or(result.task_id)),
            priority: Some(0),
            delivery_mode: Some(delivery_mode),
            ..Properties::default()
        };
        Ok(Some(Outgoing {
            route: Route::to_queue(reply_to),
            message: Message {
                headers: Some(JsonMap::new()),
                properties,
                body: self.documents.serialize(&result.meta)?,
            },
        }))
    }
}
