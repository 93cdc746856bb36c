//! The messages of Celery's own worker and client, over a real server: what we make of them, and what we write.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use celerybox::backend::rpc::RpcBackend;
use celerybox::backend::{BackendError, ResultBackend, StoredResult};
use celerybox::broker::Broker;
use celerybox::message::{Message, Outgoing, Properties, Route, request};
use celerybox::outcome::State;
use celerybox_tests::RabbitMq;
use serde_json::Value;

use super::broker;
use super::raw::{RawClient, short};
use crate::conformance::{close, next};
use crate::golden;

/// The messages that the sample's client and worker published to the default exchange.
fn published() -> Vec<Outgoing> {
    let file = golden::file("amqp-classic");
    let methods = file["methods"].as_array().unwrap().clone();
    let is_ours = |method: &Value| method["method"] == "Basic.Publish" && method["args"]["exchange"] == "";
    let published: Vec<Outgoing> = methods
        .iter()
        .filter(|method| is_ours(method))
        .map(outgoing)
        .collect();
    assert!(published.len() >= 6, "the sample has tasks, a retry and results");
    published
}

fn outgoing(method: &Value) -> Outgoing {
    let properties = &method["properties"];
    let text = |name: &str| properties[name].as_str().map(str::to_owned);
    let small = |name: &str| properties[name].as_u64().map(|n| u8::try_from(n).unwrap());
    Outgoing {
        route: Route::to_queue(method["args"]["routing_key"].as_str().unwrap()),
        message: Message {
            headers: properties["headers"].as_object().cloned(),
            properties: Properties {
                content_type: text("content_type"),
                content_encoding: text("content_encoding"),
                correlation_id: text("correlation_id"),
                reply_to: text("reply_to"),
                priority: small("priority"),
                delivery_mode: small("delivery_mode"),
                // A minute would pass sooner than a slow test.
                expiration: text("expiration").map(|_| "6000000".into()),
                ..Properties::default()
            },
            body: BASE64.decode(method["body_base64"].as_str().unwrap()).unwrap(),
        },
    }
}

/// What py-amqp writes for these properties: flags, then the values in the order of the specification.
fn as_py_amqp_writes(properties: &Properties, headers: &[u8]) -> Vec<u8> {
    let mut flags = 0b1111_1000_0000_0000_u16;
    let mut bytes = Vec::new();
    bytes.extend(short(properties.content_type.as_deref().unwrap()));
    bytes.extend(short(properties.content_encoding.as_deref().unwrap()));
    bytes.extend(headers);
    bytes.push(properties.delivery_mode.unwrap());
    bytes.push(properties.priority.unwrap());
    for (bit, text) in [
        (10, &properties.correlation_id),
        (9, &properties.reply_to),
        (8, &properties.expiration),
    ] {
        if let Some(text) = text {
            flags |= 1 << bit;
            bytes.extend(short(text));
        }
    }
    [&flags.to_be_bytes()[..], &bytes].concat()
}

/// A field table of strings, small whole numbers, booleans, nulls, lists and maps, by hand.
fn table_bytes(value: &Value) -> Vec<u8> {
    let sized = |bytes: Vec<u8>| [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat();
    match value {
        Value::Object(map) => sized(
            map.iter()
                .flat_map(|(name, value)| [short(name), typed(value)].concat())
                .collect(),
        ),
        Value::Array(list) => sized(list.iter().flat_map(typed).collect()),
        other => panic!("{other}"),
    }
}

fn typed(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => b"V".to_vec(),
        Value::Bool(value) => vec![b't', u8::from(*value)],
        Value::Number(number) => {
            let number = i32::try_from(number.as_i64().unwrap()).unwrap();
            [&b"I"[..], &number.to_be_bytes()].concat()
        }
        Value::String(text) => {
            let length = u32::try_from(text.len()).unwrap().to_be_bytes();
            [&b"S"[..], &length, text.as_bytes()].concat()
        }
        Value::Array(_) => [&b"A"[..], &table_bytes(value)].concat(),
        Value::Object(_) => [&b"F"[..], &table_bytes(value)].concat(),
    }
}

/// Byte for byte, as the server has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_we_publish_is_what_celery_publishes() {
    let vhost = RabbitMq::vhost();
    let broker = broker(&vhost.url());
    let mut client = RawClient::connect(&vhost);
    for sent in published() {
        let queue = &sent.route.routing_key;
        broker.declare(&queue.as_str().into()).await.unwrap();
        broker.publish(sent.clone()).await.unwrap();
        let (header, body) = client.get(queue);
        let headers = table_bytes(&Value::Object(sent.message.headers.clone().unwrap()));
        assert_eq!(header, as_py_amqp_writes(&sent.message.properties, &headers));
        assert_eq!(body, sent.message.body);
    }
    close(Box::new(broker)).await;
}

/// Celery's task messages, as bytes that Celery wrote, become requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_celery_publishes_is_understood() {
    let vhost = RabbitMq::vhost();
    let broker = broker(&vhost.url());
    let mut deliveries = broker.consume(&["celery".into()], 1).await.unwrap();
    let mut client = RawClient::connect(&vhost);
    let tasks = published()
        .into_iter()
        .filter(|sent| sent.route.routing_key == "celery");
    for sent in tasks {
        let headers = table_bytes(&Value::Object(sent.message.headers.clone().unwrap()));
        let properties = as_py_amqp_writes(&sent.message.properties, &headers);
        client.publish("celery", &properties, &sent.message.body);
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.message, sent.message);
        let accept = ["application/json".to_owned()];
        let request = request::decode(delivery.message, delivery.route, delivery.redelivered, &accept);
        let request = request.unwrap_or_else(|unusable| panic!("{unusable:?}"));
        assert_eq!(Some(request.id), sent.message.properties.correlation_id);
        delivery.receipt.ack();
    }
    close(Box::new(broker)).await;
}

/// Results as messages: the sample's, made from its metas.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rpc_results_are_those_of_celery() {
    let vhost = RabbitMq::vhost();
    let broker = Arc::new(broker(&vhost.url()));
    let backend = RpcBackend::new(Arc::clone(&broker) as Arc<dyn Broker>);
    let mut client = RawClient::connect(&vhost);
    let results = published()
        .into_iter()
        .filter(|sent| sent.route.routing_key != "celery");
    for sent in results {
        let queue = sent.route.routing_key;
        broker.declare(&queue.as_str().into()).await.unwrap();
        let meta = String::from_utf8(sent.message.body).unwrap();
        let document: Value = serde_json::from_str(&meta).unwrap();
        let result = StoredResult {
            task_id: document["task_id"].as_str().unwrap().to_owned(),
            state: State::Success,
            meta: meta.clone(),
            reply_to: Some(queue.clone()),
            correlation_id: sent.message.properties.correlation_id.clone(),
        };
        backend.store(result.clone()).await.unwrap();
        let (header, body) = client.get(&queue);
        assert_eq!(header, as_py_amqp_writes(&sent.message.properties, &[0; 4]));
        assert_eq!(body, meta.as_bytes());

        // Without a correlation id the task's id; without a queue nothing.
        let without = StoredResult {
            correlation_id: None,
            ..result.clone()
        };
        backend.store(without).await.unwrap();
        let (header, _) = client.get(&queue);
        let properties = Properties {
            correlation_id: Some(result.task_id.clone()),
            ..sent.message.properties
        };
        assert_eq!(header, as_py_amqp_writes(&properties, &[0; 4]));
        for reply_to in [None, Some(String::new())] {
            let nowhere = StoredResult {
                reply_to,
                ..result.clone()
            };
            backend.store(nowhere).await.unwrap();
        }
        assert_eq!(client.counts(&queue).ready, 0);
    }
    let persistent = RpcBackend::new(Arc::clone(&broker) as Arc<dyn Broker>).persistent(true);
    broker.declare(&"durable".into()).await.unwrap();
    let result = StoredResult {
        task_id: "t".into(),
        state: State::Success,
        meta: "{}".into(),
        reply_to: Some("durable".into()),
        correlation_id: None,
    };
    persistent.store(result).await.unwrap();
    let (header, _) = client.get("durable");
    let mode = header[header.len() - 4];
    assert_eq!(mode, 2);
    assert!(matches!(
        backend.fetch("t").await,
        Err(BackendError::Unsupported(_))
    ));
    broker.close().await.unwrap();
}
