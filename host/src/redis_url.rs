//! Where a Redis server is: the URL forms of kombu and of Celery's Redis backend (contract section 2.2.6).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisResult, TlsCertificates,
};
use url::Url;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Query options that mean something to Python's client only. They are accepted, so that one URL serves both.
const PYTHON_ONLY: [&str; 10] = [
    "client_name",
    "decode_responses",
    "health_check_interval",
    "max_connections",
    "protocol",
    "retry_on_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_timeout",
    "ssl_check_hostname",
];

/// Why a URL cannot be used. The text never holds the password.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {reason}")]
pub struct RedisUrlError {
    url: String,
    reason: String,
}

/// A Redis server and database: `redis://[user][:password@]host[:port][/db]`, `rediss://` the same over TLS with
/// `ssl_cert_reqs`, `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile` as query options, and
/// `redis+socket:///path?virtual_host=db` (also `socket://`, `unix://`) for a unix socket.
///
/// `Display` and `Debug` show the URL with its password masked.
#[derive(Clone)]
pub struct RedisUrl {
    client: Client,
    shown: String,
}

impl RedisUrl {
    /// Reads a URL, and the certificate files that it names.
    pub fn parse(text: &str) -> Result<Self, RedisUrlError> {
        let shown = masked(text);
        let client = client(text).map_err(|reason| RedisUrlError {
            url: shown.clone(),
            reason,
        })?;
        Ok(Self { client, shown })
    }

    /// The database number.
    pub fn db(&self) -> i64 {
        self.client.get_connection_info().redis_settings().db()
    }

    /// One attempt to connect. A command that is not answered within `response_timeout` fails.
    pub(crate) async fn connect(&self, response_timeout: Duration) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(response_timeout));
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({})", self.shown)
    }
}

/// The URL with its password replaced and without query, for people to read. A text that is no URL is not shown,
/// because nobody knows where in it a password is.
fn masked(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else {
        return "redis URL".into();
    };
    if url.password().is_some() && url.set_password(Some("**")).is_err() {
        return format!("{}://**", url.scheme());
    }
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

fn client(text: &str) -> Result<Client, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let options = QueryOptions::read(&url)?;
    let path = percent_decoded(url.path())?;
    let (addr, db) = match url.scheme() {
        "redis" | "rediss" => {
            let host = match url.host_str() {
                Some(host) if !host.is_empty() => percent_decoded(host.trim_matches(['[', ']']))?,
                _ => "127.0.0.1".into(),
            };
            let port = url.port().unwrap_or(6379);
            let addr = match url.scheme() {
                "redis" => ConnectionAddr::Tcp(host, port),
                _ => ConnectionAddr::TcpTls {
                    host,
                    port,
                    insecure: false,
                    tls_params: None,
                },
            };
            (
                addr,
                options.db.unwrap_or_else(|| path.trim_matches('/').to_owned()),
            )
        }
        "redis+socket" | "socket" | "unix" | "redis+unix" => {
            let host = url.host_str().unwrap_or_default();
            (
                ConnectionAddr::Unix(PathBuf::from(format!("{host}{path}"))),
                options.db.unwrap_or_default(),
            )
        }
        other => return Err(format!("{other}:// is not a Redis URL")),
    };
    let db = match db.as_str() {
        "" => 0,
        text => text
            .parse::<u16>()
            .map_err(|_| format!("the database is a number from 0 on, not {text:?}"))?,
    };
    let mut settings = RedisConnectionInfo::default()
        .set_db(i64::from(db))
        .set_skip_set_lib_name();
    if !url.username().is_empty() {
        settings = settings.set_username(percent_decoded(url.username())?);
    }
    if let Some(password) = url.password().filter(|password| !password.is_empty()) {
        settings = settings.set_password(percent_decoded(password)?);
    }
    let tls = matches!(addr, ConnectionAddr::TcpTls { .. });
    let info = addr
        .into_connection_info()
        .map_err(|error| error.to_string())?
        .set_redis_settings(settings)
        .set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let client = match tls {
        true => Client::build_with_tls(info, options.certificates),
        false => Client::open(info),
    };
    client.map_err(|error| error.to_string())
}

struct QueryOptions {
    db: Option<String>,
    certificates: TlsCertificates,
}

impl QueryOptions {
    fn read(url: &Url) -> Result<Self, String> {
        let mut db = None;
        let (mut root_cert, mut client_cert, mut client_key) = (None, None, None);
        let file = |path: &str| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "virtual_host" | "db" => db = Some(value.trim_matches('/').to_owned()),
                "ssl_ca_certs" => root_cert = Some(file(&value)?),
                "ssl_certfile" => client_cert = Some(file(&value)?),
                "ssl_keyfile" => client_key = Some(file(&value)?),
                "ssl_cert_reqs" => {
                    match value.as_ref() {
                        "CERT_REQUIRED" | "required" | "CERT_OPTIONAL" | "optional" => {}
                        "CERT_NONE" | "none" => {
                            return Err("ssl_cert_reqs=CERT_NONE is not supported: it would accept anybody's server. \
                                    Name the server's certificate or its authority with ssl_ca_certs"
                            .into());
                        }
                        other => {
                            return Err(format!(
                                "ssl_cert_reqs is CERT_REQUIRED or CERT_OPTIONAL, not {other:?}"
                            ));
                        }
                    }
                }
                name if PYTHON_ONLY.contains(&name) => {}
                name => return Err(format!("unknown option {name:?}")),
            }
        }
        let client_tls = match (client_cert, client_key) {
            (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig {
                client_cert,
                client_key,
            }),
            (None, None) => None,
            _ => return Err("ssl_certfile and ssl_keyfile go together".into()),
        };
        Ok(Self {
            db,
            certificates: TlsCertificates {
                client_tls,
                root_cert,
            },
        })
    }
}

/// `%40` becomes `@`; a plus sign stays what it is.
fn percent_decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .filter(|_| first == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| "the percent-encoded text is not UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> (String, i64) {
        let url = RedisUrl::parse(text).unwrap();
        (url.client.get_connection_info().addr().to_string(), url.db())
    }

    #[test]
    fn the_forms_of_kombu_lead_to_the_same_places() {
        assert_eq!(addr("redis://"), ("127.0.0.1:6379".into(), 0));
        assert_eq!(addr("redis://h"), ("h:6379".into(), 0));
        assert_eq!(addr("redis://h:1/2"), ("h:1".into(), 2));
        assert_eq!(addr("redis://h:1//2"), ("h:1".into(), 2));
        assert_eq!(addr("redis://[::1]:1/3"), ("::1:1".into(), 3));
        assert_eq!(addr("redis://h/?db=4&socket_timeout=5"), ("h:6379".into(), 4));
        assert_eq!(
            addr("rediss://h:1/5?ssl_cert_reqs=CERT_REQUIRED"),
            ("h:1".into(), 5)
        );
        assert_eq!(
            addr("redis+socket:///tmp/a%20b.sock?virtual_host=6"),
            ("/tmp/a b.sock".into(), 6)
        );
        assert_eq!(addr("unix:///tmp/r.sock"), ("/tmp/r.sock".into(), 0));
        assert_eq!(addr("socket:///tmp/r.sock?db=7"), ("/tmp/r.sock".into(), 7));
    }

    #[test]
    fn user_and_password_are_percent_decoded() {
        let url = RedisUrl::parse("redis://us%40er:p%40s+s%2F@h/0").unwrap();
        let settings = url.client.get_connection_info().redis_settings();
        assert_eq!(settings.username(), Some("us@er"));
        assert_eq!(settings.password(), Some("p@s+s/"));
        let url = RedisUrl::parse("redis://:secret@h/0").unwrap();
        let settings = url.client.get_connection_info().redis_settings();
        assert_eq!(settings.username(), None);
        assert_eq!(settings.password(), Some("secret"));
    }

    #[test]
    fn the_password_is_never_shown() {
        let url = RedisUrl::parse("redis://user:secret@h:1/0").unwrap();
        assert_eq!(url.to_string(), "redis://user:**@h:1/0");
        assert!(!format!("{url:?}").contains("secret"));
        for bad in [
            "redis://:secret@h/x",
            "redis://:secret@h:99999/0",
            "amqp://:secret@h/0",
            "redis://:sec/ret@h",
            "redis://:secret@h?password=secret&x=secret",
        ] {
            let error = RedisUrl::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("secret") && !error.contains("ret@"), "{error}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_reason() {
        let reason = |text: &str| RedisUrl::parse(text).unwrap_err().to_string();
        assert!(reason("redis://h/x").contains("database is a number"));
        assert!(reason("redis://h/0?ssl_ca_cert=x").contains("unknown option \"ssl_ca_cert\""));
        assert!(reason("rediss://h?ssl_cert_reqs=CERT_NONE").contains("CERT_NONE is not supported"));
        assert!(reason("rediss://h?ssl_ca_certs=/no/such/file").contains("/no/such/file"));
        assert!(reason("http://h").contains("is not a Redis URL"));
    }
}
