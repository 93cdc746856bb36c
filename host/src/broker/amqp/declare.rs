//! Declaring queues with everything that belongs to them, as kombu does (contract section 2.1.1).

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind as Kind};

use super::connection::Lost;
use super::table::{from_json, short};
use crate::queue::{Exchange, ExchangeKind, Queue};

/// Declares a queue: its exchange, itself, its binding, and what else is bound to it.
pub(super) async fn declare(channel: &Channel, queue: &Queue) -> Result<(), Lost> {
    if queue.no_declare {
        return Ok(());
    }
    exchange(channel, &queue.exchange).await?;
    let options = QueueDeclareOptions {
        passive: false,
        durable: queue.durable,
        exclusive: queue.exclusive,
        auto_delete: queue.auto_delete,
        nowait: false,
    };
    let arguments = from_json(&queue.arguments())?;
    channel
        .queue_declare(short(&queue.name)?, options, arguments)
        .await?;
    for (from, routing_key, arguments) in queue.all_bindings() {
        if from.name.is_empty() {
            continue;
        }
        if *from != queue.exchange {
            exchange(channel, from).await?;
        }
        bind(channel, queue, from, routing_key, from_json(arguments)?).await?;
    }
    Ok(())
}

/// Declares a queue and throws its messages away; how many.
pub(super) async fn purge(channel: &Channel, queue: &Queue) -> Result<usize, Lost> {
    declare(channel, queue).await?;
    let purged = channel
        .queue_purge(short(&queue.name)?, QueuePurgeOptions::default())
        .await?;
    Ok(usize::try_from(purged).unwrap_or(usize::MAX))
}

/// Binds a queue that exists to an exchange that exists.
pub(super) async fn bind(
    channel: &Channel,
    queue: &Queue,
    exchange: &Exchange,
    routing_key: &str,
    arguments: FieldTable,
) -> Result<(), Lost> {
    let (queue, exchange) = (short(&queue.name)?, short(&exchange.name)?);
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue, exchange, short(routing_key)?, options, arguments)
        .await?;
    Ok(())
}

/// Declares an exchange, unless it is one of the server's own.
pub(super) async fn exchange(channel: &Channel, exchange: &Exchange) -> Result<(), Lost> {
    if !exchange.is_declared() {
        return Ok(());
    }
    let kind = match exchange.kind {
        ExchangeKind::Direct => Kind::Direct,
        ExchangeKind::Topic => Kind::Topic,
        ExchangeKind::Fanout => Kind::Fanout,
        ExchangeKind::Headers => Kind::Headers,
    };
    let options = ExchangeDeclareOptions {
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        ..ExchangeDeclareOptions::default()
    };
    let arguments = from_json(&exchange.arguments)?;
    channel
        .exchange_declare(short(&exchange.name)?, kind, options, arguments)
        .await?;
    Ok(())
}
