//! What a worker shows to those who watch it over HTTP: metrics for Prometheus, health for an orchestrator, and the files
//! in `host/grafana` and `host/prometheus` that are made of them.

mod files;
mod health;
mod hostile;
mod metrics;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use celerybox_tests::{Place, Worker};
use serde_json::Value;

/// A worker with metrics at a port of its own.
fn watched(place: &Place, mut settings: Value, arguments: &[&str]) -> (Worker, SocketAddr) {
    settings["metrics"] = serde_json::json!({"port": 0});
    let mut worker = Worker::command_started(place, &settings, arguments);
    let line = worker.wait_for_line("Metrics at http://");
    let (_, rest) = line.split_once("http://").unwrap();
    let address = rest.strip_suffix("/metrics").unwrap().parse().unwrap();
    (worker, address)
}

/// An answer: status line with headers, and body.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let (head, body) = ask(address, &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {head}")), body)
}

/// The value of a metric that has all these labels, summed over the others.
fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let is_meant = |line: &&str| {
        let given = line
            .strip_prefix(name)
            .filter(|rest| rest.starts_with(['{', ' ']));
        given.is_some_and(|given| {
            labels
                .iter()
                .all(|(label, value)| given.contains(&format!("{label}=\"{value}\"")))
        })
    };
    let values: Vec<f64> = text
        .lines()
        .filter(is_meant)
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}
