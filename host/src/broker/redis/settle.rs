//! Carries out verdicts, many in one round trip.

use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use redis::{RedisResult, Script};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::claims::Claims;
use super::keys::Keys;
use super::restore::{End, remove, restore};
use crate::broker::{Told, Verdict, tell};
use crate::redis_link::Link;

static ACK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("ack.lua")));

/// At most this many verdicts in one round trip.
const BATCH: usize = 512;

/// How long to gather verdicts that nobody waits for: each round trip costs the server and us more than
/// the few commands in it.
const GATHER: Duration = Duration::from_millis(1);

/// The longest pause between attempts: verdicts given while the server was away should not wait long after it is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What the settling task is asked to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Carry out a verdict on the claim with this number.
    Settle(u64, Verdict, Told),
    /// Give back the claims with these numbers, the first of them to be delivered first, after all verdicts that
    /// came before; then answer.
    GiveBack(Vec<u64>, oneshot::Sender<()>),
}

#[derive(Default)]
struct Batch {
    /// Acknowledgements that somebody waits for.
    awaited: Vec<Vec<u8>>,
    waiting: Vec<Told>,
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
    claims: Weak<Claims>,
) {
    let mut waiting = Vec::with_capacity(BATCH);
    while orders.recv_many(&mut waiting, BATCH).await > 0 {
        let room = BATCH - waiting.len();
        if room > 0
            && waiting
                .iter()
                .all(|order| matches!(order, Order::Settle(.., None)))
        {
            sleep(GATHER).await;
            while waiting.len() < BATCH
                && let Ok(order) = orders.try_recv()
            {
                waiting.push(order);
            }
        }
        let mut batch = Batch::new(waiting.drain(..), &prefix);
        let mut attempt = 0;
        while let Err(error) = batch.carry_out(&mut link, &keys, &claims, attempt).await {
            attempt += 1;
            let pause = link.failed().min(LONGEST_PAUSE);
            tracing::warn!(
                "Could not settle {} messages on {}: {error}. Trying again in {:.2} seconds...",
                batch.awaited.len() + batch.done.len() + batch.requeued.len() + batch.given_back.len(),
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
                Order::Settle(number, Verdict::Ack, told @ Some(_)) => {
                    batch.awaited.push(tag(number));
                    batch.waiting.push(told);
                }
                Order::Settle(number, Verdict::GiveBack, _) => unbegun.push(number),
                Order::Settle(number, Verdict::Ack | Verdict::Reject { requeue: false }, _) => {
                    batch.done.push(tag(number));
                }
                Order::Settle(number, Verdict::Reject { requeue: true }, _) => {
                    batch.requeued.push(tag(number))
                }
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
    async fn carry_out(
        &mut self,
        link: &mut Link,
        keys: &Keys,
        claims: &Weak<Claims>,
        attempt: u32,
    ) -> RedisResult<()> {
        let connection = link.up().await?;
        if !self.awaited.is_empty() {
            let mut script = ACK.key(&keys.unacked);
            script.key(&keys.unacked_index).arg(&self.awaited);
            let gone: Vec<usize> = script.invoke_async(connection).await?;
            self.awaited.clear();
            if let Some(claims) = claims.upgrade() {
                claims.told(self.waiting.len());
            }
            for (place, told) in (1..).zip(self.waiting.drain(..)) {
                // After an attempt whose answer was lost it is most likely that one that took them away.
                if attempt > 0 || !gone.contains(&place) {
                    tell(told);
                }
            }
        }
        if !self.done.is_empty() {
            remove(connection, keys, &self.done).await?;
        }
        restore(connection, keys, &self.requeued, End::Last, None).await?;
        restore(connection, keys, &self.given_back, End::Next, None).await?;
        Ok(())
    }
}
