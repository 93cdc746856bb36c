//! The form of stored results: serializer and compression (contract sections 5.2 and 5.3).

use std::sync::Arc;

use jiff::Timestamp;

use super::BackendError;
use crate::message::content::auth::Trust;
use crate::message::content::{self, ContentError, Writer};

/// The most bytes of a stored result once it is inflated.
const LIMIT: usize = 64 << 20;

/// How result documents are written and read.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    /// `result_serializer` and `result_compression`.
    pub writer: Writer,
    /// Whose signatures count when results are signed.
    pub trust: Option<Arc<Trust>>,
}

impl Documents {
    /// Whether they are JSON as it is.
    pub fn are_plain(&self) -> bool {
        self.writer == Writer::default()
    }

    /// A document as it is stored.
    pub fn write(&self, meta: &str) -> Result<Vec<u8>, BackendError> {
        let document = self.serialize(meta)?;
        match self.writer.compression {
            None => Ok(document),
            Some(compression) => compression.deflate_result(&document).map_err(unwritable),
        }
    }

    /// A document in its serializer alone, as messages carry it.
    pub fn serialize(&self, meta: &str) -> Result<Vec<u8>, BackendError> {
        self.writer.serialize(meta).map_err(unwritable)
    }

    /// A stored document as JSON, in whatever form it is.
    pub fn read(&self, stored: &[u8]) -> Result<String, BackendError> {
        content::read_result(stored, LIMIT, self.trust.as_deref(), Timestamp::now())
            .map_err(|error| BackendError::Unsupported(format!("the stored result cannot be read: {error}")))
    }

    /// Whether a stored document says SUCCESS. One that cannot be read, half written perhaps, does not.
    pub fn is_success(&self, stored: &[u8]) -> bool {
        #[derive(serde::Deserialize)]
        struct Status {
            status: String,
        }
        self.read(stored).is_ok_and(|document| {
            serde_json::from_str::<Status>(&document).is_ok_and(|document| document.status == "SUCCESS")
        })
    }
}

fn unwritable(error: ContentError) -> BackendError {
    BackendError::Unsupported(format!("the result cannot be written: {error}"))
}
