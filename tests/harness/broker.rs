use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::rabbitmq::{RabbitMq, Vhost};
use crate::redis::Redis;

/// Where messages and results are for one test: the servers it needs, and the words for both kinds of worker and for
/// the Python client to find them.
#[derive(Debug)]
pub struct Place {
    broker: Broker,
    backend: Backend,
    folder: TempDir,
}

#[derive(Debug)]
enum Broker {
    Redis(Redis),
    Amqp(Vhost),
    Filesystem,
}

#[derive(Debug)]
enum Backend {
    Redis(Redis),
    SameRedis,
    Rpc,
    Files,
}

impl Place {
    /// Messages and results in one Redis.
    pub fn redis() -> Place {
        Place::new(Broker::Redis(Redis::start()), Backend::SameRedis)
    }

    /// Messages in RabbitMQ, results in Redis.
    pub fn amqp() -> Place {
        Place::new(Broker::Amqp(RabbitMq::vhost()), Backend::Redis(Redis::start()))
    }

    /// Messages in RabbitMQ, results sent back to the client as messages (`rpc://`).
    pub fn amqp_rpc() -> Place {
        Place::new(Broker::Amqp(RabbitMq::vhost()), Backend::Rpc)
    }

    /// Messages and results as files in one folder: no server.
    pub fn files() -> Place {
        Place::new(Broker::Filesystem, Backend::Files)
    }

    fn new(broker: Broker, backend: Backend) -> Place {
        Place {
            broker,
            backend,
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// The broker's URL as celerybox takes it.
    pub fn broker_url(&self) -> String {
        match &self.broker {
            Broker::Redis(server) => server.url(),
            Broker::Amqp(vhost) => vhost.url(),
            Broker::Filesystem => format!("filesystem://{}", self.folder.path().display()),
        }
    }

    /// The result backend's URL, for celerybox and Python alike.
    pub fn backend_url(&self) -> String {
        match (&self.backend, &self.broker) {
            (Backend::Redis(server), _) | (Backend::SameRedis, Broker::Redis(server)) => server.url(),
            (Backend::Rpc, _) => "rpc://".to_owned(),
            (Backend::SameRedis | Backend::Files, _) => {
                let results = self.folder.path().join("results");
                std::fs::create_dir_all(&results).expect("the folder is writable");
                format!("file://{}", results.display())
            }
        }
    }

    /// The Redis that holds the messages.
    ///
    /// # Panics
    /// Where the messages are elsewhere.
    pub fn redis_broker(&mut self) -> &mut Redis {
        match &mut self.broker {
            Broker::Redis(server) => server,
            other => panic!("the broker is {other:?}"),
        }
    }

    /// A folder of this test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The environment that `tests/interop/proj.py` reads.
    pub(crate) fn python_environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![("TEST_BACKEND", self.backend_url())];
        match &self.broker {
            Broker::Filesystem => {
                environment.push(("TEST_BROKER", "filesystem://".to_owned()));
                environment.push(("TEST_FOLDER", self.files_folder().display().to_string()));
            }
            _ => environment.push(("TEST_BROKER", self.broker_url())),
        }
        environment
    }

    /// Where Kombu's `data_folder_in` and `data_folder_out` are (one folder), with `control` beside it.
    fn files_folder(&self) -> PathBuf {
        self.folder.path().to_path_buf()
    }
}
