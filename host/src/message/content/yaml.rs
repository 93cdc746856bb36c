//! YAML as PyYAML's `safe_load` understands it: YAML 1.1's types in what a parser of YAML's syntax finds.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use super::ContentError;
use super::graph::{Graph, Id, Node};

mod scalar;
pub(super) mod write;

/// Reads one YAML document; none at all is null.
pub(super) fn decode(bytes: &[u8], limit: usize) -> Result<(Graph, Id), ContentError> {
    let text = text(bytes)?;
    let mut reader = Reader {
        graph: Graph::new(limit),
        open: Vec::new(),
        anchors: HashMap::new(),
        root: None,
    };
    for event in Parser::new_from_str(&text) {
        let (event, _) = event.map_err(|error| malformed(error.to_string()))?;
        reader.take(event)?;
    }
    let root = match reader.root {
        Some(root) => root,
        None => reader.graph.push(Node::Null)?,
    };
    Ok((reader.graph, root))
}

fn malformed(text: impl Into<String>) -> ContentError {
    ContentError::Malformed(text.into())
}

/// UTF-8, or UTF-16 when it starts with a byte order mark, as in PyYAML.
fn text(bytes: &[u8]) -> Result<String, ContentError> {
    let utf16 = |unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks(2).map(|pair| match *pair {
            [a, b] => Some(unit([a, b])),
            _ => None,
        });
        String::from_utf16(&units.collect::<Option<Vec<u16>>>()?).ok()
    };
    let text = match bytes {
        [0xff, 0xfe, ..] => utf16(u16::from_le_bytes),
        [0xfe, 0xff, ..] => utf16(u16::from_be_bytes),
        _ => String::from_utf8(bytes.to_vec()).ok(),
    };
    let text = text.ok_or_else(|| malformed("a YAML document that is no text"))?;
    // What PyYAML's reader does not let through.
    let printable = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}');
    match text.chars().find(|c| !printable(*c)) {
        Some(c) => Err(malformed(format!("a YAML document with the character {c:?}"))),
        None => Ok(text),
    }
}

/// A list or map whose end has not come.
struct Open {
    id: Id,
    /// What it holds so far; keys and values of a map take turns.
    items: Vec<Item>,
    collection: Collection,
}

#[derive(Clone, Copy, PartialEq)]
enum Collection {
    List,
    /// `!!omap` and `!!pairs`: a list of maps with one entry each, which are pairs.
    Pairs,
    Map,
    Set,
}

#[derive(Clone, Copy)]
enum Item {
    Value(Id),
    /// The key `<<`.
    Merge,
}

struct Reader {
    graph: Graph,
    open: Vec<Open>,
    anchors: HashMap<usize, Id>,
    root: Option<Id>,
}

impl Reader {
    fn take(&mut self, event: Event<'_>) -> Result<(), ContentError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_deref().map(name).transpose()?;
                let plain = style == ScalarStyle::Plain;
                let item = match scalar::resolve(&text, plain, tag)? {
                    Some(node) => Item::Value(self.graph.push(node)?),
                    None => Item::Merge,
                };
                if let Item::Value(id) = item {
                    self.anchor(anchor, id);
                }
                self.add(item)
            }
            Event::Alias(anchor) => {
                let id = *self
                    .anchors
                    .get(&anchor)
                    .ok_or_else(|| malformed("an alias without its anchor"))?;
                self.graph.charge(2)?;
                self.add(Item::Value(id))
            }
            Event::SequenceStart(anchor, tag) => {
                let collection = match tag.as_deref().map(name).transpose()? {
                    None | Some("seq" | "") => Collection::List,
                    Some("omap" | "pairs") => Collection::Pairs,
                    Some(other) => return Err(unknown_tag(other)),
                };
                self.open(anchor, collection, Node::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let (collection, node) = match tag.as_deref().map(name).transpose()? {
                    None | Some("map" | "") => (Collection::Map, Node::Map(Vec::new())),
                    Some("set") => (Collection::Set, Node::List(Vec::new())),
                    Some(other) => return Err(unknown_tag(other)),
                };
                self.open(anchor, collection, node)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            _ => Ok(()),
        }
    }

    fn anchor(&mut self, anchor: usize, id: Id) {
        // 0 means that there is none.
        if anchor > 0 {
            self.anchors.insert(anchor, id);
        }
    }

    fn open(&mut self, anchor: usize, collection: Collection, node: Node) -> Result<(), ContentError> {
        let id = self.graph.push(node)?;
        self.anchor(anchor, id);
        self.open.push(Open {
            id,
            items: Vec::new(),
            collection,
        });
        Ok(())
    }

    fn add(&mut self, item: Item) -> Result<(), ContentError> {
        match (self.open.last_mut(), item) {
            (Some(open), Item::Merge) if open.collection == Collection::Map && open.items.len() % 2 == 0 => {
                open.items.push(item);
            }
            (Some(open), Item::Value(_)) => open.items.push(item),
            (None, Item::Value(id)) => {
                if self.root.replace(id).is_some() {
                    return Err(malformed("more than one YAML document"));
                }
            }
            (_, Item::Merge) => return Err(malformed("a merge key where no key is")),
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), ContentError> {
        let open = self
            .open
            .pop()
            .ok_or_else(|| malformed("an end without a start"))?;
        let node = match open.collection {
            Collection::List => Node::List(open.items.iter().filter_map(Item::value).collect()),
            Collection::Set => Node::List(open.items.iter().step_by(2).filter_map(Item::value).collect()),
            Collection::Map => Node::Map(self.entries(&open.items)?),
            Collection::Pairs => Node::List(self.pairs(&open.items)?),
        };
        if let Some(place) = self.graph.get_mut(open.id) {
            *place = node;
        }
        self.add(Item::Value(open.id))
    }

    /// The entries of a map; those that it merges come first, so that its own are the last and count.
    fn entries(&mut self, items: &[Item]) -> Result<Vec<(Id, Id)>, ContentError> {
        let (mut merged, mut own) = (Vec::new(), Vec::new());
        for pair in items.chunks(2) {
            match *pair {
                [Item::Value(key), Item::Value(value)] => own.push((key, value)),
                [Item::Merge, Item::Value(value)] => {
                    let maps = match self.graph.get(value) {
                        // The first of several maps counts most.
                        Node::List(maps) => maps.iter().rev().copied().collect(),
                        _ => vec![value],
                    };
                    for map in maps {
                        let Node::Map(entries) = self.graph.get(map) else {
                            return Err(malformed("a merge key with a value that is no map"));
                        };
                        let entries = entries.clone();
                        self.graph
                            .charge(entries.len().saturating_mul(4).saturating_add(2))?;
                        merged.extend(entries);
                    }
                }
                _ => return Err(malformed("a key without a value")),
            }
        }
        merged.append(&mut own);
        Ok(merged)
    }

    /// Pairs as lists of two.
    fn pairs(&mut self, items: &[Item]) -> Result<Vec<Id>, ContentError> {
        let mut pairs = Vec::with_capacity(items.len());
        for item in items.iter().filter_map(Item::value) {
            let pair = match self.graph.get(item) {
                Node::Map(entries) => match entries.as_slice() {
                    [(key, value)] => Some(vec![*key, *value]),
                    _ => None,
                },
                _ => None,
            };
            let pair = pair.ok_or_else(|| malformed("a list of pairs with something else in it"))?;
            pairs.push(self.graph.push(Node::List(pair))?);
        }
        Ok(pairs)
    }
}

impl Item {
    fn value(&self) -> Option<Id> {
        match self {
            Item::Value(id) => Some(*id),
            Item::Merge => None,
        }
    }
}

/// The name of a tag among those of YAML itself; empty for `!`, which says: do not guess.
fn name(tag: &Tag) -> Result<&str, ContentError> {
    match (tag.handle.as_str(), tag.suffix.as_str()) {
        ("tag:yaml.org,2002:", name) => Ok(name),
        ("", "!") | ("!", "") => Ok(""),
        ("", full) => full
            .strip_prefix("tag:yaml.org,2002:")
            .ok_or_else(|| unknown_tag(full)),
        (handle, suffix) => Err(unknown_tag(&format!("{handle}{suffix}"))),
    }
}

/// Such as `!!python/object`: PyYAML's `safe_load` does not know it either.
fn unknown_tag(tag: &str) -> ContentError {
    malformed(format!("the YAML tag {tag:.100} is not known"))
}

fn binary(text: &str) -> Result<Vec<u8>, ContentError> {
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    BASE64
        .decode(text)
        .map_err(|_| malformed("!!binary with something else than base64"))
}

#[cfg(test)]
mod tests;
