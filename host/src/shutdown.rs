//! Warm, soft, cold and hard shutdown, and what else signals ask for (contract sections 3.14 and 8.5).

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How far a shutdown has come. Stages only go up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Working.
    Running,
    /// Nothing new is taken; what runs may finish.
    Warm,
    /// As warm, but not for long: a cold end follows (`worker_soft_shutdown_timeout`).
    Soft,
    /// What runs is ended.
    Cold,
}

/// Everybody's view of the shutdown; clones see the same stage.
#[derive(Debug, Clone)]
pub struct Shutdown {
    stage: watch::Sender<Stage>,
    restart: Arc<AtomicBool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            stage: watch::Sender::new(Stage::Running),
            restart: Arc::default(),
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

    /// The worker is to start again once it has ended.
    pub fn restart(&self) {
        self.restart.store(true, Ordering::Relaxed);
        self.advance(Stage::Warm);
    }

    /// Whether it is.
    pub fn is_restart(&self) -> bool {
        self.restart.load(Ordering::Relaxed)
    }

    /// Follows TERM, INT, QUIT, HUP and USR1 for the rest of the process's life, as Celery does: TERM and the first INT
    /// are warm, QUIT and the next INT cold, and one more ends the process at once. `REMAP_SIGTERM=SIGQUIT` makes TERM
    /// cold. `soft` is `worker_soft_shutdown_timeout`: the time that tasks have before a cold end. HUP starts the
    /// worker again, unless stdout is a terminal. USR1 calls `dump`.
    pub fn follow_signals(
        &self,
        soft: Option<Duration>,
        dump: impl Fn() + Send + 'static,
    ) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut dump_asked = signal(SignalKind::user_defined1())?;
        let mut hangup = match std::io::stdout().is_terminal() {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        let cold_term = std::env::var("REMAP_SIGTERM").is_ok_and(|to| to == "SIGQUIT");
        let shutdown = self.clone();
        tokio::spawn(async move {
            loop {
                let hung_up = async {
                    match &mut hangup {
                        Some(hangup) => hangup.recv().await,
                        None => std::future::pending().await,
                    }
                };
                let got = tokio::select! {
                    _ = terminate.recv() => if cold_term { Got::Quit } else { Got::Terminate },
                    _ = quit.recv() => Got::Quit,
                    _ = interrupt.recv() => Got::Interrupt,
                    _ = dump_asked.recv() => {
                        dump();
                        continue;
                    }
                    _ = hung_up => {
                        eprintln!("Restarting celerybox worker");
                        shutdown.restart();
                        continue;
                    }
                };
                match next(shutdown.stage(), got, soft.is_some()) {
                    Next::Nothing => {}
                    Next::Exit => std::process::exit(1),
                    Next::Go(stage) => shutdown.go(stage, got, soft),
                }
            }
        });
        Ok(())
    }

    /// Goes to a stage that a signal asked for, and says so.
    fn go(&self, stage: Stage, got: Got, soft: Option<Duration>) {
        match stage {
            Stage::Warm => {
                if got == Got::Interrupt {
                    eprintln!("\nworker: Hitting Ctrl+C again will terminate all running tasks!");
                }
                eprintln!("worker: Warm shutdown (MainProcess)");
            }
            Stage::Soft => {
                let seconds = soft.unwrap_or_default();
                eprintln!("\nworker: Cold shutdown (MainProcess)");
                tracing::warn!(
                    "Initiating Soft Shutdown, terminating in {} seconds",
                    seconds.as_secs_f64()
                );
                let shutdown = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(seconds).await;
                    shutdown.advance(Stage::Cold);
                });
            }
            Stage::Cold => eprintln!("\nworker: Cold shutdown (MainProcess)"),
            Stage::Running => {}
        }
        self.advance(stage);
    }
}

/// A signal, after `REMAP_SIGTERM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Got {
    Terminate,
    Interrupt,
    Quit,
}

/// What a signal leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Nothing,
    Go(Stage),
    Exit,
}

/// What a signal means at a stage; `soft`: tasks have time before a cold end.
fn next(stage: Stage, got: Got, soft: bool) -> Next {
    match (stage, got) {
        (Stage::Running, Got::Terminate | Got::Interrupt) => Next::Go(Stage::Warm),
        (_, Got::Terminate) => Next::Nothing,
        (Stage::Running | Stage::Warm, _) if soft => Next::Go(Stage::Soft),
        (Stage::Cold, _) => Next::Exit,
        _ => Next::Go(Stage::Cold),
    }
}

/// Takes the place of this process with the same command line. Answers only what went wrong.
pub fn exec_again() -> std::io::Error {
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    match std::env::current_exe() {
        Ok(program) => {
            let mut command = std::process::Command::new(program);
            if let Some(name) = name {
                command.arg0(name);
            }
            command.args(arguments).exec()
        }
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signal_leads_further_until_one_ends_the_process() {
        use Got::{Interrupt, Quit, Terminate};
        use Stage::{Cold, Running, Soft, Warm};
        for (stage, got, hard, soft) in [
            (Running, Terminate, Next::Go(Warm), Next::Go(Warm)),
            (Running, Interrupt, Next::Go(Warm), Next::Go(Warm)),
            (Running, Quit, Next::Go(Cold), Next::Go(Soft)),
            (Warm, Terminate, Next::Nothing, Next::Nothing),
            (Warm, Interrupt, Next::Go(Cold), Next::Go(Soft)),
            (Warm, Quit, Next::Go(Cold), Next::Go(Soft)),
            (Soft, Interrupt, Next::Go(Cold), Next::Go(Cold)),
            (Soft, Quit, Next::Go(Cold), Next::Go(Cold)),
            (Cold, Terminate, Next::Nothing, Next::Nothing),
            (Cold, Interrupt, Next::Exit, Next::Exit),
            (Cold, Quit, Next::Exit, Next::Exit),
        ] {
            assert_eq!(next(stage, got, false), hard, "{stage:?} {got:?}");
            assert_eq!(next(stage, got, true), soft, "{stage:?} {got:?}, soft");
        }
    }

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
