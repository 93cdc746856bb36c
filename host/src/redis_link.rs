//! A connection to Redis that is made when it is needed and made again after it broke.

use std::time::Duration;

use redis::RedisError;
use redis::aio::MultiplexedConnection;

use crate::broker::Backoff;
use crate::redis_url::RedisUrl;

/// How long a command may take. Longer than any pause a healthy server makes, short enough to notice a dead peer.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// One connection for one job, with the pauses between the attempts to get it back.
pub(crate) struct Link {
    url: RedisUrl,
    response_timeout: Duration,
    connection: Option<(MultiplexedConnection, usize)>,
    backoff: Backoff,
}

impl Link {
    /// A link that is not connected yet.
    pub(crate) fn new(url: RedisUrl, response_timeout: Duration) -> Self {
        Self {
            url,
            response_timeout,
            connection: None,
            backoff: Backoff::default(),
        }
    }

    /// Where it leads.
    pub(crate) fn url(&self) -> &RedisUrl {
        &self.url
    }

    /// Whether there is a connection that is not known to be broken.
    pub(crate) fn is_up(&self) -> bool {
        self.connection.is_some()
    }

    /// The connection; one attempt is made when there is none, or when another link had to turn to another server.
    pub(crate) async fn up(&mut self) -> Result<&mut MultiplexedConnection, RedisError> {
        let current = self.url.current();
        let connection = match self.connection.take() {
            Some((connection, server)) if server == current => (connection, server),
            _ => self.url.connect(self.response_timeout).await?,
        };
        Ok(&mut self.connection.insert(connection).0)
    }

    /// What was asked of the connection worked: the next pause is a short one again.
    pub(crate) fn worked(&mut self) {
        self.backoff.reset();
    }

    /// What was asked failed: the next call of [`Link::up`] starts afresh, after the pause that is returned.
    pub(crate) fn failed(&mut self) -> Duration {
        self.connection = None;
        self.backoff.next_pause()
    }
}

/// Whether trying again is of no use: the server is there and refuses who we are or which database we ask for.
pub(crate) fn is_refusal(error: &RedisError) -> bool {
    use redis::{ErrorKind, ServerErrorKind};
    match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm) => true,
        ErrorKind::Server(ServerErrorKind::ResponseError) => {
            error.detail().is_some_and(|detail| detail.contains("DB index"))
        }
        _ => matches!(error.code(), Some("NOAUTH" | "WRONGPASS")),
    }
}

/// Refusals that pass: the server is starting, changing its role, out of memory, or without its replicas.
const PASSING: [&str; 7] = [
    "LOADING",
    "MASTERDOWN",
    "READONLY",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "OOM",
    "NOREPLICAS",
];

/// Whether the server refused a command for a reason that passes.
pub(crate) fn is_passing(error: &RedisError) -> bool {
    error.code().is_some_and(|code| PASSING.contains(&code)) || error.detail().is_some_and(in_a_script)
}

/// The same of the text of an error that a script caught.
pub(crate) fn is_passing_text(text: &str) -> bool {
    let code = text.split(' ').next().unwrap_or_default();
    PASSING.contains(&code) || in_a_script(text)
}

/// Before version 7, Redis tells of an error in a script by its place there.
fn in_a_script(text: &str) -> bool {
    let mut parts = text.split(": -").skip(1);
    parts.any(|part| PASSING.iter().any(|code| part.starts_with(code)))
}
