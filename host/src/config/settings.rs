//! Every setting that means something to this worker: its name, its type, its default and what it does, in one place.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::control::Group;
use crate::monitor;
use crate::policy::network::Servers;
use crate::policy::publish::RetryPolicy;
use crate::sandbox::Limits;
use crate::trace;

/// A value or a list of values, as Celery takes several URLs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One text; `;` separates several.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The single values.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        let texts = match self {
            OneOrMany::One(text) => std::slice::from_ref(text),
            OneOrMany::Many(texts) => texts.as_slice(),
        };
        let parts = texts.iter().flat_map(|text| text.split(';'));
        parts.map(str::trim).filter(|text| !text.is_empty())
    }
}

/// All values in one line, as Celery writes them.
impl std::fmt::Display for OneOrMany {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.all().collect::<Vec<_>>().join(";"))
    }
}

impl From<&str> for OneOrMany {
    fn from(text: &str) -> Self {
        OneOrMany::One(text.to_owned())
    }
}

macro_rules! settings {
    ($( $(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr; )*) => {
        /// Everything that can be set, under Celery's names where the concept is Celery's (contract section 8.6).
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Settings {
            $( $(#[doc = $doc])+ pub $name: $type, )*
            /// No setting: the servers that the worker talks to, as far as they are known; the same for all clones.
            #[serde(skip)]
            pub found: Servers,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $( $name: $default, )* found: Servers::default() }
            }
        }

        /// The names of all settings with what each does.
        pub const SETTINGS: &[(&str, &str)] = &[ $( (stringify!($name), concat!($($doc),+)), )* ];
    };
}

settings! {
    // Messages.

    /// Serializers taken: names (`json`, `yaml`, `msgpack`, `pickle`, `auth`) or content types.
    accept_content: Vec<String> = vec!["json".into()];
    /// Serializer of the messages this worker sends.
    task_serializer: String = "json".into();
    /// Compression of the messages this worker sends: `gzip`, `bzip2`, `lzma`, `brotli`, `zstd`; none by default.
    task_compression: Option<String> = None;
    /// Priority of the messages that `celerybox call` sends without one, and of the worker's own tasks that others of its
    /// tasks send.
    task_default_priority: Option<u8> = None;
    /// What a task sends has the priority of its own message, unless it says another.
    task_inherit_parent_priority: bool = false;
    /// The errbacks of a chord's body are also those of its header's tasks.
    task_allow_error_cb_on_chord_header: bool = false;
    /// Private key that signs what this worker sends with the serializer `auth`: a PEM file.
    security_key: Option<PathBuf> = None;
    /// Password of `security_key`.
    security_key_password: Option<String> = None;
    /// This worker's certificate: a PEM file.
    security_certificate: Option<PathBuf> = None;
    /// Certificates of senders this worker trusts: a pattern such as `/etc/certs/*.pem`.
    security_cert_store: Option<String> = None;
    /// Digest of signatures: `sha256`, `sha384` or `sha512`.
    security_digest: String = "sha256".into();

    // Broker.

    /// Where messages come from: a URL, or several (a list, or separated by `;`) that stand in for each other. Without one, the folder `data_dir`.
    broker_url: Option<OneOrMany> = None;
    /// Where messages are taken from, when that differs.
    broker_read_url: Option<OneOrMany> = None;
    /// Where messages are sent to, when that differs.
    broker_write_url: Option<OneOrMany> = None;
    /// Options of the broker, with kombu's names.
    broker_transport_options: toml::Table = toml::Table::new();
    /// Seconds that connecting may take.
    broker_connection_timeout: f64 = 4.0;
    /// Connect again after a lost connection.
    broker_connection_retry: bool = true;
    /// Try again when the first connection fails; as `broker_connection_retry` by default.
    broker_connection_retry_on_startup: Option<bool> = None;
    /// Attempts before the worker gives up; 0: never.
    broker_connection_max_retries: Option<u32> = Some(100);
    /// Order in which several broker URLs are tried: `round-robin` or `shuffle`.
    broker_failover_strategy: String = "round-robin".into();
    /// Seconds between signs of life (AMQP); the lower of this and the server's counts.
    broker_heartbeat: Option<f64> = Some(120.0);
    /// How the worker logs in (AMQP): `PLAIN`, `AMQPLAIN` or `EXTERNAL`.
    broker_login_method: Option<String> = None;
    /// TLS of the broker: true, or a table with `ca_certs`, `certfile`, `keyfile`, `cert_reqs` (or these with `ssl_`).
    broker_use_ssl: Option<toml::Value> = None;
    /// Type of the queues of native delayed delivery: `quorum` or `classic`.
    broker_native_delayed_delivery_queue_type: String = "quorum".into();
    /// Try again to send a message that the broker did not take.
    task_publish_retry: bool = true;
    /// How: `max_retries`, `interval_start`, `interval_step`, `interval_max`.
    task_publish_retry_policy: RetryPolicy = RetryPolicy::default();

    // Queues.

    /// The queues there are: a table of `name = { exchange, exchange_type, routing_key, queue_arguments … }`, or a list of such tables with `name`.
    task_queues: Option<toml::Value> = None;
    /// Where tasks are sent: a table of name, glob or regular expression (`re:…`) to a queue or options, or a list of such tables.
    task_routes: Option<toml::Value> = None;
    /// The queue consumed when none is named.
    task_default_queue: String = "celery".into();
    /// Exchange of the default queue; its name by default.
    task_default_exchange: Option<String> = None;
    /// Type of that exchange: `direct`, `topic`, `fanout` or `headers`.
    task_default_exchange_type: String = "direct".into();
    /// Routing key of the default queue; its name by default.
    task_default_routing_key: Option<String> = None;
    /// `classic` or `quorum`.
    task_default_queue_type: String = "classic".into();
    /// Consume and send to queues that `task_queues` does not have.
    task_create_missing_queues: bool = true;
    /// The type of such queues: `classic` or `quorum`.
    task_create_missing_queue_type: String = "classic".into();
    /// The type of their exchanges; `direct` by default.
    task_create_missing_queue_exchange_type: Option<String> = None;
    /// 2: messages sent survive a restart of the broker, 1: they do not.
    task_default_delivery_mode: u8 = 2;
    /// `x-max-priority` of queues (AMQP).
    task_queue_max_priority: Option<u8> = None;
    /// Consume a queue of this worker alone as well, `<node name>.dq2`.
    worker_direct: bool = false;
    /// Find out whether a queue is a quorum queue, and set prefetch and delayed delivery accordingly (AMQP).
    worker_detect_quorum_queues: bool = true;

    // Execution.

    /// Acknowledge after the run instead of before it.
    task_acks_late: bool = false;
    /// With late acks: acknowledge also tasks that failed or ran into their time limit.
    task_acks_on_failure_or_timeout: bool = true;
    /// The same for failures only.
    task_acks_on_failure: Option<bool> = None;
    /// The same for time limits only.
    task_acks_on_timeout: Option<bool> = None;
    /// With late acks: put a message back when the sandbox itself failed.
    task_reject_on_worker_lost: Option<bool> = None;
    /// Send a task again as a retry when the sandbox itself failed.
    task_retry_on_worker_lost: bool = false;
    /// Store no state of tasks that succeed.
    task_ignore_result: bool = false;
    /// Store errors all the same.
    task_store_errors_even_if_ignored: bool = false;
    /// Store STARTED.
    task_track_started: bool = false;
    /// Hard time limit, seconds.
    task_time_limit: Option<f64> = None;
    /// Soft time limit, seconds.
    task_soft_time_limit: Option<f64> = None;
    /// How often a task of each kind may start: `10/s`, `100/m`, `5/h`.
    task_default_rate_limit: Option<toml::Value> = None;
    /// Options of tasks by name (or `*` for all), over those that components declare.
    task_annotations: BTreeMap<String, toml::Table> = BTreeMap::new();

    // Worker.

    /// Tasks that run at the same time; one for each processor by default.
    worker_concurrency: Option<u32> = None;
    /// Messages held for each running task; 0: no limit.
    worker_prefetch_multiplier: u32 = 4;
    /// The most messages held while tasks wait for their ETA.
    worker_eta_task_limit: Option<u32> = None;
    /// After a lost connection, hold fewer messages while tasks of the old one still run.
    worker_enable_prefetch_count_reduction: bool = true;
    /// Take no message before a task can run (Redis).
    worker_disable_prefetch: bool = false;
    /// Ignore rate limits.
    worker_disable_rate_limits: bool = false;
    /// Do not run a message again whose task succeeded before.
    worker_deduplicate_successful_tasks: bool = false;
    /// End late-acked tasks whose message the broker delivers again.
    worker_cancel_long_running_tasks_on_connection_loss: bool = false;
    /// Seconds that running tasks have before a cold shutdown.
    worker_soft_shutdown_timeout: f64 = 0.0;
    /// Wait that long also when no task runs.
    worker_enable_soft_shutdown_on_idle: bool = false;
    /// File that keeps revoked ids between runs.
    worker_state_db: Option<PathBuf> = None;

    /// The most tasks that may run at the same time after `celery control pool_grow` or `autoscale`; by default four times those of the start, and at least 32.
    worker_max_concurrency: Option<u32> = None;
    /// Load the components again on `celery control pool_restart`.
    worker_pool_restarts: bool = false;

    // Remote control.

    /// Obey commands of clients (`celery inspect`, `celery control`).
    worker_enable_remote_control: bool = true;
    /// Kinds of commands that are obeyed: `inspect` (look), `revoke` (revoke and end tasks), `tune` (limits, slots, queues, events), `shutdown`.
    control_groups: Vec<Group> = Group::ALL.to_vec();
    /// Name of the exchange of commands, before `.pidbox`.
    control_exchange: String = "celery".into();
    /// Seconds after which a command that nobody took goes.
    control_queue_ttl: Option<f64> = Some(300.0);
    /// Seconds after which the mailbox of a worker that is gone goes.
    control_queue_expires: Option<f64> = Some(10.0);
    /// The mailbox belongs to its connection.
    control_queue_exclusive: bool = true;
    /// The mailbox survives a restart of the broker.
    control_queue_durable: bool = false;

    // Events.

    /// Tell monitors what happens to tasks (`-E`).
    worker_send_task_events: bool = false;
    /// Tell monitors of each task that this worker sends.
    task_send_sent_event: bool = false;
    /// Name of the exchange of events.
    event_exchange: String = "celeryev".into();
    /// What the queue is called that this worker hears its neighbours through, before its id.
    event_queue_prefix: String = "celeryev".into();
    /// Seconds after which that queue goes when it is not used.
    event_queue_expires: Option<f64> = Some(60.0);
    /// That queue belongs to its connection.
    event_queue_exclusive: bool = true;
    /// That queue survives a restart of the broker.
    event_queue_durable: bool = false;
    /// Serializer of events.
    event_serializer: String = "json".into();

    // Results.

    /// Where outcomes go. Without one nothing is stored, or in `data_dir` when messages come from there.
    result_backend: Option<String> = None;
    /// Options of the result backend.
    result_backend_transport_options: toml::Table = toml::Table::new();
    /// Serializer of results; clients need the same setting.
    result_serializer: String = "json".into();
    /// Compression of stored results.
    result_compression: Option<String> = None;
    /// Seconds that results are kept; 0 keeps them for ever.
    result_expires: f64 = 86400.0;
    /// Seconds that failures are kept, when that differs.
    result_failure_expires: Option<f64> = None;
    /// Seconds that chords are kept, when that differs; 0 keeps them for ever.
    result_chord_expires: Option<f64> = None;
    /// Seconds that reading the results of a chord with nested groups may take, and that of `celery.chord_unlock`.
    result_chord_join_timeout: f64 = 3.0;
    /// Seconds after which `celery.chord_unlock` looks again.
    result_chord_retry_interval: f64 = 1.0;
    /// Store name, arguments, worker, retries and queue with each result.
    result_extended: bool = false;
    /// RPC results survive a restart of the broker.
    result_persistent: bool = false;
    /// Try again when the result backend does not answer, longer than its own patience.
    result_backend_always_retry: bool = false;
    /// Attempts then; none: no limit.
    result_backend_max_retries: Option<u32> = None;
    /// Milliseconds before the second of them; doubled each time.
    result_backend_base_sleep_between_retries_ms: u64 = 10;
    /// Milliseconds that no such pause is longer than.
    result_backend_max_sleep_between_retries_ms: u64 = 10_000;
    /// Seconds that an answer of a Redis result backend may take.
    redis_socket_timeout: f64 = 120.0;
    /// Seconds that connecting to a Redis result backend may take.
    redis_socket_connect_timeout: Option<f64> = None;
    /// TLS of a Redis result backend, as `broker_use_ssl`.
    redis_backend_use_ssl: Option<toml::Value> = None;
    /// Exceptions that tasks may name beside Python's own, by module: `{ "proj.errors" = ["NoFunds"] }`.
    allowed_exceptions: BTreeMap<String, Vec<String>> = BTreeMap::new();

    // Sandboxes.

    /// Components and folders of components.
    tasks: Vec<PathBuf> = Vec::new();
    /// The folder of the embedded broker and result backend.
    data_dir: PathBuf = PathBuf::from("celerybox-data");
    /// The folder of compiled components.
    cache_dir: Option<PathBuf> = None;
    /// What single components are granted, by the name of their file without its ending: `send_to`, `results`, `network`, `files`, `environment`.
    component: toml::Table = toml::Table::new();
    /// What one run may use.
    limits: Limits = Limits::default();

    // Watching.

    /// Prometheus metrics and health over HTTP: `port` (none by default: off) and `address` (`127.0.0.1`).
    metrics: monitor::Options = monitor::Options::default();
    /// OpenTelemetry traces: `endpoint` of a collector (OTLP over HTTP, none by default: off) and `headers`. The variables `OTEL_…` go first.
    traces: trace::Options = trace::Options::default();
}
