//! What a task stores while it runs.

use std::sync::Arc;

use futures_util::FutureExt;
use jiff::Timestamp;

use super::Execution;
use crate::document::{self, Scene};
use crate::message::Request;
use crate::outcome::State;
use crate::sandbox::StateSink;

impl Execution {
    /// What `update_state` of this request does.
    pub(super) fn updates(&self, request: &Arc<Request>) -> StateSink {
        let request = Arc::clone(request);
        let backend = self.backend.clone();
        let hostname = Arc::clone(&self.options.hostname);
        let extended = self.options.result_extended;
        Arc::new(move |state: State, value| {
            let scene = Scene {
                hostname: &hostname,
                extended,
                now: Timestamp::now(),
            };
            let stored = document::stored(&request, state, &value, None, &[], scene);
            let backend = backend.clone();
            async move {
                match backend {
                    Some(backend) => backend.store(stored).await.map_err(|error| error.to_string()),
                    None => Ok(()),
                }
            }
            .boxed()
        })
    }
}
