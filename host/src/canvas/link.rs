//! Callbacks and errbacks of signatures that are put together (contract sections 4.4 and 4.5).

use serde_json::Value;

use super::signature::maybe_list;
use super::{CanvasError, Kind, Signature};
use crate::message::JsonMap;

impl Signature {
    /// The signatures that an option holds, as a list.
    pub(super) fn links(&self, option: &str) -> Vec<Value> {
        maybe_list(self.options.get(option))
    }

    /// Adds to an option that holds a list, unless it is in it.
    pub(super) fn append(&mut self, option: &str, value: Value) {
        let mut list = self.links(option);
        if !list.contains(&value) {
            list.push(value);
        }
        self.set(option, list);
    }

    /// `link()`: of a group's first task, which cannot know the results of the others; of a chord's body.
    pub(super) fn link(&mut self, callback: Value) {
        match &mut self.kind {
            Kind::Group(tasks) => {
                if let Some(first) = tasks.first_mut() {
                    first.link(immutable(callback));
                }
            }
            Kind::Chord { body: Some(body), .. } => body.link(callback),
            _ => self.append("link", callback),
        }
    }

    /// `link_error()`: of each task of a group; of a chord's body and, with `task_allow_error_cb_on_chord_header`, of
    /// its header. Of chords in a header that is not frozen the bodies get it, too.
    pub(super) fn link_error(&mut self, errback: &Value, on_headers: bool, frozen: bool) {
        match &mut self.kind {
            Kind::Group(tasks) => {
                for task in tasks {
                    task.link_error(errback, on_headers, frozen);
                }
            }
            Kind::Chord { header, body } => {
                for task in header {
                    if on_headers {
                        task.link_error(&immutable(errback.clone()), on_headers, frozen);
                    }
                    if !frozen && matches!(task.kind, Kind::Chord { .. }) {
                        task.link_error(errback, on_headers, frozen);
                    }
                }
                if let Some(body) = body {
                    body.link_error(errback, on_headers, frozen);
                }
            }
            _ => self.append("link_error", errback.clone()),
        }
    }

    /// Moves `link` and `link_error` out of options to this body of a chord (contract section 4.4, point 2).
    pub(super) fn take_callbacks(&mut self, options: &mut JsonMap) {
        for callback in maybe_list(options.remove("link").as_ref()) {
            match &self.kind {
                Kind::Group(tasks) if tasks.is_empty() => self.append("link", callback),
                _ => self.link(callback),
            }
        }
        for errback in maybe_list(options.remove("link_error").as_ref()) {
            match self.kind {
                Kind::Group(_) => self.link_error_to_tasks(&errback, true),
                _ => self.append("link_error", errback),
            }
        }
    }

    /// To each task of a group body; to the group where that has its own, which replace those of its tasks.
    fn link_error_to_tasks(&mut self, errback: &Value, runs_as_group: bool) {
        let own = self.options.get("link_error").is_some_and(|own| !own.is_null());
        match &mut self.kind {
            Kind::Group(_) if runs_as_group && own => self.append("link_error", errback.clone()),
            Kind::Group(tasks) => {
                for task in tasks {
                    task.link_error_to_tasks(errback, false);
                }
            }
            Kind::Chord { body: Some(body), .. } => body.link_error_to_tasks(errback, true),
            _ => self.append("link_error", errback.clone()),
        }
    }

    /// Takes the body out of the header tasks of chords that wait: whoever starts them puts it there again.
    pub(super) fn strip(&mut self) {
        match &mut self.kind {
            Kind::Chord { header, body } => {
                for task in header {
                    task.clear_chord();
                    task.strip();
                }
                if let Some(body) = body {
                    body.strip();
                }
            }
            Kind::Group(tasks) | Kind::Chain(tasks) => tasks.iter_mut().for_each(Self::strip),
            _ => {}
        }
    }

    fn clear_chord(&mut self) {
        self.options.remove("chord");
        match &mut self.kind {
            Kind::Group(tasks) => tasks.iter_mut().for_each(Self::clear_chord),
            Kind::Chain(tasks) => {
                if let Some(last) = tasks.last_mut() {
                    last.clear_chord();
                }
            }
            Kind::Chord { body: Some(body), .. } => body.clear_chord(),
            _ => {}
        }
    }

    /// Whether it is a chord whose body is a chain that starts with a task: then only that first task has to be the
    /// body, and the rest can follow the chord.
    pub(super) fn unrolls(&self) -> bool {
        let Kind::Chord { body: Some(body), .. } = &self.kind else {
            return false;
        };
        let Kind::Chain(tasks) = &body.kind else {
            return false;
        };
        tasks
            .first()
            .is_some_and(|first| !matches!(first.kind, Kind::Group(_)))
    }

    /// `chord(header, chain(a, b, c))` as `chord(header, a), b, c`.
    pub(super) fn unroll_body(mut self, on_headers: bool) -> Vec<Signature> {
        let Kind::Chord { body: Some(body), .. } = &mut self.kind else {
            return vec![self];
        };
        let Kind::Chain(tasks) = &mut body.kind else {
            return vec![self];
        };
        let mut tasks = std::mem::take(tasks);
        for callback in body.links("link") {
            if let Some(last) = tasks.last_mut() {
                last.link(callback);
            }
        }
        for errback in body.links("link_error") {
            for task in &mut tasks {
                task.link_error(&errback, on_headers, false);
            }
        }
        let mut rest = tasks.into_iter();
        if let Some(mut first) = rest.next() {
            let mut options = std::mem::take(&mut body.options);
            options.retain(|option, _| !CHAIN_OPTIONS.contains(&option.as_str()));
            first.options = super::message::merge_options(&first.options, &options);
            **body = first;
        }
        std::iter::once(self).chain(rest).collect()
    }

    /// Splits the bodies of all chords within a chain.
    pub(super) fn unroll_chords(&mut self, on_headers: bool) {
        let Kind::Chain(tasks) = &mut self.kind else {
            return;
        };
        let mut waiting: std::collections::VecDeque<Signature> = std::mem::take(tasks).into();
        while let Some(mut task) = waiting.pop_front() {
            task.unroll_chords(on_headers);
            if task.unrolls() {
                for part in task.unroll_body(on_headers).into_iter().rev() {
                    waiting.push_front(part);
                }
            } else {
                tasks.push(task);
            }
        }
    }
}

/// Options that a chain keeps for itself instead of handing them to its first task.
pub(super) const CHAIN_OPTIONS: [&str; 8] = [
    "chord",
    "group_id",
    "group_index",
    "link",
    "link_error",
    "parent_id",
    "root_id",
    "task_id",
];

/// The same, taking no arguments.
fn immutable(mut signature: Value) -> Value {
    if let Value::Object(map) = &mut signature {
        map.insert("immutable".into(), true.into());
    }
    signature
}

/// A signature in an option.
pub(super) fn read(value: &Value) -> Result<Signature, CanvasError> {
    Signature::read(value.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_errbacks_of_a_chord_are_those_of_its_header_where_the_setting_says_so() {
        let task = |name: &str| {
            json!({"task": name, "args": [], "kwargs": {}, "options": {}, "subtask_type": null,
            "immutable": false})
        };
        let chord = json!({"task": "celery.chord", "subtask_type": "chord", "options": {},
            "kwargs": {"header": [task("h1"), task("h2")], "body": task("b")}});
        for on_headers in [false, true] {
            let mut linked = Signature::read(chord.clone()).unwrap();
            linked.link_error(&task("e"), on_headers, false);
            let kwargs = &linked.to_value()["kwargs"];
            assert_eq!(kwargs["body"]["options"]["link_error"][0]["task"], "e");
            for header in kwargs["header"].as_array().unwrap() {
                let errback = &header["options"]["link_error"][0];
                assert_eq!(errback["immutable"] == true, on_headers, "{header}");
            }
        }
    }
}
