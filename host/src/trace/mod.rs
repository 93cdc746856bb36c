//! OpenTelemetry traces (issue 5): each run is a span of the trace that its message belongs to, and what the run sends
//! belongs to it too.
//!
//! A message's `traceparent` and `tracestate` are those that opentelemetry-instrumentation-celery writes; the span's name,
//! kind and `celery.*` attributes are those that it gives a run, beside the names of OpenTelemetry's messaging
//! conventions. A span is put together when its run is over, so one that is not sampled costs next to nothing.

mod context;
mod export;
mod span;

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{BatchSpanProcessor, Config, ShouldSample, SpanProcessor};

use crate::happening::{About, Happening};
use crate::message::Message;

pub use context::Trace;
pub use export::{ExportError, Options};

/// Who makes the spans, by the name that is exported with them.
const SCOPE: &str = "celerybox";

/// The traces of a worker, and the way to the collector: a bounded queue and a thread of its own. Where the collector is
/// away or slow, spans are dropped, never tasks.
#[derive(Debug)]
pub struct Traces {
    processor: BatchSpanProcessor,
    sampler: Box<dyn ShouldSample>,
    /// `messaging.system`.
    system: &'static str,
    hostname: String,
}

impl Traces {
    /// Traces that go where `options` and OpenTelemetry's environment variables say; `None` when they are off. `system` is
    /// the broker's kind, `hostname` the worker's node name. Needs the runtime that requests are sent from.
    pub fn new(options: &Options, system: &'static str, hostname: &str) -> Result<Option<Self>, ExportError> {
        let Some(exporter) = export::exporter(options)? else {
            return Ok(None);
        };
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource(hostname));
        Ok(Some(Self {
            processor,
            // From OTEL_TRACES_SAMPLER; with the parent by default.
            sampler: Config::default().sampler,
            system,
            hostname: hostname.to_owned(),
        }))
    }

    /// The trace of a run of `task` that this message asks for. From now on the message carries that run's context on:
    /// to the task itself, to a retry, and to what the task sends.
    pub fn begin(&self, task: &str, message: &mut Message) -> Trace {
        let headers = message.headers.get_or_insert_default();
        let trace = Trace::below(headers, &*self.sampler, task);
        trace.write(headers);
        trace
    }

    /// Hears what happens to the task, and sends the span once its run is over.
    pub fn hear(&self, trace: &Trace, about: &About<'_>, happening: Happening<'_>) {
        if let Happening::Started { at } = happening {
            trace.started(at);
        }
        if trace.is_sampled()
            && let Some(span) = span::ended(trace, about, happening, self.system, &self.hostname)
        {
            self.processor.on_end(span);
        }
    }

    /// Sends what is left. Blocks, at most for so long.
    pub fn shut_down(&self, limit: Duration) {
        if let Err(error) = self.processor.shutdown_with_timeout(limit) {
            tracing::warn!("traces: the last spans were not sent: {error}");
        }
    }
}

/// Who this worker is, for the collector: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` over what it is called here.
fn resource(hostname: &str) -> Resource {
    let own = [
        ("service.name", SCOPE),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", hostname),
    ];
    let detectors: [Box<dyn ResourceDetector>; 2] = [
        Box::new(TelemetryResourceDetector),
        Box::new(EnvResourceDetector::new()),
    ];
    let own = own.map(|(name, value)| KeyValue::new(name, value.to_owned()));
    let mut builder = Resource::builder_empty()
        .with_attributes(own)
        .with_detectors(&detectors);
    if let Some(name) = export::variable("OTEL_SERVICE_NAME") {
        builder = builder.with_service_name(name);
    }
    builder.build()
}
