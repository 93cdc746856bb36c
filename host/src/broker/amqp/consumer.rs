//! Taking messages: keeps a connection that consumes queues, hands deliveries out and settles them.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, SelectAll, StreamExt, once};
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::channel::{Channel, Consumed, Consuming, next_window};
use super::connection::Lost;
use super::settle::Unsettled;
use super::table::{from_json, short};
use super::target::{StartError, Target};
use super::{declare, delayed};
use crate::broker::consumed::Follower;
use crate::broker::{Backoff, BrokerError, Delivery, Gone, Presence};
use crate::queue::Queue;

/// Deliveries handed out that nobody took yet.
pub(super) const HANDED_OUT: usize = 64;
/// A connection that stood this long was a good one.
const GOOD: Duration = Duration::from_secs(5);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// What a consumer is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Take messages and settle them.
    Consume,
    /// Only settle.
    Settle,
    /// Settle what is decided, and end.
    Close,
}

/// A consumer of some queues.
pub(super) struct Consumer {
    pub(super) target: Arc<Target>,
    pub(super) consumed: Follower,
    /// The queues as they were followed last.
    pub(super) queues: Vec<Queue>,
    pub(super) prefetch: watch::Receiver<u32>,
    pub(super) phase: watch::Receiver<Phase>,
    /// The server said that a queue is a quorum queue, though the settings do not.
    pub(super) quorum_seen: bool,
    /// Native delayed delivery was set up.
    pub(super) delays_ready: bool,
    pub(super) presence: Presence,
}

impl Consumer {
    /// Consumes until the phase says otherwise, over as many connections as it takes. `ready` learns of the first.
    pub(super) async fn run(
        mut self,
        deliveries: mpsc::Sender<Delivery>,
        ready: oneshot::Sender<Result<(), BrokerError>>,
    ) {
        let mut ready = Some(ready);
        let mut deliveries = Some(deliveries);
        let mut backoff = Backoff::default();
        let mut failed = 0;
        let mut phase = self.phase.clone();
        while self.phase() == Phase::Consume {
            let opened = tokio::select! {
                opened = self.start() => opened,
                _ = phase.wait_for(|phase| *phase != Phase::Consume) => break,
            };
            let pause = match opened {
                Ok(mut channel) => {
                    tracing::info!("Connected to {}", channel.connection.address);
                    self.presence.came();
                    failed = 0;
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(Ok(()));
                    }
                    let start = Instant::now();
                    let ended = channel.serve(&mut self, &mut deliveries).await;
                    self.presence.went();
                    if start.elapsed() > GOOD {
                        backoff.reset();
                    }
                    match ended {
                        Ok(()) => {
                            let goodbye = timeout(GOODBYE, channel.connection.close()).await;
                            if !matches!(goodbye, Ok(Ok(()))) {
                                tracing::debug!("consumer: the server did not say goodbye: {goodbye:?}");
                            }
                            break;
                        }
                        Err(error) if !self.target.reconnect.allows(false, 0) => {
                            tracing::error!("consumer: Connection to broker lost: {error}");
                            return;
                        }
                        Err(error) => {
                            tracing::warn!(
                                "consumer: Connection to broker lost: {error}. Trying to re-establish the connection..."
                            );
                            backoff.next_pause()
                        }
                    }
                }
                Err(error) if !self.quorum_seen && error.is_global_qos() => {
                    tracing::info!("consumer: {}; prefetch is counted for each queue", error.lost);
                    self.quorum_seen = true;
                    continue;
                }
                Err(error) => {
                    let starting = ready.is_some();
                    failed += 1;
                    let refusal = error.refusal().filter(|_| starting);
                    if refusal.is_some() || !self.target.reconnect.allows(starting, failed) {
                        let refusal = refusal.unwrap_or_else(|| error.into_error());
                        match ready.take() {
                            Some(ready) => {
                                let _ = ready.send(Err(refusal));
                            }
                            None => tracing::error!("consumer: {refusal}. No more attempts are made"),
                        }
                        return;
                    }
                    let pause = backoff.next_pause();
                    tracing::error!(
                        "consumer: Cannot connect to {}: {}. Trying again in {:.2} seconds...",
                        error.address,
                        error.lost,
                        pause.as_secs_f64()
                    );
                    pause
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                _ = phase.wait_for(|phase| *phase != Phase::Consume) => {}
            }
        }
        if let Some(ready) = ready {
            let _ = ready.send(Err(BrokerError::Connection("the broker was closed".into())));
        }
    }

    pub(super) fn phase(&mut self) -> Phase {
        // Nobody who could say otherwise is left.
        match self.phase.has_changed() {
            Ok(_) => *self.phase.borrow_and_update(),
            Err(_) => Phase::Close,
        }
    }

    /// Whether one of all queues is a quorum queue: then prefetch is counted for each consumer, and RabbitMQ holds
    /// messages with an ETA (contract sections 2.1.3 and 2.1.4).
    fn has_quorum(&self) -> bool {
        let mut all = self.target.known.iter().chain(&self.queues);
        self.target.detect_quorum && all.any(Queue::is_quorum)
    }

    /// Connects, declares and consumes.
    async fn start(&mut self) -> Result<Channel, StartError> {
        let connection = self.target.read.connect().await?;
        let address = connection.address.clone();
        let version = self.look();
        let failed = |lost: Lost, queue: Option<&Queue>| StartError {
            address: address.clone(),
            lost,
            queue: queue.cloned(),
        };
        let channel = &connection.channel;
        let events = connection.lapin.events_listener().boxed();
        let quorum = self.has_quorum();
        let global = qos_is_global(connection.rabbitmq_version()) && !quorum && !self.quorum_seen;
        let prefetch = *self.prefetch.borrow_and_update();
        let window = match global {
            true => next_window(prefetch, 0, 0),
            false => u16::try_from(prefetch)
                .ok()
                .filter(|count| *count > 0)
                .unwrap_or(u16::MAX),
        };
        let qos = channel.basic_qos(window, BasicQosOptions { global });
        qos.await.map_err(|error| failed(error.into(), None))?;
        for queue in &self.queues {
            let declared = declare::declare(channel, queue).await;
            declared.map_err(|lost| failed(lost, Some(queue)))?;
        }
        self.set_up_delays().await;
        let (mut consumers, mut consuming) = (SelectAll::new(), BTreeMap::new());
        for (number, queue) in (0..).zip(&self.queues) {
            let consumer = consume(channel, number, queue).await;
            consumers.push(consumer.map_err(|lost| failed(lost, Some(queue)))?);
            consuming.insert(number, Consuming::of(queue));
        }
        self.consumed.followed(version);
        let (verdicts, decided) = mpsc::unbounded_channel();
        Ok(Channel {
            connection,
            consumers,
            next_consumer: consuming.len(),
            consuming,
            events,
            unsettled: Unsettled::default(),
            verdicts,
            decided,
            held: 0,
            global,
            window,
            lost: Gone::default(),
        })
    }

    /// Takes over the queues as they are wanted now; the number to say when they are followed.
    pub(super) fn look(&mut self) -> u64 {
        let (version, queues) = self.consumed.queues();
        self.queues = queues;
        version
    }

    /// Once, where there are quorum queues. Over a connection of its own: an object that somebody declared otherwise
    /// closes the channel. Without it, messages with an ETA are held by workers.
    pub(super) async fn set_up_delays(&mut self) {
        if self.delays_ready || !self.has_quorum() {
            return;
        }
        self.delays_ready = true;
        let set_up = async {
            let connection = self.target.write.connect().await.map_err(|error| error.lost)?;
            delayed::set_up(&connection.channel, &self.queues, self.target.delayed_quorum).await?;
            connection.close().await
        };
        if let Err(lost) = set_up.await {
            tracing::error!("Native delayed delivery is not available: {lost}");
        }
    }
}

/// Starts the consumer of a queue.
pub(super) async fn consume(
    channel: &lapin::Channel,
    number: usize,
    queue: &Queue,
) -> Result<BoxStream<'static, Consumed>, Lost> {
    let tag = short(&consumer_tag(number))?;
    let (name, arguments) = (short(&queue.name)?, from_json(&queue.consumer_arguments)?);
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(name, tag, options, arguments).await?;
    // The end of one consumer would go unnoticed beside others.
    let consumed = consumer.map(Some).chain(once(ready(None)));
    Ok(consumed.map(move |consumed| (number, consumed)).boxed())
}

pub(super) fn consumer_tag(number: usize) -> String {
    format!("celerybox-{number}")
}

/// Whether `basic.qos` counts for the whole channel with `global` set, which is what Celery asks for (contract section
/// 2.1.2). Others, and RabbitMQ from 4.0 on, count for each consumer.
fn qos_is_global(rabbitmq: Option<(u32, u32)>) -> bool {
    rabbitmq.is_some_and(|version| ((3, 3)..(4, 0)).contains(&version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefetch_count_is_the_channels_on_rabbitmq_3() {
        for (version, global) in [
            (Some((3, 2)), false),
            (Some((3, 3)), true),
            (Some((3, 13)), true),
            (Some((4, 0)), false),
            (None, false),
        ] {
            assert_eq!(qos_is_global(version), global, "{version:?}");
        }
    }
}
