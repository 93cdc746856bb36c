//! The parts of chords in Redis, with Celery's own backend beside ours.

use std::time::Duration;

use celerybox::backend::redis::{Options, RedisBackend};
use celerybox::backend::{Arrival, BackendError, Claim, Documents, Part, ResultBackend};
use celerybox::message::content::compression::Compression;
use celerybox::message::content::{Serializer, Writer};
use celerybox::outcome::State;
use celerybox_tests::{Place, Redis, python, python_with};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{redis_cli, result_backend};

const CLAIM: Duration = Duration::from_secs(60);

fn part(group: &str, id: &str, index: impl Into<Option<u32>>, result: &str) -> Part {
    Part {
        group: group.into(),
        task_id: id.into(),
        index: index.into(),
        state: State::Success,
        result: RawValue::from_string(result.into()).unwrap(),
        redelivered: false,
    }
}

fn key(group: &str, suffix: &str) -> String {
    format!("celery-taskset-meta-{group}{suffix}")
}

fn values(parts: &[String]) -> Vec<Value> {
    let part = |text: &String| serde_json::from_str::<Value>(text).unwrap();
    parts.iter().map(part).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_part_counts_once_and_one_of_them_claims_the_chord() {
    let server = Redis::start();
    let backend = result_backend(&server);
    backend
        .add_part(&part("g", "b", 1, "2"), "t1", CLAIM)
        .await
        .unwrap();
    assert_eq!(server.command(&["EXISTS", &key("g", ".s")]).integer(), 0);
    backend.set_chord_size("g", 3).await.unwrap();
    assert_eq!(redis_cli(&server.url(), &["GET", &key("g", ".s")]), "3");
    let add = |part: Part, token: &'static str| {
        let backend = &backend;
        async move { backend.add_part(&part, token, CLAIM).await.unwrap() }
    };
    assert_eq!(
        add(part("g", "b", 1, "9"), "t2").await,
        Arrival::Waiting,
        "a duplicate"
    );
    assert_eq!(add(part("g", "c", None, "3"), "t3").await, Arrival::Waiting);
    let mut first = part("g", "a", 0, r#"{"exc_type": "ValueError"}"#);
    first.state = State::Failure;
    assert_eq!(add(first.clone(), "t4").await, Arrival::Complete { again: false });
    // The answer was lost: the claim is still one's own. Everybody else waits.
    assert_eq!(add(first.clone(), "t4").await, Arrival::Complete { again: true });
    let Arrival::Taken(left) = add(part("g", "b", 1, "9"), "t5").await else {
        panic!("two have it")
    };
    assert!(left <= CLAIM && left > Duration::from_secs(30), "{left:?}");
    let parts = backend.parts("g").await.unwrap();
    assert_eq!(
        values(&parts),
        [
            json!([1, "a", "FAILURE", {"exc_type": "ValueError"}]),
            json!([1, "b", "SUCCESS", 2]),
            json!([1, "c", "SUCCESS", 3])
        ]
    );
    let counted = redis_cli(&server.url(), &["SMEMBERS", &key("g", ".d")]);
    let mut counted: Vec<&str> = counted.lines().collect();
    counted.sort_unstable();
    assert_eq!(counted, ["a:0", "b:1", "c:+inf"]);
    for suffix in [".j", ".s", ".d"] {
        let ttl = server.command(&["TTL", &key("g", suffix)]).integer();
        assert!((80_000..=86_400).contains(&ttl), "{suffix}: {ttl}");
    }

    let claim = |token: &str| Claim {
        group: "g".into(),
        token: token.into(),
    };
    assert!(!backend.extend_claim(&claim("t5"), CLAIM).await.unwrap());
    assert!(backend.extend_claim(&claim("t4"), CLAIM * 4).await.unwrap());
    assert!(server.command(&["TTL", &key("g", ".c")]).integer() > 120);
    assert!(!backend.finish_chord(&claim("t5"), CLAIM).await.unwrap());
    for _ in 0..2 {
        assert!(backend.finish_chord(&claim("t4"), CLAIM).await.unwrap());
    }
    assert_eq!(redis_cli(&server.url(), &["KEYS", "*"]), key("g", ".c"));
    first.redelivered = true;
    assert_eq!(add(first, "t6").await, Arrival::Done);
    assert_eq!(redis_cli(&server.url(), &["KEYS", "*"]), key("g", ".c"));
    // Applied once more: a part may come before the size is set.
    assert_eq!(add(part("g", "b", 1, "2"), "t7").await, Arrival::Done);
    backend.set_chord_size("g", 2).await.unwrap();
    assert_eq!(
        add(part("g", "a", 0, "1"), "t8").await,
        Arrival::Complete { again: false }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_ran_out_is_taken_by_the_next_and_a_failed_chord_by_nobody() {
    let server = Redis::start();
    let backend = result_backend(&server);
    backend.set_chord_size("g", 1).await.unwrap();
    let add = |token: &'static str| {
        let backend = &backend;
        async move {
            let part = part("g", "a", 0, "1");
            backend
                .add_part(&part, token, Duration::from_secs(1))
                .await
                .unwrap()
        }
    };
    assert_eq!(add("t1").await, Arrival::Complete { again: false });
    loop {
        match add("t2").await {
            Arrival::Taken(left) => tokio::time::sleep(left + Duration::from_millis(1)).await,
            arrival => break assert_eq!(arrival, Arrival::Complete { again: true }),
        }
    }
    let claim = |token: &str| Claim {
        group: "g".into(),
        token: token.into(),
    };
    assert!(!backend.extend_claim(&claim("t1"), CLAIM).await.unwrap());
    server.command(&["DEL", &key("g", ".c")]);
    assert!(
        backend.extend_claim(&claim("t1"), CLAIM).await.unwrap(),
        "nobody has it"
    );
    backend.lose_chord("g").await.unwrap();
    server.command(&["DEL", &key("g", ".c")]);
    assert!(!backend.extend_claim(&claim("t1"), CLAIM).await.unwrap());
    assert_eq!(add("t3").await, Arrival::Waiting);
    assert_eq!(backend.parts("g").await.unwrap().len(), 1, "they stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chord_grows_and_its_expiry_is_its_own() {
    let server = Redis::start();
    let options = Options {
        result_chord_expires: Some(Duration::from_secs(500)),
        result_chord_ordered: false,
        global_keyprefix: "shop".into(),
        ..Options::default()
    };
    let backend = RedisBackend::new(&server.url(), options).unwrap();
    backend.save_group("g", r#"[["g", null], []]"#).await.unwrap();
    backend.set_chord_size("g", 1).await.unwrap();
    backend.grow_chord("g").await.unwrap();
    let key = |suffix| format!("shop_{}", key("g", suffix));
    assert_eq!(redis_cli(&server.url(), &["GET", &key(".t")]), "1");
    for (id, index, arrival) in [
        ("b", 1, Arrival::Waiting),
        ("a", 0, Arrival::Complete { again: false }),
    ] {
        let part = part("g", id, index, &format!("\"{id}\""));
        assert_eq!(backend.add_part(&part, "t", CLAIM).await.unwrap(), arrival);
    }
    let parts = values(&backend.parts("g").await.unwrap());
    assert_eq!(
        parts,
        [json!([1, "b", "SUCCESS", "b"]), json!([1, "a", "SUCCESS", "a"])]
    );
    assert_eq!(redis_cli(&server.url(), &["TYPE", &key(".j")]), "list");
    for (suffix, longest) in [(".j", 500), (".t", 500), (".s", 500), (".d", 500), ("", 86_400)] {
        let ttl = server.command(&["TTL", &key(suffix)]).integer();
        assert!((longest - 60..=longest).contains(&ttl), "{suffix}: {ttl}");
    }
    assert_eq!(
        backend.fetch_group("g").await.unwrap().unwrap(),
        r#"{"result": [["g", null], []]}"#
    );
}

/// As ZRANGE and LRANGE would have it for Celery, whatever the setting of the serializer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_read_in_every_form() {
    let server = Redis::start();
    for (n, (serializer, compression)) in [
        (Serializer::Yaml, None),
        (Serializer::Msgpack, None),
        (Serializer::Pickle, None),
        (Serializer::Json, Some(Compression::Gzip)),
    ]
    .into_iter()
    .enumerate()
    {
        let writer = Writer {
            serializer,
            compression,
            signer: None,
        };
        let backend = result_backend(&server).documents(Documents { writer, trust: None });
        let group = n.to_string();
        let part = part(&group, "a", 0, r#"{"x": [1, null, "ü"]}"#);
        backend.add_part(&part, "t", CLAIM).await.unwrap();
        let parts = values(&backend.parts(&group).await.unwrap());
        assert_eq!(
            parts,
            [json!([1, "a", "SUCCESS", {"x": [1, null, "ü"]}])],
            "{serializer:?}"
        );
    }
}

/// Many at once, of one chord and of others; what is wrong with one of them is nobody else's matter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_completes_the_chord() {
    let server = Redis::start();
    let backend = result_backend(&server);
    server.command(&["SET", &key("wrong", ".j"), "x"]);
    backend.set_chord_size("g", 2500).await.unwrap();
    let adds = (0..2500).map(|n| {
        let backend = &backend;
        async move {
            let token = n.to_string();
            let part = part("g", &format!("i{n}"), 2499 - n, &token);
            backend.add_part(&part, &token, CLAIM).await.unwrap()
        }
    });
    let part = part("wrong", "a", 0, "1");
    let (arrivals, wrong) = tokio::join!(
        futures_util::future::join_all(adds),
        backend.add_part(&part, "t", CLAIM)
    );
    assert!(
        matches!(&wrong, Err(BackendError::Unsupported(text)) if text.contains("WRONGTYPE")),
        "{wrong:?}"
    );
    let complete = arrivals.iter().filter(|arrival| **arrival != Arrival::Waiting);
    assert_eq!(
        complete.collect::<Vec<_>>(),
        [&Arrival::Complete { again: false }]
    );
    let parts = values(&backend.parts("g").await.unwrap());
    let results: Vec<u64> = parts.iter().map(|part| part[3].as_u64().unwrap()).collect();
    assert_eq!(results, (0..2500).rev().collect::<Vec<_>>());
}

/// Celery's backend counts what ours counted, and the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn celery_and_we_count_the_same_parts() {
    let place = Place::redis();
    let server = place.results();
    let backend = RedisBackend::new(&place.backend_url(), Options::default()).unwrap();
    let celery = |arguments: &[&str]| python(&place, "chord_parts.py", arguments);
    // Theirs first; the last one is ours.
    celery(&["begin", "g1", "2"]);
    celery(&["add", "g1", "b", "1", "[\"theirs\"]"]);
    let add = |part: Part| {
        let backend = &backend;
        async move { backend.add_part(&part, "t", CLAIM).await.unwrap() }
    };
    assert_eq!(
        add(part("g1", "b", 1, "9")).await,
        Arrival::Waiting,
        "counted by them"
    );
    assert_eq!(
        add(part("g1", "a", 0, "1")).await,
        Arrival::Complete { again: false }
    );
    let parts = values(&backend.parts("g1").await.unwrap());
    assert_eq!(
        parts,
        [
            json!([1, "a", "SUCCESS", 1]),
            json!([1, "b", "SUCCESS", ["theirs"]])
        ]
    );
    celery(&["add", "g1", "b", "1", "0"]);
    assert_eq!(server.list_length("celery"), 0, "the chord is ours");
    let claim = Claim {
        group: "g1".into(),
        token: "t".into(),
    };
    assert!(backend.finish_chord(&claim, CLAIM).await.unwrap());
    celery(&["add", "g1", "b", "1", "0"]);
    assert_eq!(server.list_length("celery"), 0, "the chord is done");

    // Ours first, and the size; the last one is theirs, and they send the body.
    backend.set_chord_size("g2", 2).await.unwrap();
    assert_eq!(add(part("g2", "b", 1, "[2]")).await, Arrival::Waiting);
    celery(&["add", "g2", "b", "1", "0"]);
    celery(&["add", "g2", "a", "0", "1"]);
    assert_eq!(server.list_length("celery"), 1);
    assert_eq!(add(part("g2", "a", 0, "9")).await, Arrival::Done);
}

/// The same without order, and in a serializer of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn celery_and_we_count_the_same_parts_without_order() {
    let place = Place::redis();
    let options = Options {
        result_chord_ordered: false,
        ..Options::default()
    };
    let backend = RedisBackend::new(&place.backend_url(), options).unwrap();
    let settings = json!({"result_backend_transport_options": {"result_chord_ordered": false}, "result_compression": "zstd"});
    backend.set_chord_size("g", 2).await.unwrap();
    python_with(
        &place,
        &settings,
        "chord_parts.py",
        &["add", "g", "b", "1", "\"theirs\""],
    );
    let part = part("g", "a", 0, "1");
    let arrival = backend.add_part(&part, "t", CLAIM).await.unwrap();
    assert_eq!(arrival, Arrival::Complete { again: false });
    let parts = values(&backend.parts("g").await.unwrap());
    assert_eq!(
        parts,
        [
            json!([1, "b", "SUCCESS", "theirs"]),
            json!([1, "a", "SUCCESS", 1])
        ]
    );
}
