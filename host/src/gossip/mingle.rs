//! A worker that starts greets the others: they tell each other what is revoked, and their clocks (contract section
//! 7.5).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::{info, warn};
use uuid::Uuid;

use crate::broker::{Broker, BrokerError, Delivery};
use crate::execution::Execution;
use crate::message::content::BoundedReader;
use crate::message::{Message, Outgoing, Properties, Route};
use crate::queue::{Exchange, ExchangeKind, Queue, reply_exchange};

/// How long to wait for answers: Celery's second.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the whole may take, with a broker that is slow or away.
const MOST: Duration = Duration::from_secs(5);
/// How many answers may be here.
const PREFETCH: u32 = 64;
/// The largest answer that is read, bytes: as large as a `hello`.
const LARGEST: usize = 8 << 20;

/// Greets the other workers through `broker`, which is used for nothing else; `mailboxes` is `control_exchange`. Waits
/// for their answers as long as Celery does, and takes over what they have revoked.
pub async fn mingle(execution: &Execution, broker: &dyn Broker, mailboxes: &str) {
    info!("mingle: searching for neighbors");
    let reader = execution.options.defaults.reader.clone().bounded(LARGEST);
    let mut synced = 0;
    match tokio::time::timeout(MOST, hello(execution, broker, mailboxes)).await {
        Ok(Ok(mut answers)) => {
            let until = tokio::time::Instant::now() + PATIENCE;
            while let Ok(Some(answer)) = tokio::time::timeout_at(until, answers.recv()).await {
                synced += usize::from(take_over(execution, &reader, answer));
            }
        }
        Ok(Err(error)) => warn!("mingle: {error}"),
        Err(_) => warn!("mingle: the broker does not answer"),
    }
    match synced {
        0 => info!("mingle: all alone"),
        synced => {
            info!("mingle: sync with {synced} nodes");
            info!("mingle: sync complete");
        }
    }
    if let Err(error) = broker.close().await {
        tracing::debug!("mingle: {error}");
    }
}

async fn hello(
    execution: &Execution,
    broker: &dyn Broker,
    mailboxes: &str,
) -> Result<mpsc::Receiver<Delivery>, BrokerError> {
    let oid = Uuid::new_v4().to_string();
    let fleeting = |name: &str, kind| Exchange {
        durable: false,
        ..Exchange::new(name, kind)
    };
    let replies = fleeting(&reply_exchange(mailboxes), ExchangeKind::Direct);
    let everybody = fleeting(&format!("{mailboxes}.pidbox"), ExchangeKind::Fanout);
    let queue = Queue {
        durable: false,
        exclusive: true,
        auto_delete: true,
        expires: Some(10.0),
        message_ttl: Some(300.0),
        ..Queue::bound(format!("{oid}.{}", replies.name), replies.clone(), oid.clone())
    };
    let answers = broker.consume(&[queue], PREFETCH).await?;
    broker.declare_exchange(&everybody).await?;
    let body = json!({
        "method": "hello",
        "arguments": {"from_node": &*execution.options.hostname, "revoked": execution.known.revoked()},
        "destination": null,
        "pattern": null,
        "matcher": null,
        "ticket": Uuid::new_v4().to_string(),
        "reply_to": {"exchange": replies.name, "routing_key": oid},
    });
    let expires = Timestamp::now().as_microsecond() as f64 / 1e6 + PATIENCE.as_secs_f64();
    let headers = json!({"clock": execution.clock.forward(), "expires": expires});
    let outgoing = Outgoing {
        route: Route {
            exchange: everybody.name,
            routing_key: String::new(),
        },
        message: Message {
            headers: headers.as_object().cloned(),
            properties: Properties {
                content_type: Some("application/json".into()),
                content_encoding: Some("utf-8".into()),
                delivery_mode: Some(2),
                ..Properties::default()
            },
            body: body.to_string().into_bytes(),
        },
    };
    match broker.publish(outgoing).await {
        // In a folder that says that nobody has a mailbox.
        Ok(()) | Err(BrokerError::Refused(_)) => Ok(answers),
        Err(error) => Err(error),
    }
}

/// Takes over what one answer says; whether it says anything.
fn take_over(execution: &Execution, reader: &BoundedReader, answer: Delivery) -> bool {
    let Delivery { message, receipt, .. } = answer;
    receipt.ack();
    let headers = message.headers.as_ref();
    let clock = headers.and_then(|headers| headers.get("clock")?.as_u64());
    execution.clock.hear(clock.unwrap_or(0));
    let Ok(body) = reader.body(&message, Timestamp::now()) else {
        return false;
    };
    let Ok(Value::Object(nodes)) = serde_json::from_str(&body) else {
        return false;
    };
    let others = nodes
        .iter()
        .filter(|(node, said)| **node != *execution.options.hostname && said.is_object());
    let mut heard = false;
    for (_, said) in others {
        heard = true;
        if let Some(clock) = said.get("clock").and_then(Value::as_u64) {
            execution.clock.hear(clock);
        }
        if let Some(revoked) = said.get("revoked") {
            execution.known.merge_revoked(revoked);
        }
    }
    heard
}
