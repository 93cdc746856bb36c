//! Whether text from a guest is JSON that every reader can take.

use serde::de::IgnoredAny;

/// Why a text is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Not JSON; where and why.
    Malformed(String),
    /// Nested too deep.
    Deep,
}

/// Checks a JSON text without building it. Needs no stack, however deep the text is.
pub(super) fn check(text: &str, depth: usize) -> Result<(), Fault> {
    if !shallow(text, depth) {
        return Err(Fault::Deep);
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(Fault::Malformed(error.to_string())),
    }
}

/// Whether brackets outside of strings open at most `depth` times before they close.
fn shallow(text: &str, depth: usize) -> bool {
    let mut open = 0usize;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                open += 1;
                if open > depth {
                    return false;
                }
            }
            b']' | b'}' => open = open.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    true
}

fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_bounded_and_strings_do_not_count() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(check(&nested(5), 5), Ok(()));
        assert_eq!(check(&nested(6), 5), Err(Fault::Deep));
        assert_eq!(check(&nested(1_000_000), 5), Err(Fault::Deep));
        assert_eq!(check(r#"["[[[[[[", "\"[[[[[["]"#, 2), Ok(()));
        assert_eq!(check("[[], [], [[]]]", 3), Ok(()));
    }

    #[test]
    fn what_python_cannot_read_is_refused() {
        for text in ["", "NaN", "Infinity", "[1,]", "{a: 1}", "1 2", "\"\u{1}\""] {
            assert!(matches!(check(text, 9), Err(Fault::Malformed(_))), "{text:?}");
        }
        for text in [
            "null",
            "123456789012345678901234567890",
            "\"\u{e9}\"",
            " [1.5e300] ",
        ] {
            assert_eq!(check(text, 9), Ok(()), "{text:?}");
        }
    }
}
