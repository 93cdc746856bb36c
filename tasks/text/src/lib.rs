//! A real job with a library of its own: statistics of a text, and Markdown to HTML.

use std::collections::BTreeMap;

use celerybox_guest::{task, tasks};
use pulldown_cmark::{Event, Options, Parser, html};
use serde::Serialize;

/// What there is in a text.
#[derive(Debug, PartialEq, Serialize)]
struct Statistics {
    lines: usize,
    words: usize,
    characters: usize,
    /// The most frequent words with their numbers, most frequent first.
    top: Vec<(String, usize)>,
}

/// Counts lines, words, characters and the most frequent words.
#[task]
fn count_words(text: String, #[default(10)] top: usize) -> Statistics {
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let mut words = 0;
    for word in text.split(|letter: char| !letter.is_alphanumeric() && letter != '\'') {
        if !word.is_empty() {
            words += 1;
            *numbers.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    let mut frequent: Vec<(String, usize)> = numbers.into_iter().collect();
    // The sort is stable: words of one frequency stay in the order of the alphabet.
    frequent.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    frequent.truncate(top);
    Statistics {
        lines: text.lines().count(),
        words,
        characters: text.chars().count(),
        top: frequent,
    }
}

/// Renders Markdown as HTML. HTML inside the Markdown is shown, not obeyed, unless `raw_html` is true.
#[task]
fn render_markdown(
    source: String,
    #[keyword_only]
    #[default(false)]
    raw_html: bool,
) -> String {
    let events = Parser::new_ext(&source, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH);
    let events = events.map(|event| match event {
        Event::Html(text) | Event::InlineHtml(text) if !raw_html => Event::Text(text),
        event => event,
    });
    let mut page = String::with_capacity(source.len() * 3 / 2);
    html::push_html(&mut page, events);
    page
}

tasks![count_words, render_markdown];

#[cfg(test)]
mod tests {
    use super::*;
    use celerybox_guest::testing::TestContext;

    #[test]
    fn counts() {
        let text = "The cat, the dog.\nDon't the cat!".to_owned();
        assert_eq!(
            count_words(text, 2),
            Statistics {
                lines: 2,
                words: 7,
                characters: 32,
                top: vec![("the".to_owned(), 3), ("cat".to_owned(), 2)],
            }
        );
    }

    #[test]
    fn counts_nothing_in_nothing() {
        let json = TestContext::new().run(count_words::TASK, r#"[""]"#, "{}");
        assert_eq!(json.unwrap(), r#"{"lines":0,"words":0,"characters":0,"top":[]}"#);
    }

    #[test]
    fn renders() {
        let page = render_markdown("# Hi\n\n* ~~a~~ *b*".to_owned(), false);
        assert_eq!(
            page,
            "<h1>Hi</h1>\n<ul>\n<li><del>a</del> <em>b</em></li>\n</ul>\n"
        );
    }

    #[test]
    fn html_is_shown_unless_wanted() {
        let source = "a <b>c</b>".to_owned();
        assert_eq!(
            render_markdown(source.clone(), false),
            "<p>a &lt;b&gt;c&lt;/b&gt;</p>\n"
        );
        assert_eq!(render_markdown(source, true), "<p>a <b>c</b></p>\n");
    }
}
