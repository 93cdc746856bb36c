//! The way to the collector: OTLP over HTTP, as OpenTelemetry's environment variables say.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How long one request may take, where `OTEL_EXPORTER_OTLP_TIMEOUT` says nothing.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const ANSWER: usize = 64 * 1024;
/// Unused connections that are kept.
const IDLE: Duration = Duration::from_secs(90);

/// The variables that name a collector.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// The table `[traces]` of the configuration. Environment variables go before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The collector's address for traces, for example `http://localhost:4318/v1/traces`; none: off.
    pub endpoint: Option<String>,
    /// Headers of the requests, for example a token.
    #[serde(skip_serializing)]
    pub headers: BTreeMap<String, String>,
}

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The address or a variable makes no sense.
    #[error("traces: {0}")]
    Settings(String),
    /// There are no certificates to trust.
    #[error("traces: the system's certificates cannot be read: {0}")]
    Certificates(std::io::Error),
}

impl From<ExporterBuildError> for ExportError {
    fn from(error: ExporterBuildError) -> Self {
        Self::Settings(error.to_string())
    }
}

/// An environment variable that is set and not empty.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where spans go; `None`: nowhere.
pub(super) fn exporter(options: &Options) -> Result<Option<SpanExporter>, ExportError> {
    let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let chosen = variable("OTEL_TRACES_EXPORTER");
    let named = ENDPOINTS.into_iter().find_map(variable);
    let wanted = match chosen.as_deref() {
        Some("none") => false,
        Some("otlp") => true,
        Some(other) => {
            return Err(ExportError::Settings(format!(
                "OTEL_TRACES_EXPORTER is {other:?}; this worker has otlp and none"
            )));
        }
        None => named.is_some() || options.endpoint.is_some(),
    };
    if disabled || !wanted {
        return Ok(None);
    }
    let mut builder = SpanExporter::builder().with_http();
    let endpoint = match (&named, &options.endpoint) {
        (None, Some(endpoint)) => {
            builder = builder.with_endpoint(endpoint);
            endpoint.as_str()
        }
        (named, _) => named.as_deref().unwrap_or_default(),
    };
    let headers: HashMap<String, String> = options.headers.clone().into_iter().collect();
    let client = Sender::new(endpoint.starts_with("https:"))?;
    Ok(Some(
        builder.with_headers(headers).with_http_client(client).build()?,
    ))
}

/// Sends requests from the worker's runtime: the thread that makes batches has none.
#[derive(Debug)]
struct Sender {
    runtime: Handle,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    limit: Duration,
    /// Whether the last request was in vain: that is logged once, not every five seconds.
    failing: AtomicBool,
}

impl Sender {
    fn new(secure: bool) -> Result<Self, ExportError> {
        let provider = rustls::crypto::ring::default_provider();
        let connector = HttpsConnectorBuilder::new();
        let connector = match secure {
            true => connector
                .with_provider_and_native_roots(provider)
                .map_err(ExportError::Certificates)?,
            // Machines without certificates can still send to a collector beside them.
            false => {
                let config = ClientConfig::builder_with_provider(provider.into())
                    .with_safe_default_protocol_versions()
                    .map_err(|error| ExportError::Settings(error.to_string()))?;
                let config = config.with_root_certificates(RootCertStore::empty());
                connector.with_tls_config(config.with_no_client_auth())
            }
        };
        let connector = connector.https_or_http().enable_http1().build();
        let mut client = Client::builder(TokioExecutor::new());
        client
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1);
        let milliseconds = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"]
            .into_iter()
            .find_map(variable)
            .and_then(|text| text.parse().ok());
        Ok(Self {
            runtime: Handle::current(),
            client: client.build(connector),
            limit: milliseconds.map_or(TIMEOUT, Duration::from_millis),
            failing: AtomicBool::new(false),
        })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, limit) = (self.client.clone(), self.limit);
        let sent = async move {
            let answer = client.request(request.map(Full::new)).await?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        let in_time = async move { timeout(limit, sent).await? };
        self.runtime.spawn(in_time).await?
    }

    fn report(&self, uri: &Uri, answer: &Result<Response<Bytes>, HttpError>) {
        let trouble = match answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        let failed_before = self.failing.swap(trouble.is_some(), Ordering::Relaxed);
        let place = uri.authority().map_or_else(String::new, ToString::to_string);
        match trouble {
            Some(trouble) if !failed_before => {
                tracing::warn!("traces: {place} takes no spans ({trouble}); until it does they are dropped");
            }
            None if failed_before => tracing::info!("traces: {place} takes spans again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri().clone();
        let answer = self.send(request).await;
        self.report(&uri, &answer);
        answer
    }
}
