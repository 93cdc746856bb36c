//! From URLs to brokers and result backends. Nothing is connected yet when these return.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::urls::{Transport, Urls, scheme};
use super::{Settings, SettingsError};
use crate::backend::filesystem::FilesystemBackend;
use crate::backend::persistent::{Persistent, Retries};
use crate::backend::redis::{self as redis_backend, RedisBackend};
use crate::backend::rpc::RpcBackend;
use crate::backend::{BackendError, ResultBackend};
use crate::broker::amqp::{self, AmqpBroker, Login};
use crate::broker::filesystem::{self, FilesystemBroker};
use crate::broker::options::Names;
use crate::broker::redis::{self, RedisBroker};
use crate::broker::{Broker, BrokerError, Reconnect, Strategy};
use crate::control;
use crate::message::content::Writer;
use crate::nearest::did_you_mean;
use crate::policy::admit::seconds;
use crate::queue::{Exchange, ExchangeKind, Queue, reply_exchange};
use crate::redis_url::Connecting;
use crate::tls::Tls;
use uuid::Uuid;

/// Seconds that an event waits for a monitor.
const EVENT_TTL: f64 = 5.0;
/// As good as for ever.
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// The schemes a result backend URL may have.
const BACKENDS: &str =
    "redis://, rediss://, redis+socket://, sentinel://, rpc://, file:///folder or disabled://";

/// The embedded default: folders inside `data_dir` (contract sections 2.3 and 5.5).
#[derive(Debug, Clone)]
pub struct Folders {
    /// Messages of all queues.
    pub queue: PathBuf,
    /// Exchanges.
    pub control: PathBuf,
    /// Results.
    pub results: PathBuf,
}

impl Folders {
    /// The folders of `data_dir`, as absolute paths.
    pub fn of(data_dir: &Path) -> std::io::Result<Self> {
        let data_dir = std::path::absolute(data_dir)?;
        Ok(Self {
            queue: data_dir.join("queue"),
            control: data_dir.join("control"),
            results: data_dir.join("results"),
        })
    }
}

/// `result_backend_transport_options`.
const RESULT_TRANSPORT: Names = Names {
    setting: "result_backend_transport_options",
    works: &[
        "global_keyprefix",
        "master_name",
        "result_chord_ordered",
        "sentinel_kwargs",
    ],
    ignored: &[
        (
            "retry_policy",
            "results are tried again for as long as result_backend_always_retry and its relatives say",
        ),
        ("visibility_timeout", "results have none"),
        ("socket_timeout", "redis_socket_timeout says it"),
        ("socket_connect_timeout", "redis_socket_connect_timeout says it"),
        ("socket_keepalive", "redis_socket_keepalive says it"),
        ("retry_on_timeout", "redis_retry_on_timeout says it"),
        ("health_check_interval", "the connection is used or made anew"),
        ("client_name", "it is a matter of the broker's connections"),
    ],
};

/// Those of its options that work.
#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct ResultTransport {
    global_keyprefix: String,
    result_chord_ordered: Option<bool>,
    master_name: Option<String>,
    sentinel_kwargs: Option<toml::Table>,
}

/// The broker of these settings.
pub fn broker(settings: &Settings) -> Result<Arc<dyn Broker>, BrokerError> {
    let queues = settings.queues().map_err(config)?;
    let Some(urls) = Urls::of(settings)? else {
        let folders = embedded(settings).map_err(BrokerError::Config)?;
        let options = filesystem::Options {
            data_folder_in: folders.queue.clone(),
            data_folder_out: folders.queue,
            control_folder: folders.control,
            reconnect: reconnect(settings),
            queues: Some(queues),
            fleeting: fleeting(settings),
            ..filesystem::Options::default()
        };
        return Ok(Arc::new(FilesystemBroker::new(&options)?));
    };
    let table = &settings.broker_transport_options;
    let use_ssl = settings.broker_use_ssl.as_ref();
    let tls = use_ssl.map_or(Ok(None), |value| Tls::read("broker_use_ssl", value));
    let tls = tls.map_err(BrokerError::Config)?;
    let timeout = settings.broker_connection_timeout;
    match urls.transport {
        Transport::Amqp => {
            let options = amqp::Options {
                heartbeat: settings.broker_heartbeat.unwrap_or(0.0) as u16,
                connection_timeout: timeout,
                login: login(settings)?,
                tls,
                failover: failover(settings)?,
                reconnect: reconnect(settings),
                queues: Some(queues),
                detect_quorum_queues: settings.worker_detect_quorum_queues,
                delayed_quorum: settings.broker_native_delayed_delivery_queue_type == "quorum",
                ..amqp::Options::default()
            };
            let options = options.transport(table)?;
            Ok(Arc::new(AmqpBroker::between(&urls.read, &urls.write, &options)?))
        }
        Transport::Redis => {
            let connecting = Connecting {
                tls,
                connect_timeout: seconds(Some(timeout)).unwrap_or(Connecting::default().connect_timeout),
                failover: failover(settings)?,
                found: settings.found.clone(),
                ..Connecting::default()
            };
            let options = redis::Options {
                reconnect: reconnect(settings),
                queues: Some(queues),
                ..redis::Options::transport(table, connecting)?
            };
            let write = (urls.write != urls.read).then_some(urls.write.as_str());
            Ok(Arc::new(RedisBroker::between(&urls.read, write, &options)?))
        }
        Transport::Filesystem => {
            let options = filesystem::Options {
                reconnect: reconnect(settings),
                queues: Some(queues),
                fleeting: fleeting(settings),
                ..filesystem::Options::transport(table)?
            };
            Ok(Arc::new(FilesystemBroker::new(&options)?))
        }
    }
}

/// In a folder the queues of monitors and clients outlive them.
fn fleeting(settings: &Settings) -> Option<filesystem::Fleeting> {
    Some(filesystem::Fleeting {
        events: (
            settings.event_queue_prefix.clone(),
            settings.event_exchange.clone(),
        ),
        replies: reply_exchange(&settings.control_exchange),
        expires: seconds(settings.event_queue_expires)?,
    })
}

/// What OpenTelemetry calls the broker of these settings.
pub fn messaging_system(settings: &Settings) -> Result<&'static str, BrokerError> {
    Ok(match Urls::of(settings)?.map(|urls| urls.transport) {
        Some(Transport::Amqp) => "rabbitmq",
        Some(Transport::Redis) => "redis",
        Some(Transport::Filesystem) | None => "filesystem",
    })
}

/// The broker of the mailbox, with connections of its own, and the mailbox.
pub type Mailbox = (Arc<dyn Broker>, control::Options);

/// What the mailbox of remote control needs, with connections of its own; `None` when there is to be none.
pub fn mailbox(settings: &Settings) -> Result<Option<Mailbox>, BrokerError> {
    if !settings.worker_enable_remote_control {
        return Ok(None);
    }
    Ok(Some((aside(settings)?, settings.control())))
}

/// A broker with connections of its own, for what goes on beside the tasks.
pub fn aside(settings: &Settings) -> Result<Arc<dyn Broker>, BrokerError> {
    // What holds for quorum queues does not hold there.
    let own = Settings {
        worker_detect_quorum_queues: false,
        ..settings.clone()
    };
    broker(&own)
}

/// Whether workers hear each other on this transport (contract section 7.5).
pub fn has_neighbours(settings: &Settings) -> Result<bool, BrokerError> {
    let urls = Urls::of(settings)?;
    Ok(urls.is_some_and(|urls| matches!(urls.transport, Transport::Amqp | Transport::Redis)))
}

/// Where events go (contract section 7.1).
pub fn event_exchange(settings: &Settings) -> Result<Exchange, BrokerError> {
    let kind = match Urls::of(settings)?.map(|urls| urls.transport) {
        Some(Transport::Redis) => ExchangeKind::Fanout,
        Some(Transport::Amqp | Transport::Filesystem) | None => ExchangeKind::Topic,
    };
    Ok(Exchange::new(&settings.event_exchange, kind))
}

/// How events are written.
pub fn event_writer(settings: &Settings) -> Result<Writer, BrokerError> {
    let content = settings.content();
    Ok(content
        .map_err(|wrong| BrokerError::Config(wrong.join("\n")))?
        .events)
}

/// The queue that a worker hears its neighbours through; what they say holds for `freq` seconds.
pub fn event_queue(settings: &Settings, exchange: Exchange, freq: f64) -> Queue {
    let name = format!("{}.{}", settings.event_queue_prefix, Uuid::new_v4());
    Queue {
        durable: settings.event_queue_durable,
        exclusive: settings.event_queue_exclusive,
        auto_delete: !settings.event_queue_durable,
        expires: settings.event_queue_expires,
        message_ttl: Some(freq),
        ..Queue::bound(name, exchange, "worker.#")
    }
}

/// What a client of the workers' mailboxes needs: a broker that gives up at once when it is away at the start.
pub fn mailbox_client(settings: &Settings) -> Result<Mailbox, BrokerError> {
    let own = Settings {
        broker_connection_retry_on_startup: Some(false),
        ..settings.clone()
    };
    Ok((aside(&own)?, settings.control()))
}

/// A monitor's own queue of all events (contract section 7.1).
pub fn monitor_queue(settings: &Settings) -> Result<Queue, BrokerError> {
    let queue = event_queue(settings, event_exchange(settings)?, EVENT_TTL);
    Ok(Queue {
        routing_key: "#".into(),
        ..queue
    })
}

fn config(error: SettingsError) -> BrokerError {
    BrokerError::Config(error.to_string())
}

fn reconnect(settings: &Settings) -> Reconnect {
    let retry = settings.broker_connection_retry;
    Reconnect {
        on_startup: settings.broker_connection_retry_on_startup.unwrap_or(retry),
        after_loss: retry,
        max_retries: settings.broker_connection_max_retries.filter(|most| *most > 0),
    }
}

fn failover(settings: &Settings) -> Result<Strategy, BrokerError> {
    match settings.broker_failover_strategy.as_str() {
        "round-robin" => Ok(Strategy::RoundRobin),
        "shuffle" => Ok(Strategy::Shuffle),
        other => {
            let nearest = did_you_mean(other, ["round-robin", "shuffle"].into_iter());
            Err(BrokerError::Config(format!(
                "broker_failover_strategy: expected round-robin or shuffle, not {other:?}{nearest}"
            )))
        }
    }
}

fn login(settings: &Settings) -> Result<Login, BrokerError> {
    match settings.broker_login_method.as_deref() {
        None | Some("PLAIN") => Ok(Login::Plain),
        Some("AMQPLAIN") => Ok(Login::AmqPlain),
        Some("EXTERNAL") => Ok(Login::External),
        Some(other) => {
            let nearest = did_you_mean(other, ["PLAIN", "AMQPLAIN", "EXTERNAL"].into_iter());
            Err(BrokerError::Config(format!(
                "broker_login_method: expected PLAIN, AMQPLAIN or EXTERNAL, not {other:?}{nearest}"
            )))
        }
    }
}

/// The result backend of these settings; `None` when there is none.
pub fn backend(
    settings: &Settings,
    broker: &Arc<dyn Broker>,
) -> Result<Option<Arc<dyn ResultBackend>>, BackendError> {
    let documents = match settings.content() {
        Ok(content) => content.documents,
        Err(wrong) => return Err(BackendError::Config(wrong.join("\n"))),
    };
    let Some(url) = &settings.result_backend else {
        if settings.broker_url.is_some() {
            return Ok(None);
        }
        let folders = embedded(settings).map_err(BackendError::Config)?;
        let backend = FilesystemBackend::new(&folders.results)?
            .documents(documents)
            .expires(settings.result_expires());
        return Ok(Some(persistent(settings, Arc::new(backend))));
    };
    match scheme(url) {
        "redis" | "rediss" | "redis+socket" | "socket" | "unix" | "sentinel" => {
            let mut transport: ResultTransport = RESULT_TRANSPORT
                .read(&settings.result_backend_transport_options)
                .map_err(|error| BackendError::Config(error.to_string()))?;
            let global_keyprefix = std::mem::take(&mut transport.global_keyprefix);
            let options = redis_backend::Options {
                result_expires: settings.result_expires(),
                result_failure_expires: seconds(settings.result_failure_expires),
                result_chord_expires: settings.result_chord_expires(),
                result_chord_ordered: transport.result_chord_ordered.unwrap_or(true),
                global_keyprefix,
                connecting: redis_connecting(settings, transport)?,
                ..redis_backend::Options::default()
            };
            let backend = RedisBackend::new(url, options)?.documents(documents);
            Ok(Some(persistent(settings, Arc::new(backend))))
        }
        "rpc" => {
            if settings.result_compression.is_some() {
                tracing::warn!(
                    "the setting result_compression has no effect: RPC results are never compressed"
                );
            }
            let backend = RpcBackend::new(Arc::clone(broker))
                .persistent(settings.result_persistent)
                .documents(documents);
            Ok(Some(persistent(settings, Arc::new(backend))))
        }
        "file" => {
            let path = url::Url::parse(url).ok().and_then(|url| url.to_file_path().ok());
            let path = path.ok_or_else(|| {
                BackendError::Config(format!(
                    "result_backend: {url:?} names no folder; write file:///folder"
                ))
            })?;
            let backend = FilesystemBackend::new(&path)?
                .documents(documents)
                .expires(settings.result_expires());
            Ok(Some(persistent(settings, Arc::new(backend))))
        }
        "disabled" => Ok(None),
        other => Err(BackendError::Config(format!(
            "result_backend: unknown scheme {other:?}; expected {BACKENDS}"
        ))),
    }
}

/// The backend, asked again as `result_backend_always_retry` and its fellows say.
fn persistent(settings: &Settings, backend: Arc<dyn ResultBackend>) -> Arc<dyn ResultBackend> {
    if !settings.result_backend_always_retry {
        return backend;
    }
    let retries = Retries {
        most: settings.result_backend_max_retries,
        base: Duration::from_millis(settings.result_backend_base_sleep_between_retries_ms),
        longest: Duration::from_millis(settings.result_backend_max_sleep_between_retries_ms),
    };
    Arc::new(Persistent::new(backend, retries))
}

fn embedded(settings: &Settings) -> Result<Folders, String> {
    Folders::of(&settings.data_dir).map_err(|error| format!("data_dir: {error}"))
}

/// How to connect to a Redis result backend.
fn redis_connecting(settings: &Settings, transport: ResultTransport) -> Result<Connecting, BackendError> {
    let use_ssl = settings.redis_backend_use_ssl.as_ref();
    let tls = use_ssl.map_or(Ok(None), |value| Tls::read("redis_backend_use_ssl", value));
    let sentinel = transport
        .sentinel_kwargs
        .map(|table| redis::sentinel_login(&table));
    let sentinel = sentinel
        .transpose()
        .map_err(|error| BackendError::Config(error.to_string()))?;
    let connecting = Connecting::default();
    Ok(Connecting {
        tls: tls.map_err(BackendError::Config)?,
        connect_timeout: seconds(settings.redis_socket_connect_timeout).unwrap_or(connecting.connect_timeout),
        // 0 is no limit; so is a year.
        response_timeout: Some(seconds(Some(settings.redis_socket_timeout)).unwrap_or(YEAR)),
        master_name: transport.master_name,
        sentinel: sentinel.unwrap_or_default(),
        found: settings.found.clone(),
        ..connecting
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let settings: Settings = toml::from_str(text).unwrap();
        match broker(&settings) {
            Ok(_) => panic!("{text} is no error"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn events_go_where_celerys_go() {
        let exchange = |text: &str| event_exchange(&toml::from_str(text).unwrap()).unwrap();
        for (url, kind, neighbours) in [
            ("redis://h", ExchangeKind::Fanout, true),
            ("amqp://h", ExchangeKind::Topic, true),
            ("filesystem://", ExchangeKind::Topic, false),
        ] {
            let text = format!("broker_url = '{url}'\nevent_exchange = 'mine'");
            let found = exchange(&text);
            assert_eq!(
                (found.kind, found.name.as_str(), found.durable),
                (kind, "mine", true)
            );
            let settings = toml::from_str(&text).unwrap();
            assert_eq!(has_neighbours(&settings).unwrap(), neighbours, "{url}");
        }
        let found = exchange("");
        assert_eq!(
            (found.kind, found.name.as_str()),
            (ExchangeKind::Topic, "celeryev")
        );
        let queue = event_queue(&Settings::default(), found.clone(), 2.0);
        assert!(
            queue.name.starts_with("celeryev.") && queue.name.len() == 45,
            "{}",
            queue.name
        );
        assert!(queue.exclusive && queue.auto_delete && !queue.durable);
        let arguments = serde_json::json!({"x-expires": 60_000, "x-message-ttl": 2000});
        assert_eq!(serde_json::Value::Object(queue.arguments()), arguments);
        let own = "event_queue_prefix = 'p'\nevent_queue_exclusive = false\nevent_queue_durable = true\n\
             event_queue_expires = 7.0";
        let queue = event_queue(&toml::from_str(own).unwrap(), found, 2.0);
        assert!(queue.name.starts_with("p.") && queue.durable && !queue.exclusive && !queue.auto_delete);
        assert_eq!(queue.arguments()["x-expires"], 7000);
    }

    #[test]
    fn what_makes_no_sense_is_named_with_the_nearest() {
        for (text, part) in [
            ("broker_url = 'kafka://h'", "unknown scheme \"kafka\""),
            ("broker_url = 'redis://h;amqp://h'", "one transport"),
            ("broker_read_url = 'redis://h'", "go together"),
            (
                "broker_url = 'amqp://h'\nbroker_login_method = 'EXTERNEL'",
                "did you mean EXTERNAL?",
            ),
            (
                "broker_url = 'amqp://h'\nbroker_failover_strategy = 'shufle'",
                "did you mean shuffle?",
            ),
            (
                "broker_url = 'amqp://h'\nbroker_transport_options = { confirm_publis = true }",
                "did you mean confirm_publish?",
            ),
            (
                "broker_url = 'redis://h'\nbroker_transport_options = { visibilty_timeout = 3 }",
                "did you mean visibility_timeout?",
            ),
            (
                "broker_url = 'filesystem://'\nbroker_transport_options = { data_folder = 'x' }",
                "did you mean data_folder_in?",
            ),
            (
                "broker_url = 'amqp://h'\nbroker_use_ssl = { ca_cert = 'x' }",
                "did you mean ca_certs?",
            ),
        ] {
            let error = refused(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
