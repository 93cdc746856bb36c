//! Where a Redis server is: the URL forms of kombu and of Celery's Redis backend (contract section 2.2.6).

mod parse;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, RedisError, RedisResult};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use crate::broker::Strategy;
use crate::masked::masked;
use crate::policy::network::Servers;
use crate::tls::Tls;

/// How to connect, besides the URL.
#[derive(Debug, Clone, PartialEq)]
pub struct Connecting {
    /// `broker_use_ssl` or `redis_backend_use_ssl`: TLS also for `redis://` and `sentinel://`.
    pub tls: Option<Tls>,
    /// `socket_connect_timeout`: how long connecting may take.
    pub connect_timeout: Duration,
    /// `socket_timeout`: how long an answer may take; `None`: as the task at hand allows.
    pub response_timeout: Option<Duration>,
    /// `socket_keepalive`: the system looks after idle connections.
    pub keepalive: Option<Keepalive>,
    /// `client_name`: what the server lists the connections as.
    pub client_name: Option<String>,
    /// `broker_failover_strategy`.
    pub failover: Strategy,
    /// `master_name`: what the sentinels call the servers.
    pub master_name: Option<String>,
    /// `sentinel_kwargs`: how to talk to the sentinels.
    pub sentinel: SentinelLogin,
    /// Gets the servers that the sentinels name.
    pub found: Servers,
}

/// `socket_keepalive_options`: how the system asks whether the other end of an idle connection is there; `None`: as the
/// system has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// `TCP_KEEPIDLE`: after how long it asks.
    pub idle: Option<Duration>,
    /// `TCP_KEEPINTVL`: how often it asks again.
    pub interval: Option<Duration>,
    /// `TCP_KEEPCNT`: how many questions without an answer end the connection.
    pub count: Option<u32>,
}

/// How to talk to sentinels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SentinelLogin {
    /// `username`.
    pub username: Option<String>,
    /// `password`.
    pub password: Option<String>,
    /// `ssl` and its relatives.
    pub tls: Option<Tls>,
}

impl Default for Connecting {
    fn default() -> Self {
        Self {
            tls: None,
            connect_timeout: Duration::from_secs(5),
            response_timeout: None,
            keepalive: None,
            client_name: None,
            failover: Strategy::RoundRobin,
            master_name: None,
            sentinel: SentinelLogin::default(),
            found: Servers::default(),
        }
    }
}

/// Why a URL cannot be used. The text never holds the password.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {reason}")]
pub struct RedisUrlError {
    url: String,
    reason: String,
}

/// A Redis server and database: `redis://[user][:password@]host[:port][/db]`, `rediss://` the same over TLS with
/// `ssl_cert_reqs`, `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile` as query options, and
/// `redis+socket:///path?virtual_host=db` (also `socket://`, `unix://`) for a unix socket. Several of these, separated
/// by `;`, stand in for each other; several `sentinel://host:port` are the sentinels that know the server.
///
/// `Display` and `Debug` show the URL with its password masked. Clones lead to the same server: when one of them has to
/// turn to another one, all do.
#[derive(Clone)]
pub struct RedisUrl {
    servers: Arc<[Server]>,
    /// Which of them is in use.
    current: Arc<watch::Sender<usize>>,
    db: i64,
    connecting: Arc<Connecting>,
    shown: String,
}

enum Server {
    Known(Box<Client>),
    /// The sentinels say where it is.
    Sentinels(Box<Mutex<SentinelClient>>),
}

impl RedisUrl {
    /// Reads a URL, and the certificate files that it names.
    pub fn parse(text: &str) -> Result<Self, RedisUrlError> {
        Self::with(text, Connecting::default())
    }

    /// The same with what is set besides.
    pub fn with(text: &str, connecting: Connecting) -> Result<Self, RedisUrlError> {
        let shown = masked(text);
        let error = |reason: String| RedisUrlError {
            url: shown.clone(),
            reason,
        };
        let urls: Vec<&str> = text
            .split(';')
            .map(str::trim)
            .filter(|url| !url.is_empty())
            .collect();
        let sentinels = urls.iter().filter(|url| url.starts_with("sentinel:")).count();
        let (servers, db) = if sentinels > 0 {
            if sentinels < urls.len() {
                return Err(error("sentinel:// and other URLs do not go together".into()));
            }
            let (client, db) = parse::sentinel(&urls, &connecting).map_err(&error)?;
            (vec![Server::Sentinels(Box::new(Mutex::new(client)))], db)
        } else {
            let mut servers = Vec::new();
            let mut db = 0;
            for url in urls {
                let client = parse::client(url, &connecting).map_err(&error)?;
                db = client.get_connection_info().redis_settings().db();
                servers.push(Server::Known(Box::new(client)));
            }
            (servers, db)
        };
        if servers.is_empty() {
            return Err(error("there is no URL".into()));
        }
        Ok(Self {
            servers: servers.into(),
            current: Arc::new(watch::Sender::new(0)),
            db,
            connecting: Arc::new(connecting),
            shown,
        })
    }

    /// The database number.
    pub fn db(&self) -> i64 {
        self.db
    }

    /// Which of several servers is in use, by its place in the URL.
    pub(crate) fn current(&self) -> usize {
        *self.current.borrow()
    }

    /// One attempt to connect, at each of the servers. A command that is not answered within `response_timeout` (or
    /// `socket_timeout`, when that is set) fails. Also says which server it is.
    pub(crate) async fn connect(
        &self,
        response_timeout: Duration,
    ) -> RedisResult<(MultiplexedConnection, usize)> {
        let response_timeout = self.connecting.response_timeout.unwrap_or(response_timeout);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connecting.connect_timeout))
            .set_response_timeout(Some(response_timeout));
        let mut failed = None;
        for index in self.order() {
            let connected = async {
                let client = self.client(index).await?;
                let mut connection = client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?;
                if let Some(name) = &self.connecting.client_name {
                    let mut command = redis::cmd("CLIENT");
                    command
                        .arg("SETNAME")
                        .arg(name)
                        .exec_async(&mut connection)
                        .await?;
                }
                RedisResult::Ok(connection)
            };
            match connected.await {
                Ok(connection) => {
                    self.turn_to(index);
                    return Ok((connection, index));
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(timed_out))
    }

    /// One attempt to connect for subscriptions, to the server in use.
    pub(crate) async fn subscriber(&self) -> RedisResult<PubSub> {
        let client = self.client(self.current()).await?;
        let connecting = timeout(self.connecting.connect_timeout, client.get_async_pubsub());
        connecting.await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// The server in use first.
    fn order(&self) -> Vec<usize> {
        let count = self.servers.len();
        let current = self.current();
        let others: Vec<usize> = (1..count).map(|step| (current + step) % count).collect();
        let others = self.connecting.failover.order(&others);
        std::iter::once(current)
            .chain(others.into_iter().copied())
            .collect()
    }

    fn turn_to(&self, index: usize) {
        let turned = self
            .current
            .send_if_modified(|current| std::mem::replace(current, index) != index);
        if turned {
            tracing::warn!("now using server {} of {}", index + 1, self.shown);
        }
    }

    async fn client(&self, index: usize) -> RedisResult<Client> {
        match self.servers.get(index) {
            Some(Server::Known(client)) => Ok((**client).clone()),
            Some(Server::Sentinels(sentinels)) => {
                let asking = async { sentinels.lock().await.async_get_client().await };
                let patience = self.connecting.connect_timeout.saturating_mul(2);
                let client = timeout(patience, asking)
                    .await
                    .unwrap_or_else(|_| Err(timed_out()))?;
                if let ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } =
                    client.get_connection_info().addr()
                {
                    self.connecting.found.add((host.clone(), *port));
                }
                Ok(client)
            }
            None => Err(timed_out()),
        }
    }
}

fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn several_urls_are_one_server_and_its_substitutes() {
        let url = RedisUrl::parse("redis://a/3; redis://b/3;redis://c/3").unwrap();
        assert_eq!((url.servers.len(), url.db()), (3, 3));
        assert_eq!(url.order(), [0, 1, 2]);
        let clone = url.clone();
        url.turn_to(1);
        assert_eq!((clone.current(), clone.order()), (1, vec![1, 2, 0]));
        let connecting = Connecting {
            master_name: Some("main".into()),
            ..Connecting::default()
        };
        let url = RedisUrl::with("sentinel://:secret@a:1;sentinel://b/2", connecting.clone()).unwrap();
        assert_eq!((url.servers.len(), url.db()), (1, 2));
        for bad in ["", ";", "sentinel://a;redis://b"] {
            assert!(RedisUrl::with(bad, connecting.clone()).is_err(), "{bad}");
        }
    }
}
