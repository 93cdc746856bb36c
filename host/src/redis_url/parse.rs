//! Reading the URLs.

use std::path::{Path, PathBuf};

use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, TlsCertificates,
    TlsMode,
};
use url::Url;

use super::{Connecting, Keepalive};
use crate::nearest::did_you_mean;
use crate::tls::{Check, Tls};

/// Query options that mean something.
const KNOWN: [&str; 6] = [
    "virtual_host",
    "db",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_cert_reqs",
];

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

/// One of the servers of a list: a URL that is no `sentinel://`, and the certificate files that it names.
pub(super) fn client(text: &str, connecting: &Connecting) -> Result<Client, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let options = QueryOptions::read(&url, connecting)?;
    let path = percent_decoded(url.path())?;
    let tls = options
        .tls
        .filter(|_| url.scheme() == "rediss" || connecting.tls.is_some());
    let (addr, db) = match url.scheme() {
        "redis" | "rediss" => {
            let (host, port) = host_and_port(&url, 6379)?;
            let addr = match &tls {
                None if url.scheme() == "redis" => ConnectionAddr::Tcp(host, port),
                _ => ConnectionAddr::TcpTls {
                    host,
                    port,
                    insecure: tls.as_ref().is_some_and(|tls| tls.check == Check::None),
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
    let mut settings = RedisConnectionInfo::default()
        .set_db(i64::from(database(&db)?))
        .set_skip_set_lib_name();
    let (username, password) = credentials(&url)?;
    if let Some(username) = username {
        settings = settings.set_username(username);
    }
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    let is_tls = matches!(addr, ConnectionAddr::TcpTls { .. });
    let info = addr
        .into_connection_info()
        .map_err(|error| error.to_string())?
        .set_redis_settings(settings)
        .set_tcp_settings(tcp(connecting));
    let client = match is_tls {
        true => Client::build_with_tls(info, certificates(&tls.unwrap_or_default())?),
        false => Client::open(info),
    };
    client.map_err(|error| error.to_string())
}

/// `sentinel://[user][:password@]host:port` of every sentinel, of which the last names the database. User and password
/// are those of the Redis servers; `sentinel_kwargs` hold those of the sentinels.
pub(super) fn sentinel(texts: &[&str], connecting: &Connecting) -> Result<(SentinelClient, i64), String> {
    let Some(master) = &connecting.master_name else {
        return Err("sentinel:// needs the transport option master_name".into());
    };
    let (mut nodes, mut db) = (Vec::new(), String::new());
    let (mut username, mut password) = (None, None);
    for text in texts {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        let (host, port) = host_and_port(&url, 26379)?;
        nodes.push(match &connecting.sentinel.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(tls) => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: tls.check == Check::None,
                tls_params: None,
            },
        });
        let path = percent_decoded(url.path())?;
        let named = QueryOptions::read(&url, connecting)?.db.unwrap_or(path);
        if !named.trim_matches('/').is_empty() {
            db = named.trim_matches('/').to_owned();
        }
        let (user, secret) = credentials(&url)?;
        username = username.or(user);
        password = password.or(secret);
    }
    let db = i64::from(database(&db)?);
    let problem = |error: redis::RedisError| error.to_string();
    let mut builder = SentinelClientBuilder::new(nodes, master.clone(), SentinelServerType::Master)
        .map_err(problem)?
        .set_client_to_redis_db(db)
        .set_client_to_redis_tcp_settings(tcp(connecting))
        .set_client_to_sentinel_tcp_settings(tcp(connecting));
    if let Some(username) = username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = password {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(username) = &connecting.sentinel.username {
        builder = builder.set_client_to_sentinel_username(username);
    }
    if let Some(password) = &connecting.sentinel.password {
        builder = builder.set_client_to_sentinel_password(password);
    }
    if let Some(tls) = &connecting.tls {
        builder = builder
            .set_client_to_redis_tls_mode(mode(tls))
            .set_client_to_redis_certificates(certificates(tls)?);
    }
    if let Some(tls) = &connecting.sentinel.tls {
        builder = builder
            .set_client_to_sentinel_tls_mode(mode(tls))
            .set_client_to_sentinel_certificates(certificates(tls)?);
    }
    Ok((builder.build().map_err(problem)?, db))
}

fn mode(tls: &Tls) -> TlsMode {
    match tls.check {
        Check::Required => TlsMode::Secure,
        Check::None => TlsMode::Insecure,
    }
}

fn tcp(connecting: &Connecting) -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    let Some(Keepalive {
        idle,
        interval,
        count,
    }) = connecting.keepalive
    else {
        return settings;
    };
    let mut keepalive = TcpKeepalive::new();
    if let Some(idle) = idle {
        keepalive = keepalive.with_time(idle);
    }
    if let Some(interval) = interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(count) = count {
        keepalive = keepalive.with_retries(count);
    }
    settings.set_keepalive(keepalive)
}

fn host_and_port(url: &Url, default_port: u16) -> Result<(String, u16), String> {
    let host = match url.host_str() {
        Some(host) if !host.is_empty() => percent_decoded(host.trim_matches(['[', ']']))?,
        _ => "127.0.0.1".into(),
    };
    Ok((host, url.port().unwrap_or(default_port)))
}

fn database(text: &str) -> Result<u16, String> {
    match text {
        "" => Ok(0),
        text => text
            .parse()
            .map_err(|_| format!("the database is a number from 0 on, not {text:?}")),
    }
}

fn credentials(url: &Url) -> Result<(Option<String>, Option<String>), String> {
    let some = |text: &str| (!text.is_empty()).then(|| percent_decoded(text)).transpose();
    Ok((some(url.username())?, some(url.password().unwrap_or_default())?))
}

/// Reads the files that these name.
fn certificates(tls: &Tls) -> Result<TlsCertificates, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let file = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
    let client_tls = match (file(&tls.certificate)?, file(&tls.key)?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig {
            client_cert,
            client_key,
        }),
        (None, None) => None,
        _ => return Err("ssl_certfile and ssl_keyfile go together".into()),
    };
    Ok(TlsCertificates {
        client_tls,
        root_cert: file(&tls.ca)?,
    })
}

struct QueryOptions {
    db: Option<String>,
    tls: Option<Tls>,
}

impl QueryOptions {
    fn read(url: &Url, connecting: &Connecting) -> Result<Self, String> {
        let mut db = None;
        let mut tls = connecting.tls.clone().unwrap_or_default();
        for (name, value) in url.query_pairs() {
            let path = || Some(PathBuf::from(value.as_ref()));
            match name.as_ref() {
                "virtual_host" | "db" => db = Some(value.trim_matches('/').to_owned()),
                "ssl_ca_certs" => tls.ca = path(),
                "ssl_certfile" => tls.certificate = path(),
                "ssl_keyfile" => tls.key = path(),
                "ssl_cert_reqs" => {
                    tls.check = Check::named(&value).ok_or_else(|| {
                        format!("ssl_cert_reqs is CERT_REQUIRED, CERT_OPTIONAL or CERT_NONE, not {value:?}")
                    })?;
                }
                name if PYTHON_ONLY.contains(&name) => {}
                name => {
                    let nearest = did_you_mean(name, KNOWN.into_iter().chain(PYTHON_ONLY));
                    return Err(format!("unknown option {name:?}{nearest}"));
                }
            }
        }
        Ok(Self { db, tls: Some(tls) })
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

    fn parsed(text: &str) -> Result<Client, String> {
        client(text, &Connecting::default())
    }

    fn addr(text: &str) -> (String, i64) {
        let client = parsed(text).unwrap();
        let info = client.get_connection_info();
        (info.addr().to_string(), info.redis_settings().db())
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
        let client = parsed("redis://us%40er:p%40s+s%2F@h/0").unwrap();
        let settings = client.get_connection_info().redis_settings();
        assert_eq!(settings.username(), Some("us@er"));
        assert_eq!(settings.password(), Some("p@s+s/"));
        let client = parsed("redis://:secret@h/0").unwrap();
        let settings = client.get_connection_info().redis_settings();
        assert_eq!(settings.username(), None);
        assert_eq!(settings.password(), Some("secret"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_reason() {
        let reason = |text: &str| parsed(text).unwrap_err();
        assert!(reason("redis://h/x").contains("database is a number"));
        assert!(reason("redis://h/0?ssl_ca_cert=x").contains("did you mean ssl_ca_certs?"));
        assert!(reason("rediss://h?ssl_cert_reqs=maybe").contains("CERT_NONE"));
        let nameless = sentinel(&["sentinel://h"], &Connecting::default()).map(|_| ());
        assert!(nameless.unwrap_err().contains("master_name"));
        assert!(reason("rediss://h?ssl_ca_certs=/no/such/file").contains("/no/such/file"));
        assert!(reason("http://h").contains("is not a Redis URL"));
    }

    #[test]
    fn tls_comes_from_the_scheme_or_the_settings_and_its_check_from_both() {
        let insecure = |text: &str, tls: Option<Tls>| {
            let connecting = Connecting {
                tls,
                ..Connecting::default()
            };
            let client = client(text, &connecting).unwrap();
            match client.get_connection_info().addr() {
                ConnectionAddr::TcpTls { insecure, .. } => Some(*insecure),
                _ => None,
            }
        };
        let unchecked = Tls {
            check: Check::None,
            ..Tls::default()
        };
        assert_eq!(insecure("redis://h", None), None);
        assert_eq!(insecure("redis://h", Some(Tls::default())), Some(false));
        assert_eq!(insecure("rediss://h", None), Some(false));
        assert_eq!(insecure("rediss://h", Some(unchecked)), Some(true));
        assert_eq!(insecure("rediss://h?ssl_cert_reqs=CERT_NONE", None), Some(true));
        assert_eq!(
            insecure("rediss://h?ssl_cert_reqs=CERT_OPTIONAL", None),
            Some(false)
        );
    }
}
