//! The broker's URLs.

use super::{OneOrMany, Settings};
use crate::broker::BrokerError;

/// The schemes a broker URL may have.
const BROKERS: &str = "amqp://, amqps://, redis://, rediss://, redis+socket://, sentinel:// or filesystem://";
/// What speaks to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Amqp,
    Redis,
    Filesystem,
}

/// The broker's URLs, several separated by `;`.
pub(super) struct Urls {
    pub(super) transport: Transport,
    /// `broker_read_url`, else `broker_url`.
    pub(super) read: String,
    /// `broker_write_url`, else `broker_url`.
    pub(super) write: String,
}

impl Urls {
    /// `None`: no broker is named, and the embedded one is used.
    pub(super) fn of(settings: &Settings) -> Result<Option<Self>, BrokerError> {
        let named = |own: &Option<OneOrMany>| {
            let urls = own.as_ref().or(settings.broker_url.as_ref());
            let urls: Vec<String> = urls
                .into_iter()
                .flat_map(OneOrMany::all)
                .map(with_slashes)
                .collect();
            urls
        };
        let (read, write) = (
            named(&settings.broker_read_url),
            named(&settings.broker_write_url),
        );
        if read.is_empty() && write.is_empty() {
            return Ok(None);
        }
        let mut transport = None;
        for url in read.iter().chain(&write) {
            let this = match scheme(url) {
                "amqp" | "amqps" | "pyamqp" => Transport::Amqp,
                "redis" | "rediss" | "redis+socket" | "socket" | "unix" | "sentinel" => Transport::Redis,
                "filesystem" => Transport::Filesystem,
                other => {
                    return Err(BrokerError::Config(format!(
                        "broker_url: unknown scheme {other:?}; expected {BROKERS}"
                    )));
                }
            };
            if *transport.get_or_insert(this) != this {
                let text = "broker_url: all URLs have to be of one transport";
                return Err(BrokerError::Config(text.into()));
            }
        }
        match transport {
            Some(transport) if !read.is_empty() && !write.is_empty() => Ok(Some(Self {
                transport,
                read: read.join(";"),
                write: write.join(";"),
            })),
            _ => Err(BrokerError::Config(
                "broker_read_url and broker_write_url go together, or with a broker_url".into(),
            )),
        }
    }
}

/// Celery takes a scheme alone as well (`redis`).
fn with_slashes(url: &str) -> String {
    match url.contains(':') {
        true => url.to_owned(),
        false => format!("{url}://"),
    }
}

/// The part before `://`; Celery takes a scheme alone as well (`redis`).
pub(super) fn scheme(url: &str) -> &str {
    url.split_once(':').map_or(url, |(scheme, _)| scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_from_all_three_settings() {
        let urls = |text: &str| {
            let urls = Urls::of(&toml::from_str(text).unwrap()).unwrap().unwrap();
            (urls.transport, urls.read, urls.write)
        };
        let same = |transport, url: &str| (transport, url.to_owned(), url.to_owned());
        assert_eq!(urls("broker_url = 'redis'"), same(Transport::Redis, "redis://"));
        assert_eq!(
            urls("broker_url = ['amqp://a', 'pyamqp://b; amqps://c']"),
            same(Transport::Amqp, "amqp://a;pyamqp://b;amqps://c")
        );
        assert_eq!(
            urls("broker_url = 'amqp://a'\nbroker_write_url = 'amqp://w'"),
            (Transport::Amqp, "amqp://a".into(), "amqp://w".into())
        );
        assert!(Urls::of(&Settings::default()).unwrap().is_none());
    }
}
