//! Python's pickles, as plain data only: numbers, text, bytes, containers, dates, decimals and UUIDs.
//!
//! A pickle is a program that may import and call anything. This reader runs it with a fixed list of names that
//! stand for data ([`GLOBALS`]); any other name, and every operation that could lead to a call, ends it before anything
//! is built. No crate reads pickles with a bound on depth and on what a memo multiplies, and none knows the dates,
//! so this is our own.

use std::collections::{HashMap, HashSet};

use super::ContentError;
use super::graph::{DIGITS, Graph, Id, Kind, Node, too_many_digits};

mod read;
pub(super) mod write;

use read::Bytes;

/// The names that a pickle may use, and what they stand for.
const GLOBALS: [(&str, &str, Global); 21] = [
    ("datetime", "datetime", Global::Datetime),
    ("datetime", "date", Global::Date),
    ("datetime", "time", Global::Time),
    ("datetime", "timedelta", Global::Timedelta),
    ("datetime", "timezone", Global::Timezone),
    // As we write them.
    ("datetime", "datetime.fromisoformat", Global::Iso(Kind::Datetime)),
    ("datetime", "date.fromisoformat", Global::Iso(Kind::Date)),
    ("datetime", "time.fromisoformat", Global::Iso(Kind::Time)),
    ("decimal", "Decimal", Global::Decimal),
    ("uuid", "UUID", Global::Uuid),
    ("pytz", "_UTC", Global::Utc),
    ("_codecs", "encode", Global::Encode),
    ("builtins", "set", Global::Set),
    ("__builtin__", "set", Global::Set),
    ("builtins", "frozenset", Global::Set),
    ("__builtin__", "frozenset", Global::Set),
    ("builtins", "bytearray", Global::Bytes),
    ("__builtin__", "bytearray", Global::Bytes),
    ("__builtin__", "bytes", Global::Bytes),
    ("collections", "OrderedDict", Global::OrderedDict),
    ("celery.canvas", "signature", Global::Signature),
];

/// Something that a pickle calls, and that is only data.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Global {
    Datetime,
    Date,
    Time,
    Timedelta,
    Timezone,
    Iso(Kind),
    Decimal,
    Uuid,
    Utc,
    Encode,
    Set,
    Bytes,
    OrderedDict,
    /// A signature pickles as a call with the map that it is.
    Signature,
}

/// What is on the machine's stack.
#[derive(Debug, Clone, Copy)]
enum Item {
    Value(Id),
    Global(Global),
}

/// Reads a pickle of protocol 0 to 5.
pub(super) fn decode(bytes: &[u8], limit: usize) -> Result<(Graph, Id), ContentError> {
    let mut machine = Machine {
        graph: Graph::new(limit),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        offsets: HashMap::new(),
        deltas: HashMap::new(),
        uuids: HashSet::new(),
    };
    let mut bytes = Bytes::new(bytes);
    // Every step takes at least one byte, and there are only so many.
    loop {
        if let Some(root) = machine.step(&mut bytes)? {
            return Ok((machine.graph, root));
        }
    }
}

struct Machine {
    graph: Graph,
    stack: Vec<Item>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<usize, Item>,
    /// Values that are time zones: their offset as Python prints it.
    offsets: HashMap<Id, String>,
    /// Values that are time spans, microseconds.
    deltas: HashMap<Id, i128>,
    /// UUIDs without their state.
    uuids: HashSet<Id>,
}

fn malformed(text: impl Into<String>) -> ContentError {
    ContentError::Malformed(text.into())
}

fn refused(what: impl std::fmt::Display) -> ContentError {
    ContentError::Refused(format!("the pickle {what}; pickles are read as plain data only"))
}

impl Machine {
    /// Does one operation; the value at the end.
    fn step(&mut self, bytes: &mut Bytes<'_>) -> Result<Option<Id>, ContentError> {
        let op = bytes.byte()?;
        match op {
            0x80 => {
                let version = bytes.byte()?;
                if version > 5 {
                    return Err(malformed(format!("pickle protocol {version} is not known")));
                }
            }
            0x95 => {
                bytes.take(8)?;
            }
            b'.' => return self.pop_value().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // Below a mark there is nothing but the mark to take.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.pop_mark()?;
            }
            b'2' => {
                let top = self.peek()?;
                self.stack.push(top);
            }

            b'N' => self.push(Node::Null)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'I' => match bytes.line()? {
                "00" => self.push(Node::Bool(false))?,
                "01" => self.push(Node::Bool(true))?,
                digits => self.push(read::int(digits)?)?,
            },
            b'L' => {
                let line = bytes.line()?;
                self.push(read::int(line.strip_suffix('L').unwrap_or(line))?)?;
            }
            b'J' => {
                let number = i32::from_le_bytes(bytes.array()?);
                self.push(Node::Int(number.to_string()))?;
            }
            b'K' => {
                let number = bytes.byte()?;
                self.push(Node::Int(number.to_string()))?;
            }
            b'M' => {
                let number = u16::from_le_bytes(bytes.array()?);
                self.push(Node::Int(number.to_string()))?;
            }
            0x8a => {
                let length = bytes.byte()?.into();
                self.push(read::long(bytes.take(length)?)?)?;
            }
            0x8b => {
                let length = bytes.length4()?;
                self.push(read::long(bytes.take(length)?)?)?;
            }
            b'F' => {
                let number = bytes
                    .line()?
                    .trim()
                    .parse()
                    .map_err(|_| malformed("a float that is none"))?;
                self.push(Node::Float(number))?;
            }
            b'G' => {
                let number = f64::from_be_bytes(bytes.array()?);
                self.push(Node::Float(number))?;
            }

            0x8c => {
                let length = bytes.byte()?.into();
                self.push(read::text(bytes.take(length)?)?)?;
            }
            b'X' => {
                let length = bytes.length4()?;
                self.push(read::text(bytes.take(length)?)?)?;
            }
            0x8d => {
                let length = bytes.length8()?;
                self.push(read::text(bytes.take(length)?)?)?;
            }
            b'V' => {
                let line = bytes.raw_line()?;
                self.push(Node::Text(read::raw_unicode(line)?))?;
            }
            b'C' => {
                let length = bytes.byte()?.into();
                self.push(Node::Bytes(bytes.take(length)?.to_vec()))?;
            }
            b'B' => {
                let length = bytes.length4()?;
                self.push(Node::Bytes(bytes.take(length)?.to_vec()))?;
            }
            0x8e | 0x96 => {
                let length = bytes.length8()?;
                self.push(Node::Bytes(bytes.take(length)?.to_vec()))?;
            }
            // Text of Python 2, which Python 3 reads as ASCII.
            b'S' => {
                let line = bytes.line()?;
                self.push(Node::Text(read::quoted(line)?))?;
            }
            b'T' => {
                let length = bytes.length4()?;
                self.push(read::ascii(bytes.take(length)?)?)?;
            }
            b'U' => {
                let length = bytes.byte()?.into();
                self.push(read::ascii(bytes.take(length)?)?)?;
            }

            b']' | b')' | 0x8f => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Map(Vec::new()))?,
            b'l' | b't' | 0x91 => {
                let items = self.pop_mark()?;
                self.push(Node::List(items))?;
            }
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..op {
                    items.push(self.pop_value()?);
                }
                items.reverse();
                self.push(Node::List(items))?;
            }
            b'd' => {
                let items = self.pop_mark()?;
                let id = self.graph.push(Node::Map(Vec::new()))?;
                self.set_items(id, &items)?;
                self.stack.push(Item::Value(id));
            }
            b'a' => {
                let item = self.pop_value()?;
                self.extend(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.extend(&items)?;
            }
            b's' => {
                let value = self.pop_value()?;
                let key = self.pop_value()?;
                let id = self.peek_value()?;
                self.set_items(id, &[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                let id = self.peek_value()?;
                self.set_items(id, &items)?;
            }

            b'p' => {
                let index = bytes
                    .line()?
                    .trim()
                    .parse()
                    .map_err(|_| malformed("a memo index that is no number"))?;
                self.remember(index)?;
            }
            b'q' => {
                let index = bytes.byte()?.into();
                self.remember(index)?;
            }
            b'r' => {
                let index = bytes.length4()?;
                self.remember(index)?;
            }
            0x94 => self.remember(self.memo.len())?,
            b'g' => {
                let index = bytes
                    .line()?
                    .trim()
                    .parse()
                    .map_err(|_| malformed("a memo index that is no number"))?;
                self.recall(index)?;
            }
            b'h' => {
                let index = bytes.byte()?.into();
                self.recall(index)?;
            }
            b'j' => {
                let index = bytes.length4()?;
                self.recall(index)?;
            }

            b'c' => {
                let (module, name) = (bytes.line()?, bytes.line()?);
                let global = global(module, name)?;
                self.stack.push(Item::Global(global));
            }
            0x93 => {
                let (name, module) = (self.pop_value()?, self.pop_value()?);
                let (Node::Text(module), Node::Text(name)) = (self.graph.get(module), self.graph.get(name))
                else {
                    return Err(malformed("a global whose name is no text"));
                };
                let global = global(module, name)?;
                self.stack.push(Item::Global(global));
            }
            b'R' => {
                let arguments = self.pop_value()?;
                let Item::Global(global) = self.pop()? else {
                    return Err(refused("calls a value"));
                };
                self.call(global, arguments)?;
            }
            0x81 => {
                let arguments = self.pop_value()?;
                let (Item::Global(Global::Uuid), Node::List(items)) =
                    (self.pop()?, self.graph.get(arguments))
                else {
                    return Err(refused("makes an object"));
                };
                if !items.is_empty() {
                    return Err(refused("makes an object"));
                }
                let id = self.graph.push(Node::Text(String::new()))?;
                self.uuids.insert(id);
                self.stack.push(Item::Value(id));
            }
            b'b' => {
                let state = self.pop_value()?;
                let id = self.peek_value()?;
                if !self.uuids.remove(&id) {
                    return Err(refused("sets an object's state"));
                }
                self.build_uuid(id, state)?;
            }
            b'i' | b'o' | 0x92 => return Err(refused("makes an object")),
            b'P' | b'Q' => return Err(refused("names a persistent object")),
            0x82..=0x84 => return Err(refused("names an extension")),
            0x97 | 0x98 => return Err(refused("uses buffers from outside")),
            other => {
                return Err(malformed(format!(
                    "a pickle with an unknown operation {other:#04x}"
                )));
            }
        }
        Ok(None)
    }

    fn push(&mut self, node: Node) -> Result<(), ContentError> {
        let id = self.graph.push(node)?;
        self.stack.push(Item::Value(id));
        Ok(())
    }

    fn peek(&self) -> Result<Item, ContentError> {
        // What lies below a mark belongs to somebody else.
        let above = self.stack.get(self.marks.last().copied().unwrap_or(0)..);
        let top = above.and_then(<[Item]>::last);
        top.copied()
            .ok_or_else(|| malformed("a pickle that takes from an empty stack"))
    }

    fn pop(&mut self) -> Result<Item, ContentError> {
        let top = self.peek()?;
        self.stack.pop();
        Ok(top)
    }

    fn value(item: Item) -> Result<Id, ContentError> {
        match item {
            Item::Value(id) => Ok(id),
            Item::Global(_) => Err(refused("has a class or a function as a value")),
        }
    }

    fn pop_value(&mut self) -> Result<Id, ContentError> {
        self.pop().and_then(Self::value)
    }

    fn peek_value(&self) -> Result<Id, ContentError> {
        self.peek().and_then(Self::value)
    }

    /// What is above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>, ContentError> {
        let height = self.marks.pop().ok_or_else(|| malformed("no mark"))?;
        if height > self.stack.len() {
            return Err(malformed("a mark above the stack"));
        }
        self.stack
            .split_off(height)
            .into_iter()
            .map(Self::value)
            .collect()
    }

    fn extend(&mut self, items: &[Id]) -> Result<(), ContentError> {
        let id = self.peek_value()?;
        self.graph.charge(items.len().saturating_mul(2))?;
        match self.graph.get_mut(id) {
            Some(Node::List(list)) => {
                list.extend_from_slice(items);
                Ok(())
            }
            _ => Err(malformed("an append to what is no list")),
        }
    }

    fn set_items(&mut self, id: Id, items: &[Id]) -> Result<(), ContentError> {
        self.graph.charge(items.len().saturating_mul(2))?;
        let Some(Node::Map(map)) = self.graph.get_mut(id) else {
            return Err(malformed("an item set in what is no map"));
        };
        for pair in items.chunks(2) {
            let [key, value] = pair else {
                return Err(malformed("a key without a value"));
            };
            map.push((*key, *value));
        }
        Ok(())
    }

    fn remember(&mut self, index: usize) -> Result<(), ContentError> {
        let top = self.peek()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: usize) -> Result<(), ContentError> {
        let item = *self
            .memo
            .get(&index)
            .ok_or_else(|| malformed("a memo that is empty"))?;
        self.graph.charge(2)?;
        self.stack.push(item);
        Ok(())
    }

    /// What a call of one of [`GLOBALS`] gives.
    fn call(&mut self, global: Global, arguments: Id) -> Result<(), ContentError> {
        let Node::List(arguments) = self.graph.get(arguments) else {
            return Err(malformed("a call without arguments"));
        };
        let arguments = arguments.clone();
        let wrong = || malformed(format!("wrong arguments of {global:?}"));
        let argument = |n: usize| arguments.get(n).copied();
        let node = match (global, argument(0)) {
            (Global::Set | Global::Signature, Some(id)) => {
                // A set is the list of its elements, a signature its map.
                let fits = matches!(
                    (global, self.graph.get(id)),
                    (Global::Set, Node::List(_)) | (Global::Signature, Node::Map(_))
                );
                if !fits {
                    return Err(wrong());
                }
                self.stack.push(Item::Value(id));
                return Ok(());
            }
            (Global::Set, None) => Node::List(Vec::new()),
            (Global::OrderedDict, None) => Node::Map(Vec::new()),
            (Global::Bytes, None) => Node::Bytes(Vec::new()),
            (Global::Bytes, Some(id)) => match self.graph.get(id) {
                Node::Bytes(bytes) => Node::Bytes(bytes.clone()),
                _ => return Err(wrong()),
            },
            (Global::Encode, Some(id)) => {
                match (self.graph.get(id), argument(1).map(|id| self.graph.get(id))) {
                    // How protocols before 3 write bytes.
                    (Node::Text(text), Some(Node::Text(encoding))) if encoding == "latin1" => {
                        let bytes: Option<_> =
                            text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
                        Node::Bytes(bytes.ok_or_else(wrong)?)
                    }
                    _ => return Err(wrong()),
                }
            }
            (Global::Decimal | Global::Iso(_), Some(id)) => match self.graph.get(id) {
                Node::Text(text) => Node::Typed(
                    match global {
                        Global::Iso(kind) => kind,
                        _ => Kind::Decimal,
                    },
                    text.clone(),
                ),
                _ => return Err(wrong()),
            },
            (Global::Uuid, Some(id)) => match self.graph.get(id) {
                Node::Text(hex) if hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
                    Node::Typed(Kind::Uuid, hex.clone())
                }
                _ => return Err(wrong()),
            },
            (Global::Datetime | Global::Date | Global::Time, Some(id)) => {
                let offset = match argument(1) {
                    Some(zone) => Some(
                        self.offsets
                            .get(&zone)
                            .ok_or_else(|| refused("uses a time zone by name"))?,
                    ),
                    None => None,
                };
                let Node::Bytes(state) = self.graph.get(id) else {
                    return Err(wrong());
                };
                let (kind, text) = match global {
                    Global::Datetime => (Kind::Datetime, read::datetime(state)),
                    Global::Date => (Kind::Date, read::date(state)),
                    _ => (Kind::Time, read::time(state)),
                };
                Node::Typed(kind, text.ok_or_else(wrong)? + offset.map_or("", String::as_str))
            }
            (Global::Timedelta, _) => {
                let part = |n: usize| match argument(n).map(|id| self.graph.get(id)) {
                    None => Some(0),
                    Some(Node::Int(digits)) => digits.parse::<i64>().ok(),
                    _ => None,
                };
                let (days, seconds, micros) = (part(0), part(1), part(2));
                let (Some(days), Some(seconds), Some(micros)) = (days, seconds, micros) else {
                    return Err(wrong());
                };
                let total =
                    (i128::from(days) * 86_400 + i128::from(seconds)) * 1_000_000 + i128::from(micros);
                // JSON has no time span; seconds are what every reader can use.
                let id = self.graph.push(Node::Float(total as f64 / 1e6))?;
                self.deltas.insert(id, total);
                self.stack.push(Item::Value(id));
                return Ok(());
            }
            (Global::Timezone | Global::Utc, first) => {
                let micros = match (global, first) {
                    (Global::Timezone, Some(id)) => *self.deltas.get(&id).ok_or_else(wrong)?,
                    (Global::Utc, None) => 0,
                    _ => return Err(wrong()),
                };
                let offset = read::offset(micros).ok_or_else(wrong)?;
                let id = self.graph.push(Node::Text(format!("UTC{offset}")))?;
                self.offsets.insert(id, offset);
                self.stack.push(Item::Value(id));
                return Ok(());
            }
            _ => return Err(wrong()),
        };
        self.push(node)
    }

    fn build_uuid(&mut self, id: Id, state: Id) -> Result<(), ContentError> {
        let wrong = || malformed("the state of a UUID");
        let Node::Map(state) = self.graph.get(state) else {
            return Err(wrong());
        };
        let int =
            state.iter().find_map(
                |(key, value)| match (self.graph.get(*key), self.graph.get(*value)) {
                    (Node::Text(name), Node::Int(digits)) if name == "int" => digits.parse::<u128>().ok(),
                    _ => None,
                },
            );
        let uuid = Node::Typed(Kind::Uuid, format!("{:032x}", int.ok_or_else(wrong)?));
        self.graph.charge(32)?;
        if let Some(node) = self.graph.get_mut(id) {
            *node = uuid;
        }
        Ok(())
    }
}

fn global(module: &str, name: &str) -> Result<Global, ContentError> {
    GLOBALS
        .iter()
        .find_map(|(m, n, global)| ((*m, *n) == (module, name)).then_some(*global))
        .ok_or_else(|| refused(format_args!("imports {module:.100}.{name:.100}")))
}

#[cfg(test)]
mod tests;
