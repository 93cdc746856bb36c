//! Freezing: giving everything in a signature its id, so that what follows can be named before it runs (contract
//! sections 4.2 to 4.4).

use std::collections::VecDeque;

use serde_json::Value;

use super::results::Node;
use super::{CanvasError, Kind, Signature, Work};

/// What a signature gets when it is frozen; `None` leaves it as it is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Freeze<'a> {
    /// Its id, unless it has one.
    pub(super) id: Option<&'a str>,
    /// Its group, unless it has one.
    pub(super) group_id: Option<&'a str>,
    /// Its position in the group.
    pub(super) group_index: Option<u64>,
    /// The chord that it reports to.
    pub(super) chord: Option<&'a Value>,
    /// First task of the workflow.
    pub(super) root_id: Option<&'a str>,
    /// Members of a group that are plain tasks get their chord when they are sent.
    pub(super) is_header: bool,
}

impl Freeze<'_> {
    fn options(&self, signature: &mut Signature) {
        if let Some(root_id) = self.root_id {
            signature.set("root_id", root_id);
        }
        if let Some(group_id) = self.group_id
            && !signature.options.contains_key("group_id")
        {
            signature.set("group_id", group_id);
        }
        if let Some(index) = self.group_index {
            signature.set("group_index", index);
        }
        if let Some(chord) = self.chord {
            signature.set("chord", chord.clone());
        }
    }
}

impl Work<'_, '_> {
    /// Gives a signature and its parts their ids.
    pub(super) fn freeze(
        &mut self,
        signature: &mut Signature,
        given: Freeze<'_>,
    ) -> Result<Node, CanvasError> {
        match &mut signature.kind {
            Kind::Task | Kind::Map | Kind::Chunks => {
                let id = self.own_id(signature, given.id);
                given.options(signature);
                Ok(self.results.task(id))
            }
            Kind::Chain(_) => self.freeze_chain(signature, given),
            Kind::Group(_) => self.freeze_group(signature, given),
            Kind::Chord { .. } => self.freeze_chord(signature, given),
        }
    }

    /// The id it has, is given, or now gets.
    fn own_id(&mut self, signature: &mut Signature, given: Option<&str>) -> String {
        if let Some(id) = signature.text("task_id") {
            return id.to_owned();
        }
        let id = given.map_or_else(|| (self.context.new_id)(), str::to_owned);
        signature.set("task_id", id.clone());
        id
    }

    /// Flattens it and freezes each of its tasks. Nested groups come in Celery's order, which is the reverse.
    pub(super) fn freeze_group(
        &mut self,
        group: &mut Signature,
        given: Freeze<'_>,
    ) -> Result<Node, CanvasError> {
        let id = self.own_id(group, None);
        // A root that is null is one: whoever sends the group gives its tasks theirs.
        let root = group.options.get("root_id").cloned();
        given.options(group);
        if let Some(root) = root {
            group.set("root_id", root);
        }
        if let Some(group_id) = given.group_id {
            group.set("group_id", group_id);
        }
        let root_id = group.text("root_id").map(str::to_owned);
        let Kind::Group(tasks) = &mut group.kind else {
            return Err(CanvasError::Invalid("not a group".into()));
        };
        let mut waiting: VecDeque<Signature> = std::mem::take(tasks).into();
        let (mut flat, mut members) = (Vec::with_capacity(waiting.len()), Vec::new());
        while let Some(mut task) = waiting.pop_front() {
            match task.kind {
                Kind::Group(tasks) => {
                    for task in tasks {
                        waiting.push_front(task);
                    }
                }
                Kind::Chain(tasks) if tasks.is_empty() => {}
                _ => {
                    let index = u64::try_from(flat.len()).ok();
                    let is_plain = matches!(task.kind, Kind::Task | Kind::Map | Kind::Chunks);
                    let chord = given.chord.filter(|_| !(given.is_header && is_plain));
                    let member = Freeze {
                        id: None,
                        group_index: index,
                        root_id: root_id.as_deref(),
                        chord,
                        is_header: false,
                        ..given
                    };
                    if let Some(chord) = chord {
                        self.spend(chord.to_string().len())?;
                    }
                    members.push(self.freeze(&mut task, member)?);
                    flat.push(task);
                }
            }
        }
        group.kind = Kind::Group(flat);
        Ok(self.results.group(id, members))
    }

    /// The chord's result is its body's. Header tasks are not told their chord here: whoever starts it does that
    /// (contract section 4.4, points 4 and 6).
    fn freeze_chord(&mut self, chord: &mut Signature, given: Freeze<'_>) -> Result<Node, CanvasError> {
        let id = self.own_id(chord, None);
        let Kind::Chord { header, body } = &mut chord.kind else {
            return Err(CanvasError::Invalid("not a chord".into()));
        };
        let Some(body) = body else {
            return Err(CanvasError::Invalid("a chord has no body".into()));
        };
        let mut group = Signature::group(std::mem::take(header));
        group.set("task_id", id);
        let header_given = Freeze {
            root_id: given.root_id,
            ..Freeze::default()
        };
        let header_result = self.freeze_group(&mut group, header_given)?;
        if let Kind::Group(tasks) = group.kind {
            *header = tasks;
        }
        let result = self.freeze(body, given)?;
        let first = self.results.first(result);
        self.results.set_parent(first, Some(header_result));
        Ok(result)
    }
}
