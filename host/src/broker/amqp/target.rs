//! Where to connect, and what a failure to do so means.

use std::fmt;

use super::address::Address;
use super::connection::{Connection, Lost};
use super::{Login, Options};
use crate::broker::{BrokerError, Reconnect, Strategy};
use crate::queue::{ExchangeKind, Queue, Queues};

/// Servers that stand in for each other.
#[derive(Debug)]
pub(super) struct Servers {
    addresses: Vec<Address>,
    strategy: Strategy,
    login: Login,
}

impl Servers {
    /// One round of attempts.
    pub(super) async fn connect(&self) -> Result<Connection, StartError> {
        let mut failed: Option<StartError> = None;
        for address in self.strategy.order(&self.addresses) {
            match Connection::open(address, self.login).await {
                Ok(connection) => return Ok(connection),
                Err(lost) => {
                    let error = StartError {
                        address: address.clone(),
                        lost,
                        queue: None,
                    };
                    // One that may come back decides whether to try again.
                    failed = match failed {
                        Some(first) if error.refusal().is_some() => Some(first),
                        _ => Some(error),
                    };
                }
            }
        }
        Err(failed.unwrap_or_else(|| StartError {
            address: Address::default(),
            lost: Lost::Protocol("no server is named".into()),
            queue: None,
        }))
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.addresses.iter().map(Address::to_string).collect();
        f.write_str(&texts.join(";"))
    }
}

/// Where to connect, and how.
#[derive(Debug)]
pub(super) struct Target {
    /// Where messages are taken from.
    pub(super) read: Servers,
    /// Where they are sent to.
    pub(super) write: Servers,
    pub(super) confirm_publish: bool,
    pub(super) reconnect: Reconnect,
    /// Queues of the settings.
    pub(super) known: Vec<Queue>,
    pub(super) detect_quorum: bool,
    /// The queues of native delayed delivery are quorum queues.
    pub(super) delayed_quorum: bool,
}

impl Target {
    /// Reads the URLs, each a list separated by `;`.
    pub(super) fn new(read: &str, write: &str, options: &Options) -> Result<Self, BrokerError> {
        let servers = |urls: &str| {
            let urls = urls.split(';').map(str::trim).filter(|url| !url.is_empty());
            let addresses: Result<Vec<_>, _> = urls.map(|url| Address::parse(url, options)).collect();
            Ok(Servers {
                addresses: addresses?,
                strategy: options.failover,
                login: options.login,
            })
        };
        let (read, write): (Servers, Servers) = (servers(read)?, servers(write)?);
        if read.addresses.is_empty() || write.addresses.is_empty() {
            return Err(BrokerError::Config("the broker URL is empty".into()));
        }
        Ok(Self {
            read,
            write,
            confirm_publish: options.confirm_publish,
            reconnect: options.reconnect,
            known: options
                .queues
                .as_ref()
                .map_or_else(Vec::new, |queues| Queues::all(queues).to_vec()),
            detect_quorum: options.detect_quorum_queues,
            delayed_quorum: options.delayed_quorum,
        })
    }

    /// The type of an exchange that a queue of ours is bound to.
    pub(super) fn exchange_kind(&self, consumed: &[Queue], exchange: &str) -> Option<ExchangeKind> {
        let mut queues = consumed.iter().chain(&self.known);
        queues.find_map(|queue| {
            let mut bindings = queue.all_bindings();
            bindings.find_map(|(bound, ..)| (bound.name == exchange).then_some(bound.kind))
        })
    }
}

/// Why consuming or declaring could not start.
#[derive(Debug)]
pub(super) struct StartError {
    /// The server.
    pub(super) address: Address,
    /// What happened.
    pub(super) lost: Lost,
    /// The queue that was being declared.
    pub(super) queue: Option<Queue>,
}

impl StartError {
    /// The error for a failure that another attempt would only repeat; `None` for the others.
    pub(super) fn refusal(&self) -> Option<BrokerError> {
        let address = &self.address;
        let reply = match &self.lost {
            Lost::Closed(reply) => reply,
            Lost::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => {
                return Some(BrokerError::Refused(format!(
                    "{address} cannot be trusted: {io}\nhint: name the certificate of its authority in the broker URL \
                     (?cacertfile=FILE) or with broker_use_ssl; the host in the URL has to be one that its certificate \
                     names"
                )));
            }
            Lost::Io(io) if io.kind() == std::io::ErrorKind::NotFound => {
                return Some(BrokerError::Config(io.to_string()));
            }
            Lost::Protocol(text) if self.queue.is_some() => return Some(BrokerError::Config(text.clone())),
            _ => return None,
        };
        let said = &reply.text;
        let queue = self.queue.as_ref();
        let text = match (reply.code, queue) {
            (403, None) => format!(
                "{address} refused the login: {said}\nhint: check user and password in the broker URL and \
                 broker_login_method; RabbitMQ lets the user guest in from its own machine only"
            ),
            (530, None) => format!(
                "{address} refused the virtual host {:?}: {said}\nhint: check the path of the broker URL (// is the \
                 virtual host /) and the user's permissions (rabbitmqctl list_permissions -p {0})",
                address.vhost
            ),
            (403, Some(queue)) => format!(
                "{address} does not let this user use queue {:?}: {said}\nhint: it needs the permissions to \
                 configure, write and read it and its exchange (rabbitmqctl set_permissions)",
                queue.name
            ),
            (406, Some(queue)) => format!(
                "queue {:?} or its exchange exists on {address} with other properties: {said}\nhint: celerybox \
                 declares it as the settings say, {}. Make task_queues (or task_default_queue_type and \
                 task_queue_max_priority) say what the other programs say, consume another queue (-Q), or delete this \
                 one when it is empty (rabbitmqctl delete_queue {0})",
                queue.name,
                described(queue)
            ),
            (405, Some(queue)) => format!(
                "queue {:?} on {address} belongs to another connection alone: {said}\nhint: consume another queue (-Q)",
                queue.name
            ),
            // A type of exchange that the server does not know, an argument of the wrong kind, or no such queue.
            (402..=404 | 500..=599, Some(queue)) => {
                format!("{address} does not declare queue {:?}: {said}", queue.name)
            }
            _ => return None,
        };
        Some(BrokerError::Refused(text))
    }

    /// Whether the server refuses to count a prefetch for the whole channel, as it does for quorum queues.
    pub(super) fn is_global_qos(&self) -> bool {
        matches!(&self.lost, Lost::Closed(reply) if reply.code == 540 && reply.text.contains("global qos"))
    }

    /// The error for somebody who does not wait for another attempt.
    pub(super) fn into_error(self) -> BrokerError {
        let connection =
            || BrokerError::Connection(format!("cannot connect to {}: {}", self.address, self.lost));
        self.refusal().unwrap_or_else(connection)
    }
}

fn described(queue: &Queue) -> String {
    let durable = if queue.durable { "durable" } else { "not durable" };
    let arguments = queue.arguments();
    match arguments.is_empty() {
        true => format!(
            "{durable} and without arguments, bound to a {} exchange",
            queue.exchange.kind.as_str()
        ),
        false => format!(
            "{durable} with {}, bound to a {} exchange",
            serde_json::Value::Object(arguments),
            queue.exchange.kind.as_str()
        ),
    }
}
