//! Signs of life (contract sections 7.3 and 7.4).

use std::time::Duration;

use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::Events;
use crate::message::JsonMap;

/// Seconds between heartbeats where nothing else is said (`--heartbeat-interval`).
pub const FREQUENCY: f64 = 2.0;

/// What workers say they are: monitors know Celery's names and versions.
const SOFTWARE: (&str, &str, &str) = ("py-celery", "5.7.0", "Linux");

impl Events {
    /// Sends `worker-online`, `worker-heartbeat` or `worker-offline`. The next is to follow after `freq` seconds; `active`
    /// tasks run.
    pub fn beat(&self, kind: &'static str, freq: f64, active: usize) {
        let (ident, version, system) = SOFTWARE;
        let fields = json!({
            "freq": freq,
            "active": active,
            "processed": self.processed(),
            "loadavg": load(),
            "sw_ident": ident,
            "sw_ver": version,
            "sw_sys": system,
        });
        self.send(kind, fields.as_object().cloned().unwrap_or_else(JsonMap::new));
    }
}

/// Sends signs of life every `freq` seconds until `stopped`; `active` counts the tasks that run. After the broker was away
/// the worker is online once more.
pub async fn beat_until(
    events: &Events,
    freq: f64,
    active: impl Fn() -> usize,
    stopped: impl Future<Output = ()>,
) {
    let pause = Duration::try_from_secs_f64(freq).unwrap_or(Duration::MAX);
    let mut beats = interval(pause.max(Duration::from_millis(1)));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one comes at once.
    beats.tick().await;
    events.beat("worker-online", freq, active());
    let mut stopped = std::pin::pin!(stopped);
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            () = events.back.notified() => events.beat("worker-online", freq, active()),
            _ = beats.tick() => events.beat("worker-heartbeat", freq, active()),
        }
    }
    events.beat("worker-offline", freq, active());
}

/// The load averages, rounded up to two places as in Celery.
fn load() -> [f64; 3] {
    let loads = rustix::system::sysinfo().loads;
    loads.map(|load| (load as f64 / 65536.0 * 100.0).ceil() / 100.0)
}
