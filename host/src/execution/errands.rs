//! What a task asks for through `publisher` and `results`.

use std::sync::Arc;

use futures_util::FutureExt;

use super::{Execution, Task};
use crate::sandbox::{ErrandError, Errands};

impl Execution {
    /// What `publisher` and `results` do for this task.
    pub(super) fn errands(&self, _task: &Task) -> Errands {
        Arc::new(|_| async { Err(ErrandError::NotSupported("canvas follows".into())) }.boxed())
    }
}
