//! Globs of `task_routes` and of what components may send.

/// Python's `fnmatch` as a regular expression: `*` is anything, `?` one character, `[…]` one of these, `[!…]` none.
pub fn glob(pattern: &str) -> String {
    let mut regex = String::from("(?s)^");
    let mut rest = pattern;
    while let Some(character) = rest.chars().next() {
        rest = rest.get(character.len_utf8()..).unwrap_or_default();
        match character {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '[' => match class(rest) {
                Some((inside, after)) => {
                    regex.push_str(&inside);
                    rest = after;
                }
                None => regex.push_str(r"\["),
            },
            other => regex.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    regex.push('$');
    regex
}

/// The set of characters that follows a bracket, and what comes after it; `None` where it is never closed.
fn class(text: &str) -> Option<(String, &str)> {
    let (negated, text) = text.strip_prefix('!').map_or((false, text), |text| (true, text));
    // A bracket in the first place is a member.
    let first = text.chars().next()?.len_utf8();
    let end = first + text.get(first..)?.find(']')?;
    let members = text.get(..end)?;
    let mut inside = String::from(if negated { "[^" } else { "[" });
    for member in members.chars() {
        if matches!(member, '[' | ']' | '\\' | '^' | '&' | '~') {
            inside.push('\\');
        }
        inside.push(member);
    }
    inside.push(']');
    Some((inside, text.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;

    #[test]
    fn globs_are_pythons() {
        for (pattern, task, fits) in [
            ("a.*", "a.b\nc", true),
            ("a.*", "xa.b", false),
            ("a?c*", "a.c", true),
            ("[!a]*", "b", true),
            ("[!a]*", "a", false),
            ("[]x]*", "]", true),
            ("[a*", "[ab", true),
            ("a+b*", "aab", false),
        ] {
            let regex = Regex::new(&glob(pattern)).unwrap();
            assert_eq!(regex.is_match(task), fits, "{pattern} {task}");
        }
    }
}
