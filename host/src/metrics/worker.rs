//! The state of the worker as a whole, taken when somebody asks for it.

use std::sync::atomic::Ordering;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// A worker at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// Slots there are.
    pub slots: u32,
    /// Slots that are taken.
    pub slots_used: u32,
    /// Tasks that run.
    pub active: u32,
    /// Tasks that wait for a slot.
    pub reserved: u32,
    /// Tasks that wait for their ETA.
    pub scheduled: u32,
    /// Tasks that wait for their rate limit.
    pub limited: u32,
    /// How many messages the worker may hold; 0: no limit.
    pub prefetch: u32,
    /// Whether the broker is connected.
    pub broker_up: bool,
    /// How often it had to connect again.
    pub reconnects: u64,
    /// Whether the result backend answered when it was asked last; `None`: there is none.
    pub backend_up: Option<bool>,
    /// The worker's resident memory, bytes.
    pub resident: u64,
}

#[derive(Debug)]
pub(super) struct Worker {
    up: Gauge,
    active: Gauge,
    slots: Gauge,
    slots_used: Gauge,
    reserved: Gauge,
    scheduled: Gauge,
    limited: Gauge,
    prefetch: Gauge,
    broker_up: Gauge,
    reconnects: Counter,
    backend_up: Gauge,
    resident: Gauge,
}

impl Worker {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let info = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("celerybox_build", "The version of this worker", info);
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let worker = Self {
            up: gauge("celery_worker_up", "1 while the worker answers"),
            active: gauge("celery_worker_tasks_active", "Tasks that run"),
            slots: gauge("celerybox_pool_slots", "Tasks that may run at the same time"),
            slots_used: gauge("celerybox_pool_slots_used", "Slots that are taken"),
            reserved: gauge("celerybox_tasks_reserved", "Tasks that wait for a slot"),
            scheduled: gauge("celerybox_tasks_scheduled", "Tasks that wait for their ETA"),
            limited: gauge("celerybox_tasks_limited", "Tasks that wait for their rate limit"),
            prefetch: gauge(
                "celerybox_prefetch_count",
                "Messages that the worker may hold; 0: no limit",
            ),
            broker_up: gauge("celerybox_broker_up", "1 while the broker is connected"),
            backend_up: gauge(
                "celerybox_backend_up",
                "1 while the result backend answers, as last known; 1 without one",
            ),
            reconnects: Counter::default(),
            resident: Gauge::default(),
        };
        registry.register(
            "celerybox_broker_reconnects",
            "Connections to the broker after the first",
            worker.reconnects.clone(),
        );
        registry.register_with_unit(
            "process_resident_memory",
            "Memory of the worker's process",
            Unit::Bytes,
            worker.resident.clone(),
        );
        worker
    }

    pub(super) fn set(&self, now: &Snapshot) {
        self.up.set(1);
        self.active.set(now.active.into());
        self.slots.set(now.slots.into());
        self.slots_used.set(now.slots_used.into());
        self.reserved.set(now.reserved.into());
        self.scheduled.set(now.scheduled.into());
        self.limited.set(now.limited.into());
        self.prefetch.set(now.prefetch.into());
        self.broker_up.set(now.broker_up.into());
        self.backend_up.set(now.backend_up.unwrap_or(true).into());
        self.reconnects.inner().store(now.reconnects, Ordering::Relaxed);
        self.resident.set(i64::try_from(now.resident).unwrap_or(i64::MAX));
    }
}
