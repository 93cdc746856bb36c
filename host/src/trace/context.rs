//! Where in a trace a run is: read from a message, written back to it.

use std::sync::OnceLock;

use jiff::Timestamp;
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, SpanKind, TraceContextExt, TraceFlags};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SamplingDecision, ShouldSample};
use serde_json::Value;

use crate::message::JsonMap;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// A run's place in its trace.
#[derive(Debug)]
pub struct Trace {
    pub(super) context: SpanContext,
    /// Who sent the message; invalid when it did not say.
    pub(super) parent: SpanContext,
    started: OnceLock<Timestamp>,
}

impl Trace {
    /// A run whose message has these headers. Without a context that makes sense it is a trace of its own.
    pub(super) fn below(headers: &JsonMap, sampler: &dyn ShouldSample, task: &str) -> Self {
        let extracted =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
        let parent = extracted.span().span_context().clone();
        let random = RandomIdGenerator::default();
        let trace_id = match parent.is_valid() {
            true => parent.trace_id(),
            false => random.new_trace_id(),
        };
        let decided = sampler.should_sample(Some(&extracted), trace_id, task, &SpanKind::Consumer, &[], &[]);
        let flags = match decided.decision {
            SamplingDecision::RecordAndSample => TraceFlags::SAMPLED,
            SamplingDecision::Drop | SamplingDecision::RecordOnly => TraceFlags::NOT_SAMPLED,
        };
        Self {
            context: SpanContext::new(trace_id, random.new_span_id(), flags, false, decided.trace_state),
            parent,
            started: OnceLock::new(),
        }
    }

    /// Puts it into the headers, for everything that the run sends.
    pub(super) fn write(&self, headers: &mut JsonMap) {
        let context = &self.context;
        let flags = context.trace_flags().to_u8();
        let text = format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id());
        headers.insert(TRACEPARENT.into(), Value::String(text));
        match context.trace_state().header() {
            state if state.is_empty() => headers.remove(TRACESTATE),
            state => headers.insert(TRACESTATE.into(), Value::String(state)),
        };
    }

    /// Whether its span is sent.
    pub(super) fn is_sampled(&self) -> bool {
        self.context.is_sampled()
    }

    pub(super) fn started(&self, at: Timestamp) {
        // It starts once.
        let _ = self.started.set(at);
    }

    /// When its run began; `None` when none did.
    pub(super) fn start(&self) -> Option<Timestamp> {
        self.started.get().copied()
    }
}

struct Headers<'a>(&'a JsonMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::Sampler;
    use serde_json::json;

    use super::*;

    fn headers(value: Value) -> JsonMap {
        value.as_object().cloned().unwrap()
    }

    fn parent_based() -> Sampler {
        Sampler::ParentBased(Box::new(Sampler::AlwaysOn))
    }

    #[test]
    fn a_run_is_a_child_of_who_sent_its_message() {
        let sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03";
        let mut headers =
            headers(json!({"traceparent": sent, "tracestate": "v=1", "baggage": "a=b", "id": "x"}));
        let trace = Trace::below(&headers, &parent_based(), "t");
        assert_eq!(trace.parent.span_id().to_string(), "00f067aa0ba902b7");
        assert!(trace.is_sampled());
        trace.write(&mut headers);
        let written = headers["traceparent"].as_str().unwrap();
        let own = format!(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01",
            trace.context.span_id()
        );
        assert_eq!(written, own);
        assert!(!written.contains("00f067aa0ba902b7"));
        assert_eq!(
            (&headers["tracestate"], &headers["baggage"]),
            (&json!("v=1"), &json!("a=b"))
        );
    }

    #[test]
    fn what_the_client_does_not_sample_is_not_sampled() {
        let sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let mut headers = headers(json!({"traceparent": sent}));
        let trace = Trace::below(&headers, &parent_based(), "t");
        assert!(!trace.is_sampled());
        trace.write(&mut headers);
        assert!(headers["traceparent"].as_str().unwrap().ends_with("-00"));
    }

    #[test]
    fn nonsense_begins_a_trace_of_its_own() {
        for sent in [
            json!(null),
            json!(7),
            json!(""),
            json!("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
            json!("00-é-ü-01"),
            json!("-".repeat(100_000)),
            json!({"a": 1}),
        ] {
            let mut headers = headers(json!({"traceparent": sent, "tracestate": "v=1"}));
            let trace = Trace::below(&headers, &parent_based(), "t");
            assert!(!trace.parent.is_valid() && trace.context.is_valid() && trace.is_sampled());
            trace.write(&mut headers);
            assert_eq!(headers["traceparent"].as_str().unwrap().len(), 55);
            assert!(
                !headers.contains_key("tracestate"),
                "it belongs to the other trace"
            );
        }
    }
}
