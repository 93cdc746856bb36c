//! kombu's `filesystem://` transport: a folder with one file for each message (contract section 2.3).
//!
//! Any kombu client or worker can use the same folders. What is better than kombu: a message that a worker took is
//! never lost, whatever ends the worker ([`unacked`]), and nobody sees a half-written file of ours.

mod consumer;
mod exchange;
pub(crate) mod folder;
mod left_behind;
mod listing;
pub(crate) mod name;
mod unacked;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use self::consumer::{Command, Consumer};
pub use self::left_behind::Fleeting;
use super::exchanges::Exchanges;
use super::options::Names;
use super::{Bound, Broker, BrokerError, Delivery, Presence, Reconnect};
use crate::message::{Outgoing, Route, envelope};
use crate::queue::{Exchange, Queue, Queues};

/// How many messages may wait for whoever receives them; with a prefetch of 0 this is the only limit.
const CHANNEL: usize = 256;

/// `broker_transport_options` of this transport.
pub const NAMES: Names = Names {
    setting: "broker_transport_options",
    works: &[
        "data_folder_in",
        "data_folder_out",
        "control_folder",
        "store_processed",
        "processed_folder",
        "polling_interval",
        "deadletter_queue",
    ],
    ignored: &[(
        "body_encoding",
        "bodies are read in each encoding and sent in base64",
    )],
};

/// The transport's options, with kombu's names (`broker_transport_options`), and the settings that go with them.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where messages are taken from: the clients' `data_folder_out`.
    pub data_folder_in: PathBuf,
    /// Where messages are sent to; the same folder as `data_folder_in` when workers send tasks to each other.
    pub data_folder_out: PathBuf,
    /// Where the exchange files are.
    pub control_folder: PathBuf,
    /// Keep the files of messages that are done.
    pub store_processed: bool,
    /// Where they are kept.
    pub processed_folder: PathBuf,
    /// The longest pause between two looks into an idle folder, in seconds.
    pub polling_interval: f64,
    /// Where messages go that no queue is bound for.
    pub deadletter_queue: Option<String>,
    /// `broker_connection_retry` and its relatives.
    #[serde(skip)]
    pub reconnect: Reconnect,
    /// Every queue of the settings: the types of their exchanges are known.
    #[serde(skip)]
    pub queues: Option<Queues>,
    /// Queues that are removed when nobody reads them any more.
    #[serde(skip)]
    pub fleeting: Option<Fleeting>,
}

impl Options {
    /// Reads `broker_transport_options`.
    pub fn transport(table: &toml::Table) -> Result<Self, BrokerError> {
        NAMES.read(table)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_folder_in: "data_in".into(),
            data_folder_out: "data_out".into(),
            control_folder: "control".into(),
            store_processed: false,
            processed_folder: "processed".into(),
            polling_interval: 0.1,
            deadletter_queue: None,
            reconnect: Reconnect::default(),
            queues: None,
            fleeting: None,
        }
    }
}

/// A broker in a folder.
///
/// The folders are made by the first use, for this user only. Later a missing folder is an error that is tried
/// again with growing pauses, so that nothing is written below an unmounted path.
#[derive(Debug)]
pub struct FilesystemBroker {
    options: Arc<Options>,
    exchanges: Arc<Exchanges>,
    prefetch: Arc<AtomicU32>,
    /// To the thread that takes messages, while there is one.
    consumer: Mutex<Option<std::sync::mpsc::Sender<Command>>>,
    /// Whether a message was sent: then the folder for it exists.
    sent: Arc<AtomicBool>,
    presence: Presence,
}

impl FilesystemBroker {
    /// A broker that works in these folders; nothing is touched yet.
    ///
    /// Fails with [`BrokerError::Config`] for a path that is empty or a polling interval that is not between 0 and 60 s.
    pub fn new(options: &Options) -> Result<Self, BrokerError> {
        let folders = [
            ("data_folder_in", &options.data_folder_in),
            ("data_folder_out", &options.data_folder_out),
            ("control_folder", &options.control_folder),
            ("processed_folder", &options.processed_folder),
        ];
        for (option, folder) in folders {
            if folder.as_os_str().is_empty() {
                return Err(BrokerError::Config(format!("{option} is empty")));
            }
        }
        let interval = options.polling_interval;
        if !(interval > 0.0 && interval <= 60.0) {
            return Err(BrokerError::Config(format!(
                "polling_interval is {interval}; it must be above 0 and at most 60 seconds"
            )));
        }
        Ok(Self {
            options: Arc::new(options.clone()),
            exchanges: Arc::new(Exchanges::new(options.queues.as_ref())),
            prefetch: Arc::new(AtomicU32::new(0)),
            consumer: Mutex::new(None),
            sent: Arc::new(AtomicBool::new(false)),
            presence: Presence::default(),
        })
    }

    /// Refuses queues that cannot be files, and remembers the types of their exchanges.
    fn check(&self, queues: &[Queue]) -> Result<(), BrokerError> {
        for queue in queues {
            name::check("queue name", &queue.name).map_err(BrokerError::Config)?;
        }
        self.exchanges.learn("the filesystem", queues)
    }

    /// Sends a command to the thread, if there is one.
    fn command(&self, command: Command) -> bool {
        let consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner);
        consumer
            .as_ref()
            .is_some_and(|sender| sender.send(command).is_ok())
    }

    /// Makes sure that the thread runs.
    fn start(&self) -> Result<(), BrokerError> {
        let mut consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner);
        if consumer.is_none() {
            let (sender, receiver) = std::sync::mpsc::channel();
            let (options, prefetch, commands) = (
                Arc::clone(&self.options),
                Arc::clone(&self.prefetch),
                sender.clone(),
            );
            let presence = self.presence.clone();
            std::thread::Builder::new()
                .name("filesystem-broker".into())
                .spawn(move || Consumer::new(options, prefetch, commands, presence).run(&receiver))
                .map_err(|error| BrokerError::Connection(format!("cannot start a thread: {error}")))?;
            *consumer = Some(sender);
        }
        Ok(())
    }
}

#[async_trait]
impl Broker for FilesystemBroker {
    async fn consume(
        &self,
        queues: &[Queue],
        prefetch: u32,
    ) -> Result<mpsc::Receiver<Delivery>, BrokerError> {
        self.check(queues)?;
        self.prefetch.store(prefetch, Ordering::Relaxed);
        self.start()?;
        let (deliveries, receiver) = mpsc::channel(CHANNEL);
        let (ready, is_ready) = oneshot::channel();
        self.command(Command::Consume {
            queues: queues.to_vec(),
            deliveries,
            ready,
        });
        match is_ready.await {
            Ok(Ok(())) => Ok(receiver),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(BrokerError::Connection("the broker was closed".into())),
        }
    }

    async fn set_queues(&self, queues: &[Queue]) -> Result<(), BrokerError> {
        self.check(queues)?;
        let (done, is_done) = oneshot::channel();
        let queues = queues.to_vec();
        if !self.command(Command::Queues { queues, done }) {
            return Err(BrokerError::Config("not consuming".into()));
        }
        let closed = |_| BrokerError::Connection("the broker was closed".into());
        is_done.await.map_err(closed)?
    }

    fn presence(&self) -> Presence {
        self.presence.clone()
    }

    fn set_prefetch(&self, prefetch: u32) {
        self.prefetch.store(prefetch, Ordering::Relaxed);
        self.command(Command::Wake);
    }

    async fn declare(&self, queue: &Queue) -> Result<(), BrokerError> {
        self.check(std::slice::from_ref(queue))?;
        if queue.no_declare {
            return Ok(());
        }
        let (options, queue) = (Arc::clone(&self.options), queue.clone());
        blocking(move || {
            let folder = &options.control_folder;
            let control = folder::open(folder, true).map_err(failed(folder))?;
            exchange::bind(&control, &queue).map_err(failed(folder))
        })
        .await
    }

    async fn declare_exchange(&self, exchange: &Exchange) -> Result<(), BrokerError> {
        self.exchanges.learn_exchange("the filesystem", exchange)
    }

    async fn forget(&self, queue: &Queue) -> Result<(), BrokerError> {
        self.check(std::slice::from_ref(queue))?;
        let (options, queue) = (Arc::clone(&self.options), queue.clone());
        blocking(move || {
            let folder = &options.control_folder;
            let control = folder::open(folder, true).map_err(failed(folder))?;
            exchange::unbind(&control, &queue).map_err(failed(folder))?;
            let folder = &options.data_folder_in;
            let input = folder::open(folder, true).map_err(failed(folder))?;
            listing::purge(&input, &queue.name).map_err(failed(folder))?;
            Ok(())
        })
        .await
    }

    async fn bindings(&self, exchange: &str) -> Result<Option<Vec<Bound>>, BrokerError> {
        let (options, exchange) = (Arc::clone(&self.options), exchange.to_owned());
        blocking(move || {
            let folder = &options.control_folder;
            let control = folder::open(folder, true).map_err(failed(folder))?;
            let bound = exchange::bindings(&control, &exchange).map_err(failed(folder))?;
            Ok(Some(bound))
        })
        .await
    }

    async fn purge(&self, queue: &Queue) -> Result<usize, BrokerError> {
        self.check(std::slice::from_ref(queue))?;
        let (options, queue) = (Arc::clone(&self.options), queue.name.clone());
        blocking(move || {
            let folder = &options.data_folder_in;
            let input = folder::open(folder, true).map_err(failed(folder))?;
            listing::purge(&input, &queue).map_err(failed(folder))
        })
        .await
    }

    async fn publish(&self, outgoing: Outgoing) -> Result<(), BrokerError> {
        let options = Arc::clone(&self.options);
        let exchanges = Arc::clone(&self.exchanges);
        let sent = Arc::clone(&self.sent);
        blocking(move || {
            let create = !sent.load(Ordering::Relaxed);
            let fanout = exchanges.is_fanout(&outgoing.route.exchange);
            publish(&options, create, &outgoing, fanout)?;
            sent.store(true, Ordering::Relaxed);
            Ok(())
        })
        .await
    }

    async fn cancel(&self) {
        let (done, is_done) = oneshot::channel();
        if self.command(Command::Cancel { done }) {
            let _ = is_done.await;
        }
    }

    async fn close(&self) -> Result<(), BrokerError> {
        let (done, is_done) = oneshot::channel();
        let consumer = self
            .consumer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match consumer {
            Some(consumer) if consumer.send(Command::Close { done }).is_ok() => is_done
                .await
                .unwrap_or_else(|_| Err(BrokerError::Connection("the thread of the broker died".into()))),
            _ => Ok(()),
        }
    }
}

impl Drop for FilesystemBroker {
    /// What was not settled goes back, as with `close`, but nobody waits for it.
    fn drop(&mut self) {
        let (done, _) = oneshot::channel();
        self.command(Command::Close { done });
    }
}

/// Writes one file for each queue that the message goes to.
fn publish(options: &Options, create: bool, outgoing: &Outgoing, fanout: bool) -> Result<(), BrokerError> {
    let queues = queues_for(options, &outgoing.route, fanout)?;
    let content = envelope::seal(outgoing);
    let output = folder::open(&options.data_folder_out, create).map_err(failed(&options.data_folder_out))?;
    if create && options.data_folder_out != options.data_folder_in {
        // The consumer does this in its own folder.
        let _ = folder::remove_old_temporary_files(&output);
    }
    for queue in &queues {
        name::check("queue name", queue).map_err(BrokerError::Refused)?;
        folder::write(&output, &name::new(queue), content.as_bytes())
            .map_err(failed(&options.data_folder_out))?;
    }
    Ok(())
}

fn queues_for(options: &Options, route: &Route, fanout: bool) -> Result<Vec<String>, BrokerError> {
    let Route {
        exchange,
        routing_key,
    } = route;
    if exchange.is_empty() {
        return Ok(vec![routing_key.clone()]);
    }
    if !exchange::is_name(exchange) {
        return Err(BrokerError::Refused(format!(
            "{exchange:?} is not a name of an exchange"
        )));
    }
    let queues = match folder::open(&options.control_folder, false) {
        Ok(control) => exchange::lookup(&control, exchange, routing_key, fanout),
        Err(error) => Err(error),
    };
    let queues = queues.map_err(failed(&options.control_folder))?;
    if let (Some(queue), true) = (&options.deadletter_queue, queues.is_empty()) {
        return Ok(vec![queue.clone()]);
    }
    // Nobody listening is nothing wrong.
    if queues.is_empty() && !fanout {
        return Err(BrokerError::Refused(format!(
            "no queue is bound to the exchange {exchange:?} with the routing key {routing_key:?}"
        )));
    }
    Ok(queues)
}

/// Does what waits for the disk on a thread where that holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BrokerError> + Send + 'static,
) -> Result<T, BrokerError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(BrokerError::Connection(error.to_string())))
}

fn failed(folder: &Path) -> impl Fn(io::Error) -> BrokerError + '_ {
    move |error| BrokerError::Connection(format!("{}: {error}", folder.display()))
}
