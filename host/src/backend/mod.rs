//! Result backends: where outcomes go (contract section 5).

pub mod documents;
pub mod filesystem;
pub mod persistent;
pub mod redis;
pub mod rpc;

use async_trait::async_trait;

pub use crate::outcome::StoredResult;
pub use documents::Documents;

/// Why a result was not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The URL or an option makes no sense; trying again does not help.
    #[error("{0}")]
    Config(String),
    /// The backend does not answer.
    #[error("{0}")]
    Connection(String),
    /// The backend does not offer this.
    #[error("{0}")]
    Unsupported(String),
}

/// A place for results.
#[async_trait]
pub trait ResultBackend: Send + Sync {
    /// Stores a state, unless SUCCESS is stored already, and tells those who wait for it.
    async fn store(&self, result: StoredResult) -> Result<(), BackendError>;

    /// The stored result document as JSON, or `None` when there is none.
    async fn fetch(&self, task_id: &str) -> Result<Option<String>, BackendError>;
}
