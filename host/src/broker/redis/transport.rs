//! Reading `broker_transport_options` (contract section 2.2.6).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::Options;
use crate::broker::BrokerError;
use crate::broker::options::Names;
use crate::redis_url::{Connecting, Keepalive, SentinelLogin};
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
        "socket_keepalive_options",
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

/// Options of the transport that say how to connect.
#[derive(Deserialize)]
struct Socket {
    socket_timeout: Option<f64>,
    socket_connect_timeout: Option<f64>,
    socket_keepalive: Option<bool>,
    #[serde(default)]
    socket_keepalive_options: BTreeMap<String, u32>,
    client_name: Option<String>,
    master_name: Option<String>,
    sentinel_kwargs: Option<toml::Table>,
}

/// Those among [`NAMES`] that are fields of [`Socket`].
const SOCKET: [&str; 7] = [
    "socket_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_keepalive_options",
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
                keepalive: match socket.socket_keepalive {
                    Some(true) => Some(keepalive(&socket.socket_keepalive_options)?),
                    Some(false) => None,
                    None => connecting.keepalive,
                },
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
}

/// Python has the options as numbers of Linux; in a file the names are clearer.
fn keepalive(options: &BTreeMap<String, u32>) -> Result<Keepalive, BrokerError> {
    let mut read = Keepalive::default();
    for (name, value) in options {
        let seconds = Some(Duration::from_secs(u64::from(*value)));
        match name.as_str() {
            "TCP_KEEPIDLE" | "4" => read.idle = seconds,
            "TCP_KEEPINTVL" | "5" => read.interval = seconds,
            "TCP_KEEPCNT" | "6" => read.count = Some(*value),
            _ => {
                return Err(BrokerError::Config(format!(
                    "{}.socket_keepalive_options: {name} is none of TCP_KEEPIDLE (4), TCP_KEEPINTVL (5) and TCP_KEEPCNT (6)",
                    NAMES.setting
                )));
            }
        }
    }
    Ok(read)
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

#[cfg(test)]
mod tests {
    use super::super::QueueOrder;
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
            socket_keepalive_options = { 4 = 60, TCP_KEEPINTVL = 10, 6 = 3 }
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
        assert_eq!(
            (options.sep.as_str(), options.global_keyprefix.as_str()),
            (":", "p_")
        );
        assert_eq!(
            (options.unacked_key.as_str(), options.unacked_index_key.as_str()),
            ("u", "ui")
        );
        assert_eq!(options.unacked_mutex_key, "um");
        assert_eq!(options.unacked_mutex_expire, Duration::from_secs(30));
        assert_eq!(options.unacked_restore_limit, Some(7));
        assert_eq!(options.sweep_period(), Duration::from_secs(10));
        let connecting = &options.connecting;
        assert_eq!(connecting.response_timeout, Some(Duration::from_secs(3)));
        assert_eq!(connecting.connect_timeout, Duration::from_millis(2500));
        let keepalive = Keepalive {
            idle: Some(Duration::from_secs(60)),
            interval: Some(Duration::from_secs(10)),
            count: Some(3),
        };
        assert_eq!(connecting.keepalive, Some(keepalive));
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
}
