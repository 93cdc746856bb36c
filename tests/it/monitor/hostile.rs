//! Whoever reaches the port can do nothing with it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use celerybox_tests::{Place, send, within};
use serde_json::json;

use super::{ask, get, watched};

#[test]
fn slow_and_hostile_clients_hold_nobody_up() {
    let place = Place::redis();
    let (mut worker, address) = watched(&place, json!({}), &["-c", "1"]);
    // More connections than are served at once: silent ones, endless heads, and those that never read.
    let mut held: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(address).unwrap()).collect();
    for (number, stream) in held.iter_mut().enumerate() {
        let sent = match number % 3 {
            0 => String::new(),
            1 => "GET /metrics HTTP/1.1\r\nx: ".to_owned(),
            _ => format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000)),
        };
        // A server that closed already is fine.
        let _ = stream.write_all(sent.as_bytes());
    }
    // Tasks go on meanwhile.
    send(&place, "arithmetic.add", 20, &json!([1, 2]), &json!({}));
    within(Duration::from_secs(60), "all tasks are done", || {
        (worker.count_lines("succeeded") == 20).then_some(())
    });
    // Others get their turn though nobody of those goes away.
    assert_eq!(get(address, "/health/live").0, 200);
    for stream in &mut held {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "that was no request");
    }
    assert!(worker.runs());
}

#[test]
fn only_what_is_known_is_answered() {
    let place = Place::files();
    let (_worker, address) = watched(&place, json!({}), &[]);
    for path in ["/", "/metrics/", "/health", "/../etc/passwd", "/metrics%2e"] {
        assert_eq!(get(address, path).0, 404, "{path}");
    }
    assert_eq!(get(address, "/metrics?name[]=x").0, 200);
    let (head, _) = ask(
        address,
        "POST /metrics HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert!(
        head.starts_with("HTTP/1.1 405") && head.contains("GET, HEAD"),
        "{head}"
    );
    let (head, body) = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head}");
    let (head, _) = ask(address, "nonsense\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    let (head, text) = ask(address, "GET /metrics HTTP/1.0\r\n\r\n");
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}
