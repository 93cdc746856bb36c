//! Warm and cold shutdown (contract section 3.14).

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How far a shutdown has come. Stages only go up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Working.
    Running,
    /// Nothing new is taken; what runs may finish.
    Warm,
    /// What runs is ended.
    Cold,
}

/// Everybody's view of the shutdown; clones see the same stage.
#[derive(Debug, Clone)]
pub struct Shutdown {
    stage: watch::Sender<Stage>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            stage: watch::Sender::new(Stage::Running),
        }
    }
}

impl Shutdown {
    /// Goes to `stage`, unless it has been passed already.
    pub fn advance(&self, stage: Stage) {
        self.stage.send_if_modified(|current| {
            let further = stage > *current;
            if further {
                *current = stage;
            }
            further
        });
    }

    /// The stage now.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Waits until `stage` or a later one is reached.
    pub async fn reached(&self, stage: Stage) {
        let mut stages = self.stage.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = stages.wait_for(|current| *current >= stage).await;
    }

    /// Follows TERM, INT and QUIT for the rest of the process's life, as Celery does: TERM and the first INT are
    /// warm, QUIT and the next INT cold, and one more ends the process at once. `REMAP_SIGTERM=SIGQUIT` makes TERM
    /// cold.
    pub fn follow_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let cold_term = std::env::var("REMAP_SIGTERM").is_ok_and(|to| to == "SIGQUIT");
        let shutdown = self.clone();
        tokio::spawn(async move {
            loop {
                let (asked, by_hand) = tokio::select! {
                    _ = terminate.recv() => (if cold_term { Stage::Cold } else { Stage::Warm }, false),
                    _ = quit.recv() => (Stage::Cold, false),
                    _ = interrupt.recv() => match shutdown.stage() {
                        Stage::Running => (Stage::Warm, true),
                        _ => (Stage::Cold, true),
                    },
                };
                match (shutdown.stage(), asked) {
                    (Stage::Cold, _) => std::process::exit(1),
                    (Stage::Running, Stage::Warm) if by_hand => {
                        eprintln!("\nworker: Hitting Ctrl+C again will terminate all running tasks!");
                        eprintln!("worker: Warm shutdown (MainProcess)");
                    }
                    (Stage::Running, Stage::Warm) => eprintln!("\nworker: Warm shutdown (MainProcess)"),
                    (_, Stage::Cold) => eprintln!("\nworker: Cold shutdown (MainProcess)"),
                    _ => {}
                }
                shutdown.advance(asked);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stages_only_go_up() {
        let shutdown = Shutdown::default();
        shutdown.advance(Stage::Cold);
        shutdown.advance(Stage::Warm);
        assert_eq!(shutdown.stage(), Stage::Cold);
        shutdown.reached(Stage::Warm).await;
        shutdown.reached(Stage::Cold).await;
    }
}
