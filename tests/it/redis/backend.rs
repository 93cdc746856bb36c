//! Results in Redis.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use celerybox::backend::redis::{Options, RedisBackend};
use celerybox::backend::{BackendError, Documents, ResultBackend, StoredResult};
use celerybox::message::content::compression::Compression;
use celerybox::message::content::{Serializer, Writer};
use celerybox::outcome::State;
use celerybox_tests::{Place, Redis, python};
use serde_json::{Value, json};

use super::{redis_cli, result_backend, until};

/// The stored result document of a task.
fn stored(server: &Redis, id: &str) -> Option<serde_json::Value> {
    server.stored(&[id.to_owned()]).pop()
}

fn result(id: &str, state: State, value: Value) -> StoredResult {
    let status = state.as_str();
    let meta = json!({"status": status, "result": value, "traceback": null, "children": [], "task_id": id});
    StoredResult {
        task_id: id.to_owned(),
        meta: meta.to_string(),
        state,
        reply_to: None,
        correlation_id: None,
    }
}

fn key(id: &str) -> String {
    format!("celery-task-meta-{id}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_fetched() {
    let server = Redis::start();
    let backend = result_backend(&server);
    assert_eq!(backend.fetch("1").await.unwrap(), None);
    for state in [
        State::Started,
        State::Retry,
        State::Custom("PROGRESS".into()),
        State::Failure,
        State::Success,
    ] {
        let stored = result("1", state, json!([1, "schöne Grüße"]));
        backend.store(stored.clone()).await.unwrap();
        assert_eq!(backend.fetch("1").await.unwrap(), Some(stored.meta));
    }
}

/// Whoever wrote the SUCCESS and however it is spelled. Only the document's own status counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_over_success() {
    let server = Redis::start();
    let backend = result_backend(&server);
    for (stored, stays) in [
        (r#"{"status": "SUCCESS", "result": 1}"#, true),
        (r#"{"status":"SUCCESS","result":1}"#, true),
        ("{\n  \"status\" : \"SUCCESS\"}", true),
        (r#"{"result": 1, "status": "SUCCESS"}"#, true),
        (r#"{"status": "FAILURE", "result": {"status": "SUCCESS"}}"#, false),
        (
            r#"{"status": "PROGRESS", "result": "\"status\": \"SUCCESS\""}"#,
            false,
        ),
        (r#"{"status": "STARTED"}"#, false),
        (r#"["SUCCESS"]"#, false),
        ("\"SUCCESS\"", false),
        ("not JSON with \"SUCCESS\" in it", false),
        ("", false),
    ] {
        server.command(&["SET", &key("1"), stored]);
        let failure = result("1", State::Failure, json!("late"));
        backend.store(failure.clone()).await.unwrap();
        let expected = if stays { stored } else { &failure.meta };
        assert_eq!(
            server.command(&["GET", &key("1")]).text(),
            expected,
            "over {stored}"
        );
    }
    let binary = r"return redis.call('SET', KEYS[1], '\255\0SUCCESS')";
    server.command(&["EVAL", binary, "1", &key("1")]);
    assert!(backend.fetch("1").await.is_err(), "no text, and so no document");
    backend
        .store(result("1", State::Success, json!(2)))
        .await
        .unwrap();
    assert_eq!(stored(&server, "1").unwrap()["result"], 2);
}

/// In every form, and whatever form the SUCCESS has that is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_over_success_in_other_forms() {
    let server = Redis::start();
    for (n, (serializer, compression)) in [
        (Serializer::Yaml, None),
        (Serializer::Msgpack, None),
        (Serializer::Pickle, None),
        (Serializer::Json, Some(Compression::Gzip)),
        (Serializer::Msgpack, Some(Compression::Zstd)),
    ]
    .into_iter()
    .enumerate()
    {
        let writer = Writer {
            serializer,
            compression,
            signer: None,
        };
        let documents = Documents { writer, trust: None };
        let backend = result_backend(&server).documents(documents.clone());
        let id = n.to_string();
        let status = |text: Option<String>| serde_json::from_str::<Value>(&text.unwrap()).unwrap();
        backend
            .store(result(&id, State::Failure, json!("first")))
            .await
            .unwrap();
        assert_eq!(status(backend.fetch(&id).await.unwrap())["status"], "FAILURE");
        // All in one batch: what comes after the SUCCESS is not written.
        let (success, late) = (
            result(&id, State::Success, json!(n)),
            result(&id, State::Retry, json!("late")),
        );
        let stores = [success, late.clone()].map(|result| backend.store(result));
        for stored in futures_util::future::join_all(stores).await {
            stored.unwrap();
        }
        backend.store(late.clone()).await.unwrap();
        let kept = status(backend.fetch(&id).await.unwrap());
        assert_eq!(
            (&kept["status"], &kept["result"]),
            (&json!("SUCCESS"), &json!(n)),
            "{documents:?}"
        );
        // A worker with other settings sees it, too.
        let other = result_backend(&server).documents(Documents {
            writer: Writer {
                serializer: Serializer::Pickle,
                ..Writer::default()
            },
            trust: None,
        });
        other.store(late).await.unwrap();
        assert_eq!(status(other.fetch(&id).await.unwrap())["status"], "SUCCESS");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_expire_and_failures_at_their_own_time() {
    let server = Redis::start();
    let ttl = |id: &str| server.command(&["TTL", &key(id)]).integer();
    let backend = result_backend(&server);
    backend
        .store(result("default", State::Success, json!(1)))
        .await
        .unwrap();
    assert!((86_390..=86_400).contains(&ttl("default")));
    let options = Options {
        result_expires: None,
        result_failure_expires: Some(Duration::from_secs(100)),
        ..Options::default()
    };
    let backend = RedisBackend::new(&server.url(), options).unwrap();
    backend
        .store(result("kept", State::Success, json!(1)))
        .await
        .unwrap();
    backend
        .store(result("failed", State::Failure, json!(1)))
        .await
        .unwrap();
    assert_eq!(ttl("kept"), -1);
    assert!((90..=100).contains(&ttl("failed")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_prefix_is_kombus() {
    let server = Redis::start();
    let options = Options {
        global_keyprefix: "app".into(),
        ..Options::default()
    };
    let backend = RedisBackend::new(&server.url(), options).unwrap();
    backend
        .store(result("1", State::Success, json!(1)))
        .await
        .unwrap();
    assert_eq!(server.command(&["EXISTS", "app_celery-task-meta-1"]).integer(), 1);
    assert!(backend.fetch("1").await.unwrap().is_some());
}

/// Results of many tasks at once share round trips; each is stored, and a key of another kind is no obstacle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once() {
    let server = Redis::start();
    let backend = Arc::new(result_backend(&server));
    server.command(&["LPUSH", &key("13"), "a list"]);
    let mut storing = tokio::task::JoinSet::new();
    for n in 0..2000 {
        let backend = Arc::clone(&backend);
        storing.spawn(async move {
            (
                n,
                backend
                    .store(result(&n.to_string(), State::Success, json!(n)))
                    .await,
            )
        });
    }
    while let Some(stored) = storing.join_next().await {
        let (n, stored) = stored.unwrap();
        assert!(stored.is_ok(), "{n}: {stored:?}");
    }
    for n in [0, 12, 13, 14, 999, 1999] {
        assert_eq!(stored(&server, &n.to_string()).unwrap()["result"], n);
    }
}

/// A client that waits in `get()` is told, of every state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_client_sees_every_state_at_once() {
    let place = Place::redis();
    let url = place.backend_url();
    let backend = RedisBackend::new(&url, Options::default()).unwrap();
    let client = std::thread::spawn(move || python(&place, "redis_kombu.py", &["get", "1"]));
    let subscribed = || redis_cli(&url, &["PUBSUB", "NUMSUB", &key("1")]).ends_with('1');
    until("the client has subscribed", subscribed).await;
    let progress = State::Custom("PROGRESS".into());
    for (state, value) in [
        (State::Started, json!({})),
        (progress, json!({"done": 1})),
        (State::Success, json!(7)),
    ] {
        backend.store(result("1", state, value)).await.unwrap();
    }
    let seen = tokio::task::spawn_blocking(|| client.join().unwrap())
        .await
        .unwrap();
    assert_eq!(seen, json!([7, ["STARTED", "PROGRESS", "SUCCESS"]]));
}

/// A server that is away for a moment delays a result; one that stays away is an error after a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "redis://:secret@127.0.0.1:{}/0",
        listener.local_addr().unwrap().port()
    );
    drop(listener);
    let options = Options {
        patience: Duration::from_secs(1),
        ..Options::default()
    };
    let backend = RedisBackend::new(&url, options).unwrap();
    let started = Instant::now();
    let error = backend
        .store(result("1", State::Success, json!(1)))
        .await
        .unwrap_err();
    assert!(matches!(error, BackendError::Connection(_)), "{error:?}");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));

    let server = Redis::start();
    let backend = result_backend(&server);
    for n in 0..20 {
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        // The scripts are gone, too, as after a restart.
        server.command(&["SCRIPT", "FLUSH"]);
        backend
            .store(result(&n.to_string(), State::Success, json!(n)))
            .await
            .unwrap();
        assert!(backend.fetch(&n.to_string()).await.unwrap().is_some());
    }
    until("the last one is there", || stored(&server, "19").is_some()).await;
}

/// A server that refuses for a while, as it has no memory left, or is a replica for the moment, delays a result.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_for_a_moment() {
    let (server, elsewhere) = (Redis::start(), Redis::start());
    let backend = Arc::new(result_backend(&server));
    let port = elsewhere.url().rsplit(':').next().unwrap().replace("/0", "");
    let refuse = [
        &["CONFIG", "SET", "maxmemory", "1"][..],
        &["REPLICAOF", "127.0.0.1", &port],
    ];
    let accept = [
        &["CONFIG", "SET", "maxmemory", "0"][..],
        &["REPLICAOF", "NO", "ONE"],
    ];
    for (n, (refuse, accept)) in refuse.into_iter().zip(accept).enumerate() {
        server.command(refuse);
        let (backend, id) = (Arc::clone(&backend), n.to_string());
        let storing = tokio::spawn({
            let id = id.clone();
            async move { backend.store(result(&id, State::Success, json!(1))).await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!storing.is_finished(), "it is tried again");
        server.command(accept);
        storing.await.unwrap().unwrap();
        assert!(stored(&server, &id).is_some(), "{id}");
    }
}
