//! Carries out verdicts, many in one round trip.

use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::keys::Keys;
use super::restore::{End, remove, restore};
use crate::broker::Verdict;
use crate::redis_link::Link;

/// At most this many verdicts in one round trip.
const BATCH: usize = 512;

/// How long to gather verdicts. Nobody waits for an ack, and each round trip costs the server and us more than
/// the few commands in it.
const GATHER: Duration = Duration::from_millis(1);

/// The longest pause between attempts: verdicts given while the server was away should not wait long after it is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What the settling task is asked to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Carry out a verdict on the claim with this number.
    Settle(u64, Verdict),
    /// Give back the claims with these numbers, the first of them to be delivered first, after all verdicts that
    /// came before; then answer.
    GiveBack(Vec<u64>, oneshot::Sender<()>),
}

#[derive(Default)]
struct Batch {
    done: Vec<Vec<u8>>,
    requeued: Vec<Vec<u8>>,
    given_back: Vec<Vec<u8>>,
    answers: Vec<oneshot::Sender<()>>,
}

/// Carries out orders until nobody can give any. Orders given while the server is away wait until it is back.
pub(super) async fn run(
    mut orders: mpsc::UnboundedReceiver<Order>,
    mut link: Link,
    keys: Arc<Keys>,
    prefix: String,
) {
    let mut waiting = Vec::with_capacity(BATCH);
    while orders.recv_many(&mut waiting, BATCH).await > 0 {
        let room = BATCH - waiting.len();
        if room > 0 && waiting.iter().all(|order| matches!(order, Order::Settle(..))) {
            sleep(GATHER).await;
            while waiting.len() < BATCH
                && let Ok(order) = orders.try_recv()
            {
                waiting.push(order);
            }
        }
        let batch = Batch::new(waiting.drain(..), &prefix);
        while let Err(error) = batch.carry_out(&mut link, &keys).await {
            let pause = link.failed().min(LONGEST_PAUSE);
            tracing::warn!(
                "Could not settle {} messages on {}: {error}. Trying again in {:.2} seconds...",
                batch.done.len() + batch.requeued.len() + batch.given_back.len(),
                link.url(),
                pause.as_secs_f64()
            );
            sleep(pause).await;
        }
        link.worked();
        for answer in batch.answers {
            // Whoever asked may have stopped waiting.
            let _ = answer.send(());
        }
    }
}

impl Batch {
    fn new(orders: impl Iterator<Item = Order>, prefix: &str) -> Self {
        let mut batch = Self::default();
        let tag = |number: u64| format!("{prefix}{number}").into_bytes();
        let mut unbegun = Vec::new();
        for order in orders {
            match order {
                Order::Settle(number, Verdict::GiveBack) => unbegun.push(number),
                Order::Settle(number, Verdict::Ack | Verdict::Reject { requeue: false }) => {
                    batch.done.push(tag(number));
                }
                Order::Settle(number, Verdict::Reject { requeue: true }) => batch.requeued.push(tag(number)),
                Order::GiveBack(numbers, answer) => {
                    // What goes back last is delivered first.
                    batch.given_back.extend(numbers.into_iter().rev().map(tag));
                    batch.answers.push(answer);
                }
            }
        }
        unbegun.sort_unstable_by(|a, b| b.cmp(a));
        batch.given_back.extend(unbegun.into_iter().map(tag));
        batch
    }

    /// Each part can be carried out twice without harm.
    async fn carry_out(&self, link: &mut Link, keys: &Keys) -> RedisResult<()> {
        let connection = link.up().await?;
        if !self.done.is_empty() {
            remove(connection, keys, &self.done).await?;
        }
        restore(connection, keys, &self.requeued, End::Last, None).await?;
        restore(connection, keys, &self.given_back, End::Next, None).await?;
        Ok(())
    }
}
