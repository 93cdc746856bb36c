use std::path::{Path, PathBuf};

use serde_json::Value;
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
    Redis(Box<Redis>),
    Amqp(Vhost),
    OwnAmqp(Box<RabbitMq>),
    Filesystem,
}

#[derive(Debug)]
enum Backend {
    Redis(Box<Redis>),
    SameRedis,
    Rpc,
    Files,
}

impl Place {
    /// Messages and results in one Redis.
    pub fn redis() -> Place {
        Place::new(Broker::Redis(Redis::start().into()), Backend::SameRedis)
    }

    /// Messages in RabbitMQ, results in Redis.
    pub fn amqp() -> Place {
        Place::new(
            Broker::Amqp(RabbitMq::vhost()),
            Backend::Redis(Redis::start().into()),
        )
    }

    /// Messages in a Redis and results in another; the first keeps its data when it is restarted.
    pub fn redis_durable() -> Place {
        Place::new(
            Broker::Redis(Redis::start_durable().into()),
            Backend::Redis(Redis::start().into()),
        )
    }

    /// Messages in a RabbitMQ of this test alone, results in Redis.
    pub fn amqp_own() -> Place {
        Place::new(
            Broker::OwnAmqp(RabbitMq::start().into()),
            Backend::Redis(Redis::start().into()),
        )
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

    /// The broker's URL, for celerybox and Python alike.
    pub fn broker_url(&self) -> String {
        match &self.broker {
            Broker::Redis(server) => server.url(),
            Broker::Amqp(vhost) => vhost.url(),
            Broker::OwnAmqp(server) => server.url(),
            Broker::Filesystem => "filesystem://".to_owned(),
        }
    }

    /// Broker and result backend as arguments of celerybox. Files are its default: only the folder has to be named.
    pub fn arguments(&self) -> Vec<String> {
        let (broker, backend) = (self.broker_url(), self.backend_url());
        match &self.broker {
            Broker::Filesystem => vec!["--data-dir".into(), self.data_dir().display().to_string()],
            _ => vec!["--broker".into(), broker, "--result-backend".into(), backend],
        }
    }

    /// The result backend's URL, for celerybox and Python alike.
    pub fn backend_url(&self) -> String {
        match (&self.backend, &self.broker) {
            (Backend::Redis(server), _) | (Backend::SameRedis, Broker::Redis(server)) => server.url(),
            (Backend::Rpc, _) => "rpc://".to_owned(),
            (Backend::SameRedis | Backend::Files, _) => {
                let results = self.data_dir().join("results");
                std::fs::create_dir_all(&results).expect("the folder is writable");
                format!("file://{}", results.display())
            }
        }
    }

    /// The virtual host that holds the messages.
    ///
    /// # Panics
    /// Where the messages are elsewhere.
    pub fn vhost(&self) -> &Vhost {
        match &self.broker {
            Broker::Amqp(vhost) => vhost,
            other => panic!("the broker is {other:?}"),
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

    /// Ends the server of the messages in good order and starts it again; a folder needs none.
    pub fn restart_broker(&mut self) {
        match &mut self.broker {
            Broker::Redis(server) => server.restart(),
            Broker::OwnAmqp(server) => server.restart(),
            Broker::Amqp(_) => panic!("other tests use this node"),
            Broker::Filesystem => {}
        }
    }

    /// The virtual host that holds the messages.
    ///
    /// # Panics
    /// Where the messages are elsewhere.
    pub fn amqp_broker(&self) -> &Vhost {
        match &self.broker {
            Broker::Amqp(vhost) => vhost,
            other => panic!("the broker is {other:?}"),
        }
    }

    /// The Redis that holds the results.
    ///
    /// # Panics
    /// Where the results are elsewhere.
    pub fn results(&self) -> &Redis {
        match (&self.backend, &self.broker) {
            (Backend::Redis(server), _) | (Backend::SameRedis, Broker::Redis(server)) => server,
            (other, _) => panic!("the result backend is {other:?}"),
        }
    }

    /// The stored result document of a task in the results folder; null where there is none (or half of one: Celery
    /// writes these files in place).
    ///
    /// # Panics
    /// Where the results are elsewhere.
    pub fn file_result(&self, id: &str) -> Value {
        let folder = self.backend_url();
        let folder = folder.strip_prefix("file://").expect("results are files");
        let text = std::fs::read_to_string(format!("{folder}/celery-task-meta-{id}"));
        serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default()
    }

    /// How many messages of the `celery` queue wait and how many are delivered but not acknowledged. Of RabbitMQ these
    /// are the numbers of the last seconds.
    pub fn queue(&self) -> (i64, i64) {
        match &self.broker {
            Broker::Redis(server) => (server.list_length("celery"), server.unacked()),
            Broker::Amqp(vhost) => counts(vhost.queue("celery")),
            Broker::OwnAmqp(server) => counts(server.queue("celery")),
            Broker::Filesystem => {
                let entries = std::fs::read_dir(self.data_dir().join("queue")).expect("the folder is there");
                let names = entries.flatten().map(|entry| entry.file_name());
                let waiting = names.filter(|name| name.to_string_lossy().ends_with(".celery.msg"));
                (i64::try_from(waiting.count()).unwrap_or(i64::MAX), 0)
            }
        }
    }

    /// A folder of this test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of messages and results where both are files.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

/// What the management API says of a queue: messages that wait, messages that are not acknowledged.
fn counts(queue: Option<Value>) -> (i64, i64) {
    let queue = queue.unwrap_or_default();
    let count = |name: &str| queue[name].as_i64().unwrap_or(-1);
    (count("messages_ready"), count("messages_unacknowledged"))
}
