//! The messages this worker has and has not settled.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, watch};
use uuid::Uuid;

use super::settle::Order;
use crate::broker::{Receipt, Told, Verdict};

/// At most this many messages are taken at once.
pub(super) const BATCH: usize = 100;

/// The claims of one worker on messages: each has a number, which together with the worker's prefix is the tag
/// under which the message is recorded as unacknowledged.
#[derive(Debug)]
pub(super) struct Claims {
    prefix: String,
    next: AtomicU64,
    prefetch: AtomicU32,
    held: Mutex<HashMap<u64, Claim>>,
    /// Acknowledgements that somebody waits for: their messages are here as well.
    awaited: AtomicUsize,
    room: Notify,
    /// The same for those who listen to pub/sub.
    fanout_room: Notify,
    orders: mpsc::UnboundedSender<Order>,
}

/// One message this worker has.
#[derive(Debug, Default)]
struct Claim {
    /// For its receipt.
    lost: watch::Sender<bool>,
    /// It came over pub/sub: no server has a record of it.
    unrecorded: bool,
}

impl Claims {
    pub(super) fn new(orders: mpsc::UnboundedSender<Order>) -> Self {
        Self {
            // Half of a UUID is enough to be nobody else's, and short tags are quicker to find for the server.
            prefix: format!("{:016x}.", Uuid::new_v4().as_u64_pair().0),
            next: AtomicU64::new(1),
            prefetch: AtomicU32::new(0),
            held: Mutex::default(),
            awaited: AtomicUsize::new(0),
            room: Notify::new(),
            fanout_room: Notify::new(),
            orders,
        }
    }

    /// What every tag of this worker begins with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The tag of a claim.
    pub(super) fn tag(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }

    /// The first of `count` numbers that nobody had before.
    pub(super) fn new_numbers(&self, count: usize) -> u64 {
        self.next.fetch_add(count as u64, Ordering::Relaxed)
    }

    /// Notes messages as taken.
    pub(super) fn hold(&self, numbers: impl IntoIterator<Item = u64>) {
        let claim = |number| (number, Claim::default());
        self.held().extend(numbers.into_iter().map(claim));
    }

    /// Notes a message as taken that no server has a record of.
    pub(super) fn hold_unrecorded(&self) -> u64 {
        let number = self.new_numbers(1);
        let claim = Claim {
            unrecorded: true,
            ..Claim::default()
        };
        self.held().insert(number, claim);
        number
    }

    /// The numbers of all claims that the server has a record of, the oldest first.
    pub(super) fn numbers(&self) -> Vec<u64> {
        let held = self.held();
        let recorded = held.iter().filter(|(_, claim)| !claim.unrecorded);
        let mut numbers: Vec<u64> = recorded.map(|(number, _)| *number).collect();
        drop(held);
        numbers.sort_unstable();
        numbers
    }

    /// Somebody else has these messages now, or gets them: their receipts learn of it. A claim that was settled
    /// meanwhile is left alone.
    pub(super) fn lose(&self, numbers: impl IntoIterator<Item = u64>) {
        let held = self.held();
        for number in numbers {
            if let Some(claim) = held.get(&number) {
                claim.lost.send_replace(true);
            }
        }
    }

    /// Forgets a claim and has its verdict carried out.
    pub(super) fn settle(&self, number: u64, verdict: Verdict, told: Told) {
        let awaited = usize::from(told.is_some());
        self.awaited.fetch_add(awaited, Ordering::Relaxed);
        if self.forget(number) {
            // Fails only when the broker is closed, and then the message went back already.
            let _ = self.orders.send(Order::Settle(number, verdict, told));
        } else {
            self.told(awaited);
        }
    }

    /// So many acknowledgements that somebody waited for are carried out.
    pub(super) fn told(&self, count: usize) {
        if count > 0 {
            self.awaited.fetch_sub(count, Ordering::Relaxed);
            self.tell();
        }
    }

    /// Forgets a claim. False when it was settled before.
    pub(super) fn forget(&self, number: u64) -> bool {
        let (claim, count) = {
            let mut held = self.held();
            (held.remove(&number), held.len())
        };
        let limit = self.limit();
        if count + 1 == limit || count + enough(limit) == limit {
            self.tell();
        }
        claim.is_some()
    }

    /// Forgets claims and has their messages delivered next, to whoever asks. The answer comes once that is done.
    pub(super) fn give_back(&self, numbers: Vec<u64>) -> tokio::sync::oneshot::Receiver<()> {
        {
            let mut held = self.held();
            for number in &numbers {
                if let Some(claim) = held.remove(number) {
                    claim.lost.send_replace(true);
                }
            }
        }
        let (done, answer) = tokio::sync::oneshot::channel();
        let _ = self.orders.send(Order::GiveBack(numbers, done));
        answer
    }

    /// The right to settle a claim.
    pub(super) fn receipt(self: &Arc<Self>, number: u64) -> Receipt {
        let claims = Arc::clone(self);
        self.tied(
            number,
            Receipt::new(move |verdict, told| claims.settle(number, verdict, told)),
        )
    }

    /// A receipt that learns when its claim is lost.
    pub(super) fn tied(&self, number: u64, receipt: Receipt) -> Receipt {
        match self.held().get(&number) {
            Some(claim) => receipt.over(claim.lost.subscribe()),
            None => receipt,
        }
    }

    /// Changes how many messages may be held (0: no limit).
    pub(super) fn set_prefetch(&self, prefetch: u32) {
        self.prefetch.store(prefetch, Ordering::Relaxed);
        self.tell();
    }

    /// How many messages may be taken now, and whether that is enough for a good batch.
    pub(super) fn room(&self) -> (usize, bool) {
        let limit = self.limit();
        let here = self.held().len() + self.awaited.load(Ordering::Relaxed);
        let free = limit.saturating_sub(here);
        (free.min(BATCH), free > 0 && free >= enough(limit))
    }

    /// Waits until there may be more room.
    pub(super) async fn room_changed(&self) {
        self.room.notified().await;
    }

    /// The same for those who listen to pub/sub.
    pub(super) async fn fanout_room_changed(&self) {
        self.fanout_room.notified().await;
    }

    fn tell(&self) {
        self.room.notify_one();
        self.fanout_room.notify_one();
    }

    fn limit(&self) -> usize {
        match self.prefetch.load(Ordering::Relaxed) {
            0 => usize::MAX,
            PAUSED => 0,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Claim>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The prefetch count that takes nothing.
pub(super) const PAUSED: u32 = u32::MAX;

/// How much room makes a good batch: half of what may be held, so that taking and working overlap.
fn enough(limit: usize) -> usize {
    limit.div_ceil(2).min(BATCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(prefetch: u32) -> (Arc<Claims>, mpsc::UnboundedReceiver<Order>) {
        let (orders, receiver) = mpsc::unbounded_channel();
        let claims = Arc::new(Claims::new(orders));
        claims.set_prefetch(prefetch);
        (claims, receiver)
    }

    #[test]
    fn room_is_what_prefetch_leaves() {
        let (claims, _orders) = claims(4);
        assert_eq!(claims.room(), (4, true));
        claims.hold(1..=3);
        assert_eq!(claims.room(), (1, false));
        claims.settle(2, Verdict::Ack, None);
        assert_eq!(claims.room(), (2, true));
        claims.set_prefetch(2);
        assert_eq!(claims.room(), (0, false));
        claims.set_prefetch(0);
        assert_eq!(claims.room(), (BATCH, true));
    }

    #[test]
    fn a_claim_is_settled_once() {
        let (claims, mut orders) = claims(0);
        claims.hold([7]);
        claims.receipt(7).reject(true);
        claims.settle(7, Verdict::Ack, None);
        assert!(matches!(
            orders.try_recv(),
            Ok(Order::Settle(7, Verdict::Reject { requeue: true }, None))
        ));
        assert!(orders.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_lost_claim_is_told_to_its_receipt_and_still_takes_room() {
        let (claims, _orders) = claims(2);
        claims.hold(1..=2);
        let (one, two) = (claims.receipt(1), claims.receipt(2));
        claims.lose([1, 7]);
        assert!(one.is_lost() && !two.is_lost());
        one.lost().await;
        assert_eq!(claims.room().0, 0);
        one.ack();
        assert_eq!(claims.room().0, 1);
        assert!(!two.is_lost());
    }

    #[test]
    fn what_came_over_pubsub_takes_room_and_has_no_record() {
        let (claims, mut orders) = claims(2);
        let number = claims.hold_unrecorded();
        assert_eq!((claims.room().0, claims.numbers()), (1, vec![]));
        assert!(claims.forget(number) && !claims.forget(number));
        assert_eq!(claims.room().0, 2);
        assert!(orders.try_recv().is_err());
    }

    #[test]
    fn a_dropped_receipt_settles_nothing() {
        let (claims, mut orders) = claims(1);
        claims.hold([1]);
        drop(claims.receipt(1));
        assert!(orders.try_recv().is_err());
        assert_eq!(claims.numbers(), [1]);
    }
}
