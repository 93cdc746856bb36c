//! Chains (contract section 4.2).

use std::collections::VecDeque;

use serde_json::Value;

use super::freeze::Freeze;
use super::link::CHAIN_OPTIONS;
use super::results::Node;
use super::signature::maybe_list;
use super::{CanvasError, Kind, Partial, Signature, Work};
use crate::message::JsonMap;

/// How a chain is prepared.
#[derive(Default)]
struct Preparing<'a> {
    /// What the last task gets.
    last: Freeze<'a>,
    /// Errbacks of every task.
    errbacks: Vec<Value>,
    /// Partial arguments for the first task, when it is about to run.
    run: Option<Partial>,
}

/// Tasks in reverse order, as messages carry them, and their results.
type Prepared = (Vec<Signature>, Vec<Node>);

impl Work<'_, '_> {
    /// Sends the first task, which carries the others. The result is the last one's.
    pub(super) fn chain(&mut self, chain: Signature, partial: Partial) -> Result<Option<Node>, CanvasError> {
        let Kind::Chain(tasks) = chain.kind else {
            return Ok(None);
        };
        let mut options = chain.options;
        options.extend(partial.options);
        let mut own = JsonMap::new();
        for option in CHAIN_OPTIONS {
            if let Some(value) = options.remove(option).filter(|value| !value.is_null()) {
                own.insert(option.to_owned(), value);
            }
        }
        let text = |option: &str| own.get(option).and_then(Value::as_str);
        let mut args = partial.args;
        args.extend(chain.args);
        let preparing = Preparing {
            last: Freeze {
                id: text("task_id"),
                group_id: text("group_id"),
                group_index: own.get("group_index").and_then(Value::as_u64),
                chord: own.get("chord"),
                root_id: text("root_id"),
                is_header: false,
            },
            errbacks: maybe_list(own.get("link_error")),
            run: Some(Partial {
                args,
                kwargs: partial.kwargs,
                options: JsonMap::new(),
            }),
        };
        let (mut tasks, results) = self.prepare(tasks, preparing)?;
        let links = maybe_list(own.get("link"));
        if let Some(last) = tasks.first_mut().filter(|_| !links.is_empty()) {
            let mut all = last.links("link");
            all.extend(links);
            last.set("link", all);
        }
        let Some(first) = tasks.pop() else {
            return Ok(None);
        };
        let mut rest = maybe_list(options.get("chain"));
        rest.extend(tasks.iter().map(Signature::to_value));
        options.insert("chain".into(), Value::Array(rest));
        let applied = self.apply(
            first,
            Partial {
                options,
                ..Partial::default()
            },
        )?;
        Ok(if tasks.is_empty() {
            applied
        } else {
            results.first().copied()
        })
    }

    /// Gives the tasks of a chain their ids; the chain has the id of its last task.
    pub(super) fn freeze_chain(
        &mut self,
        chain: &mut Signature,
        given: Freeze<'_>,
    ) -> Result<Node, CanvasError> {
        let Kind::Chain(tasks) = &mut chain.kind else {
            return Err(CanvasError::Invalid("not a chain".into()));
        };
        let preparing = Preparing {
            last: given,
            ..Preparing::default()
        };
        let (mut prepared, results) = self.prepare(std::mem::take(tasks), preparing)?;
        prepared.reverse();
        *tasks = prepared;
        let result = results.first().copied();
        let result = result.ok_or_else(|| CanvasError::Invalid("a chain has no tasks".into()))?;
        chain.set("task_id", self.results.id(result));
        Ok(result)
    }

    /// Takes chains within the chain apart, makes a chord of a group that something follows, leaves out empty groups,
    /// and freezes all, the last task first.
    fn prepare(&mut self, tasks: Vec<Signature>, preparing: Preparing<'_>) -> Result<Prepared, CanvasError> {
        let on_headers = self.context.defaults.errbacks_on_headers;
        let Preparing {
            last,
            errbacks,
            mut run,
        } = preparing;
        let runs = run.is_some();
        let mut steps = begin(tasks);
        let (mut tasks, mut results): Prepared = Default::default();
        let mut previous: Option<Node> = None;
        while let Some(task) = steps.pop_back() {
            let (is_first, is_last) = (steps.is_empty(), tasks.is_empty());
            let mut task = unrolled(task);
            if is_empty_group(&task) && !(is_first && is_last) {
                continue;
            }
            if runs && task.unrolls() {
                steps.extend(task.unroll_body(on_headers));
                continue;
            }
            task = match task.kind {
                Kind::Chain(inner) => {
                    steps.extend(inner);
                    continue;
                }
                Kind::Group(header) if !tasks.is_empty() => {
                    let id = task.options.remove("task_id");
                    let body = tasks.pop().into_iter().zip(results.pop()).next();
                    let Some((body, body_result)) = body else { continue };
                    let mut chord = Signature::chord(header, body);
                    if let Some(id) = id.filter(Value::is_string) {
                        chord.set("task_id", id);
                    }
                    if let Some(root_id) = last.root_id {
                        chord.set("root_id", root_id);
                    }
                    previous = self
                        .without_parent(results.last().copied(), body_result)
                        .or(previous);
                    chord
                }
                _ => {
                    if let Some(partial) = run.take_if(|_| is_first) {
                        task.merge(partial);
                    }
                    task
                }
            };
            let given = match is_last {
                true => last,
                false => Freeze {
                    root_id: last.root_id,
                    ..Freeze::default()
                },
            };
            let result = self.freeze(&mut task, given)?;
            if let Some(previous) = previous.filter(|_| !tasks.is_empty())
                && self.results.parent(previous).is_none()
            {
                self.results.set_parent(previous, Some(result));
            }
            for errback in &errbacks {
                task.link_error(errback, on_headers, true);
            }
            previous = Some(match task.kind {
                Kind::Chord { .. } => self.results.first(result),
                _ => result,
            });
            tasks.push(task);
            results.push(result);
        }
        if runs {
            tasks.iter_mut().for_each(Signature::strip);
        }
        Ok((tasks, results))
    }

    /// Takes away the parent of whichever result in the line of `last` has `body` as its parent: it follows the chord
    /// now that the body is a part of.
    fn without_parent(&mut self, last: Option<Node>, body: Node) -> Option<Node> {
        let mut node = last?;
        while self.results.parent(node)? != body {
            node = self.results.parent(node)?;
        }
        self.results.set_parent(node, None);
        Some(node)
    }
}

/// The steps of a chain, with its first task in front: that one gets the partial arguments.
fn begin(tasks: Vec<Signature>) -> VecDeque<Signature> {
    let mut steps: VecDeque<Signature> = tasks.into();
    let mut empty = None;
    while let Some(head) = steps.pop_front() {
        let head = match head.kind {
            Kind::Chain(inner) => {
                for task in inner.into_iter().rev() {
                    steps.push_front(task);
                }
                continue;
            }
            _ => unrolled(head),
        };
        if is_empty_group(&head) && !steps.is_empty() {
            empty = Some(head);
            continue;
        }
        steps.push_front(head);
        break;
    }
    if steps.is_empty() {
        steps.extend(empty);
    }
    steps
}

/// A group of one is that one.
fn unrolled(mut task: Signature) -> Signature {
    match &mut task.kind {
        Kind::Group(tasks) if tasks.len() == 1 => tasks.pop().unwrap_or_else(|| Signature::group(Vec::new())),
        _ => task,
    }
}

fn is_empty_group(task: &Signature) -> bool {
    matches!(&task.kind, Kind::Group(tasks) if tasks.is_empty())
}
