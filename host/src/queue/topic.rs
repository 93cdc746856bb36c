//! Topic bindings on brokers without exchanges of their own: kombu's patterns.

/// Whether a routing key matches a topic binding as kombu's patterns do: `*` is one word that is not empty, `#` is
/// one word or more. Takes time in the product of both lengths, whatever they hold.
pub fn matches(binding: &str, routing_key: &str) -> bool {
    // Column by column: which of the binding's beginnings match the key's words so far.
    let pattern: Vec<&str> = binding.split('.').collect();
    let mut reached = vec![false; pattern.len() + 1];
    if let Some(start) = reached.first_mut() {
        *start = true;
    }
    for word in routing_key.split('.') {
        let mut next = vec![false; reached.len()];
        for ((part, here), (before, after)) in pattern
            .iter()
            .zip(next.iter_mut().skip(1))
            .zip(reached.iter().zip(reached.iter().skip(1)))
        {
            *here = match *part {
                "#" => *before || *after,
                "*" => *before && !word.is_empty(),
                literal => *before && literal == word,
            };
        }
        reached = next;
    }
    reached.last() == Some(&true)
}

/// kombu's regular expression for a topic binding, which it keeps beside the binding.
pub fn pattern(binding: &str) -> String {
    let words = binding.split('.').map(|word| match word {
        "*" => r"[^\.]+".to_owned(),
        "#" => ".*?".to_owned(),
        literal => escaped(literal),
    });
    format!("^{}$", words.collect::<Vec<_>>().join(r"\."))
}

/// A word as kombu escapes it: a backslash in front of all but letters, digits, `#` and `*`.
fn escaped(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    for character in word.chars() {
        match character {
            '\0' => text.push_str("\\000"),
            c if c.is_alphanumeric() || matches!(c, '#' | '*') => text.push(c),
            c => text.extend(['\\', c]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_match_as_in_kombu() {
        for (binding, key, fits) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a.", false),
            ("a.*", "a.b.c", false),
            ("a.#", "a.b.c", true),
            ("a.#", "a", false),
            ("#", "anything.at.all", true),
            ("#.c", "a.b.c", true),
            ("#.c", "a.b.d", false),
            ("*.b.#", "a.b.x", true),
            ("#.#.z", "a.b.c.d.e.f.g", false),
        ] {
            assert_eq!(matches(binding, key), fits, "{binding} {key}");
        }
        assert!(!matches(&("#.".repeat(200) + "x"), &"a.".repeat(2000)));
    }

    #[test]
    fn patterns_are_kombus() {
        for (binding, expected) in [
            ("video.#", r"^video\..*?$"),
            ("*.b-c.d_1", r"^[^\.]+\.b\-c\.d\_1$"),
            ("a*", r"^a*$"),
        ] {
            assert_eq!(pattern(binding), expected);
        }
    }
}
