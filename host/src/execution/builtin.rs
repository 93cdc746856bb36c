//! The tasks of the worker itself run here instead of in a sandbox (contract section 4.8).

mod map;
mod send;
mod unlock;

use std::time::{Duration, Instant};

use super::acked::Acked;
use super::{Execution, Task};
use crate::builtin::{self, Builtin};
use crate::outcome::{Failure, Outcome};
use crate::policy::admit;
use crate::sandbox::Run;

impl Execution {
    /// Runs a built-in task within its time limit.
    pub(super) async fn run_builtin(&self, task: &Task, builtin: Builtin, acked: &Acked) -> Run {
        let started = Instant::now();
        let limit = admit::seconds(task.plan.time_limit);
        let outcome = match limit {
            Some(limit) => tokio::time::timeout(limit, self.builtin(task, builtin, acked))
                .await
                .unwrap_or(Outcome::TimeLimit(limit.as_secs_f64())),
            None => self.builtin(task, builtin, acked).await,
        };
        Run {
            outcome,
            output: String::new(),
            duration: started.elapsed(),
            fuel: None,
            peak_memory: 0,
            instantiation: None,
            limits_hit: Vec::new(),
        }
    }

    async fn builtin(&self, task: &Task, builtin: Builtin, acked: &Acked) -> Outcome {
        let body = &task.request.body;
        let returned = match builtin {
            Builtin::Accumulate => builtin::accumulate(body),
            Builtin::Ping => Ok("\"pong\"".to_owned()),
            Builtin::Chain => Err(Failure::new(
                "builtins",
                "NotImplementedError",
                "chain is not a real task",
            )),
            Builtin::BackendCleanup => self.clean_up().await,
            Builtin::Map | Builtin::Starmap => return self.map(task, builtin, acked).await,
            // Nothing is sent before the broker has the acknowledgement; without it the outcome does not matter.
            Builtin::Chunks | Builtin::Group | Builtin::Chord if !acked.arrived().await => {
                return Outcome::Ignore;
            }
            Builtin::Chunks | Builtin::Group | Builtin::Chord => self.send(task, builtin).await,
            Builtin::ChordUnlock if !acked.arrived().await => return Outcome::Ignore,
            Builtin::ChordUnlock => return self.unlock(task).await,
        };
        match returned {
            Ok(value) => Outcome::Success(value.into()),
            Err(failure) => Outcome::Failure(failure),
        }
    }

    async fn clean_up(&self) -> Result<String, Failure> {
        if let Some(backend) = &self.backend {
            let cleaned = backend.cleanup().await;
            cleaned.map_err(|error| Failure::new("builtins", "OSError", error.to_string()))?;
        }
        Ok("null".to_owned())
    }
}

/// What is left of a limit that began to count then; a moment when it has passed.
fn left(limit: Option<Duration>, since: Instant) -> Option<Duration> {
    limit.map(|limit| {
        limit
            .saturating_sub(since.elapsed())
            .max(Duration::from_millis(1))
    })
}
