//! Queues behind fanout exchanges: Redis' pub/sub (contract section 2.2.5).
//!
//! Nothing is kept on the server: what is published while nobody listens is gone, and so is what this worker has not
//! run when it ends.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;
use redis::RedisResult;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::claims::Claims;
use super::fetch::stopped;
use super::keys::Keys;
use super::restore::cut;
use crate::broker::consumed::Follower;
use crate::broker::{Backoff, Delivery, Receipt, Verdict, tell};
use crate::message::envelope;
use crate::queue::{ExchangeKind, Queue};
use crate::redis_url::RedisUrl;

/// Bytes of messages that wait for room: as much as Redis itself keeps for a slow subscriber before it hangs up.
const BACKLOG: usize = 32 << 20;

/// What to listen to: the channel (with `*` for any text), and the queue that it stands for.
pub(super) fn channels(keys: &Keys, queues: &[Queue]) -> Vec<(String, String)> {
    let mut channels = Vec::new();
    for queue in queues {
        for (exchange, routing_key, _) in queue.all_bindings() {
            if exchange.kind == ExchangeKind::Fanout {
                let channel = keys.channel(&exchange.name, &routing_key.replace('#', "*"));
                channels.push((channel, queue.name.clone()));
            }
        }
    }
    channels
}

/// Whether a queue gets its messages over pub/sub alone.
pub(super) fn is_alone(queue: &Queue) -> bool {
    queue
        .all_bindings()
        .all(|(exchange, ..)| exchange.kind == ExchangeKind::Fanout)
}

/// Listens to channels and delivers what is published there.
pub(super) struct Subscriber {
    pub(super) url: RedisUrl,
    pub(super) keys: Arc<Keys>,
    pub(super) consumed: Follower,
    /// What it listens to.
    pub(super) channels: Vec<(String, String)>,
    pub(super) claims: Arc<Claims>,
    /// Weak, so that the deliveries end with the fetcher.
    pub(super) deliveries: mpsc::WeakSender<Delivery>,
    pub(super) stop: watch::Receiver<bool>,
}

impl Subscriber {
    /// Listens until stopped, over as many connections as it takes.
    pub(super) async fn run(mut self) {
        let mut stop = self.stop.clone();
        let mut backoff = Backoff::default();
        let (again, mut requeued) = mpsc::unbounded_channel();
        let mut waiting = Backlog::default();
        loop {
            self.look();
            while self.channels.is_empty() {
                tokio::select! {
                    () = self.consumed.changed() => self.look(),
                    () = stopped(&mut stop) => return,
                }
            }
            let listening = self.listen(&again, &mut requeued, &mut waiting, &mut backoff);
            let ended = tokio::select! {
                ended = listening => ended,
                () = stopped(&mut stop) => return,
            };
            let pause = backoff.next_pause();
            match ended {
                Ok(()) => tracing::warn!("consumer: Lost the subscription at {}", self.url),
                Err(error) => tracing::error!("consumer: Cannot subscribe at {}: {error}", self.url),
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    /// Takes over the queues as they are wanted now.
    fn look(&mut self) {
        let (_, queues) = self.consumed.queues();
        self.channels = channels(&self.keys, &queues);
    }

    /// Listens over one connection until that ends.
    async fn listen(
        &mut self,
        again: &mpsc::UnboundedSender<(String, Vec<u8>)>,
        requeued: &mut mpsc::UnboundedReceiver<(String, Vec<u8>)>,
        waiting: &mut Backlog,
        backoff: &mut Backoff,
    ) -> RedisResult<()> {
        let (mut sink, mut messages) = self.url.subscriber().await?.split();
        sink.psubscribe(&names(&self.channels)).await?;
        backoff.reset();
        loop {
            let room = !waiting.is_empty() && self.claims.room().0 > 0;
            let deliveries = self.deliveries.upgrade().filter(|_| room);
            tokio::select! {
                // The subscription is always read: what it holds back has no bound.
                Some(permit) = permit(deliveries) => {
                    if let Some(delivery) = waiting.next().and_then(|next| self.delivery(next, again)) {
                        permit.send(delivery);
                    }
                }
                message = messages.next() => {
                    let Some(message) = message else { return Ok(()) };
                    let pattern: String = message.get_pattern().unwrap_or_default();
                    let queues = self.channels.iter().filter(|(channel, _)| *channel == pattern);
                    for (_, queue) in queues {
                        waiting.add(queue.clone(), message.get_payload_bytes().to_vec());
                    }
                }
                Some((queue, text)) = requeued.recv() => waiting.add(queue, text),
                () = self.consumed.changed() => {
                    let before = std::mem::take(&mut self.channels);
                    self.look();
                    let without = |channels: &[(String, String)], others: &[(String, String)]| {
                        let left = names(channels).into_iter().filter(|name| !names(others).contains(name));
                        left.collect::<Vec<String>>()
                    };
                    let (gone, new) = (without(&before, &self.channels), without(&self.channels, &before));
                    if !gone.is_empty() {
                        sink.punsubscribe(&gone).await?;
                    }
                    if !new.is_empty() {
                        sink.psubscribe(&new).await?;
                    }
                }
                () = self.claims.fanout_room_changed(), if !waiting.is_empty() && !room => {}
            }
        }
    }

    fn delivery(
        &self,
        (queue, text): (String, Vec<u8>),
        again: &mpsc::UnboundedSender<(String, Vec<u8>)>,
    ) -> Option<Delivery> {
        let opened = match envelope::open(&text) {
            Ok(opened) => opened,
            Err(error) => {
                let text = String::from_utf8_lossy(&text);
                tracing::error!("Dropped a message that cannot be read: {error}: {}", cut(&text));
                return None;
            }
        };
        let number = self.claims.hold_unrecorded();
        let (claims, again) = (Arc::clone(&self.claims), again.clone());
        let back = (queue.clone(), text);
        let receipt = Receipt::new(move |verdict, told| {
            tell(told);
            if claims.forget(number)
                && matches!(verdict, Verdict::Reject { requeue: true } | Verdict::GiveBack)
            {
                let (queue, text) = back;
                let text = envelope::mark_redelivered(&String::from_utf8_lossy(&text));
                // Nobody listens any more when the worker stops, and then the message is gone.
                let _ = again.send((queue, text.into_bytes()));
            }
        });
        Some(Delivery {
            message: opened.message,
            queue,
            route: opened.route,
            redelivered: opened.redelivered,
            receipt: self.claims.tied(number, receipt),
        })
    }
}

/// Room for one delivery; none where nobody wants one.
async fn permit(deliveries: Option<mpsc::Sender<Delivery>>) -> Option<mpsc::OwnedPermit<Delivery>> {
    deliveries?.reserve_owned().await.ok()
}

fn names(channels: &[(String, String)]) -> Vec<String> {
    channels.iter().map(|(channel, _)| channel.clone()).collect()
}

/// Messages that wait for room.
#[derive(Default)]
struct Backlog {
    messages: VecDeque<(String, Vec<u8>)>,
    bytes: usize,
}

impl Backlog {
    fn add(&mut self, queue: String, text: Vec<u8>) {
        if self.bytes + text.len() > BACKLOG && !self.messages.is_empty() {
            tracing::error!("Dropped a message of queue {queue:?}: too many wait, and pub/sub keeps none");
            return;
        }
        self.bytes += text.len();
        self.messages.push_back((queue, text));
    }

    fn next(&mut self) -> Option<(String, Vec<u8>)> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.1.len();
        Some(message)
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backlog_is_bounded_in_bytes_and_takes_one_message_of_any_size() {
        let mut backlog = Backlog::default();
        backlog.add("q".into(), vec![0; BACKLOG + 1]);
        backlog.add("q".into(), vec![0; 1]);
        assert_eq!(backlog.messages.len(), 1);
        assert_eq!(backlog.next().map(|(_, text)| text.len()), Some(BACKLOG + 1));
        assert_eq!(backlog.bytes, 0);
        backlog.add("q".into(), vec![0; 1]);
        assert!(!backlog.is_empty());
    }
}
