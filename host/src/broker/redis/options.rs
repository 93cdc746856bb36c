//! Kombu's transport options for Redis (contract section 2.2.6).

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::broker::options::Names;
use crate::broker::{BrokerError, Reconnect};
use crate::queue::Queues;
use crate::redis_url::{Connecting, SentinelLogin};
use crate::tls::Tls;

const TOOK: &str = "a message that was taken is always recorded, so that none is lost with its worker";
const CONNECTIONS: &str = "the worker keeps a few connections, however many tasks it runs";

/// `broker_transport_options` of this transport.
pub const NAMES: Names = Names {
    setting: "broker_transport_options",
    works: &[
        "visibility_timeout",
        "priority_steps",
        "sep",
        "global_keyprefix",
        "queue_order_strategy",
        "unacked_key",
        "unacked_index_key",
        "unacked_mutex_key",
        "unacked_mutex_expire",
        "unacked_restore_interval",
        "unacked_restore_throttle",
        "unacked_restore_limit",
        "fanout_prefix",
        "fanout_patterns",
        "deadletter_queue",
        "socket_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "client_name",
        "master_name",
        "sentinel_kwargs",
    ],
    ignored: &[
        ("ack_emulation", TOOK),
        ("max_connections", CONNECTIONS),
        ("connection_pool", CONNECTIONS),
        ("connection_class", "it names a Python class"),
        ("credential_provider", "it names a Python class"),
        ("retry", "it names a Python class"),
        (
            "retry_on_timeout",
            "a command that timed out is always tried again",
        ),
        ("retry_on_error", "a command that failed is always tried again"),
        (
            "health_check_interval",
            "a connection that waits is made to answer every few seconds",
        ),
        (
            "socket_keepalive_options",
            "socket_keepalive uses the system's own intervals",
        ),
        ("socket_read_size", "it is chosen by the worker"),
        ("polling_interval", "messages are waited for on the server"),
        ("brpop_timeout", "messages are waited for on the server"),
        (
            "body_encoding",
            "bodies are read in each encoding and sent in base64",
        ),
        (
            "min_other_sentinels",
            "every sentinel that knows the master is believed",
        ),
        (
            "sentinel_fanout_compat",
            "channels are named as kombu 5.4 and later name them",
        ),
        (
            "protocol",
            "the worker speaks the protocol of every supported server",
        ),
        ("socket_type", "the URL says it"),
        ("decode_responses", "it is about Python's types"),
    ],
};

/// `broker_transport_options` for Redis, under kombu's names and with kombu's defaults, and the settings that go
/// with them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How long a message may be unacknowledged before somebody else gets it. Seconds. A worker of ours that still
    /// has the message keeps it for itself.
    #[serde(deserialize_with = "seconds")]
    pub visibility_timeout: Duration,
    /// The priorities that have a list of their own, ascending.
    pub priority_steps: Vec<u8>,
    /// Between the parts of a list name or binding.
    pub sep: String,
    /// In front of every key.
    pub global_keyprefix: String,
    /// In which order queues are served.
    pub queue_order_strategy: QueueOrder,
    /// The hash of messages that were taken and not acknowledged.
    pub unacked_key: String,
    /// The sorted set of when they were taken.
    pub unacked_index_key: String,
    /// The lock around the search for messages that were taken too long ago.
    pub unacked_mutex_key: String,
    /// When that lock ends by itself. Seconds.
    #[serde(deserialize_with = "seconds")]
    pub unacked_mutex_expire: Duration,
    /// How often to count towards a search. Seconds.
    #[serde(deserialize_with = "seconds")]
    pub unacked_restore_interval: Duration,
    /// How many counts make a search.
    pub unacked_restore_throttle: u32,
    /// How many messages one search gives back at most; `None`: all.
    pub unacked_restore_limit: Option<usize>,
    /// In front of the channels of fanout exchanges; `{db}` stands for the database. True is kombu's own, false none.
    #[serde(deserialize_with = "fanout_prefix")]
    pub fanout_prefix: String,
    /// Channels of fanout exchanges end in the routing key.
    pub fanout_patterns: bool,
    /// Where messages go that no queue is bound for; without one they are dropped.
    pub deadletter_queue: Option<String>,
    /// How to connect.
    #[serde(skip)]
    pub connecting: Connecting,
    /// `broker_connection_retry` and its relatives.
    #[serde(skip)]
    pub reconnect: Reconnect,
    /// Every queue of the settings: the types of their exchanges are known.
    #[serde(skip)]
    pub queues: Option<Queues>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            visibility_timeout: Duration::from_secs(3600),
            priority_steps: vec![0, 3, 6, 9],
            sep: "\x06\x16".into(),
            global_keyprefix: String::new(),
            queue_order_strategy: QueueOrder::RoundRobin,
            unacked_key: "unacked".into(),
            unacked_index_key: "unacked_index".into(),
            unacked_mutex_key: "unacked_mutex".into(),
            unacked_mutex_expire: Duration::from_secs(300),
            unacked_restore_interval: Duration::from_secs(10),
            unacked_restore_throttle: 10,
            unacked_restore_limit: None,
            fanout_prefix: FANOUT_PREFIX.into(),
            fanout_patterns: true,
            deadletter_queue: None,
            connecting: Connecting::default(),
            reconnect: Reconnect::default(),
            queues: None,
        }
    }
}

/// In which order queues are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueOrder {
    /// Each in its turn.
    RoundRobin,
    /// By name; a queue is served when those before it are empty.
    Sorted,
    /// As they were named; a queue is served when those before it are empty.
    Priority,
}

/// kombu's prefix of fanout channels.
const FANOUT_PREFIX: &str = "/{db}.";

/// Options of the transport that say how to connect.
#[derive(Deserialize)]
struct Socket {
    socket_timeout: Option<f64>,
    socket_connect_timeout: Option<f64>,
    socket_keepalive: Option<bool>,
    client_name: Option<String>,
    master_name: Option<String>,
    sentinel_kwargs: Option<toml::Table>,
}

/// Those among [`NAMES`] that are fields of [`Socket`].
const SOCKET: [&str; 6] = [
    "socket_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "client_name",
    "master_name",
    "sentinel_kwargs",
];

impl Options {
    /// Reads `broker_transport_options`; how to connect is added to what `connecting` says.
    pub fn transport(table: &toml::Table, connecting: Connecting) -> Result<Self, BrokerError> {
        let known: toml::Table = NAMES.read(table)?;
        let (socket, own): (toml::Table, toml::Table) = known
            .into_iter()
            .partition(|(name, _)| SOCKET.contains(&name.as_str()));
        let wrong = |error: toml::de::Error| BrokerError::Config(format!("{}: {error}", NAMES.setting));
        let socket: Socket = socket.try_into().map_err(wrong)?;
        let options: Self = own.try_into().map_err(wrong)?;
        let limit = |seconds: f64| {
            Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|limit| !limit.is_zero())
        };
        Ok(Self {
            connecting: Connecting {
                connect_timeout: socket
                    .socket_connect_timeout
                    .and_then(limit)
                    .unwrap_or(connecting.connect_timeout),
                response_timeout: socket
                    .socket_timeout
                    .and_then(limit)
                    .or(connecting.response_timeout),
                keepalive: socket.socket_keepalive.unwrap_or(connecting.keepalive),
                client_name: socket.client_name.or(connecting.client_name),
                master_name: socket.master_name.or(connecting.master_name),
                sentinel: match socket.sentinel_kwargs {
                    Some(table) => sentinel_login(&table)?,
                    None => connecting.sentinel,
                },
                ..connecting
            },
            ..options
        })
    }

    /// What makes no sense, as a sentence.
    pub(super) fn problem(&self) -> Option<String> {
        if self.visibility_timeout.is_zero() {
            return Some("visibility_timeout must be longer than 0".into());
        }
        let ascending = self.priority_steps.is_sorted_by(|a, b| a < b);
        if self.priority_steps.is_empty() || !ascending || self.priority_steps.iter().any(|step| *step > 9) {
            return Some("priority_steps are numbers from 0 to 9, ascending, at least one".into());
        }
        if self.sep.is_empty() {
            return Some("sep must not be empty".into());
        }
        None
    }

    /// How often to look for messages that were taken too long ago: kombu's pace, but at least a few times per
    /// visibility timeout.
    pub(super) fn sweep_period(&self) -> Duration {
        let kombu = self.unacked_restore_interval * self.unacked_restore_throttle.max(1);
        kombu
            .min(self.visibility_timeout / 4)
            .max(Duration::from_millis(50))
    }

    /// How long the lock of a sweep holds when its owner dies: not so long that it delays what is overdue much more.
    /// It saves work; that a message is restored once does not depend on it.
    pub(super) fn lock_time(&self) -> Duration {
        self.unacked_mutex_expire
            .min(self.visibility_timeout / 4)
            .max(Duration::from_secs(1))
    }

    /// How often to renew the claim on the messages this worker has.
    pub(super) fn refresh_period(&self) -> Duration {
        (self.visibility_timeout / 4).max(Duration::from_millis(50))
    }
}

/// `sentinel_kwargs`: redis-py's arguments for connections to sentinels.
pub fn sentinel_login(table: &toml::Table) -> Result<SentinelLogin, BrokerError> {
    const NAMES: Names = Names {
        setting: "sentinel_kwargs",
        works: &[
            "username",
            "password",
            "ssl",
            "ssl_ca_certs",
            "ssl_certfile",
            "ssl_keyfile",
            "ssl_cert_reqs",
        ],
        ignored: &[
            ("socket_timeout", "the limits of connecting to Redis count"),
            (
                "socket_connect_timeout",
                "the limits of connecting to Redis count",
            ),
            (
                "socket_keepalive",
                "the worker asks sentinels when it connects, and not in between",
            ),
            ("db", "sentinels have no databases"),
        ],
    };
    let mut known: toml::Table = NAMES.read(table)?;
    let mut text = |name: &str| {
        let value = known.remove(name);
        value.and_then(|value| value.as_str().map(str::to_owned))
    };
    let (username, password) = (text("username"), text("password"));
    let ssl = known.remove("ssl");
    let tls = match (ssl, known.is_empty()) {
        (Some(toml::Value::Boolean(false)), _) | (None, true) => None,
        _ => Tls::read("sentinel_kwargs", &toml::Value::Table(known)).map_err(BrokerError::Config)?,
    };
    Ok(SentinelLogin {
        username,
        password,
        tls,
    })
}

fn fanout_prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Prefix {
        Wanted(bool),
        Text(String),
    }
    Ok(match Prefix::deserialize(deserializer)? {
        Prefix::Wanted(true) => FANOUT_PREFIX.into(),
        Prefix::Wanted(false) => String::new(),
        Prefix::Text(text) => text,
    })
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    // A century is for ever, and no sum with it overflows.
    Duration::try_from_secs_f64(seconds.min(3.2e9)).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Options, String> {
        let options = Options::transport(&toml::from_str(text).unwrap(), Connecting::default());
        options.map_err(|error| error.to_string())
    }

    #[test]
    fn names_and_units_are_those_of_kombu() {
        let options =
            read("visibility_timeout = 1.5\npriority_steps = [0, 5]\nqueue_order_strategy = \"sorted\"")
                .unwrap();
        assert_eq!(options.visibility_timeout, Duration::from_millis(1500));
        assert_eq!(options.priority_steps, [0, 5]);
        assert_eq!(options.queue_order_strategy, QueueOrder::Sorted);
        assert_eq!(options.unacked_key, "unacked");
        let error = read("visibilty_timeout = 1\nmaster_nam = \"x\"").unwrap_err();
        assert!(
            error.contains("did you mean visibility_timeout?") && error.contains("did you mean master_name?"),
            "{error}"
        );
        assert!(read("visibility_timeout = -1").is_err());
        assert!(
            read("sentinel_kwargs = { passwort = \"x\" }")
                .unwrap_err()
                .contains("did you mean password?")
        );
    }

    /// Contract section 2.2.6: what works, and what is taken and does nothing.
    #[test]
    fn every_option_of_the_contract_is_taken() {
        let options = read(
            r#"
            sep = ":"
            global_keyprefix = "p_"
            fanout_prefix = false
            fanout_patterns = false
            ack_emulation = true
            unacked_key = "u"
            unacked_index_key = "ui"
            unacked_mutex_key = "um"
            unacked_mutex_expire = 30
            unacked_restore_limit = 7
            unacked_restore_interval = 5
            unacked_restore_throttle = 2
            max_connections = 10
            health_check_interval = 25
            socket_timeout = 3
            socket_connect_timeout = 2.5
            socket_keepalive = true
            socket_keepalive_options = { 1 = 2 }
            retry_on_timeout = true
            client_name = "me"
            polling_interval = 1
            deadletter_queue = "dead"
            master_name = "main"
            sentinel_kwargs = { password = "s", ssl = true, ssl_cert_reqs = "none" }
            "#,
        )
        .unwrap();
        assert_eq!(
            (options.fanout_prefix.as_str(), options.fanout_patterns),
            ("", false)
        );
        assert_eq!(options.deadletter_queue.as_deref(), Some("dead"));
        let connecting = &options.connecting;
        assert_eq!(connecting.response_timeout, Some(Duration::from_secs(3)));
        assert_eq!(connecting.connect_timeout, Duration::from_millis(2500));
        assert!(connecting.keepalive);
        assert_eq!(connecting.client_name.as_deref(), Some("me"));
        assert_eq!(connecting.master_name.as_deref(), Some("main"));
        let sentinel = &connecting.sentinel;
        assert_eq!(
            (sentinel.username.as_deref(), sentinel.password.as_deref()),
            (None, Some("s"))
        );
        assert_eq!(
            sentinel.tls.as_ref().map(|tls| tls.check),
            Some(crate::tls::Check::None)
        );
        for (text, prefix) in [
            ("", "/{db}."),
            ("fanout_prefix = true", "/{db}."),
            ("fanout_prefix = 'x.'", "x."),
        ] {
            assert_eq!(read(text).unwrap().fanout_prefix, prefix);
        }
    }

    #[test]
    fn the_sweep_keeps_kombus_pace_and_is_quick_enough_for_a_short_timeout() {
        let mut options = Options::default();
        assert_eq!(options.sweep_period(), Duration::from_secs(100));
        assert_eq!(options.refresh_period(), Duration::from_secs(900));
        options.visibility_timeout = Duration::from_secs(1);
        assert_eq!(options.sweep_period(), Duration::from_millis(250));
        assert_eq!(options.refresh_period(), Duration::from_millis(250));
    }

    #[test]
    fn options_without_sense_are_named() {
        let problem = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.problem()
        };
        assert_eq!(problem(|_| {}), None);
        assert!(problem(|o| o.priority_steps = vec![]).is_some());
        assert!(problem(|o| o.priority_steps = vec![3, 0]).is_some());
        assert!(problem(|o| o.priority_steps = vec![0, 10]).is_some());
        assert!(problem(|o| o.sep = String::new()).is_some());
        assert!(problem(|o| o.visibility_timeout = Duration::ZERO).is_some());
    }
}
