//! The names of signals, which say how a task is to end (contract section 6.3, `revoke`). To a sandbox they are all the
//! same; clients and monitors see the number.

use serde_json::Value;

use crate::message::repr;

/// SIGTERM.
pub const TERM: i32 = 15;

/// Linux' signals by number, from 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The number of a signal, given as such or by name, with or without SIG, in any case; else Python's text of the error.
pub fn signal(value: &Value) -> Result<i32, String> {
    let of_name = |text: &str| {
        let upper = text.trim().to_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        match upper.parse() {
            Ok(number) => in_range(number),
            Err(_) => {
                let found = (1..).zip(NAMES).find(|(_, known)| *known == name);
                found.map(|(number, _)| number).ok_or_else(|| {
                    let text = format!("module 'signal' has no attribute 'SIG{name:.100}'");
                    format!("AttributeError({})", repr::value(&text.into()))
                })
            }
        }
    };
    match value {
        Value::String(text) => of_name(text),
        Value::Number(number) => in_range(number.as_i64().unwrap_or(-1)),
        _ => Err("TypeError('signal name must be uppercase string.')".into()),
    }
}

fn in_range(number: i64) -> Result<i32, String> {
    let number = i32::try_from(number)
        .ok()
        .filter(|number| (1..=64).contains(number));
    number.ok_or_else(|| "ValueError('signal number out of range')".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_numbers_are_those_of_linux() {
        for (given, number) in [
            (json!("SIGKILL"), 9),
            (json!("KILL"), 9),
            (json!("term"), 15),
            (json!("sigusr1"), 10),
            (json!("SIGSYS"), 31),
            (json!("2"), 2),
            (json!(9), 9),
        ] {
            assert_eq!(signal(&given), Ok(number), "{given}");
        }
        assert_eq!(
            signal(&json!("FOO")).unwrap_err(),
            r#"AttributeError("module 'signal' has no attribute 'SIGFOO'")"#
        );
        for wrong in [
            json!(0),
            json!(65),
            json!(-9),
            json!("1e9"),
            json!(["KILL"]),
            json!(1.5),
        ] {
            assert!(signal(&wrong).is_err(), "{wrong}");
        }
    }
}
