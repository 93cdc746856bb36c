//! Errbacks that a component of this worker declares: called here, with the failure (contract section 4.5).

use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::value::RawValue;
use tracing::error;

use super::{Execution, Task, report};
use crate::outcome::Outcome;
use crate::policy::admit;
use crate::sandbox::{Call, ErrandError};
use crate::settle::Errback;

impl Execution {
    /// Runs an errback in a slot and a sandbox of its own. It has no message: what it would store or retry is refused.
    pub(super) async fn errback(&self, task: &Task, errback: Errback) {
        let Errback {
            task: name,
            args,
            kwargs,
        } = errback;
        let Some((component, definition)) = self.tasks.get(&name) else {
            return error!("there is no errback {name}");
        };
        let mut request = (*task.request).clone();
        let raw = |text: String| RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned());
        (request.body.args, request.body.kwargs) = (raw(args), raw(kwargs));
        request.task.clone_from(&name);
        let plan = admit::plan(&request, &definition, &self.options.defaults);
        let request = Arc::new(request);
        let call = Call {
            request: Arc::clone(&request),
            definition,
            hostname: Arc::clone(&self.options.hostname),
            time_limit: admit::seconds(plan.time_limit),
            soft_time_limit: admit::seconds(plan.soft_time_limit),
            ignore_result: true,
            nameable: Arc::clone(&self.options.nameable),
            updates: Arc::new(|_, _| async { Err("an errback has no state of its own".to_owned()) }.boxed()),
            errands: Arc::new(|_| {
                let refused = ErrandError::NotSupported("an errback that is called sends nothing".into());
                async { Err(refused) }.boxed()
            }),
        };
        let _slot = self.slots.acquire().await;
        let run = component.run(call).await;
        report::printed(&request, &run);
        self.listeners.ran_within(&name, &run);
        match run.outcome {
            Outcome::Success(_) => {}
            Outcome::Failure(failure) => {
                error!(
                    "Errback {name} of task {} raised an exception: {}",
                    request.id,
                    failure.repr()
                );
            }
            _ => error!("Errback {name} of task {} ended without a value", request.id),
        }
    }
}
