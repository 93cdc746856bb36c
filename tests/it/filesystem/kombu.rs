//! An unmodified kombu and Celery on the same folder.

use std::collections::BTreeSet;

use celerybox::backend::{ResultBackend, StoredResult};
use celerybox::broker::Broker;
use celerybox::message::Route;
use celerybox::outcome::State;
use celerybox_tests::{Worker, python};
use serde_json::{Value, json};

use super::Folder;
use crate::conformance::{close, id, message, next, next_many, publish, until_queued};

/// Runs a command of `tests/interop/folder.py`.
async fn kombu(folder: &Folder, arguments: &[&str]) -> Value {
    tokio::task::block_in_place(|| python(&folder.place, "folder.py", arguments))
}

fn broker(folder: &Folder) -> Box<dyn Broker> {
    Box::new(folder.broker())
}

fn stored(id: &str, state: State, meta: &Value) -> StoredResult {
    StoredResult {
        task_id: id.to_owned(),
        state,
        meta: meta.to_string(),
        reply_to: None,
        correlation_id: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kombu_publishes_and_we_consume() {
    let folder = Folder::new();
    kombu(&folder, &["publish", "q", "30"]).await;
    let broker = broker(&folder);
    let mut deliveries = broker.consume(&["q".into()], 10).await.unwrap();
    for _ in 0..30 {
        let delivery = next(&mut deliveries).await;
        let headers = Value::from(delivery.message.headers.clone().unwrap());
        let expected = json!({
            "id": id(&delivery), "task": "arithmetic.add", "null": null, "nested": {"a": [1, {"b": "ä"}]},
        });
        assert_eq!(headers, expected);
        let properties = &delivery.message.properties;
        assert_eq!(properties.content_type.as_deref(), Some("application/json"));
        assert_eq!(properties.content_encoding.as_deref(), Some("utf-8"));
        assert_eq!(properties.correlation_id.as_deref(), Some(id(&delivery).as_str()));
        assert_eq!(properties.reply_to.as_deref(), Some("somebody"));
        assert_eq!(
            (properties.priority, properties.delivery_mode),
            (Some(4), Some(2))
        );
        assert_eq!(delivery.route, Route::to_queue("q"));
        assert_eq!(
            delivery.message.body,
            format!("[[{}], {{}}, {{}}]", id(&delivery)).into_bytes()
        );
        assert!(!delivery.redelivered);
        delivery.receipt.ack();
    }
    close(broker).await;
    assert!(folder.messages().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_publish_and_kombu_consumes() {
    let folder = Folder::new();
    let broker = broker(&folder);
    publish(&*broker, "q", 20).await;
    let mut sent = message("q", "binary");
    sent.message.body = vec![0, 159, 146, 150];
    sent.message.properties.content_type = Some("application/x-raw".into());
    sent.message.properties.content_encoding = Some("binary".into());
    sent.message.properties.priority = None;
    sent.message.properties.delivery_mode = None;
    broker.publish(sent).await.unwrap();
    let taken = kombu(&folder, &["take", "q", "21", "ack"]).await;
    let taken = taken.as_array().unwrap();
    for (n, message) in taken[..20].iter().enumerate() {
        assert_eq!(
            message["headers"],
            json!({"lang": "py", "task": "proj.add", "id": n.to_string()})
        );
        assert_eq!(message["body"][0], json!([2, 3]));
        assert_eq!(message["content_encoding"], "utf-8");
        let properties = &message["properties"];
        assert_eq!(properties["correlation_id"], n.to_string());
        assert_eq!(
            properties["delivery_info"],
            json!({"exchange": "", "routing_key": "q"})
        );
        assert_eq!(
            (&properties["priority"], &properties["delivery_mode"]),
            (&json!(0), &json!(2))
        );
    }
    assert_eq!(taken[20]["bytes"], json!([0, 159, 146, 150]));
    assert_eq!(taken[20]["content_type"], "application/x-raw");
    assert!(folder.messages().is_empty());
    close(broker).await;
}

/// What kombu restores when it closes is ours to take, and what we give back is kombu's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_given_back_change_hands() {
    let folder = Folder::new();
    let broker = broker(&folder);
    publish(&*broker, "q", 3).await;
    assert_eq!(
        kombu(&folder, &["take", "q", "3", "hold"])
            .await
            .as_array()
            .unwrap()
            .len(),
        3
    );
    until_queued(&folder, "q", 3).await;
    let mut deliveries = broker.consume(&["q".into()], 0).await.unwrap();
    let held = next_many(&mut deliveries, 3).await;
    let ids: BTreeSet<String> = held.iter().map(id).collect();
    assert_eq!(ids, ["0", "1", "2"].map(str::to_owned).into());
    assert!(
        held.iter().all(|delivery| delivery.redelivered),
        "kombu says that it had them"
    );
    close(broker).await;
    let taken = kombu(&folder, &["take", "q", "3", "ack"]).await;
    for message in taken.as_array().unwrap() {
        assert_eq!(message["properties"]["delivery_info"]["redelivered"], true);
        assert_eq!(message["body"][0], json!([2, 3]));
    }
    assert!(folder.messages().is_empty());
}

/// Exchange files: what we bind kombu reads, and the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_lead_to_the_same_queues() {
    let folder = Folder::new();
    kombu(
        &folder,
        &[
            "bind",
            "media",
            "topic",
            "video.*=video",
            "#.mp4=mp4",
            "audio.#=audio",
        ],
    )
    .await;
    kombu(&folder, &["bind", "q", "direct", "other=elsewhere"]).await;
    let broker = broker(&folder);
    let deliveries = broker.consume(&["q".into()], 1).await.unwrap();
    let table: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("control/q.exchange")).unwrap()).unwrap();
    assert_eq!(table, json!([["q", "", "q"], ["other", "", "elsewhere"]]));
    // kombu reads it, and adds to it.
    kombu(&folder, &["bind", "q", "direct", "third=q3"]).await;

    let route = |exchange: &str, key: &str| Route {
        exchange: exchange.into(),
        routing_key: key.into(),
    };
    for (exchange, key, queues) in [
        ("media", "video.mp4", vec!["mp4", "video"]),
        ("media", "video.x.mp4", vec!["mp4"]),
        ("media", "audio.x.y", vec!["audio"]),
        ("q", "third", vec!["q3"]),
        ("q", "other", vec!["elsewhere"]),
    ] {
        let mut sent = message("", "routed");
        sent.route = route(exchange, key);
        broker.publish(sent).await.unwrap();
        let mut files = folder.messages();
        files.retain(|file| std::fs::remove_file(folder.queue().join(file)).is_ok());
        let mut reached: Vec<&str> = files.iter().map(|file| file.split('.').nth(1).unwrap()).collect();
        reached.sort_unstable();
        assert_eq!(reached, queues, "{exchange} {key}");
    }
    let mut sent = message("", "lost");
    sent.route = route("media", "nothing");
    let error = broker.publish(sent).await.unwrap_err();
    assert!(error.to_string().contains("no queue is bound"), "{error}");
    drop(deliveries);
    close(broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_client_gets_our_results() {
    let folder = Folder::new();
    let backend = folder.backend();
    let meta = |status: &str, result: Value| {
        json!({
            "status": status, "result": result, "traceback": (status == "FAILURE").then_some("a traceback"),
            "children": [], "date_done": "2026-11-21T10:08:21.062571+00:00", "task_id": "x",
        })
    };
    let value = json!({"n": 5, "text": "schöne Grüße", "list": [1, null, 2.5]});
    backend
        .store(stored("a", State::Success, &meta("SUCCESS", value.clone())))
        .await
        .unwrap();
    let error = json!({"exc_type": "ValueError", "exc_message": ["boom", 42], "exc_module": "builtins"});
    backend
        .store(stored("b", State::Failure, &meta("FAILURE", error)))
        .await
        .unwrap();
    assert_eq!(kombu(&folder, &["get", "a"]).await, json!([value]));
    let ready = folder.path().join("ready");
    let seen = ready.clone();
    let storing = tokio::spawn(async move {
        while !seen.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let started = meta("STARTED", json!({"pid": 1, "hostname": "w"}));
        let custom = State::custom("PROGRESS").unwrap();
        let progress = meta("PROGRESS", json!({"done": 1}));
        backend
            .store(stored("late", State::Started, &started))
            .await
            .unwrap();
        backend.store(stored("late", custom, &progress)).await.unwrap();
        let success = meta("SUCCESS", json!(7));
        backend
            .store(stored("late", State::Success, &success))
            .await
            .unwrap();
    });
    let got = kombu(&folder, &["get_later", "late", ready.to_str().unwrap()]).await;
    storing.await.unwrap();
    assert_eq!(got, json!(7));
    assert_eq!(
        kombu(&folder, &["error", "b"]).await,
        json!(["ValueError", ["boom", 42], "a traceback"])
    );
}

/// A real Celery worker and a consumer of ours on one queue: every task is done once, and every result arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_celery_worker_and_ours_share_a_queue() {
    const COUNT: usize = 100;
    let folder = Folder::new();
    let backend = folder.backend();
    let broker = broker(&folder);
    let mut deliveries = broker.consume(&["celery".into()], 4).await.unwrap();
    let sent = kombu(&folder, &["send", &COUNT.to_string()]).await;
    let ids: Vec<&str> = sent
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    // Ours holds four; the rest is there when the other worker starts.
    let held = next_many(&mut deliveries, 4).await;
    let worker = tokio::task::block_in_place(|| {
        Worker::python(
            &folder.place,
            &json!({"worker_prefetch_multiplier": 1}),
            &["-c", "1"],
        )
    });
    let mut ours = 0;
    let done = async |delivery: celerybox::broker::Delivery| {
        let id = id(&delivery);
        let body: Value = serde_json::from_slice(&delivery.message.body).unwrap();
        let sum = body[0][0].as_i64().unwrap() + body[0][1].as_i64().unwrap();
        let meta =
            json!({"status": "SUCCESS", "result": sum, "traceback": null, "children": [], "task_id": id});
        backend.store(stored(&id, State::Success, &meta)).await.unwrap();
        delivery.receipt.ack();
    };
    for delivery in held {
        done(delivery).await;
        ours += 1;
    }
    loop {
        tokio::select! {
            delivery = deliveries.recv() => {
                done(delivery.unwrap()).await;
                ours += 1;
            }
            () = until_queued(&folder, "celery", 0) => break,
        }
    }
    while let Ok(delivery) = deliveries.try_recv() {
        done(delivery).await;
        ours += 1;
    }
    let arguments: Vec<&str> = std::iter::once("get").chain(ids.iter().copied()).collect();
    let results = kombu(&folder, &arguments).await;
    let expected: Vec<usize> = (1..=COUNT).collect();
    assert_eq!(results, json!(expected));
    let theirs = worker.count_lines("succeeded in");
    assert_eq!(ours + theirs, COUNT, "ours {ours}, theirs {theirs}");
    close(broker).await;
}
