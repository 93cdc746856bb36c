//! Groups, and what becomes one (contract section 4.3).

use serde_json::{Value, json};

use super::freeze::Freeze;
use super::message::merge_options;
use super::results::Node;
use super::{CanvasError, Kind, Partial, Signature, Step, Work};

impl Work<'_, '_> {
    /// Sends each task of a group.
    pub(super) fn group(&mut self, mut group: Signature, mut partial: Partial) -> Result<Node, CanvasError> {
        for link in ["link", "link_error"] {
            if partial.options.remove(link).is_some_and(|link| !link.is_null()) {
                return Err(CanvasError::Invalid(format!(
                    "{link} of a group: link its tasks, or make it a chord"
                )));
            }
        }
        let in_children = partial.options.remove("add_to_parent") != Some(Value::Bool(false));
        let Kind::Group(tasks) = std::mem::replace(&mut group.kind, Kind::Task) else {
            return Err(CanvasError::Invalid("not a group".into()));
        };
        if tasks.is_empty() {
            group.kind = Kind::Group(tasks);
            return self.freeze_group(&mut group, Freeze::default());
        }
        // Clients up to Celery 5.2 give a group that ends a chain in a chord's header the id of that chord, whose size is set
        // already (contract section 4.6).
        let of_chord = |name: &str| group.options.get(name).filter(|id| id.is_string());
        let is_counted = !partial.options.contains_key("task_id")
            && of_chord("task_id").is_some()
            && of_chord("task_id") == of_chord("group_id");
        let mut options = merge_options(&group.options, &partial.options);
        let id = match options.remove("task_id") {
            Some(Value::String(id)) if !id.is_empty() => id,
            _ => (self.context.new_id)(),
        };
        options.insert("group_id".into(), id.clone().into());
        let chord = options.remove("chord").filter(|chord| !chord.is_null());
        options.remove("group_index");
        options.insert("add_to_parent".into(), false.into());
        let root_id = options.get("root_id").and_then(Value::as_str).map(str::to_owned);
        let mut flat = Vec::with_capacity(tasks.len());
        flatten(tasks, &mut flat);
        let chord_size = chord.as_ref().map_or(0, |chord| chord.to_string().len());
        let (mut members, mut size, last) = (Vec::with_capacity(flat.len()), 0, flat.len());
        for (number, (index, mut task)) in flat.into_iter().enumerate() {
            let given = Freeze {
                group_id: Some(&id),
                group_index: Some(index),
                root_id: root_id.as_deref(),
                ..Freeze::default()
            };
            let result = self.freeze(&mut task, given)?;
            let chord = chord.as_ref().or_else(|| task.options.get("chord"));
            let chord = chord.filter(|chord| !chord.is_null()).cloned();
            size += task.parts();
            if chord.is_some() && number + 1 == last && !is_counted {
                let group = id.clone();
                self.steps.push(Step::ChordSize { group, size });
            }
            self.spend(chord_size)?;
            let mut options = options.clone();
            options.insert("chord".into(), chord.unwrap_or_default());
            let (args, kwargs) = (partial.args.clone(), partial.kwargs.clone());
            self.apply(
                task,
                Partial {
                    args,
                    kwargs,
                    options,
                },
            )?;
            members.push(result);
        }
        let result = match members.as_slice() {
            // A group of one chain that ends in a group.
            [only] if self.results.is_group(*only) => *only,
            _ => self.results.group(id, members),
        };
        if in_children {
            self.children.push(result);
        }
        Ok(result)
    }

    /// A group of starmaps of at most `n` items each.
    pub(super) fn chunks(&mut self, chunks: &Signature, mut partial: Partial) -> Result<Node, CanvasError> {
        let part = |name: &str| chunks.kwargs.get(name);
        let size = part("n")
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok());
        let (Some(task), Some(Value::Array(items)), Some(size @ 1..)) = (part("task"), part("it"), size)
        else {
            return Err(CanvasError::Invalid(
                "chunks need task, it (a list) and n (1 or more)".into(),
            ));
        };
        let map = |items: &[Value]| {
            let mut map = Signature::task(
                "celery.starmap",
                Vec::new(),
                json!({"task": task, "it": items})
                    .as_object()
                    .cloned()
                    .unwrap_or_default(),
            );
            (map.kind, map.immutable) = (Kind::Map, true);
            map
        };
        let maps = items.chunks(size).map(map).collect();
        if let Some(name) = task.get("task") {
            partial.options.insert("route_name".into(), name.clone());
        }
        self.group(Signature::group(maps), partial)
    }
}

/// The tasks of a group and of the groups in it, each with its position in its own group, as Celery counts. Empty
/// chains have none.
fn flatten(tasks: Vec<Signature>, flat: &mut Vec<(u64, Signature)>) {
    for (index, task) in (0..).zip(tasks) {
        match task.kind {
            Kind::Group(tasks) => flatten(tasks, flat),
            Kind::Chain(tasks) if tasks.is_empty() => {}
            _ => flat.push((index, task)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{apply, lines};
    use super::*;

    /// At the end of a chain in the header of the chord `c1`, as each line of clients writes it.
    #[test]
    fn a_group_with_the_id_of_its_chord_leaves_the_chords_size_alone() {
        let group = |id: &str| {
            let tasks = ["a", "b"]
                .map(|id| json!({"task": "t", "options": {"task_id": id, "chord": {"task": "sum"}}}));
            let options = json!({"task_id": id, "group_id": "c1"});
            json!({"task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": tasks}, "options": options})
        };
        let sizes = |id: &str| {
            let applied = apply(group(id), Partial::default()).unwrap();
            let mut sizes = lines(&applied);
            sizes.retain(|line| line.starts_with("size"));
            assert_eq!(applied.steps.len(), sizes.len() + 2);
            sizes
        };
        assert_eq!(sizes("g1"), ["size g1 2"]);
        assert!(sizes("c1").is_empty());
    }
}
