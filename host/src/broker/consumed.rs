//! The queues that a consumer takes messages from, as they change while it works (contract section 6.3, `add_consumer`).

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::queue::Queue;

/// How long a change waits for the consumer. One without a connection follows when it has one again.
const PATIENCE: Duration = Duration::from_secs(5);

/// The side of the broker, which changes the queues.
#[derive(Debug)]
pub(super) struct Consumed {
    wanted: watch::Sender<(u64, Vec<Queue>)>,
    followed: watch::Receiver<u64>,
}

/// The side of the consumer, which follows.
#[derive(Debug)]
pub(super) struct Follower {
    wanted: watch::Receiver<(u64, Vec<Queue>)>,
    followed: watch::Sender<u64>,
}

/// Both sides, with the queues to begin with.
pub(super) fn consumed(queues: &[Queue]) -> (Consumed, Follower) {
    let (sender, wanted) = watch::channel((0, queues.to_vec()));
    let (followed, receiver) = watch::channel(0);
    let consumed = Consumed {
        wanted: sender,
        followed: receiver,
    };
    (consumed, Follower { wanted, followed })
}

impl Consumed {
    /// Changes the queues. What waits is done when the consumer follows.
    pub(super) fn change(&self, queues: &[Queue]) -> impl Future<Output = ()> + Send + use<> {
        let mut version = 0;
        self.wanted.send_modify(|wanted| {
            version = wanted.0 + 1;
            *wanted = (version, queues.to_vec());
        });
        let mut followed = self.followed.clone();
        async move {
            // Whether it is too late or gone makes no difference to who asked.
            let _ = timeout(PATIENCE, followed.wait_for(|followed| *followed >= version)).await;
        }
    }

    /// Another consumer of the same queues, for whom nobody waits.
    pub(super) fn subscribe(&self) -> Follower {
        Follower {
            wanted: self.wanted.subscribe(),
            followed: watch::Sender::new(0),
        }
    }
}

impl Follower {
    /// The queues, and the number to say when they are followed.
    pub(super) fn queues(&mut self) -> (u64, Vec<Queue>) {
        self.wanted.borrow_and_update().clone()
    }

    /// These are followed.
    pub(super) fn followed(&self, version: u64) {
        self.followed.send_replace(version);
    }

    /// Whether there are others than those that were looked at last.
    pub(super) fn has_changed(&self) -> bool {
        self.wanted.has_changed().unwrap_or(false)
    }

    /// Waits for others; for ever when nobody can change them any more.
    pub(super) async fn changed(&mut self) {
        if self.wanted.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_waits_for_who_follows_it() {
        let (consumed, mut follower) = consumed(&[Queue::named("a")]);
        assert!(!follower.has_changed());
        let changed = consumed.change(&[Queue::named("b")]);
        assert!(follower.has_changed());
        let (version, queues) = follower.queues();
        assert_eq!(queues, [Queue::named("b")]);
        assert!(!follower.has_changed());
        let following = tokio::spawn(async move {
            follower.followed(version);
            follower
        });
        changed.await;
        let mut follower = following.await.unwrap();
        drop(consumed);
        // Nobody is left who could change them: no busy loop.
        let nothing = timeout(Duration::from_millis(10), follower.changed()).await;
        assert!(nothing.is_err());
    }
}
