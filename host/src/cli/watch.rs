//! What makes a worker watchable: metrics and health over HTTP, and traces.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::backend::{ResultBackend, Watched};
use crate::broker::Presence;
use crate::config::Settings;
use crate::config::connect;
use crate::execution::Execution;
use crate::metrics::Metrics;
use crate::monitor::Monitor;
use crate::trace::Traces;

/// How long the end of the worker waits for the last spans.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// Where a worker can be watched.
#[derive(Args)]
pub(super) struct Watching {
    /// Serve Prometheus metrics and health at this port: /metrics, /health/live, /health/ready
    #[arg(long, value_name = "PORT", env = "CELERYBOX_METRICS_PORT", hide_env = true)]
    metrics_port: Option<u16>,

    /// The address of --metrics-port [default: 127.0.0.1]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "CELERYBOX_METRICS_ADDRESS",
        hide_env = true
    )]
    metrics_address: Option<IpAddr>,
}

impl Watching {
    pub(super) fn apply(&self, settings: &mut Settings) {
        settings.metrics.port = self.metrics_port.or(settings.metrics.port);
        settings.metrics.address = self.metrics_address.unwrap_or(settings.metrics.address);
    }
}

/// Metrics, when a port is named, and traces, when a collector is.
pub(super) struct Watch {
    listening: Option<Listening>,
    traces: Option<Arc<Traces>>,
    serving: Option<JoinHandle<()>>,
}

struct Listening {
    listener: TcpListener,
    metrics: Arc<Metrics>,
    backend: Option<Presence>,
}

impl Watch {
    /// Takes the port, and watches the result backend from now on.
    pub(super) async fn start(
        settings: &Settings,
        hostname: &str,
        backend: &mut Option<Arc<dyn ResultBackend>>,
    ) -> anyhow::Result<Self> {
        let traces = Traces::new(&settings.traces, connect::messaging_system(settings)?, hostname)?;
        let address = (settings.metrics.address, settings.metrics.port);
        let listener =
            settings.metrics.listen().await.with_context(|| {
                format!("cannot serve metrics at {}:{}", address.0, address.1.unwrap_or(0))
            })?;
        let listening = match listener {
            Some(listener) => {
                tracing::info!("Metrics at http://{}/metrics", listener.local_addr()?);
                let watched = backend.take().map(Watched::new);
                let presence = watched.as_ref().map(Watched::presence);
                *backend = watched.map(|watched| Arc::new(watched) as Arc<dyn ResultBackend>);
                Some(Listening {
                    listener,
                    metrics: Arc::new(Metrics::new(hostname)),
                    backend: presence,
                })
            }
            None => None,
        };
        Ok(Self {
            listening,
            traces: traces.map(Arc::new),
            serving: None,
        })
    }

    pub(super) fn metrics(&self) -> Option<Arc<Metrics>> {
        self.listening
            .as_ref()
            .map(|listening| Arc::clone(&listening.metrics))
    }

    pub(super) fn traces(&self) -> Option<Arc<Traces>> {
        self.traces.clone()
    }

    /// Answers for this worker from now on.
    pub(super) fn serve(mut self, execution: &Arc<Execution>) -> Self {
        let listening = self.listening.take();
        self.serving = listening.map(|listening| {
            let monitor = Monitor::new(Arc::clone(execution), listening.metrics, listening.backend);
            tokio::spawn(monitor.serve(listening.listener))
        });
        self
    }

    /// Answers no more, and sends the last spans.
    pub(super) async fn end(self) {
        if let Some(serving) = self.serving {
            serving.abort();
        }
        if let Some(traces) = self.traces {
            // It waits on a thread of its own.
            let _ = tokio::task::spawn_blocking(move || traces.shut_down(LAST_SPANS)).await;
        }
    }
}
