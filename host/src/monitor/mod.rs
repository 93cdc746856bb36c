//! What a worker tells those who watch it over HTTP: `/metrics` for Prometheus, `/health/live` and `/health/ready` for
//! an orchestrator. Off unless a port is named, and on loopback unless an address is.

mod health;
mod server;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::broker::Presence;
use crate::execution::Execution;
use crate::execution::active::Progress;
use crate::metrics::{Metrics, Snapshot};

pub use health::Health;

/// The table `[metrics]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The port; none: nothing listens and nothing is counted. 0: any that is free.
    pub port: Option<u16>,
    /// The address.
    pub address: IpAddr,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: None,
            address: Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl Options {
    /// Takes the port, if one is named.
    pub async fn listen(&self) -> std::io::Result<Option<TcpListener>> {
        match self.port {
            Some(port) => Ok(Some(
                TcpListener::bind(SocketAddr::new(self.address, port)).await?,
            )),
            None => Ok(None),
        }
    }
}

/// A worker that is watched.
pub struct Monitor {
    execution: Arc<Execution>,
    metrics: Arc<Metrics>,
    health: Health,
}

impl Monitor {
    /// Watches the worker of `execution`; `backend` says whether its result backend answers, if it has one.
    pub fn new(execution: Arc<Execution>, metrics: Arc<Metrics>, backend: Option<Presence>) -> Self {
        let health = Health {
            broker: execution.broker.presence(),
            backend,
            shutdown: execution.shutdown.clone(),
        };
        Self {
            execution,
            metrics,
            health,
        }
    }

    /// Answers until the future is dropped.
    pub async fn serve(self, listener: TcpListener) {
        server::serve(listener, Arc::new(self)).await;
    }

    fn text(&self) -> String {
        let execution = &*self.execution;
        let entries = execution.active.entries();
        let count = |progress| {
            let found = entries.iter().filter(|entry| entry.progress == progress);
            u32::try_from(found.count()).unwrap_or(u32::MAX)
        };
        self.metrics.text(&Snapshot {
            slots: execution.slots.size(),
            slots_used: execution.slots.used(),
            active: count(Progress::Active),
            reserved: count(Progress::Reserved),
            scheduled: count(Progress::Scheduled),
            limited: count(Progress::Received),
            prefetch: execution.prefetch.start(),
            broker_up: self.health.broker.is_up(),
            reconnects: self.health.broker.reconnects(),
            backend_up: self.health.backend.as_ref().map(Presence::is_up),
            resident: resident().unwrap_or(0),
        })
    }
}

/// The memory of this process, bytes (Linux).
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib.saturating_mul(1024))
}
