//! What these tasks need of the outside: a Redis, over a connection that has to be granted.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use celerybox_guest::TaskError;

/// Sends one command to the Redis of `REDIS_HOST` and `REDIS_PORT`; its reply is only checked for an error.
pub(crate) fn redis(words: &[&str]) -> Result<(), TaskError> {
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let address = format!(
        "{}:{}",
        variable("REDIS_HOST", "localhost"),
        variable("REDIS_PORT", "6379")
    );
    let mut stream = TcpStream::connect(address)?;
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(command.as_bytes())?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply)?;
    match reply.starts_with('-') {
        true => Err(TaskError::new("ConnectionError", reply.trim())),
        false => Ok(()),
    }
}

/// A value as redis-py writes it: a text as it is, and so are bytes, which kombu's JSON writes with their type.
pub(crate) fn text(value: &serde_json::Value) -> String {
    let bytes = value.get("__value__").filter(|_| value["__type__"] == "bytes");
    let value = bytes.unwrap_or(value);
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
