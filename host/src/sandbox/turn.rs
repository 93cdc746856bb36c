//! Who may compute. A guest that needs more than one tick of CPU takes turns with the others of its kind, so that
//! short tasks and the worker's own I/O never wait behind hundreds of endless loops.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One run's place among those that compute.
#[derive(Debug)]
pub(super) struct Turn {
    /// As many as there are threads.
    turns: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Turn {
    pub(super) fn new(turns: Arc<Semaphore>) -> Self {
        Self {
            turns,
            held: Mutex::new(None),
        }
    }

    /// Gives the turn up and waits for the next one. The runtime serves everything else first.
    pub(super) fn next(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            self.end();
            tokio::task::yield_now().await;
            // The semaphore is never closed.
            if let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await {
                self.hold(Some(turn));
            }
        })
    }

    /// Gives the turn up: the guest does not compute now.
    pub(super) fn end(&self) {
        self.hold(None);
    }

    fn hold(&self, turn: Option<OwnedSemaphorePermit>) {
        let before = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *held, turn)
        };
        // Outside of the lock: it wakes another run.
        drop(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_is_given_up_before_the_next_one() {
        let turns = Arc::new(Semaphore::new(1));
        let (one, two) = (
            Arc::new(Turn::new(Arc::clone(&turns))),
            Arc::new(Turn::new(Arc::clone(&turns))),
        );
        Arc::clone(&one).next().await;
        assert_eq!(turns.available_permits(), 0);
        let waiting = tokio::spawn(Arc::clone(&two).next());
        Arc::clone(&one).next().await;
        one.end();
        waiting.await.unwrap();
        assert_eq!(turns.available_permits(), 0);
        drop(two);
        assert_eq!(turns.available_permits(), 1);
    }
}
