//! What it costs to watch and to steer a worker: the rate with events, metrics or traces on, or with a thousand control
//! messages a second, as a part of the rate without. Celery's worker beside it, where it has the same.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use celerybox_tests::{Collector, Process, free_port};

use crate::ROUNDS;
use crate::drain::{Drain, drain, fill, medians};
use crate::servers::{Kind, Servers};

/// Control messages a second.
const COMMANDS: &str = "1000";

/// How a worker is watched, or steered.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Watch {
    Nothing,
    Events,
    Metrics,
    Traces,
    Commands,
}

impl Watch {
    const OURS: [Self; 5] = [
        Self::Nothing,
        Self::Events,
        Self::Metrics,
        Self::Traces,
        Self::Commands,
    ];
    const CELERYS: [Self; 3] = [Self::Nothing, Self::Events, Self::Commands];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Events => "events (-E)",
            Self::Metrics => "metrics, read each second",
            Self::Traces => "traces, all sampled",
            Self::Commands => "1,000 control messages/s",
        }
    }
}

/// One line for each way to watch. Each of them is measured beside a worker that nobody watches, in turns.
pub(crate) fn watched(servers: &Servers) {
    println!(
        "{:<28}{:<28}{:>10}{:>17}{:>14}",
        format!("from {}", servers.name),
        "watched by",
        "tasks/s",
        "CPU s/1000 tasks",
        "of the rate"
    );
    // Enough for some seconds each.
    for (kind, number, watches) in [
        (Kind::Celerybox, 100_000, &Watch::OURS[..]),
        (Kind::Celery, 5_000, &Watch::CELERYS[..]),
    ] {
        let mut drains = vec![Vec::new(); watches.len()];
        let mut pings = None;
        for _ in 0..ROUNDS {
            for (watch, drains) in watches.iter().zip(&mut drains) {
                drains.push(one(servers, kind, number, *watch, &mut pings));
            }
        }
        let drains: Vec<_> = drains.iter().map(|drains| medians(drains)).collect();
        for (watch, drain) in watches.iter().zip(&drains) {
            println!(
                "{:<28}{:<28}{:>10.0}{:>17.3}{:>14.2}",
                kind.name(),
                watch.name(),
                drain.tasks_per_second,
                drain.cpu_seconds_per_thousand,
                drain.tasks_per_second / drains[0].tasks_per_second
            );
        }
        if let Some(pings) = pings {
            println!(
                "{:<28}answers among a thousand commands a second: {pings}",
                kind.name()
            );
        }
    }
    println!();
}

fn one(servers: &Servers, kind: Kind, number: usize, watch: Watch, pings: &mut Option<String>) -> Drain {
    fill(servers, number);
    let commands = (watch == Watch::Commands).then(|| flood(servers));
    let port = free_port();
    let collector = Collector::start();
    let mut worker = servers.worker(kind, |command| match watch {
        Watch::Nothing | Watch::Commands => {}
        Watch::Events => {
            command.arg("-E");
        }
        Watch::Metrics => {
            command.args(["--metrics-port", &port.to_string()]);
        }
        Watch::Traces => {
            let endpoint = format!("http://{}", collector.address());
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        }
    });
    let drained = AtomicBool::new(false);
    let drain = std::thread::scope(|scope| {
        if watch == Watch::Metrics {
            scope.spawn(|| read_metrics(port, &drained));
        }
        let drain = drain(servers, &worker, number);
        drained.store(true, Ordering::Relaxed);
        drain
    });
    if commands.is_some() {
        *pings = Some(servers.python("pings.py", &[]));
    }
    if watch == Watch::Traces {
        let spans = collector.spans().len();
        assert!(spans > 0, "no span arrived");
        eprintln!("{spans} of {number} spans arrived");
    }
    assert!(worker.exit_status().is_none(), "{}", worker.lines().join("\n"));
    eprintln!(
        "{} {}, {}: {:.0} tasks/s",
        servers.name,
        kind.name(),
        watch.name(),
        drain.tasks_per_second
    );
    drain
}

/// Control messages at their pace, from now until it is dropped.
fn flood(servers: &Servers) -> Process {
    let mut flood = Process::start("flood.py", &mut servers.script("flood.py", &[COMMANDS]), None);
    flood.wait_for_line("sending");
    flood
}

/// Once a second.
fn read_metrics(port: u16, until: &AtomicBool) {
    let mut count = 0;
    while !until.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            let mut answer = String::new();
            let request = b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
            stream.write_all(request).expect("the worker listens");
            stream.read_to_string(&mut answer).expect("the worker answers");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            count += 1;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(count > 0, "nobody answered at port {port}");
}
