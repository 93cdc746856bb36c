//! Result backends: where outcomes go (contract section 5), and where chords are counted (sections 4.6 and 4.7).

pub mod chord;
pub mod documents;
pub mod filesystem;
pub mod persistent;
pub mod redis;
pub mod rpc;
pub mod watched;

use std::time::Duration;

use async_trait::async_trait;

pub use crate::outcome::StoredResult;
pub use chord::{Arrival, Chords, Claim, Part};
pub use documents::Documents;
pub use watched::Watched;

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

/// What a backend without groups or chords says.
fn unsupported<T>(what: &str) -> Result<T, BackendError> {
    Err(BackendError::Unsupported(format!(
        "this result backend does not keep {what}"
    )))
}

/// A place for results.
#[async_trait]
pub trait ResultBackend: Send + Sync {
    /// Stores a state, unless SUCCESS is stored already, and tells those who wait for it.
    async fn store(&self, result: StoredResult) -> Result<(), BackendError>;

    /// The stored result document as JSON, or `None` when there is none.
    async fn fetch(&self, task_id: &str) -> Result<Option<String>, BackendError>;

    /// Removes a stored result.
    async fn forget(&self, _task_id: &str) -> Result<(), BackendError> {
        unsupported("results that can be removed")
    }

    /// Removes results that expired, where they do not go by themselves.
    async fn cleanup(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Keeps the members of a group: its result tuple as JSON (contract section 5.8).
    async fn save_group(&self, _group: &str, _tuple: &str) -> Result<(), BackendError> {
        unsupported("groups")
    }

    /// The document of a saved group as JSON, `{"result": tuple}`.
    async fn fetch_group(&self, _group: &str) -> Result<Option<String>, BackendError> {
        unsupported("groups")
    }

    /// How this backend keeps chords. The functions below are for [`Chords::Native`]; the others need no size.
    fn chords(&self) -> Chords {
        Chords::Refused
    }

    /// Begins a chord: so many parts belong to it. To be called before its last task is sent.
    async fn set_chord_size(&self, _group: &str, _size: u64) -> Result<(), BackendError> {
        Ok(())
    }

    /// One more task belongs to a chord that was begun.
    async fn grow_chord(&self, _group: &str) -> Result<(), BackendError> {
        unsupported("chords that grow")
    }

    /// Counts a part, once however often it comes; when it completes the chord, `token` claims the chord for so long.
    async fn add_part(
        &self,
        _part: &Part,
        _token: &str,
        _claimed_for: Duration,
    ) -> Result<Arrival, BackendError> {
        unsupported("chords")
    }

    /// The parts of a chord in order, each a JSON list `[1, task id, state, result]`.
    async fn parts(&self, _group: &str) -> Result<Vec<String>, BackendError> {
        unsupported("chords")
    }

    /// Makes a claim last so long from now. False: it ran out, and the chord is somebody else's.
    async fn extend_claim(&self, _claim: &Claim, _by: Duration) -> Result<bool, BackendError> {
        unsupported("chords")
    }

    /// Removes a chord whose body was sent, and remembers for so long that it was. False: it is somebody else's.
    async fn finish_chord(&self, _claim: &Claim, _remembered: Duration) -> Result<bool, BackendError> {
        unsupported("chords")
    }

    /// A chord that failed is never complete again; its parts stay until they expire.
    async fn lose_chord(&self, _group: &str) -> Result<(), BackendError> {
        unsupported("chords")
    }
}
