//! Storing that tasks are revoked which do not run here (contract section 3.8): whoever waits for one learns of it at once.

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use tokio::sync::mpsc;
use tracing::warn;

use crate::backend::{BackendError, ResultBackend};
use crate::document;
use crate::outcome::{Failure, State};

/// The most ids that wait to be looked at; as many as are remembered.
const WAITING: usize = 50_000;

/// Looks at ids one after the other, beside the mailbox.
pub(super) struct Revoking {
    backend: Option<Arc<dyn ResultBackend>>,
    ids: OnceLock<mpsc::Sender<String>>,
}

impl Revoking {
    pub(super) fn new(backend: Option<Arc<dyn ResultBackend>>) -> Self {
        Self {
            backend,
            ids: OnceLock::new(),
        }
    }

    /// Stores REVOKED for tasks, if nobody has begun them.
    pub(super) fn store<'a>(&self, revoked: impl Iterator<Item = &'a &'a str>) {
        let Some(backend) = &self.backend else { return };
        let ids = self.ids.get_or_init(|| {
            let (sender, ids) = mpsc::channel(WAITING);
            tokio::spawn(look(Arc::clone(backend), ids));
            sender
        });
        let left_out = revoked
            .filter(|id| ids.try_send((**id).to_owned()).is_err())
            .count();
        if left_out > 0 {
            warn!("That {left_out} tasks are revoked is not stored: too many ids at once");
        }
    }
}

async fn look(backend: Arc<dyn ResultBackend>, mut ids: mpsc::Receiver<String>) {
    while let Some(id) = ids.recv().await {
        if let Err(error) = look_at(&*backend, &id).await {
            warn!("Failed to mark task {id:.100} as revoked in backend: {error}");
        }
    }
}

/// A task that has begun, here or elsewhere, keeps its state.
async fn look_at(backend: &dyn ResultBackend, id: &str) -> Result<(), BackendError> {
    let stored = backend.fetch(id).await?;
    let state = stored.as_deref().and_then(document::status);
    let is_open = match state.as_deref() {
        None => stored.is_none(),
        Some(state) => matches!(state, "PENDING" | "RECEIVED" | "RETRY" | "REJECTED"),
    };
    if !is_open {
        return Ok(());
    }
    let error = document::error_map(&Failure::new("celery.exceptions", "TaskRevokedError", "revoked"));
    let revoked = document::of_another(id, State::Revoked, &error, None, &[], Timestamp::now());
    backend.store(revoked).await
}
