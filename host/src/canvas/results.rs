//! What a signature that was applied will have as its result: Celery's `AsyncResult` and `GroupResult` as values
//! (contract section 5.8).

use serde_json::{Value, json};

/// The most ancestors that a tuple shows: Python cannot read JSON that is nested much deeper.
const ANCESTORS: usize = 100;

/// One result among [`Results`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node(usize);

/// Results that know their parents.
#[derive(Debug, Default)]
pub(super) struct Results(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    id: String,
    parent: Option<Node>,
    /// Of a group.
    members: Option<Vec<Node>>,
}

impl Results {
    /// The result of a task.
    pub(super) fn task(&mut self, id: impl Into<String>) -> Node {
        self.add(id.into(), None)
    }

    /// The result of a group.
    pub(super) fn group(&mut self, id: impl Into<String>, members: Vec<Node>) -> Node {
        self.add(id.into(), Some(members))
    }

    fn add(&mut self, id: String, members: Option<Vec<Node>>) -> Node {
        self.0.push(Entry {
            id,
            parent: None,
            members,
        });
        Node(self.0.len() - 1)
    }

    /// Its id.
    pub(super) fn id(&self, node: Node) -> &str {
        self.0.get(node.0).map_or("", |entry| &entry.id)
    }

    /// Its parent.
    pub(super) fn parent(&self, node: Node) -> Option<Node> {
        self.0.get(node.0).and_then(|entry| entry.parent)
    }

    /// Whether it is a group's.
    pub(super) fn is_group(&self, node: Node) -> bool {
        self.members(node).is_some()
    }

    /// The members of a group.
    pub(super) fn members(&self, node: Node) -> Option<&[Node]> {
        self.0.get(node.0).and_then(|entry| entry.members.as_deref())
    }

    /// Sets or removes its parent. A parent that would make a circle is none.
    pub(super) fn set_parent(&mut self, node: Node, parent: Option<Node>) {
        let circle = parent.is_some_and(|parent| self.first(parent) == node || parent == node);
        if let Some(entry) = self.0.get_mut(node.0) {
            entry.parent = parent.filter(|_| !circle);
        }
    }

    /// The first of its ancestors, itself when it has none.
    pub(super) fn first(&self, node: Node) -> Node {
        let mut first = node;
        while let Some(parent) = self.parent(first) {
            first = parent;
        }
        first
    }

    /// `[[id, parent], members]`; ancestors beyond the hundredth are left out.
    pub(super) fn tuple(&self, node: Node) -> Value {
        self.tuple_below(node, ANCESTORS)
    }

    fn tuple_below(&self, node: Node, left: usize) -> Value {
        let mut lineage = vec![node];
        while let Some(parent) = lineage.last().and_then(|last| self.parent(*last))
            && lineage.len() <= left
        {
            lineage.push(parent);
        }
        let below = left.saturating_sub(lineage.len());
        let mut tuple = Value::Null;
        for node in lineage.into_iter().rev() {
            let members = self.members(node).map(|members| {
                let tuples = members.iter().map(|member| self.tuple_below(*member, below));
                tuples.collect::<Vec<Value>>()
            });
            tuple = json!([[self.id(node), tuple], members]);
        }
        tuple
    }
}
