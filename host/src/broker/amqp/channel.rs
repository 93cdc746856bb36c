//! A channel that consumes: hands deliveries out and settles them, until its connection is lost.

use std::collections::BTreeMap;
use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Fuse, FutureExt, try_join_all};
use futures_util::stream::{BoxStream, SelectAll, Stream, StreamExt};
use lapin::Event;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicQosOptions, BasicRejectOptions, ChannelFlowOptions,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::connection::{Connection, Lost};
use super::consumer::{Consumer, Phase, consume, consumer_tag};
use super::message::received;
use super::settle::{Settlement, Unsettled};
use super::table::short;
use super::{declare, delayed};
use crate::broker::{Delivery, Gone, Receipt, Told, Verdict, tell};
use crate::message::Route;
use crate::queue::Queue;

/// With an unlimited prefetch: how many messages the broker may send ahead of what the worker took.
const WINDOW: u64 = 4096;
/// How many verdicts are settled at once.
const BATCH: usize = 4096;
/// How long the server may take to confirm the end of a consumer.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

/// What the consumer of a queue, named by its number, yields; `None` at its end.
pub(super) type Consumed = (usize, Option<lapin::Result<lapin::message::Delivery>>);

/// A consumer of a channel.
pub(super) struct Consuming {
    queue: Queue,
    /// Its end was asked for; what came before that may still be on its way.
    ended: bool,
}

impl Consuming {
    /// The consumer of a queue.
    pub(super) fn of(queue: &Queue) -> Self {
        Self {
            queue: queue.clone(),
            ended: false,
        }
    }
}

/// A channel that consumes.
pub(super) struct Channel {
    pub(super) connection: Connection,
    /// All consumers; none any more when the phase is past [`Phase::Consume`].
    pub(super) consumers: SelectAll<BoxStream<'static, Consumed>>,
    /// The queue of each consumer, and whether that is still to go on.
    pub(super) consuming: BTreeMap<usize, Consuming>,
    pub(super) next_consumer: usize,
    pub(super) events: BoxStream<'static, Event>,
    pub(super) unsettled: Unsettled,
    pub(super) verdicts: mpsc::UnboundedSender<(u64, Verdict, Told)>,
    pub(super) decided: mpsc::UnboundedReceiver<(u64, Verdict, Told)>,
    /// Handed out and not settled.
    pub(super) held: u64,
    pub(super) global: bool,
    /// The prefetch count the broker knows.
    pub(super) window: u16,
    /// For the receipts; when this is gone, the broker delivers again what was not settled.
    pub(super) lost: Gone,
}

impl Channel {
    /// Hands out and settles until the consumer is to close (`Ok`) or the connection is lost.
    pub(super) async fn serve(
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
                        self.end_consumers().await?;
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
                () = consumer.consumed.changed(), if deliveries.is_some() => self.follow(consumer).await?,
                first = next(sender.as_ref(), &mut self.consumers) => {
                    self.hand_out(first, sender.as_ref())?;
                }
            }
        }
    }

    /// Ends the consumers, and gives back what came over them and was not handed out.
    async fn end_consumers(&mut self) -> Result<(), Lost> {
        let numbers: Vec<usize> = self.consuming.keys().copied().collect();
        for number in numbers {
            self.end_consumer(number).await?;
        }
        while let Some(Some(consumed)) = self.consumers.next().now_or_never() {
            if let Some(delivery) = self.delivery(consumed)? {
                delivery.receipt.give_back();
            }
        }
        self.consumers.clear();
        Ok(())
    }

    /// Ends one consumer; what came over it before is handed out all the same.
    async fn end_consumer(&mut self, number: usize) -> Result<(), Lost> {
        let Some(consuming) = self
            .consuming
            .get_mut(&number)
            .filter(|consuming| !consuming.ended)
        else {
            return Ok(());
        };
        consuming.ended = true;
        let tag = short(&consumer_tag(number))?;
        let channel = &self.connection.channel;
        let cancelled = channel.basic_cancel(tag, BasicCancelOptions::default());
        // A server that does not answer keeps nobody from ending.
        if let Ok(cancelled) = timeout(CANCEL_PATIENCE, cancelled).await {
            cancelled?;
        }
        Ok(())
    }

    /// Begins to consume queues that are new, and ends the consumers of those that are wanted no more.
    async fn follow(&mut self, consumer: &mut Consumer) -> Result<(), Lost> {
        let version = consumer.look();
        let goes_on = |queue: &Queue| consumer.queues.iter().any(|wanted| wanted.name == queue.name);
        let unwanted = self
            .consuming
            .iter()
            .filter(|(_, consuming)| !goes_on(&consuming.queue));
        let unwanted: Vec<usize> = unwanted.map(|(number, _)| *number).collect();
        for number in unwanted {
            self.end_consumer(number).await?;
        }
        consumer.set_up_delays().await;
        for queue in &consumer.queues {
            let mut consuming = self.consuming.values();
            if consuming.any(|consuming| !consuming.ended && consuming.queue.name == queue.name) {
                continue;
            }
            declare::declare(&self.connection.channel, queue).await?;
            let number = self.next_consumer;
            self.next_consumer += 1;
            self.consumers
                .push(consume(&self.connection.channel, number, queue).await?);
            self.consuming.insert(number, Consuming::of(queue));
        }
        consumer.consumed.followed(version);
        Ok(())
    }

    /// Hands out a delivery, and those that are there as well as long as there is room.
    fn hand_out(
        &mut self,
        (permit, consumed): (mpsc::Permit<'_, Delivery>, Consumed),
        deliveries: Option<&mpsc::Sender<Delivery>>,
    ) -> Result<(), Lost> {
        if let Some(delivery) = self.delivery(consumed)? {
            permit.send(delivery);
        }
        while let Some(Ok(permit)) = deliveries.map(mpsc::Sender::try_reserve)
            && let Some(Some(consumed)) = self.consumers.next().now_or_never()
        {
            if let Some(delivery) = self.delivery(consumed)? {
                permit.send(delivery);
            }
        }
        Ok(())
    }

    /// What a consumer yielded; `None` at the end of one that was ended.
    fn delivery(&mut self, (number, consumed): Consumed) -> Result<Option<Delivery>, Lost> {
        let Some(delivery) = consumed.transpose()? else {
            return match self.consuming.remove(&number) {
                Some(Consuming { ended: true, .. }) => Ok(None),
                _ => Err(Lost::Protocol(
                    "the server cancelled the consumer: was the queue deleted?".into(),
                )),
            };
        };
        let Some(Consuming { queue, .. }) = self.consuming.get(&number) else {
            return Err(Lost::Protocol("a delivery of a consumer that has ended".into()));
        };
        self.held += 1;
        let verdicts = self.verdicts.clone();
        let tag = delivery.delivery_tag;
        let route = Route {
            exchange: delivery.exchange.into(),
            routing_key: delivery.routing_key.into(),
        };
        let receipt = Receipt::new(move |verdict, told| {
            if verdicts.send((tag, verdict, told)).is_err() {
                tracing::debug!(
                    "{verdict:?} of delivery {tag} comes too late: its connection is gone, the broker delivers it again"
                );
            }
        });
        Ok(Some(Delivery {
            message: received(&delivery.properties, delivery.data),
            queue: queue.name.clone(),
            route: delayed::original(route, queue),
            redelivered: delivery.redelivered,
            receipt: receipt.over(self.lost.0.subscribe()),
        }))
    }

    /// Settles a batch; the future is done when that is written, and when somebody waits for it, when the server has
    /// done it: it does what a channel asks for in its order, and answers a `channel.flow` that changes nothing.
    fn settle(
        &mut self,
        batch: &mut Vec<(u64, Verdict, Told)>,
    ) -> impl Future<Output = Result<(), Lost>> + Send + use<> {
        let waiting: Vec<Told> = batch
            .iter_mut()
            .map(|(.., told)| told.take())
            .filter(Option::is_some)
            .collect();
        let verdicts = batch.drain(..).map(|(tag, verdict, _)| (tag, verdict));
        let settlements = self.unsettled.settle(verdicts);
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
            if !waiting.is_empty() {
                channel.channel_flow(ChannelFlowOptions { active: true }).await?;
                waiting.into_iter().for_each(tell);
            }
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

/// The prefetch count to ask for. Without a limit the broker would push a whole queue into our memory, so then it
/// may send [`WINDOW`] messages ahead of the `held` ones that the worker has taken; `current` moves in steps.
pub(super) fn next_window(prefetch: u32, current: u16, held: u64) -> u16 {
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
}
