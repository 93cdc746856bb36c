//! The slots that tasks run in: as many as the concurrency, more or fewer while the worker runs (contract section 3.12).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::info;

use crate::policy::autoscale::Autoscale;

/// All slots. Fair: who waits longest gets the next one.
#[derive(Debug)]
pub struct Slots {
    free: Arc<Semaphore>,
    state: Mutex<State>,
    /// No more than these: the sandboxes have so many places.
    most: u32,
}

#[derive(Debug)]
struct State {
    autoscale: Option<Autoscale>,
    size: u32,
    /// Slots that are to go as soon as their tasks end.
    surplus: u32,
    /// When a task came or slots were added last.
    active: Instant,
}

/// One slot, held.
#[derive(Debug)]
pub struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    slots: Arc<Slots>,
}

impl Slots {
    /// So many slots; with `autoscale` its fewest, and more when there is work. They never become more than `most`.
    pub fn new(concurrency: u32, autoscale: Option<Autoscale>, most: u32) -> Arc<Self> {
        let size = autoscale.map_or(concurrency, |scale| scale.min);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(size as usize)),
            state: Mutex::new(State {
                autoscale,
                size,
                surplus: 0,
                active: Instant::now(),
            }),
            most: most.max(size),
        })
    }

    /// How many there are.
    pub fn size(&self) -> u32 {
        self.state().size
    }

    /// How many there can be.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// How many are taken.
    pub fn used(&self) -> u32 {
        let state = self.state();
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        state.size.saturating_add(state.surplus).saturating_sub(free)
    }

    /// The numbers that they stay between, when they change by themselves.
    pub fn autoscale(&self) -> Option<Autoscale> {
        self.state().autoscale
    }

    /// Changes these numbers (contract section 6.3, `autoscale`); what they are then. `None` when the slots do not change by
    /// themselves.
    pub fn set_autoscale(&self, max: Option<u32>, min: Option<u32>) -> Option<Autoscale> {
        let mut state = self.state();
        let before = state.autoscale?;
        let max = max.unwrap_or(before.max).clamp(1, self.most);
        let min = min.unwrap_or(before.min).min(max);
        let now = Autoscale { max, min, ..before };
        state.autoscale = Some(now);
        let size = state.size.clamp(min, max);
        self.resize(&mut state, size);
        Some(now)
    }

    /// Adds slots, as far as there can be more; how many there are then.
    pub fn grow(&self, by: u32) -> u32 {
        let mut state = self.state();
        let size = state.size.saturating_add(by).min(self.most);
        self.resize(&mut state, size);
        size
    }

    /// Takes slots away, free ones at once and others when their tasks end; how many there are then.
    pub fn shrink(&self, by: u32) -> u32 {
        let mut state = self.state();
        let size = state.size.saturating_sub(by);
        self.resize(&mut state, size);
        size
    }

    fn resize(&self, state: &mut State, size: u32) {
        if size > state.size {
            let by = size - state.size;
            let kept = by.min(state.surplus);
            state.surplus -= kept;
            state.active = Instant::now();
            self.free.add_permits((by - kept) as usize);
        } else {
            let by = state.size - size;
            let gone = self.free.forget_permits(by as usize);
            state.surplus += by - u32::try_from(gone).unwrap_or(by);
        }
        state.size = size;
    }

    /// Waits for a slot.
    pub async fn acquire(self: &Arc<Self>) -> Slot {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok();
        Slot {
            permit,
            slots: Arc::clone(self),
        }
    }

    /// Adapts the number to `reserved` tasks. `received`: because a task came, not because of the time.
    pub fn scale(&self, reserved: u32, received: bool) {
        let mut state = self.state();
        let Some(autoscale) = state.autoscale else { return };
        if received {
            state.active = Instant::now();
        }
        let size = state.size;
        let wanted = autoscale.wanted(size, reserved, state.active.elapsed());
        if wanted > size {
            info!("Scaling up {} slots.", wanted - size);
        } else if wanted < size {
            info!("Scaling down {} slots.", size - wanted);
        }
        self.resize(&mut state, wanted.min(self.most));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.state();
        if state.surplus > 0 {
            state.surplus -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn waits(slots: &Arc<Slots>) -> bool {
        tokio::time::timeout(Duration::from_millis(20), slots.acquire())
            .await
            .is_err()
    }

    #[tokio::test]
    async fn slots_come_at_once_and_go_when_their_tasks_end() {
        let slots = Slots::new(1, None, 8);
        let one = slots.acquire().await;
        assert!(waits(&slots).await);
        slots.grow(1);
        let two = slots.acquire().await;
        slots.shrink(1);
        assert_eq!(slots.size(), 1);
        drop(one);
        assert!(waits(&slots).await, "the slot was to go");
        drop(two);
        let _held = slots.acquire().await;
        // A surplus that is wanted again is no new slot.
        slots.shrink(1);
        slots.grow(1);
        assert!(waits(&slots).await);
        assert_eq!(slots.size(), 1);
        assert_eq!(slots.grow(u32::MAX), 8);
        assert_eq!(slots.shrink(u32::MAX), 0);
        assert_eq!(slots.set_autoscale(Some(3), None), None);
    }

    #[tokio::test]
    async fn they_follow_the_reserved_tasks() {
        let autoscale = Autoscale {
            max: 3,
            min: 1,
            keepalive: Duration::ZERO,
        };
        let slots = Slots::new(8, Some(autoscale), 8);
        assert_eq!(slots.size(), 1);
        slots.scale(5, true);
        assert_eq!(slots.size(), 3);
        tokio::time::sleep(Duration::from_millis(5)).await;
        slots.scale(2, false);
        assert_eq!(slots.size(), 2);
        slots.scale(0, false);
        assert_eq!((slots.size(), slots.free.available_permits()), (1, 1));
        let changed = |max, min| slots.set_autoscale(max, min).map(|scale| (scale.max, scale.min));
        assert_eq!(changed(Some(6), Some(4)), Some((6, 4)));
        assert_eq!((slots.size(), slots.free.available_permits()), (4, 4));
        assert_eq!(changed(Some(2), None), Some((2, 2)));
        assert_eq!(slots.size(), 2);
        assert_eq!(changed(Some(1_000_000_000), None), Some((8, 2)));
        assert_eq!(changed(Some(0), Some(0)), Some((1, 0)));
    }
}
