//! What a sandbox costs one task: store, instance, call, drop. `make bench` runs it with optimization; the component is
//! the first argument, else `CELERYBOX_BENCH_COMPONENT`, else `.build/tasks/arithmetic.wasm`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use celerybox::message::{Message, Properties, Request, Route, request};
use celerybox::sandbox::{Call, Component, Limits, Sandbox, StateSink};
use celerybox::task::Definition;

const TASK: &str = "arithmetic.add";
const WARM_UP: usize = 2_000;
const RUNS: usize = 20_000;

fn main() -> anyhow::Result<()> {
    let path = component_path();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(path))
}

fn component_path() -> PathBuf {
    let argument = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"));
    let named = argument.or_else(|| std::env::var("CELERYBOX_BENCH_COMPONENT").ok());
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../.build/tasks/arithmetic.wasm");
    named.unwrap_or_else(|| default.into()).into()
}

async fn measure(path: PathBuf) -> anyhow::Result<()> {
    let sandbox = Sandbox::new(Limits::default(), 64, None)?;
    let component = sandbox
        .load(&path)
        .await
        .map_err(|error| anyhow::anyhow!("{} {error}", path.display()))?;
    let component = Arc::new(component);
    let definition = component
        .definitions()
        .iter()
        .find(|definition| definition.name == TASK)
        .ok_or_else(|| anyhow::anyhow!("{} has no task {TASK}", path.display()))?;
    let task = Task {
        component: Arc::clone(&component),
        definition: Arc::clone(definition),
        request: Arc::new(request()?),
        updates: Arc::new(|_, _| Box::pin(async { Ok(()) })),
    };
    println!(
        "{TASK} of {} (sha256 {}…)",
        path.display(),
        component.digest().get(..12).unwrap_or_default()
    );
    println!(
        "{:<38}{:>10}{:>10}{:>10}{:>12}",
        "one task (store, instance, call, drop)", "median", "p99", "max", "tasks/s"
    );

    for (name, limit) in [
        ("without a time limit", None),
        ("with a time limit", Some(Duration::from_secs(60))),
    ] {
        let task = task.clone();
        let times = tokio::spawn(async move { task.one_after_the_other(limit).await }).await??;
        row(name, times.0, times.1);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    let mut workers = Vec::new();
    for _ in 0..threads {
        let task = task.clone();
        workers.push(tokio::spawn(async move { task.one_after_the_other(None).await }));
    }
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await??.0);
    }
    row(&format!("on {threads} threads at once"), all, started.elapsed());
    Ok(())
}

#[derive(Clone)]
struct Task {
    component: Arc<Component>,
    definition: Arc<Definition>,
    request: Arc<Request>,
    updates: StateSink,
}

impl Task {
    /// The time of each run, and of all together without the warm-up.
    async fn one_after_the_other(
        &self,
        limit: Option<Duration>,
    ) -> anyhow::Result<(Vec<Duration>, Duration)> {
        let mut times = Vec::with_capacity(RUNS);
        let mut started = Instant::now();
        for n in 0..WARM_UP + RUNS {
            if n == WARM_UP {
                started = Instant::now();
            }
            let call = Call {
                request: Arc::clone(&self.request),
                definition: Arc::clone(&self.definition),
                hostname: Arc::from("bench"),
                time_limit: limit,
                soft_time_limit: None,
                ignore_result: false,
                nameable: Arc::default(),
                updates: Arc::clone(&self.updates),
                errands: Arc::new(|errand| panic!("{errand:?}")),
            };
            let one = Instant::now();
            let run = self.component.run(call).await;
            let time = one.elapsed();
            anyhow::ensure!(
                run.outcome == celerybox::outcome::Outcome::Success("5".into()),
                "add(2, 3) ended as {:?}",
                run.outcome
            );
            if n >= WARM_UP {
                times.push(time);
            }
        }
        Ok((times, started.elapsed()))
    }
}

fn row(name: &str, mut times: Vec<Duration>, total: Duration) {
    times.sort();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).copied().unwrap_or_default().as_secs_f64() * 1e6
    };
    println!(
        "{name:<38}{:>7.1} µs{:>7.1} µs{:>7.0} µs{:>12.0}",
        at(0.5),
        at(0.99),
        at(1.0),
        times.len() as f64 / total.as_secs_f64()
    );
}

fn request() -> anyhow::Result<Request> {
    let headers = serde_json::json!({"task": TASK, "id": "5a1bf7a9-0000-4000-8000-000000000000"});
    let message = Message {
        headers: headers.as_object().cloned(),
        properties: Properties {
            content_type: Some("application/json".into()),
            ..Properties::default()
        },
        body: b"[[2, 3], {}, null]".to_vec(),
    };
    Ok(request::decode(
        message,
        Route::to_queue("celery"),
        false,
        &["application/json".into()],
    )?)
}
