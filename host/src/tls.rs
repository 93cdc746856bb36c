//! What to show and whom to trust when a connection is encrypted, under Python's names.

use std::path::PathBuf;

use toml::Value;

use crate::nearest::did_you_mean;

/// PEM files and checks of a TLS connection. Without any, the system's root certificates count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate, with its chain.
    pub certificate: Option<PathBuf>,
    /// The key of our certificate.
    pub key: Option<PathBuf>,
    /// Whose certificate is accepted.
    pub check: Check,
}

/// `cert_reqs`: whose certificate is accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Check {
    /// One of a trusted authority for the host of the URL. A server always shows one, so `CERT_OPTIONAL` is the same.
    #[default]
    Required,
    /// Anybody's: the connection is encrypted, but nobody knows to whom.
    None,
}

impl Check {
    /// Reads `CERT_REQUIRED`, `CERT_OPTIONAL` or `CERT_NONE`, also in the short forms and numbers of Python.
    pub fn named(name: &str) -> Option<Self> {
        match name.trim_start_matches("ssl.") {
            "CERT_REQUIRED" | "required" | "CERT_OPTIONAL" | "optional" | "2" | "1" => Some(Self::Required),
            "CERT_NONE" | "none" | "0" => Some(Self::None),
            _ => None,
        }
    }
}

/// What Python's `ssl` takes and has no meaning here.
const IGNORED: [(&str, &str); 8] = [
    ("ssl_version", "the newest version that both sides speak is used"),
    ("ciphers", "the safe ones that both sides speak are used"),
    ("do_handshake_on_connect", "the handshake always comes first"),
    (
        "suppress_ragged_eofs",
        "every end of a connection is handled alike",
    ),
    ("server_side", "a worker is a client"),
    (
        "check_hostname",
        "cert_reqs says whether a certificate is checked, and then its host is",
    ),
    (
        "server_hostname",
        "the certificate must be of the host in the URL",
    ),
    ("sni", "the host in the URL is the one that is asked for"),
];

impl Tls {
    /// Reads `broker_use_ssl` or `redis_backend_use_ssl`: true, or a table with `ca_certs`, `certfile`, `keyfile` and
    /// `cert_reqs`, each also with `ssl_` in front. `None`: no TLS. The error names the setting.
    pub fn read(setting: &str, value: &Value) -> Result<Option<Self>, String> {
        let table = match value {
            Value::Boolean(false) => return Ok(None),
            Value::Boolean(true) => return Ok(Some(Self::default())),
            Value::Table(table) => table,
            _ => return Err(format!("{setting}: expected true, false or a table")),
        };
        let mut tls = Self::default();
        let mut wrong = Vec::new();
        for (name, value) in table {
            let plain = match name.as_str() {
                "ssl_version" => "ssl_version",
                name => name.strip_prefix("ssl_").unwrap_or(name),
            };
            let path = || value.as_str().map(PathBuf::from);
            let read = match plain {
                "ca_certs" => set(&mut tls.ca, path()),
                "certfile" => set(&mut tls.certificate, path()),
                "keyfile" => set(&mut tls.key, path()),
                "cert_reqs" => {
                    let number = value.as_integer().map(|number| number.to_string());
                    let named = value.as_str().map(str::to_owned).or(number);
                    let check = named.and_then(|name| Check::named(&name));
                    tls.check = check.unwrap_or_default();
                    check.is_some()
                }
                other => {
                    match IGNORED.iter().find(|(ignored, _)| *ignored == other) {
                        Some((_, why)) => tracing::warn!("{setting}.{name} has no effect: {why}"),
                        None => {
                            let known = ["ca_certs", "certfile", "keyfile", "cert_reqs"].into_iter();
                            let nearest =
                                did_you_mean(plain, known.chain(IGNORED.iter().map(|(name, _)| *name)));
                            wrong.push(format!("{setting}: unknown option {name}{nearest}"));
                        }
                    }
                    true
                }
            };
            if !read {
                wrong.push(format!("{setting}.{name}: {value:?} makes no sense here"));
            }
        }
        if tls.certificate.is_some() != tls.key.is_some() {
            wrong.push(format!("{setting}: certfile and keyfile go together"));
        }
        if wrong.is_empty() {
            Ok(Some(tls))
        } else {
            Err(wrong.join("\n"))
        }
    }
}

fn set<T>(field: &mut Option<T>, value: Option<T>) -> bool {
    *field = value;
    field.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Tls>, String> {
        let table: toml::Table = toml::from_str(text).unwrap();
        Tls::read("broker_use_ssl", &table["broker_use_ssl"])
    }

    #[test]
    fn names_are_those_of_python_with_and_without_ssl() {
        let both = Tls {
            ca: Some("/ca".into()),
            certificate: Some("/c".into()),
            key: Some("/k".into()),
            check: Check::None,
        };
        for text in [
            r#"broker_use_ssl = { ca_certs = "/ca", certfile = "/c", keyfile = "/k", cert_reqs = "CERT_NONE" }"#,
            r#"broker_use_ssl = { ssl_ca_certs = "/ca", ssl_certfile = "/c", ssl_keyfile = "/k", ssl_cert_reqs = 0 }"#,
        ] {
            assert_eq!(read(text), Ok(Some(both.clone())));
        }
        assert_eq!(read("broker_use_ssl = true"), Ok(Some(Tls::default())));
        assert_eq!(read("broker_use_ssl = false"), Ok(None));
        assert_eq!(
            read("broker_use_ssl = { ssl_version = 5 }"),
            Ok(Some(Tls::default()))
        );
    }

    #[test]
    fn what_makes_no_sense_is_named_at_once() {
        let error =
            read(r#"broker_use_ssl = { ca_cert = "x", certfile = "/c", cert_reqs = "maybe" }"#).unwrap_err();
        for part in ["did you mean ca_certs?", "go together", "cert_reqs"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
