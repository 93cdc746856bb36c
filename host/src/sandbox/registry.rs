//! All components of a worker, and which of them has which task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Component, LoadError, Sandbox};
use crate::builtin::Builtin;
use crate::task::Definition;

/// What runs a task.
#[derive(Debug, Clone)]
pub enum Code {
    /// A component, in a sandbox.
    Component(Arc<Component>),
    /// The worker itself.
    Builtin(Builtin),
}

/// What was loaded.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    components: Vec<Arc<Component>>,
    tasks: BTreeMap<String, (Arc<Component>, Arc<Definition>)>,
    builtins: BTreeMap<String, (Builtin, Arc<Definition>)>,
    broken: Vec<(PathBuf, Arc<LoadError>)>,
}

impl Registry {
    /// What runs a task, and its options; the worker's own tasks come first.
    pub fn find(&self, task: &str) -> Option<(Code, Arc<Definition>)> {
        if let Some((builtin, definition)) = self.builtins.get(task) {
            return Some((Code::Builtin(*builtin), Arc::clone(definition)));
        }
        let (component, definition) = self.get(task)?;
        Some((Code::Component(component), definition))
    }

    /// Adds the worker's own tasks; they are in no list. `interval` is `result_chord_retry_interval`, seconds.
    pub fn add_builtins(&mut self, interval: f64) {
        let all = Builtin::all(interval);
        self.builtins.extend(
            all.map(|(builtin, definition)| (definition.name.clone(), (builtin, Arc::new(definition)))),
        );
    }

    /// The component that has a task.
    pub fn get(&self, task: &str) -> Option<(Arc<Component>, Arc<Definition>)> {
        self.tasks
            .get(task)
            .map(|(component, definition)| (Arc::clone(component), Arc::clone(definition)))
    }

    /// All tasks with their options, the worker's own included.
    pub fn definitions(&self) -> impl Iterator<Item = &Arc<Definition>> {
        let builtin = self.builtins.values().map(|(_, definition)| definition);
        self.tasks
            .values()
            .map(|(_, definition)| definition)
            .chain(builtin)
    }

    /// Changes the options of every task (`task_annotations`).
    pub fn annotate(&mut self, annotate: impl Fn(&Definition) -> Definition) {
        let own = self.tasks.values_mut().map(|(_, definition)| definition);
        let builtin = self.builtins.values_mut().map(|(_, definition)| definition);
        for definition in own.chain(builtin) {
            *definition = Arc::new(annotate(definition));
        }
    }

    /// Changes the options of one task.
    pub fn annotate_one(&mut self, task: &str, annotate: impl FnOnce(&mut Definition)) {
        let own = self.tasks.get_mut(task).map(|(_, definition)| definition);
        let definition = own.or_else(|| self.builtins.get_mut(task).map(|(_, definition)| definition));
        if let Some(definition) = definition {
            let mut changed = Definition::clone(definition);
            annotate(&mut changed);
            *definition = Arc::new(changed);
        }
    }

    /// Takes over from an earlier load what is broken in this one.
    pub fn keep_broken(&mut self, earlier: &Self) {
        for component in &earlier.components {
            let is_broken = self.broken.iter().any(|(path, _)| path == component.path());
            let is_free = |definition: &Arc<Definition>| !self.tasks.contains_key(&definition.name);
            if !is_broken || !component.definitions().iter().all(is_free) {
                continue;
            }
            let own = earlier
                .tasks
                .iter()
                .filter(|(_, (other, _))| Arc::ptr_eq(other, component));
            let own = own.map(|(name, entry)| (name.clone(), entry.clone()));
            self.tasks.extend(own);
            self.components.push(Arc::clone(component));
        }
    }

    /// The options of every task by its name, the worker's own tasks included.
    pub fn known(&self) -> BTreeMap<String, Arc<Definition>> {
        let own = self
            .tasks
            .iter()
            .map(|(name, (_, definition))| (name, definition));
        let all = own.chain(
            self.builtins
                .iter()
                .map(|(name, (_, definition))| (name, definition)),
        );
        all.map(|(name, definition)| (name.clone(), Arc::clone(definition)))
            .collect()
    }

    /// The names of all tasks, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(String::as_str)
    }

    /// The components that serve.
    pub fn components(&self) -> &[Arc<Component>] {
        &self.components
    }

    /// The files that do not serve, and why.
    pub fn broken(&self) -> &[(PathBuf, Arc<LoadError>)] {
        &self.broken
    }

    /// Adds a component with all its tasks, or none of them.
    fn add(&mut self, component: Component) {
        let taken = component.definitions().iter().find_map(|definition| {
            let (other, _) = self.tasks.get(&definition.name)?;
            Some(LoadError::Duplicate {
                task: definition.name.clone(),
                other: other.path().to_owned(),
            })
        });
        if let Some(error) = taken {
            self.broken.push((component.path().to_owned(), Arc::new(error)));
            return;
        }
        let component = Arc::new(component);
        for definition in component.definitions() {
            let entry = (Arc::clone(&component), Arc::clone(definition));
            self.tasks.insert(definition.name.clone(), entry);
        }
        self.components.push(component);
    }
}

/// Loads files, and of folders every `*.wasm` file, at the same time as far as there are cores. One that is broken
/// does not keep the others from serving. `progress` draws a bar on stderr when that is a terminal.
pub async fn load_all(sandbox: &Sandbox, paths: &[PathBuf], progress: bool) -> Registry {
    let mut registry = Registry::default();
    let mut files = Vec::new();
    for path in paths {
        match files_of(path) {
            Ok(found) => files.extend(found),
            Err(error) => registry
                .broken
                .push((path.clone(), Arc::new(LoadError::Read(error)))),
        }
    }
    files.dedup();
    let bar = bar(files.len(), progress);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let loaded: Vec<_> = stream::iter(files)
        .map(|file| {
            let bar = &bar;
            async move {
                let loaded = sandbox.load(&file).await;
                bar.inc(1);
                (file, loaded)
            }
        })
        .buffered(cores)
        .collect()
        .await;
    bar.finish_and_clear();
    for (file, loaded) in loaded {
        match loaded {
            Ok(component) => registry.add(component),
            Err(error) => registry.broken.push((file, Arc::new(error))),
        }
    }
    registry
}

/// A file itself; of a folder its components, sorted.
fn files_of(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !std::fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "wasm") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn bar(files: usize, progress: bool) -> ProgressBar {
    let target = if progress {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(files as u64), target);
    match ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len}") {
        Ok(style) => bar.with_style(style).with_message("loading tasks"),
        Err(_) => bar,
    }
}
