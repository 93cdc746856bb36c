//! Taking messages: keeps a connection that consumes queues, hands deliveries out and settles them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::Target;
use super::connection::{CHANNEL, Connection, Lost};
use super::settle::{Settlement, Unsettled};
use super::wire::{Deliver, EncodeError, Incoming, put_method, put_short};
use crate::broker::{Backoff, BrokerError, Delivery, Receipt, Verdict};
use crate::message::{JsonMap, Message, Route};

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
    pub(super) queues: Vec<String>,
    pub(super) prefetch: watch::Receiver<u32>,
    pub(super) phase: watch::Receiver<Phase>,
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
        let mut phase = self.phase.clone();
        while self.phase() == Phase::Consume {
            let opened = tokio::select! {
                opened = self.start() => opened,
                _ = phase.wait_for(|phase| *phase != Phase::Consume) => break,
            };
            let pause = match opened {
                Ok(mut channel) => {
                    tracing::info!("Connected to {}", self.target.address);
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
                        Err(error) => {
                            tracing::warn!(
                                "consumer: Connection to broker lost: {error}. Trying to re-establish the connection..."
                            );
                            backoff.next_pause()
                        }
                    }
                }
                Err(error) => {
                    if let Some(refusal) = ready.is_some().then(|| self.target.refusal(&error)).flatten() {
                        if let Some(ready) = ready.take() {
                            let _ = ready.send(Err(refusal));
                        }
                        return;
                    }
                    let pause = backoff.next_pause();
                    tracing::error!(
                        "consumer: Cannot connect to {}: {}. Trying again in {:.2} seconds...",
                        self.target.address,
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

    /// Connects, declares and consumes.
    async fn start(&mut self) -> Result<Channel, StartError> {
        let lost = |lost: Lost| StartError { lost, queue: None };
        let mut connection = Connection::open(&self.target.address, &self.target.options)
            .await
            .map_err(lost)?;
        let global = qos_is_global(connection.rabbitmq_version());
        let prefetch = *self.prefetch.borrow_and_update();
        let window = match global {
            true => next_window(prefetch, 0, 0),
            false => u16::try_from(prefetch)
                .ok()
                .filter(|count| *count > 0)
                .unwrap_or(u16::MAX),
        };
        connection
            .call(CHANNEL, (60, 10), qos(window, global))
            .await
            .map_err(lost)?;
        for queue in &self.queues {
            declare(&mut connection, queue).await.map_err(|lost| StartError {
                lost,
                queue: Some(queue.clone()),
            })?;
        }
        for (index, queue) in self.queues.iter().enumerate() {
            let consume = connection.send(CHANNEL, (60, 20), |out| {
                out.extend([0; 2]);
                put_short(out, queue)?;
                put_short(out, &consumer_tag(index))?;
                out.push(0); // Neither no-local, no-ack, exclusive nor no-wait.
                super::table::put_table(out, &JsonMap::new())
            });
            consume.map_err(|error| lost(error.into()))?;
        }
        let mut pending = VecDeque::new();
        let mut consuming = 0;
        while consuming < self.queues.len() {
            match connection.next().await.map_err(lost)? {
                Incoming::Other(60, 21) => consuming += 1,
                Incoming::Message(deliver, message) => pending.push_back((deliver, message)),
                _ => {}
            }
        }
        let (verdicts, decided) = mpsc::unbounded_channel();
        Ok(Channel {
            connection,
            unsettled: Unsettled::default(),
            verdicts,
            decided,
            pending,
            held: 0,
            global,
            window,
            consumers: self.queues.len(),
        })
    }
}

/// Why consuming could not start.
#[derive(Debug)]
pub(super) struct StartError {
    /// What happened.
    pub(super) lost: Lost,
    /// The queue that was being declared.
    pub(super) queue: Option<String>,
}

/// A channel that consumes.
struct Channel {
    connection: Connection,
    unsettled: Unsettled,
    verdicts: mpsc::UnboundedSender<(u64, Verdict)>,
    decided: mpsc::UnboundedReceiver<(u64, Verdict)>,
    /// Delivered and not handed out yet. The prefetch bounds it.
    pending: VecDeque<(Deliver, Message)>,
    /// Handed out and not settled.
    held: u64,
    global: bool,
    /// The prefetch count the broker knows.
    window: u16,
    consumers: usize,
}

impl Channel {
    /// Hands out and settles until the consumer is to close (`Ok`) or the connection is lost.
    async fn serve(
        &mut self,
        consumer: &mut Consumer,
        deliveries: &mut Option<mpsc::Sender<Delivery>>,
    ) -> Result<(), Lost> {
        let mut batch = Vec::new();
        loop {
            self.hand_out(deliveries.as_ref());
            self.adjust_window(*consumer.prefetch.borrow_and_update())?;
            let sender = deliveries.as_ref().filter(|_| !self.pending.is_empty());
            tokio::select! {
                biased;
                incoming = self.connection.next() => match incoming? {
                    Incoming::Message(deliver, message) if deliver.tag > 0 && deliveries.is_some() => {
                        self.pending.push_back((deliver, message));
                    }
                    Incoming::Cancel(_) => {
                        let message = "the server cancelled the consumer: was the queue deleted?";
                        return Err(Lost::Protocol(message.into()));
                    }
                    Incoming::Blocked(reason) => tracing::warn!("consumer: the broker is blocked: {reason}"),
                    Incoming::Unblocked => tracing::info!("consumer: the broker is no longer blocked"),
                    _ => {}
                },
                count = self.decided.recv_many(&mut batch, BATCH) => {
                    self.held = self.held.saturating_sub(count as u64);
                    self.settle(&mut batch)?;
                }
                // There is room again; handing out comes at the top.
                _ = reserve(sender), if sender.is_some() => {}
                changed = consumer.phase.changed() => {
                    let phase = if changed.is_ok() { consumer.phase() } else { Phase::Close };
                    if phase >= Phase::Settle && deliveries.take().is_some() {
                        self.cancel()?;
                    }
                    if phase == Phase::Close {
                        while let Ok(verdict) = self.decided.try_recv() {
                            batch.push(verdict);
                        }
                        return Ok(self.settle(&mut batch)?);
                    }
                }
                _ = consumer.prefetch.changed() => {}
            }
        }
    }

    /// Hands out what there is room for.
    fn hand_out(&mut self, deliveries: Option<&mpsc::Sender<Delivery>>) {
        let Some(deliveries) = deliveries else { return };
        while !self.pending.is_empty() {
            let Ok(permit) = deliveries.try_reserve() else {
                return;
            };
            let Some((deliver, message)) = self.pending.pop_front() else {
                return;
            };
            let verdicts = self.verdicts.clone();
            self.held += 1;
            permit.send(Delivery {
                message,
                route: Route {
                    exchange: deliver.exchange,
                    routing_key: deliver.routing_key,
                },
                redelivered: deliver.redelivered,
                receipt: Receipt::new(move |verdict| {
                    if verdicts.send((deliver.tag, verdict)).is_err() {
                        tracing::debug!(
                            "{verdict:?} of delivery {} comes too late: its connection is gone, the broker delivers it \
                             again",
                            deliver.tag
                        );
                    }
                }),
            });
        }
    }

    fn settle(&mut self, batch: &mut Vec<(u64, Verdict)>) -> Result<(), EncodeError> {
        for settlement in self.unsettled.settle(batch) {
            let (method, tag, flag) = match settlement {
                Settlement::Ack { tag, multiple } => (80, tag, multiple),
                Settlement::Reject { tag, requeue } => (90, tag, requeue),
            };
            put_method(self.connection.outbox(), CHANNEL, (60, method), |out| {
                out.extend(tag.to_be_bytes());
                out.push(u8::from(flag));
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Tells the broker how much it may send, when that changed.
    fn adjust_window(&mut self, prefetch: u32) -> Result<(), EncodeError> {
        let window = match self.global {
            true => next_window(prefetch, self.window, self.held),
            // A count for each consumer stays what it was when the consumer came.
            false => self.window,
        };
        if window != self.window {
            self.window = window;
            self.connection
                .send(CHANNEL, (60, 10), qos(window, self.global))?;
        }
        Ok(())
    }

    /// Ends the consumers. What was not handed out goes back when the connection closes.
    fn cancel(&mut self) -> Result<(), EncodeError> {
        self.pending.clear();
        for index in 0..self.consumers {
            self.connection.send(CHANNEL, (60, 30), |out| {
                put_short(out, &consumer_tag(index))?;
                out.push(0);
                Ok(())
            })?;
        }
        Ok(())
    }
}

async fn reserve(sender: Option<&mpsc::Sender<Delivery>>) {
    if let Some(sender) = sender {
        // Whether there is room now or nobody is left who takes anything: both end the wait.
        if sender.reserve().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn consumer_tag(index: usize) -> String {
    format!("celerybox-{index}")
}

fn qos(count: u16, global: bool) -> impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError> {
    move |out| {
        out.extend([0; 4]); // No limit in bytes.
        out.extend(count.to_be_bytes());
        out.push(u8::from(global));
        Ok(())
    }
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

/// Declares a queue as Celery does: an exchange of its name, the queue, and the binding (contract section 2.1.1).
pub(super) async fn declare(connection: &mut Connection, queue: &str) -> Result<(), Lost> {
    const DURABLE: u8 = 2;
    let none = JsonMap::new();
    let exchange = connection.call(CHANNEL, (40, 10), |out| {
        out.extend([0; 2]);
        put_short(out, queue)?;
        put_short(out, "direct")?;
        out.push(DURABLE);
        super::table::put_table(out, &none)
    });
    exchange.await?;
    let declared = connection.call(CHANNEL, (50, 10), |out| {
        out.extend([0; 2]);
        put_short(out, queue)?;
        out.push(DURABLE);
        super::table::put_table(out, &none)
    });
    declared.await?;
    let bound = connection.call(CHANNEL, (50, 20), |out| {
        out.extend([0; 2]);
        put_short(out, queue)?;
        put_short(out, queue)?;
        put_short(out, queue)?;
        out.push(0);
        super::table::put_table(out, &none)
    });
    bound.await
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
