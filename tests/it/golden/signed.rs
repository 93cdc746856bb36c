//! The signed message of a real client (contract section 1.7).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use celerybox::message::content::auth::{Digest, Trust};
use celerybox::message::content::{ContentError, Reader, Serializer};
use celerybox::message::{Message, Request, Unusable, request};
use jiff::Timestamp;
use std::sync::Arc;

use super::{file, of};

fn at(year: u16) -> Timestamp {
    format!("{year}-01-02T00:00:00Z").parse().unwrap()
}

fn reader(digest: Digest) -> Reader {
    let pem = file("task-v2-serializer-auth")["certificate_pem"]
        .as_str()
        .unwrap()
        .to_owned();
    let trust = Trust::new([("client.pem".to_owned(), pem.into_bytes())], digest, at(2026)).unwrap();
    Reader {
        accept: vec![Serializer::Auth],
        trust: Some(Arc::new(trust)),
        ..Reader::default()
    }
}

fn message() -> Message {
    of("task-v2-serializer-auth").remove(0).message
}

fn decode(message: Message, digest: Digest, now: Timestamp) -> Result<Request, Unusable> {
    let reader = reader(digest);
    request::recognize(message, &reader, now)?.decode(Default::default(), false, &reader, now)
}

#[test]
fn a_message_that_a_friend_signed_is_read() {
    let request = decode(message(), Digest::Sha256, at(2026)).unwrap();
    assert_eq!(
        (request.task.as_str(), request.body.args.get()),
        ("proj.add", "[2, 3]")
    );
    assert_eq!(
        request.message,
        message(),
        "a retry sends it as it came, with its signature"
    );
}

fn refusal(message: Message, digest: Digest, now: Timestamp) -> String {
    match decode(message, digest, now) {
        Err(Unusable::Undecodable(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_altered_expired_or_of_another_digest_is_not() {
    assert!(refusal(message(), Digest::Sha512, at(2026)).contains("the signature"));
    assert!(refusal(message(), Digest::Sha256, at(2125)).contains("has expired"));
    let packed = BASE64.decode(message().body).unwrap();
    // Wherever one bit is different: the signer, the signature, the content type, the payload.
    for at_byte in (0..packed.len()).step_by(7).chain([packed.len() - 1]) {
        let mut altered = packed.clone();
        altered[at_byte] ^= 1;
        let body = BASE64.encode(altered).into_bytes();
        let refused = decode(Message { body, ..message() }, Digest::Sha256, at(2026));
        let Ok(request) = refused else { continue };
        // Only the type and the encoding are outside of the signature, as in Celery: the payload is what it was.
        assert_eq!(request.body.args.get(), "[2, 3]", "byte {at_byte}");
        let start: usize = packed
            .windows(11)
            .position(|window| window == b"application")
            .unwrap();
        assert!((start..start + 25).contains(&at_byte), "byte {at_byte}");
    }
    for body in [&b""[..], b"AA", b"AAE=", b"not base64"] {
        let body = body.to_vec();
        assert!(decode(Message { body, ..message() }, Digest::Sha256, at(2026)).is_err());
    }
}

#[test]
fn plain_json_is_not_accepted_beside_signatures() {
    let mut plain = of("task-v2-simple").remove(0).message;
    let refused = decode(plain.clone(), Digest::Sha256, at(2026));
    assert!(matches!(refused, Err(Unusable::ContentDisallowed(_))));
    plain.properties.content_type = None;
    assert!(decode(plain, Digest::Sha256, at(2026)).is_err());
}

#[test]
fn a_store_takes_no_certificate_twice_and_none_that_has_expired() {
    let pem = file("task-v2-serializer-auth")["certificate_pem"]
        .as_str()
        .unwrap()
        .to_owned()
        .into_bytes();
    let twice = [
        ("a".to_owned(), pem.clone()),
        ("b".to_owned(), pem.clone()),
        ("c".to_owned(), b"no PEM".to_vec()),
    ];
    let wrong = Trust::new(twice, Digest::Sha256, at(2026)).unwrap_err();
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].starts_with("b: there is another") && wrong[1].starts_with("c: not a certificate"));
    let wrong = Trust::new([("a".to_owned(), pem)], Digest::Sha256, at(2125)).unwrap_err();
    assert!(wrong[0].contains("has expired"));
    let trust = Trust::new([], Digest::Sha256, at(2026)).unwrap();
    let unknown = trust.open(&message().body, at(2026));
    assert!(
        matches!(unknown, Err(ContentError::Malformed(text)) if text.contains("ZZ Example Org example 1234567890"))
    );
}
