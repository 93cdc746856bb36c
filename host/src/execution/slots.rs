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
    autoscale: Option<Autoscale>,
}

#[derive(Debug)]
struct State {
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
    /// So many slots; with `autoscale` its fewest, and more when there is work.
    pub fn new(concurrency: u32, autoscale: Option<Autoscale>) -> Arc<Self> {
        let size = autoscale.map_or(concurrency, |scale| scale.min);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(size as usize)),
            state: Mutex::new(State {
                size,
                surplus: 0,
                active: Instant::now(),
            }),
            autoscale,
        })
    }

    /// How many there are.
    pub fn size(&self) -> u32 {
        self.state().size
    }

    /// How many are taken.
    pub fn used(&self) -> u32 {
        let state = self.state();
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        state.size.saturating_add(state.surplus).saturating_sub(free)
    }

    /// The numbers that they stay between, when they change by themselves.
    pub fn autoscale(&self) -> Option<Autoscale> {
        self.autoscale
    }

    /// Adds slots.
    pub fn grow(&self, by: u32) {
        let mut state = self.state();
        let kept = by.min(state.surplus);
        state.surplus -= kept;
        state.size = state.size.saturating_add(by);
        state.active = Instant::now();
        self.free.add_permits((by - kept) as usize);
    }

    /// Takes slots away, free ones at once and others when their tasks end.
    pub fn shrink(&self, by: u32) {
        let mut state = self.state();
        let by = by.min(state.size);
        state.size -= by;
        let gone = self.free.forget_permits(by as usize);
        state.surplus += by - u32::try_from(gone).unwrap_or(by);
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
        let Some(autoscale) = self.autoscale else { return };
        let (size, idle) = {
            let mut state = self.state();
            if received {
                state.active = Instant::now();
            }
            (state.size, state.active.elapsed())
        };
        let wanted = autoscale.wanted(size, reserved, idle);
        if wanted > size {
            info!("Scaling up {} slots.", wanted - size);
            self.grow(wanted - size);
        } else if wanted < size {
            info!("Scaling down {} slots.", size - wanted);
            self.shrink(size - wanted);
        }
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
        let slots = Slots::new(1, None);
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
    }

    #[tokio::test]
    async fn they_follow_the_reserved_tasks() {
        let autoscale = Autoscale {
            max: 3,
            min: 1,
            keepalive: Duration::ZERO,
        };
        let slots = Slots::new(8, Some(autoscale));
        assert_eq!(slots.size(), 1);
        slots.scale(5, true);
        assert_eq!(slots.size(), 3);
        tokio::time::sleep(Duration::from_millis(5)).await;
        slots.scale(2, false);
        assert_eq!(slots.size(), 2);
        slots.scale(0, false);
        assert_eq!((slots.size(), slots.free.available_permits()), (1, 1));
    }
}
