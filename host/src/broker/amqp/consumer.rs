//! Taking messages: keeps a connection that consumes queues, hands deliveries out and settles them.

use std::future::{pending, ready};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Fuse, FutureExt, try_join_all};
use futures_util::stream::{BoxStream, SelectAll, Stream, StreamExt, once, select_all};
use lapin::Event;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::connection::{Connection, Lost};
use super::message::received;
use super::settle::{Settlement, Unsettled};
use super::table::{from_json, short};
use super::target::{StartError, Target};
use super::{declare, delayed};
use crate::broker::{Backoff, BrokerError, Delivery, Gone, Receipt, Verdict};
use crate::message::Route;
use crate::queue::Queue;

/// Deliveries handed out that nobody took yet.
pub(super) const HANDED_OUT: usize = 64;
/// With an unlimited prefetch: how many messages the broker may send ahead of what the worker took.
const WINDOW: u64 = 4096;
/// How many verdicts are settled at once.
const BATCH: usize = 4096;
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
    pub(super) queues: Vec<Queue>,
    pub(super) prefetch: watch::Receiver<u32>,
    pub(super) phase: watch::Receiver<Phase>,
    /// The server said that a queue is a quorum queue, though the settings do not.
    pub(super) quorum_seen: bool,
    /// Native delayed delivery was set up.
    pub(super) delays_ready: bool,
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
                    failed = 0;
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(Ok(()));
                    }
                    let start = Instant::now();
                    let ended = channel.serve(&mut self, &mut deliveries).await;
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

    fn phase(&mut self) -> Phase {
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
        if quorum && !self.delays_ready {
            self.delays_ready = true;
            self.set_up_delays().await;
        }
        let mut consumers = Vec::new();
        for (index, queue) in self.queues.iter().enumerate() {
            let consume = async {
                let tag = short(&consumer_tag(index))?;
                let (name, arguments) = (short(&queue.name)?, from_json(&queue.consumer_arguments)?);
                let options = BasicConsumeOptions::default();
                Ok::<_, Lost>(channel.basic_consume(name, tag, options, arguments).await?)
            };
            let consumer = consume.await.map_err(|lost| failed(lost, Some(queue)))?;
            // The end of one consumer would go unnoticed beside others.
            let consumed = consumer.map(Some).chain(once(ready(None)));
            consumers.push(consumed.map(move |consumed| (index, consumed)).boxed());
        }
        let (verdicts, decided) = mpsc::unbounded_channel();
        Ok(Channel {
            connection,
            consumers: select_all(consumers),
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

    /// Over a connection of its own: an object that somebody declared otherwise closes the channel. Without it,
    /// messages with an ETA are held by workers.
    async fn set_up_delays(&self) {
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

/// How long the server may take to confirm the end of a consumer.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

fn consumer_tag(index: usize) -> String {
    format!("celerybox-{index}")
}

/// What the consumer of a queue, named by its index, yields; `None` at its end.
type Consumed = (usize, Option<lapin::Result<lapin::message::Delivery>>);

/// A channel that consumes.
struct Channel {
    connection: Connection,
    /// All consumers; none any more when the phase is past [`Phase::Consume`].
    consumers: SelectAll<BoxStream<'static, Consumed>>,
    events: BoxStream<'static, Event>,
    unsettled: Unsettled,
    verdicts: mpsc::UnboundedSender<(u64, Verdict)>,
    decided: mpsc::UnboundedReceiver<(u64, Verdict)>,
    /// Handed out and not settled.
    held: u64,
    global: bool,
    /// The prefetch count the broker knows.
    window: u16,
    /// For the receipts; when this is gone, the broker delivers again what was not settled.
    lost: Gone,
}

impl Channel {
    /// Hands out and settles until the consumer is to close (`Ok`) or the connection is lost.
    async fn serve(
        &mut self,
        consumer: &mut Consumer,
        deliveries: &mut Option<mpsc::Sender<Delivery>>,
    ) -> Result<(), Lost> {
        let mut batch = Vec::new();
        // While one batch is being written, the next one grows.
        let mut settling = pin!(Fuse::terminated());
        let mut busy = false;
        loop {
            let prefetch = *consumer.prefetch.borrow_and_update();
            self.adjust_window(prefetch).await?;
            let sender = deliveries.clone();
            tokio::select! {
                biased;
                settled = &mut settling, if busy => {
                    settled?;
                    busy = false;
                }
                // Before the verdicts: what is given back after the end of the consumers must not come to them again.
                changed = consumer.phase.changed() => {
                    let phase = if changed.is_ok() { consumer.phase() } else { Phase::Close };
                    if phase >= Phase::Settle && deliveries.take().is_some() {
                        self.end_consumers(&consumer.queues).await?;
                    }
                    if phase == Phase::Close {
                        if busy {
                            settling.await?;
                        }
                        while let Ok(verdict) = self.decided.try_recv() {
                            batch.push(verdict);
                        }
                        return self.settle(&mut batch).await;
                    }
                }
                count = self.decided.recv_many(&mut batch, BATCH), if !busy => {
                    self.held = self.held.saturating_sub(count as u64);
                    settling.set(self.settle(&mut batch).fuse());
                    busy = true;
                }
                event = self.events.next() => match event {
                    Some(Event::Error(error)) => return Err(error.into()),
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!("consumer: the broker is blocked: {reason}");
                    }
                    Some(Event::ConnectionUnblocked) => tracing::info!("consumer: the broker is no longer blocked"),
                    Some(_) => {}
                    None => return Err(Lost::Protocol("the connection ended".into())),
                },
                _ = consumer.prefetch.changed() => {}
                first = next(sender.as_ref(), &mut self.consumers) => {
                    self.hand_out(first, sender.as_ref(), &consumer.queues)?;
                }
            }
        }
    }

    /// Ends the consumers, and gives back what came over them and was not handed out.
    async fn end_consumers(&mut self, queues: &[Queue]) -> Result<(), Lost> {
        for index in 0..queues.len() {
            let tag = short(&consumer_tag(index))?;
            let cancelled = self
                .connection
                .channel
                .basic_cancel(tag, BasicCancelOptions::default());
            // A server that does not answer keeps nobody from ending.
            if let Ok(cancelled) = timeout(CANCEL_PATIENCE, cancelled).await {
                cancelled?;
            }
        }
        while let Some(Some((index, Some(Ok(delivery))))) = self.consumers.next().now_or_never() {
            self.delivery((index, Some(Ok(delivery))), queues)?
                .receipt
                .give_back();
        }
        self.consumers.clear();
        Ok(())
    }

    /// Hands out a delivery, and those that are there as well as long as there is room.
    fn hand_out(
        &mut self,
        (permit, consumed): (mpsc::Permit<'_, Delivery>, Consumed),
        deliveries: Option<&mpsc::Sender<Delivery>>,
        queues: &[Queue],
    ) -> Result<(), Lost> {
        permit.send(self.delivery(consumed, queues)?);
        while let Some(Ok(permit)) = deliveries.map(mpsc::Sender::try_reserve)
            && let Some(Some(consumed)) = self.consumers.next().now_or_never()
        {
            permit.send(self.delivery(consumed, queues)?);
        }
        Ok(())
    }

    fn delivery(&mut self, (index, consumed): Consumed, queues: &[Queue]) -> Result<Delivery, Lost> {
        let (Some(delivery), Some(queue)) = (consumed.transpose()?, queues.get(index)) else {
            let message = "the server cancelled the consumer: was the queue deleted?";
            return Err(Lost::Protocol(message.into()));
        };
        self.held += 1;
        let verdicts = self.verdicts.clone();
        let tag = delivery.delivery_tag;
        let route = Route {
            exchange: delivery.exchange.into(),
            routing_key: delivery.routing_key.into(),
        };
        let receipt = Receipt::new(move |verdict| {
            if verdicts.send((tag, verdict)).is_err() {
                tracing::debug!(
                    "{verdict:?} of delivery {tag} comes too late: its connection is gone, the broker delivers it again"
                );
            }
        });
        Ok(Delivery {
            message: received(&delivery.properties, delivery.data),
            queue: queue.name.clone(),
            route: delayed::original(route, queue),
            redelivered: delivery.redelivered,
            receipt: receipt.over(self.lost.0.subscribe()),
        })
    }

    /// Settles a batch; the future is done when that is written.
    fn settle(
        &mut self,
        batch: &mut Vec<(u64, Verdict)>,
    ) -> impl Future<Output = Result<(), Lost>> + Send + use<> {
        let settlements = self.unsettled.settle(batch);
        let channel = self.connection.channel.clone();
        async move {
            let frames = settlements.into_iter().map(|settlement| match settlement {
                Settlement::Ack { tag, multiple } => {
                    channel.basic_ack(tag, BasicAckOptions { multiple }).left_future()
                }
                Settlement::Reject { tag, requeue } => channel
                    .basic_reject(tag, BasicRejectOptions { requeue })
                    .right_future(),
            });
            try_join_all(frames).await?;
            Ok(())
        }
    }

    /// Tells the broker how much it may send, when that changed.
    async fn adjust_window(&mut self, prefetch: u32) -> Result<(), Lost> {
        let window = match self.global {
            true => next_window(prefetch, self.window, self.held),
            // A count for each consumer stays what it was when the consumer came.
            false => self.window,
        };
        if window != self.window {
            self.window = window;
            let options = BasicQosOptions { global: self.global };
            self.connection.channel.basic_qos(window, options).await?;
        }
        Ok(())
    }
}

/// The next delivery and the room for it. Never when nobody takes any.
async fn next<'a>(
    deliveries: Option<&'a mpsc::Sender<Delivery>>,
    consumers: &mut (impl Stream<Item = Consumed> + Unpin),
) -> (mpsc::Permit<'a, Delivery>, Consumed) {
    if let Some(deliveries) = deliveries
        && let Ok(permit) = deliveries.reserve().await
        && let Some(consumed) = consumers.next().await
    {
        return (permit, consumed);
    }
    pending().await
}

/// Whether `basic.qos` counts for the whole channel with `global` set, which is what Celery asks for (contract section
/// 2.1.2). Others, and RabbitMQ from 4.0 on, count for each consumer.
fn qos_is_global(rabbitmq: Option<(u32, u32)>) -> bool {
    rabbitmq.is_some_and(|version| ((3, 3)..(4, 0)).contains(&version))
}

/// The prefetch count to ask for. Without a limit the broker would push a whole queue into our memory, so then it
/// may send [`WINDOW`] messages ahead of the `held` ones that the worker has taken; `current` moves in steps.
fn next_window(prefetch: u32, current: u16, held: u64) -> u16 {
    if let Ok(count @ 1..) = u16::try_from(prefetch) {
        return count;
    }
    let current = u64::from(current);
    let enough = current >= held + WINDOW && current <= held + 4 * WINDOW;
    let window = if enough { current } else { held + 2 * WINDOW };
    u16::try_from(window).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlimited_prefetch_moves_ahead_of_what_the_worker_holds() {
        for (prefetch, current, held, window) in [
            (4, 0, 0, 4),
            (65_535, 0, 0, 65_535),
            (0, 0, 0, 8192),
            (65_536, 0, 0, 8192),
            (0, 8192, 4096, 8192),
            (0, 8192, 4097, 12_289),
            (0, 12_289, 0, 12_289),
            (0, 16_385, 0, 8192),
            (0, 65_535, 1_000_000, 65_535),
        ] {
            assert_eq!(
                next_window(prefetch, current, held),
                window,
                "{prefetch} {current} {held}"
            );
        }
    }

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
