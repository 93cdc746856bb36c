//! What does not change of a worker, for `conf`, `report` and `stats`.

use std::time::Instant;

use serde_json::Value;

use crate::message::JsonMap;

/// What the settings say about this worker, without secrets.
#[derive(Debug, Clone)]
pub struct About {
    /// The settings that differ from the defaults, and those that Celery always shows.
    pub conf: JsonMap,
    /// All of them.
    pub conf_with_defaults: JsonMap,
    /// `stats`' map of the broker.
    pub broker: Value,
    /// Scheme of the result backend.
    pub results: String,
    /// `worker_pool_restarts`.
    pub pool_restarts: bool,
    /// When the worker started.
    pub started: Instant,
}

impl About {
    /// Celery's report for people who look for an error.
    pub(super) fn report(&self) -> String {
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let transport = self
            .broker
            .get("transport")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let mut report = format!(
            "\nsoftware -> celery:5.7 (protocol; this is celerybox:{version})\n            wasm:wasmtime\nplatform -> \
             system:{system} arch:{arch}\n            kernel version:{kernel} imp:Rust\nloader   -> \
             celerybox\nsettings -> transport:{transport} results:{results}\n\n",
            version = env!("CARGO_PKG_VERSION"),
            system = text(uname.sysname()),
            arch = text(uname.machine()),
            kernel = text(uname.release()),
            results = self.results,
        );
        for (name, value) in &self.conf {
            report.push_str(&format!("{name}: {}\n", crate::message::repr::value(value)));
        }
        report
    }
}
