//! From URLs to brokers and result backends. Nothing is connected yet when these return.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{OneOrMany, Settings};
use crate::backend::filesystem::FilesystemBackend;
use crate::backend::persistent::{Persistent, Retries};
use crate::backend::redis::{self as redis_backend, RedisBackend};
use crate::backend::rpc::RpcBackend;
use crate::backend::{BackendError, ResultBackend};
use crate::broker::amqp::{self, AmqpBroker};
use crate::broker::filesystem::{self, FilesystemBroker};
use crate::broker::redis::{self, RedisBroker};
use crate::broker::{Broker, BrokerError};

/// The schemes a broker URL may have.
const BROKERS: &str = "amqp://, amqps://, redis://, rediss://, redis+socket:// or filesystem://";
/// The schemes a result backend URL may have.
const BACKENDS: &str = "redis://, rediss://, redis+socket://, rpc://, file:///folder or disabled://";

/// The embedded default: folders inside `data_dir` (contract sections 2.3 and 5.5).
#[derive(Debug, Clone)]
pub struct Folders {
    /// Messages of all queues.
    pub queue: PathBuf,
    /// Exchanges.
    pub control: PathBuf,
    /// Results.
    pub results: PathBuf,
}

impl Folders {
    /// The folders of `data_dir`, as absolute paths.
    pub fn of(data_dir: &Path) -> std::io::Result<Self> {
        let data_dir = std::path::absolute(data_dir)?;
        Ok(Self {
            queue: data_dir.join("queue"),
            control: data_dir.join("control"),
            results: data_dir.join("results"),
        })
    }
}

/// `result_backend_transport_options`.
#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ResultTransport {
    global_keyprefix: String,
}

/// The broker of these settings.
pub fn broker(settings: &Settings) -> Result<Arc<dyn Broker>, BrokerError> {
    let Some(url) = settings.broker_url.as_ref().and_then(|urls| urls.all().next()) else {
        let folders = embedded(settings).map_err(BrokerError::Config)?;
        let options = filesystem::Options {
            data_folder_in: folders.queue.clone(),
            data_folder_out: folders.queue,
            control_folder: folders.control,
            ..filesystem::Options::default()
        };
        return Ok(Arc::new(FilesystemBroker::new(&options)?));
    };
    let table = &settings.broker_transport_options;
    match scheme(url) {
        "amqp" | "amqps" | "pyamqp" => Ok(Arc::new(AmqpBroker::new(
            url,
            &broker_options::<amqp::Options>(table)?,
        )?)),
        "redis" | "rediss" | "redis+socket" | "unix" => Ok(Arc::new(RedisBroker::new(
            url,
            &broker_options::<redis::Options>(table)?,
        )?)),
        "filesystem" => Ok(Arc::new(FilesystemBroker::new(&broker_options(table)?)?)),
        other => Err(BrokerError::Config(format!(
            "broker_url: unknown scheme {other:?}; expected {BROKERS}"
        ))),
    }
}

/// The result backend of these settings; `None` when there is none.
pub fn backend(
    settings: &Settings,
    broker: &Arc<dyn Broker>,
) -> Result<Option<Arc<dyn ResultBackend>>, BackendError> {
    let documents = match settings.content() {
        Ok(content) => content.documents,
        Err(wrong) => return Err(BackendError::Config(wrong.join("\n"))),
    };
    let Some(url) = &settings.result_backend else {
        if settings.broker_url.is_some() {
            return Ok(None);
        }
        let folders = embedded(settings).map_err(BackendError::Config)?;
        let backend = FilesystemBackend::new(&folders.results)?.documents(documents);
        return Ok(Some(persistent(settings, Arc::new(backend))));
    };
    match scheme(url) {
        "redis" | "rediss" | "redis+socket" | "unix" => {
            let table = settings.result_backend_transport_options.clone();
            let transport: ResultTransport = table.try_into().map_err(|error| {
                BackendError::Config(format!("result_backend_transport_options: {error}"))
            })?;
            let options = redis_backend::Options {
                result_expires: settings.result_expires(),
                result_failure_expires: crate::policy::admit::seconds(settings.result_failure_expires),
                global_keyprefix: transport.global_keyprefix,
                response_timeout: crate::policy::admit::seconds(Some(settings.redis_socket_timeout))
                    .unwrap_or(redis_backend::NO_TIMEOUT),
                ..redis_backend::Options::default()
            };
            let backend = RedisBackend::new(url, options)?.documents(documents);
            Ok(Some(persistent(settings, Arc::new(backend))))
        }
        "rpc" => {
            if settings.result_compression.is_some() {
                tracing::warn!(
                    "the setting result_compression has no effect: RPC results are never compressed"
                );
            }
            let backend = RpcBackend::new(Arc::clone(broker))
                .persistent(settings.result_persistent)
                .documents(documents);
            Ok(Some(persistent(settings, Arc::new(backend))))
        }
        "file" => {
            let path = url::Url::parse(url).ok().and_then(|url| url.to_file_path().ok());
            let path = path.ok_or_else(|| {
                BackendError::Config(format!(
                    "result_backend: {url:?} names no folder; write file:///folder"
                ))
            })?;
            let backend = FilesystemBackend::new(&path)?.documents(documents);
            Ok(Some(persistent(settings, Arc::new(backend))))
        }
        "disabled" => Ok(None),
        other => Err(BackendError::Config(format!(
            "result_backend: unknown scheme {other:?}; expected {BACKENDS}"
        ))),
    }
}

/// The backend, asked again as `result_backend_always_retry` and its fellows say.
fn persistent(settings: &Settings, backend: Arc<dyn ResultBackend>) -> Arc<dyn ResultBackend> {
    if !settings.result_backend_always_retry {
        return backend;
    }
    let retries = Retries {
        most: settings.result_backend_max_retries,
        base: Duration::from_millis(settings.result_backend_base_sleep_between_retries_ms),
        longest: Duration::from_millis(settings.result_backend_max_sleep_between_retries_ms),
    };
    Arc::new(Persistent::new(backend, retries))
}

/// Several URLs for people: their passwords are not shown.
pub fn all_masked(urls: &OneOrMany) -> String {
    urls.all().map(masked).collect::<Vec<_>>().join(";")
}

/// A URL for people: its password is not shown.
pub fn masked(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut parsed) if parsed.password().is_some() => match parsed.set_password(Some("**")) {
            Ok(()) => parsed.to_string(),
            Err(()) => format!("{}://**", parsed.scheme()),
        },
        Ok(_) => url.to_owned(),
        Err(_) => format!("{}://…", scheme(url)),
    }
}

/// The part before `://`; Celery takes a scheme alone as well (`redis`).
fn scheme(url: &str) -> &str {
    url.split_once(':').map_or(url, |(scheme, _)| scheme)
}

fn embedded(settings: &Settings) -> Result<Folders, String> {
    Folders::of(&settings.data_dir).map_err(|error| format!("data_dir: {error}"))
}

fn broker_options<T: DeserializeOwned>(table: &toml::Table) -> Result<T, BrokerError> {
    let options = table.clone().try_into();
    options.map_err(|error| BrokerError::Config(format!("broker_transport_options: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(masked("redis://:secret@h/1"), "redis://:**@h/1");
        assert_eq!(masked("amqp://u:secret@h//"), "amqp://u:**@h//");
        assert!(!masked("amqp://u:sec:ret@[bad").contains("ret"));
    }
}
