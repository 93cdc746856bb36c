//! Names that lead elsewhere the next time (T21, T22). The tests have a network and a resolver of their own, in a process
//! of their own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::grants::Reach;
use super::prepared;

/// The address that is not the loopback's.
const OUTSIDE: &str = "192.0.2.1";

/// What a name leads to: one list of addresses after the other, the last one for ever. `Alias` is a name whose addresses
/// are given instead.
enum Leads {
    To(&'static [&'static [&'static str]]),
    Alias(&'static str, &'static [&'static str]),
}

/// A resolver of these names at port 53, until the process ends; returns what it was asked.
fn resolver(names: BTreeMap<&'static str, Leads>) -> Arc<Mutex<Vec<String>>> {
    let socket = UdpSocket::bind("127.0.0.1:53").expect("the port of a network of one's own");
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        let mut turns = BTreeMap::<(String, u16), usize>::new();
        while let Ok((size, client)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..size];
            let (name, end) = name_in(query);
            let kind = u16::from_be_bytes([query[end], query[end + 1]]);
            log.lock().unwrap().push(name.clone());
            let turn = turns.entry((name.clone(), kind)).or_default();
            let (alias, addresses) = match names.get(name.as_str()) {
                Some(Leads::To(lists)) => (None, lists[(*turn).min(lists.len() - 1)]),
                Some(Leads::Alias(alias, addresses)) => (Some(*alias), *addresses),
                None => (None, &[][..]),
            };
            *turn += 1;
            let answer = answer(query, end + 4, kind, alias, addresses);
            socket.send_to(&answer, client).expect("it is on this machine");
        }
    });
    asked
}

/// The name of the question, and where it ends.
fn name_in(query: &[u8]) -> (String, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
        at += 1 + length;
    }
    (labels.join("."), at + 1)
}

/// A message of RFC 1035 that answers a question of one name; it is to be forgotten at once.
fn answer(query: &[u8], question: usize, kind: u16, alias: Option<&str>, addresses: &[&str]) -> Vec<u8> {
    let (asked, mut records) = (vec![0xc0, 12], Vec::new());
    let mut owner = asked.clone();
    if let Some(alias) = alias {
        let mut encoded = Vec::new();
        for label in alias.split('.') {
            encoded.push(u8::try_from(label.len()).unwrap());
            encoded.extend(label.as_bytes());
        }
        encoded.push(0);
        records.push((asked, 5_u16, encoded.clone()));
        owner = encoded;
    }
    for address in addresses {
        let (theirs, bytes) = match address.parse().unwrap() {
            IpAddr::V4(ip) => (1_u16, ip.octets().to_vec()),
            IpAddr::V6(ip) => (28, ip.octets().to_vec()),
        };
        if theirs == kind {
            records.push((owner.clone(), kind, bytes));
        }
    }
    let mut message = query[..2].to_vec();
    message.extend([
        0x81,
        0x80,
        0,
        1,
        0,
        u8::try_from(records.len()).unwrap(),
        0,
        0,
        0,
        0,
    ]);
    message.extend(&query[12..question]);
    for (owner, kind, data) in records {
        message.extend(owner);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 0]);
        message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        message.extend(data);
    }
    message
}

#[test]
fn t21_t22_whoever_answers_for_a_name_leads_nobody_astray() {
    let own = "sandbox::names::with_a_resolver_of_its_own";
    let tests = ["--exact", own, "--ignored", "--nocapture"];
    let output = prepared("own_network.py", &[OUTSIDE], &tests);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) {
        eprintln!("NOT TESTED: this system allows no network of one's own: {errors}");
        return;
    }
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{errors}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process of the test above"]
async fn with_a_resolver_of_its_own() {
    let names = [
        ("db.test", Leads::To(&[&[OUTSIDE]])),
        ("rebound.test", Leads::To(&[&[OUTSIDE], &["127.0.0.1"]])),
        (
            "mixed.test",
            Leads::To(&[&["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", OUTSIDE]]),
        ),
        ("alias.test", Leads::Alias("inner.test", &["127.0.0.1"])),
        (
            "six.test",
            Leads::To(&[&["::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fe80::1"]]),
        ),
        ("broker.test", Leads::To(&[&[OUTSIDE]])),
    ];
    let asked = resolver(names.into());
    let outside = TcpListener::bind((OUTSIDE, 0)).unwrap();
    let port = outside.local_addr().unwrap().port();
    let here = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let six = TcpListener::bind(("::1", port)).ok();
    std::thread::spawn(move || {
        for stream in outside.incoming() {
            let (mut stream, mut line) = (stream.unwrap(), [0; 5]);
            stream.read_exact(&mut line).unwrap();
            stream.write_all(b"HELLO").unwrap();
        }
    });
    let listed = ["db", "rebound", "mixed", "alias", "six"].map(|name| format!("'{name}.test:{port}'"));
    let config = format!("reach.network = [{}]", listed.join(", "));
    let reach = Reach::new(&config, Vec::new()).await;
    let talk = |name: &str| json!([format!("{name}:{port}"), "hello"]);

    assert_eq!(reach.ok("talk", talk("db.test")).await, "HELLO");
    // The check and the connection see the same answer, and the next run starts afresh.
    assert_eq!(
        reach.ok("lookup", json!(["rebound.test"])).await,
        json!([OUTSIDE])
    );
    reach.refused("talk", talk("rebound.test")).await;
    assert_eq!(reach.ok("lookup", json!(["mixed.test"])).await, json!([OUTSIDE]));
    assert_eq!(reach.ok("talk", talk("mixed.test")).await, "HELLO");
    reach.refused("talk", talk("alias.test")).await;
    reach.refused("talk", talk("six.test")).await;
    for name in ["secret-data.test", "secret-data.db.test", "db.test.secret-data"] {
        reach.refused("lookup", json!([name])).await;
        reach.refused("talk", talk(name)).await;
    }
    let asked = asked.lock().unwrap().clone();
    assert!(
        !asked.iter().any(|name| name.contains("secret-data")),
        "{asked:?}"
    );
    assert!(asked.iter().any(|name| name == "alias.test"), "{asked:?}");

    // A name that leads to the worker's own broker, whose name is another one.
    let own = vec![("broker.test".to_owned(), port)];
    let reach = Reach::new(&config, own).await;
    let refused = reach.refused("talk", talk("db.test")).await;
    assert_eq!(refused, "PermissionDenied");

    for listener in [Some(here), six].into_iter().flatten() {
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "a connection came to this machine");
    }
}
