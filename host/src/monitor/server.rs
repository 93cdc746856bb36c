//! A small HTTP server for friendly clients that hostile ones cannot use for anything: few connections at once, each
//! for one request, short, and without a body.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Monitor;

/// How many connections are served at once; others wait in the kernel.
const CONNECTIONS: usize = 32;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(3);
/// How long a connection may last.
const CONNECTION: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_SIZE: usize = 16 * 1024;
/// Lines of a request's head.
const HEADERS: usize = 64;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

pub(super) async fn serve(listener: TcpListener, monitor: Arc<Monitor>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, as a rule: others need time to give theirs back.
                tracing::warn!("metrics: cannot accept a connection: {error}");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let monitor = Arc::clone(&monitor);
        tokio::spawn(async move {
            let served = timeout(CONNECTION, connection(stream, &monitor)).await;
            if let Ok(Err(error)) = served {
                tracing::debug!("metrics: {error}");
            }
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, monitor: &Monitor) -> hyper::Result<()> {
    let service = service_fn(async |request| Ok::<_, Infallible>(answer(&request, monitor)));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .max_buf_size(HEAD_SIZE)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// The answer to a request; its body is never read.
fn answer(request: &Request<Incoming>, monitor: &Monitor) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/health/live" | "/health/ready") {
        return response(
            StatusCode::NOT_FOUND,
            TEXT,
            "/metrics, /health/live, /health/ready\n",
        );
    }
    // What HEAD leaves out is hyper's to leave out.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n");
        let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    match path {
        "/metrics" => response(StatusCode::OK, OPENMETRICS, monitor.text()),
        "/health/live" => response(StatusCode::OK, JSON, json!({"status": "alive"}).to_string()),
        _ => match monitor.health.reasons() {
            reasons if reasons.is_empty() => {
                response(StatusCode::OK, JSON, json!({"status": "ready"}).to_string())
            }
            reasons => {
                let text = json!({"status": "not ready", "reasons": reasons}).to_string();
                response(StatusCode::SERVICE_UNAVAILABLE, JSON, text)
            }
        },
    }
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let content_type = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
