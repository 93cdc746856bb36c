//! URLs for people: without their passwords.

use url::Url;

/// A URL without its password, its query (which may hold one, too) and its fragment. Of a text that is no URL only
/// the scheme is shown, because nobody knows where in it a password is. Several URLs are separated by `;`.
pub fn masked(text: &str) -> String {
    let urls: Vec<String> = text.split(';').map(one).collect();
    urls.join(";")
}

fn one(text: &str) -> String {
    let scheme = text
        .split_once(':')
        .map_or("", |(scheme, _)| scheme)
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    let hidden = || format!("{}://**", scheme.clone().collect::<String>());
    let Ok(mut url) = Url::parse(text) else {
        return hidden();
    };
    // Without `//` the text behind the scheme is one opaque word, which may hold anything.
    if url.cannot_be_a_base() && !url.path().is_empty() {
        return hidden();
    }
    if url.password().is_some() && url.set_password(Some("**")).is_err() {
        return hidden();
    }
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (text, shown) in [
            ("redis://:secret@h/1", "redis://:**@h/1"),
            (
                "redis://user:secret@h:1/0?password=secret#secret",
                "redis://user:**@h:1/0",
            ),
            ("amqp://u:secret@h//", "amqp://u:**@h//"),
            ("amqp://h;amqp://u:secret@i//", "amqp://h;amqp://u:**@i//"),
            (
                "sentinel://:secret@h:1;sentinel://:secret@h:2/0",
                "sentinel://:**@h:1;sentinel://:**@h:2/0",
            ),
            ("amqp://u:sec:ret@[bad", "amqp://**"),
            ("amqp://u:secret@h:port", "amqp://**"),
            ("redis://:sec/ret@h", "redis://**"),
            ("u:secret@h", "u://**"),
            ("secret", "://**"),
            ("redis://", "redis://"),
            ("redis+socket:///run/redis.sock", "redis+socket:///run/redis.sock"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }
}
