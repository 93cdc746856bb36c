//! Where the broker is: `amqp://`, `amqps://` and `pyamqp://` URLs as kombu reads them.

use std::fmt;
use std::time::Duration;

use url::Url;

use super::Options;
use crate::broker::BrokerError;
use crate::masked::masked;
use crate::tls::{Check, Tls};

/// A broker's address, credentials and the options of its URL. Its text form hides the password.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Address {
    scheme: &'static str,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) vhost: String,
    /// `None` for a plain connection.
    pub(super) tls: Option<Tls>,
    /// Seconds between signs of life.
    pub(super) heartbeat: u16,
    /// How long connecting may take.
    pub(super) connection_timeout: Duration,
}

impl Address {
    /// Reads a URL. Its query may set `heartbeat`, `connection_timeout` (milliseconds), `cacertfile`, `certfile`,
    /// `keyfile` and `verify` as RabbitMQ's URI query parameters do; where it does not, `options` count.
    pub(super) fn parse(text: &str, options: &Options) -> Result<Self, BrokerError> {
        let bad = |reason: String| BrokerError::Config(format!("the broker URL {} {reason}", masked(text)));
        let url = Url::parse(text).map_err(|error| bad(format!("is not a URL: {error}")))?;
        let (scheme, default_port) = match url.scheme() {
            "amqp" | "pyamqp" => ("amqp", 5672),
            "amqps" => ("amqps", 5671),
            _ => return Err(bad("is not an amqp:// or amqps:// URL".into())),
        };
        let decoded = |text: &str| {
            let plain = percent_decode(text);
            plain.ok_or_else(|| bad(format!("has a percent sign that is no UTF-8 in {text:?}")))
        };
        let or = |text: String, default: &str| if text.is_empty() { default.into() } else { text };
        let mut tls = options.tls.clone().unwrap_or_default();
        let mut wants_tls = scheme == "amqps" || options.tls.is_some();
        let mut heartbeat = options.heartbeat;
        let mut timeout = options.connection_timeout;
        for (name, value) in url.query_pairs() {
            let number = || {
                let number = value.parse::<u64>();
                number.map_err(|_| bad(format!("has {name}={value}, which is no whole number")))
            };
            match name.as_ref() {
                "heartbeat" => heartbeat = u16::try_from(number()?).unwrap_or(u16::MAX),
                "connection_timeout" => timeout = number()? as f64 / 1000.0,
                "cacertfile" => tls.ca = Some(value.as_ref().into()),
                "certfile" => tls.certificate = Some(value.as_ref().into()),
                "keyfile" => tls.key = Some(value.as_ref().into()),
                "verify" if value == "verify_none" => tls.check = Check::None,
                "verify" if value == "verify_peer" => tls.check = Check::Required,
                "ssl" if matches!(value.as_ref(), "1" | "true" | "True") => wants_tls = true,
                _ => {
                    return Err(bad(format!(
                        "has an unknown option {name:?} (known: heartbeat, connection_timeout, ssl, cacertfile, \
                         certfile, keyfile, verify)"
                    )));
                }
            }
        }
        if tls.certificate.is_some() != tls.key.is_some() {
            return Err(bad("needs both certfile and keyfile, or neither".into()));
        }
        let host = url.host_str().unwrap_or_default();
        let path = url.path();
        let vhost = or(decoded(path.strip_prefix('/').unwrap_or(path))?, "/");
        if vhost.len() > 255 {
            return Err(bad("has a virtual host of more than 255 bytes".into()));
        }
        Ok(Self {
            scheme: if wants_tls { "amqps" } else { scheme },
            host: or(decoded(host.trim_matches(['[', ']']))?, "localhost"),
            port: url.port().unwrap_or(default_port),
            user: or(decoded(url.username())?, "guest"),
            password: or(decoded(url.password().unwrap_or_default())?, "guest"),
            vhost,
            tls: wants_tls.then_some(tls),
            heartbeat,
            connection_timeout: Duration::try_from_secs_f64(timeout).unwrap_or(Duration::MAX),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        let Self {
            scheme,
            user,
            host,
            port,
            vhost,
            ..
        } = self;
        write!(f, "{scheme}://{user}:**@{open}{host}{close}:{port}/{vhost}")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let hex = (byte == b'%').then(|| after.split_first_chunk::<2>()).flatten();
        let escaped = hex.and_then(|(digits, after)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, after))
        });
        match escaped {
            Some((byte, after)) => {
                bytes.push(byte);
                rest = after;
            }
            None => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, String> {
        Address::parse(text, &Options::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn urls_are_read_as_kombu_reads_them() {
        let cases = [
            ("amqp://", ("localhost", 5672, "guest", "guest", "/")),
            ("amqp://localhost", ("localhost", 5672, "guest", "guest", "/")),
            (
                "amqp://guest@localhost//",
                ("localhost", 5672, "guest", "guest", "/"),
            ),
            ("pyamqp://a:b@h:1/", ("h", 1, "a", "b", "/")),
            ("amqp://a:b@h/prod", ("h", 5672, "a", "b", "prod")),
            ("amqp://a:b@h//prod", ("h", 5672, "a", "b", "/prod")),
            ("amqp://a:b@h/%2f", ("h", 5672, "a", "b", "/")),
            (
                "amqp://a%40x:p%2Fw%3A%25@h/v%20w",
                ("h", 5672, "a@x", "p/w:%", "v w"),
            ),
            ("amqps://a:b@h/v?heartbeat=5", ("h", 5671, "a", "b", "v")),
            ("amqp://a:b@[::1]:7//", ("::1", 7, "a", "b", "/")),
        ];
        for (text, (host, port, user, password, vhost)) in cases {
            let address = parse(text).unwrap();
            assert_eq!(
                (host, port, user, password, vhost),
                (
                    address.host.as_str(),
                    address.port,
                    address.user.as_str(),
                    address.password.as_str(),
                    address.vhost.as_str()
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn the_query_sets_options_and_tls_files() {
        let text = "amqps://h?heartbeat=5&connection_timeout=1500&cacertfile=/c.pem&certfile=/a&keyfile=/b";
        let address = parse(text).unwrap();
        assert_eq!(
            (address.heartbeat, address.connection_timeout.as_millis()),
            (5, 1500)
        );
        let tls = address.tls.unwrap();
        assert_eq!(tls.ca, Some("/c.pem".into()));
        assert_eq!((tls.certificate, tls.key), (Some("/a".into()), Some("/b".into())));
        assert_eq!(parse("amqp://h").unwrap().tls, None);
        assert!(parse("amqp://h?ssl=true").unwrap().tls.is_some());
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_the_password() {
        for (text, reason) in [
            ("redis://u:secret@h", "is not an amqp:// or amqps:// URL"),
            ("amqp://u:secret@h:port", "is not a URL"),
            ("amqp://u:secret@h?hartbeat=3", "unknown option \"hartbeat\""),
            ("amqp://u:secret@h?heartbeat=x", "no whole number"),
            ("amqps://u:secret@h?certfile=/a", "both certfile and keyfile"),
            ("u:secret@h", "is not a"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_virtual_host_has_at_most_255_bytes() {
        assert!(parse(&format!("amqp://h/{}", "v".repeat(255))).is_ok());
        let error = parse(&format!("amqp://h/{}", "v".repeat(256))).unwrap_err();
        assert!(error.contains("more than 255 bytes"), "{error}");
    }

    #[test]
    fn the_password_is_never_printed() {
        let address = parse("amqp://u:secret@127.0.0.1//").unwrap();
        assert_eq!(address.to_string(), "amqp://u:**@127.0.0.1:5672//");
        assert!(!format!("{address:?}").contains("secret"));
    }
}
