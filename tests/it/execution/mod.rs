//! One message's way through the library, with a broker and a result backend that only remember: what no client and no
//! server can be made to do at the right moment (contract section 3).

mod acked;
mod canvas;
mod connection;
mod done_before;
mod lost;
mod rates;
mod revoked;
mod settings;
mod stopping;
mod terminated;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use celerybox::backend::{BackendError, ResultBackend, StoredResult};
use celerybox::broker::{Broker, BrokerError, Delivery, Receipt, Told, Verdict};
use celerybox::execution::{Execution, Listeners, Options, handle};
use celerybox::message::{Message, Outgoing, Properties, Route};
use celerybox::policy::grants::Grants;
use celerybox::queue::{Exchange, Queue};
use celerybox::sandbox::registry::load_all;
use celerybox::sandbox::{Granting, Limits, Sandbox};
use celerybox::shutdown::Shutdown;
use celerybox_tests::guests;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// A broker that hands over what it is given and remembers the rest.
#[derive(Default)]
struct Remembering {
    published: Mutex<Vec<Outgoing>>,
    prefetch: Mutex<Vec<u32>>,
    refuses: AtomicBool,
    /// Publishing never ends.
    hangs: AtomicBool,
    deliveries: Mutex<Option<mpsc::Receiver<Delivery>>>,
}

#[async_trait]
impl Broker for Remembering {
    async fn consume(&self, _: &[Queue], _: u32) -> Result<mpsc::Receiver<Delivery>, BrokerError> {
        let deliveries = self.deliveries.lock().unwrap().take();
        Ok(deliveries.expect("it is consumed once"))
    }

    async fn set_queues(&self, _: &[Queue]) -> Result<(), BrokerError> {
        Ok(())
    }

    fn set_prefetch(&self, prefetch: u32) {
        self.prefetch.lock().unwrap().push(prefetch);
    }

    async fn declare(&self, _: &Queue) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn declare_exchange(&self, _: &Exchange) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn purge(&self, _: &Queue) -> Result<usize, BrokerError> {
        Ok(0)
    }

    async fn publish(&self, outgoing: Outgoing) -> Result<(), BrokerError> {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.refuses.load(Ordering::Relaxed) {
            return Err(BrokerError::Refused("nobody may send".into()));
        }
        self.published.lock().unwrap().push(outgoing);
        Ok(())
    }

    async fn cancel(&self) {}

    async fn close(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

/// A result backend that keeps the last document of each task, and the states before it; or one that is away.
#[derive(Default)]
struct Memory(Mutex<HashMap<String, Vec<String>>>, AtomicBool);

#[async_trait]
impl ResultBackend for Memory {
    async fn store(&self, result: StoredResult) -> Result<(), BackendError> {
        if self.1.load(Ordering::Relaxed) {
            return Err(BackendError::Connection("the backend is away".into()));
        }
        let mut stored = self.0.lock().unwrap();
        stored.entry(result.task_id).or_default().push(result.meta);
        Ok(())
    }

    async fn fetch(&self, task_id: &str) -> Result<Option<String>, BackendError> {
        let stored = self.0.lock().unwrap();
        Ok(stored.get(task_id).and_then(|metas| metas.last().cloned()))
    }
}

/// A worker without a broker.
struct Lab {
    worker: Arc<Execution>,
    broker: Arc<Remembering>,
    memory: Arc<Memory>,
    messages: AtomicU32,
    /// Acknowledgements arrive only when the test says so.
    holds_acks: bool,
}

/// A message that was handed to the worker.
struct Sent {
    id: String,
    /// What the worker did with the message.
    verdict: Arc<Mutex<Option<Verdict>>>,
    /// Who waits for its acknowledgement, where the lab does not tell at once.
    told: Arc<Mutex<Told>>,
    /// Its connection.
    connection: watch::Sender<bool>,
    way: JoinHandle<()>,
}

impl Sent {
    fn verdict(&self) -> Option<Verdict> {
        *self.verdict.lock().unwrap()
    }

    /// Its acknowledgement arrives.
    fn ack_arrives(&self) {
        let told = self.told.lock().unwrap().take();
        told.expect("somebody waits").send(()).expect("and still waits");
    }

    /// Its acknowledgement will never arrive.
    fn ack_is_lost(&self) {
        assert!(self.told.lock().unwrap().take().is_some(), "nobody waited");
    }

    fn lose_connection(&self) {
        self.connection.send_replace(true);
    }

    async fn done(self) -> Option<Verdict> {
        let way = tokio::time::timeout(Duration::from_secs(60), self.way).await;
        way.expect("it ends within a minute").expect("no panic");
        *self.verdict.lock().unwrap()
    }
}

const ACK: Option<Verdict> = Some(Verdict::Ack);

impl Lab {
    /// Revokes a task and ends it if it runs; whether it is here.
    fn end(&self, id: &str) -> bool {
        self.worker.revoke(&[id]);
        !self.worker.terminate(|request| request.id == id, 15).is_empty()
    }

    async fn new(options: Options) -> Lab {
        Lab::granting(options, Grants::default()).await
    }

    /// Its component is granted something.
    async fn granting(options: Options, grants: Grants) -> Lab {
        let granting = Granting {
            components: [("probe".to_owned(), grants)].into(),
            ..Granting::default()
        };
        let sandbox = Sandbox::new(Limits::default(), 8, None).expect("a sandbox");
        Lab::of(
            options,
            &sandbox.granting(granting),
            &[guests().join("probe.wasm")],
        )
        .await
    }

    /// With these components.
    async fn of(options: Options, sandbox: &Sandbox, files: &[PathBuf]) -> Lab {
        let registry = load_all(sandbox, files, false).await;
        assert!(registry.broken().is_empty(), "{:?}", registry.broken());
        let (broker, memory) = (Arc::<Remembering>::default(), Arc::<Memory>::default());
        let worker = Execution::new(
            registry,
            Arc::clone(&broker) as Arc<dyn Broker>,
            Some(Arc::clone(&memory) as Arc<dyn ResultBackend>),
            options,
            Arc::default(),
            Shutdown::default(),
            Listeners::default(),
        );
        Lab {
            worker: Arc::new(worker),
            broker,
            memory,
            messages: AtomicU32::new(0),
            holds_acks: false,
        }
    }

    /// A message; `embed` among the headers is the third part of its body.
    fn delivery(&self, task: &str, args: Value, headers: Value) -> (Delivery, Sent) {
        let number = self.messages.fetch_add(1, Ordering::Relaxed);
        let mut all = json!({"task": format!("probe.{task}"), "id": format!("message-{number}")});
        for (name, value) in headers.as_object().expect("headers are a map") {
            all[name] = value.clone();
        }
        let embed = all.as_object_mut().and_then(|all| all.remove("embed"));
        let embed = embed.unwrap_or_default();
        let (connection, lost) = watch::channel(false);
        let verdict = Arc::<Mutex<Option<Verdict>>>::default();
        let told = Arc::<Mutex<Told>>::default();
        let (given, waits) = (Arc::clone(&verdict), Arc::clone(&told));
        let holds_acks = self.holds_acks;
        let sent = Sent {
            id: all["id"].as_str().expect("an id").to_owned(),
            verdict,
            told,
            connection,
            way: tokio::spawn(async {}),
        };
        let delivery = Delivery {
            message: Message {
                headers: all.as_object().cloned(),
                properties: Properties {
                    content_type: Some("application/json".into()),
                    content_encoding: Some("utf-8".into()),
                    ..Properties::default()
                },
                body: format!("[{args}, {{}}, {embed}]").into_bytes(),
            },
            route: Route::to_queue("celery"),
            queue: "celery".into(),
            redelivered: all["redelivered"] == true,
            receipt: Receipt::new(move |verdict, told| {
                let before = given.lock().unwrap().replace(verdict);
                assert_eq!(before, None, "a message is settled once");
                match told {
                    told if holds_acks => *waits.lock().unwrap() = told,
                    Some(told) => drop(told.send(())),
                    None => {}
                }
            })
            .over(lost),
        };
        (delivery, sent)
    }

    /// Hands a message to the worker.
    fn send(&self, task: &str, args: Value, headers: Value) -> Sent {
        let (delivery, sent) = self.delivery(task, args, headers);
        let way = tokio::spawn(handle(Arc::clone(&self.worker), delivery));
        Sent { way, ..sent }
    }

    /// The stored states of a task, in order.
    fn states(&self, id: &str) -> Vec<String> {
        self.documents(id)
            .iter()
            .map(|document| document["status"].as_str().expect("a state").to_owned())
            .collect()
    }

    /// The last stored document of a task; null when there is none.
    fn stored(&self, id: &str) -> Value {
        self.documents(id).pop().unwrap_or_default()
    }

    fn documents(&self, id: &str) -> Vec<Value> {
        let stored = self.memory.0.lock().unwrap();
        let metas = stored.get(id).map(Vec::as_slice).unwrap_or_default();
        metas
            .iter()
            .map(|meta| serde_json::from_str(meta).expect("a document is JSON"))
            .collect()
    }

    /// The number of messages that may be held, as the broker heard it last.
    fn prefetch(&self) -> Option<u32> {
        self.broker.prefetch.lock().unwrap().last().copied()
    }

    /// Waits until so many tasks run.
    async fn running(&self, number: usize) {
        self.until("they run", || {
            let entries = self.worker.active.entries();
            let running = entries.iter().filter(|entry| entry.line().contains(" Active "));
            running.count() == number
        })
        .await;
    }

    async fn until(&self, what: &str, fact: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !fact() {
            assert!(Instant::now() < end, "not within a minute: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
