//! How many messages this worker may hold (contract sections 3.4, 3.12 and 3.13).

use std::sync::{Arc, Mutex, PoisonError};

use crate::broker::Broker;

/// The most tasks that wait for their rate and do not count: enough that they starve no others, and few enough that
/// other workers get their share.
const MOST_LIMITED: u32 = 100;

/// The number of messages this worker may hold, as it changes with what these wait for.
pub struct Prefetch {
    broker: Arc<dyn Broker>,
    rule: Rule,
    counts: Mutex<Counts>,
}

/// What the number is made of.
#[derive(Debug, Clone, Copy)]
struct Rule {
    multiplier: u32,
    eta_limit: Option<u32>,
    /// Take no message before a task can run.
    only_free_slots: bool,
    /// Hold fewer messages while tasks of a lost connection still run.
    reduction: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    slots: u32,
    eta: u32,
    limited: u32,
    stale: u32,
    acked: u32,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// A task that waits for its ETA.
    Eta,
    /// A task that waits for its rate limit.
    Limited,
    /// A task that runs and whose connection is gone.
    Stale,
    /// A task that runs and whose message is acknowledged already.
    Acked,
}

/// How many messages may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Window {
    /// So many; 0: no limit.
    Messages(u32),
    /// None more.
    Closed,
}

impl Prefetch {
    /// For so many slots (the most of them, where their number changes).
    pub(super) fn new(broker: Arc<dyn Broker>, options: &super::Options) -> Self {
        let slots = options.autoscale.map_or(options.concurrency, |scale| scale.max);
        let only_free_slots = options.disable_prefetch && broker.pause();
        if options.disable_prefetch && !only_free_slots {
            tracing::warn!("worker_disable_prefetch has no effect: only Redis brokers can do it");
        }
        Self {
            broker,
            rule: Rule {
                multiplier: options.prefetch_multiplier,
                eta_limit: options.eta_task_limit,
                only_free_slots,
                reduction: options.prefetch_reduction,
            },
            counts: Mutex::new(Counts {
                slots,
                ..Counts::default()
            }),
        }
    }

    /// The number to begin with; 0: no limit.
    pub fn start(&self) -> u32 {
        match self.rule.window(self.counts(|counts| *counts)) {
            Window::Messages(number) => number,
            Window::Closed => 1,
        }
    }

    /// The number now; 0: no limit, or none at all.
    pub fn current(&self) -> u32 {
        match self.rule.window(self.counts(|counts| *counts)) {
            Window::Messages(number) => number,
            Window::Closed => 0,
        }
    }

    /// Changes the number of slots.
    pub fn set_slots(&self, slots: u32) {
        self.change(|counts| counts.slots = slots);
    }

    pub(super) fn count(&self, what: Counted) -> Count<'_> {
        self.change(|counts| *counts.of(what) += 1);
        Count { prefetch: self, what }
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        // Within the lock, so that the broker hears the numbers in their order.
        self.counts(|counts| {
            let before = self.rule.window(*counts);
            change(counts);
            match self.rule.window(*counts) {
                now if now == before => {}
                Window::Messages(number) => self.broker.set_prefetch(number),
                Window::Closed => drop(self.broker.pause()),
            }
        });
    }

    fn counts<T>(&self, look: impl FnOnce(&mut Counts) -> T) -> T {
        look(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Rule {
    fn window(&self, counts: Counts) -> Window {
        let waiting = counts.eta.saturating_add(counts.limited.min(MOST_LIMITED));
        if self.only_free_slots {
            return match counts.slots.saturating_sub(counts.acked).saturating_add(waiting) {
                0 => Window::Closed,
                number => Window::Messages(number),
            };
        }
        let full = counts.slots.saturating_mul(self.multiplier);
        if full == 0 {
            return Window::Messages(0);
        }
        let stale = if self.reduction { counts.stale } else { 0 };
        let reduced = full
            .saturating_sub(stale.saturating_mul(self.multiplier))
            .max(self.multiplier);
        let raised = reduced.saturating_add(waiting);
        Window::Messages(
            self.eta_limit
                .map_or(raised, |limit| raised.min(limit.max(reduced))),
        )
    }
}

impl Counts {
    fn of(&mut self, what: Counted) -> &mut u32 {
        match what {
            Counted::Eta => &mut self.eta,
            Counted::Limited => &mut self.limited,
            Counted::Stale => &mut self.stale,
            Counted::Acked => &mut self.acked,
        }
    }
}

/// One task that is counted until this is dropped.
pub(super) struct Count<'a> {
    prefetch: &'a Prefetch,
    what: Counted,
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.prefetch.change(|counts| *counts.of(self.what) -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule {
        multiplier: 4,
        eta_limit: None,
        only_free_slots: false,
        reduction: true,
    };

    fn counts(slots: u32) -> Counts {
        Counts {
            slots,
            ..Counts::default()
        }
    }

    #[test]
    fn waiting_tasks_raise_the_number_up_to_the_limit() {
        let eta = |eta| Counts { eta, ..counts(2) };
        assert_eq!(RULE.window(eta(1)), Window::Messages(9));
        let limited = Rule {
            eta_limit: Some(10),
            ..RULE
        };
        assert_eq!(limited.window(eta(1)), Window::Messages(9));
        assert_eq!(limited.window(eta(5)), Window::Messages(10));
        let small = Rule {
            eta_limit: Some(3),
            ..RULE
        };
        assert_eq!(small.window(eta(5)), Window::Messages(8));
    }

    #[test]
    fn tasks_that_wait_for_their_rate_raise_it_only_so_far() {
        let limited = |limited| Counts { limited, ..counts(2) };
        assert_eq!(RULE.window(limited(3)), Window::Messages(11));
        assert_eq!(RULE.window(limited(5000)), Window::Messages(8 + MOST_LIMITED));
    }

    #[test]
    fn no_multiplier_is_no_limit_whatever_waits() {
        let unlimited = Rule {
            multiplier: 0,
            ..RULE
        };
        let busy = Counts {
            eta: 5,
            stale: 2,
            ..counts(2)
        };
        assert_eq!(unlimited.window(busy), Window::Messages(0));
    }

    /// Contract section 3.13: `max(multiplier, full − running × multiplier)`, one multiplier more for each that ends.
    #[test]
    fn after_a_lost_connection_it_grows_back_with_each_task_that_ends() {
        let stale = |stale| RULE.window(Counts { stale, ..counts(3) });
        let windows = [3, 2, 1, 0].map(stale);
        assert_eq!(windows, [4, 4, 8, 12].map(Window::Messages));
        let whole = Rule {
            reduction: false,
            ..RULE
        };
        assert_eq!(
            whole.window(Counts {
                stale: 3,
                ..counts(3)
            }),
            Window::Messages(12)
        );
    }

    #[test]
    fn without_prefetch_only_free_slots_count() {
        let rule = Rule {
            only_free_slots: true,
            ..RULE
        };
        let window = |acked, eta| {
            rule.window(Counts {
                acked,
                eta,
                ..counts(2)
            })
        };
        assert_eq!(window(0, 0), Window::Messages(2));
        assert_eq!(window(1, 3), Window::Messages(4));
        assert_eq!(window(2, 0), Window::Closed);
    }
}
