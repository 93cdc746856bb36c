//! What a task stores while it runs.

use std::sync::Arc;

use futures_util::FutureExt;
use jiff::Timestamp;

use super::Execution;
use super::acked::Acked;
use crate::document::{self, Scene};
use crate::message::Request;
use crate::outcome::State;
use crate::sandbox::StateSink;

impl Execution {
    /// What `update_state` of this request does.
    pub(super) fn updates(&self, request: &Arc<Request>, acked: &Acked) -> StateSink {
        let (request, acked) = (Arc::clone(request), acked.clone());
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
            let (backend, acked) = (backend.clone(), acked.clone());
            async move {
                if !acked.arrived().await {
                    return Err("the message of this task could not be acknowledged".into());
                }
                match backend {
                    Some(backend) => backend.store(stored).await.map_err(|error| error.to_string()),
                    None => Ok(()),
                }
            }
            .boxed()
        })
    }
}
