//! The queues that this worker takes tasks from, as remote control changes them (contract section 6.3, `add_consumer`).

use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::broker::{Broker, BrokerError};
use crate::queue::{Queue, Queues};

/// The most queues that one worker consumes.
const MOST: usize = 1000;

/// The queues, and what is known of those that may be added.
#[derive(Debug)]
pub struct Consuming {
    known: Queues,
    wanted: watch::Sender<Vec<Queue>>,
}

impl Consuming {
    /// No queue yet.
    pub(super) fn new(known: Queues) -> Self {
        Self {
            known,
            wanted: watch::Sender::new(Vec::new()),
        }
    }

    /// The queues of the start.
    pub fn begin(&self, queues: &[Queue]) {
        self.wanted.send_replace(queues.to_vec());
    }

    /// The queues now, in the order in which they came.
    pub fn queues(&self) -> Vec<Queue> {
        self.wanted.borrow().clone()
    }

    /// The queues of the settings.
    pub fn known(&self) -> &Queues {
        &self.known
    }

    /// Adds a queue, unless it is there. False when there are too many.
    pub fn add(&self, queue: Queue) -> bool {
        let mut room = true;
        self.wanted.send_if_modified(|queues| {
            let new = !queues.iter().any(|other| other.name == queue.name);
            room = !new || queues.len() < MOST;
            if new && room {
                queues.push(queue);
            }
            new && room
        });
        room
    }

    /// Takes no more messages from a queue.
    pub fn cancel(&self, name: &str) {
        self.wanted.send_if_modified(|queues| {
            let before = queues.len();
            queues.retain(|queue| queue.name != name);
            queues.len() < before
        });
    }

    /// Tells the broker of each change, until the future is dropped. A queue that the broker refuses is left out.
    pub(crate) async fn follow(&self, broker: &dyn Broker) {
        let mut wanted = self.wanted.subscribe();
        let mut followed = wanted.borrow_and_update().clone();
        while wanted.changed().await.is_ok() {
            let queues = wanted.borrow_and_update().clone();
            let without = |some: &[Queue], others: &[Queue]| -> Vec<Queue> {
                let left = some.iter().filter(|queue| !others.contains(queue));
                left.cloned().collect()
            };
            let (new, gone) = (without(&queues, &followed), without(&followed, &queues));
            match broker.set_queues(&queues).await {
                Ok(()) => {
                    new.iter()
                        .for_each(|queue| info!("Started consuming from {}", queue.name));
                    gone.iter()
                        .for_each(|queue| info!("No longer consuming from {}", queue.name));
                    followed = queues;
                }
                Err(error @ BrokerError::Connection(_)) => {
                    warn!("The queues cannot be changed now: {error}");
                    tokio::time::sleep(PAUSE).await;
                    self.wanted.send_modify(|_| {});
                }
                Err(error) => {
                    error!("Cannot consume from {}: {error}", names(&new));
                    new.iter().for_each(|queue| self.cancel(&queue.name));
                }
            }
        }
    }
}

/// Before a change is tried again.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

fn names(queues: &[Queue]) -> String {
    let names: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Rules;

    #[test]
    fn queues_are_there_once_and_not_without_end() {
        let consuming = Consuming::new(Queues::new(Rules::default(), Vec::new()));
        consuming.begin(&[Queue::named("celery")]);
        assert!(consuming.add(Queue::named("mail")) && consuming.add(Queue::named("mail")));
        assert_eq!(consuming.queues(), [Queue::named("celery"), Queue::named("mail")]);
        consuming.cancel("celery");
        consuming.cancel("never there");
        assert_eq!(consuming.queues(), [Queue::named("mail")]);
        for n in 1..MOST {
            assert!(consuming.add(Queue::named(format!("q{n}"))));
        }
        assert!(!consuming.add(Queue::named("one more")));
        assert!(consuming.add(Queue::named("mail")));
    }
}
