//! Odd components, written as core modules in WAT.

use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::{Resolve, SizeAlign, Type, WorldId};

/// What a guest may import beside our own interfaces.
const WORLD: &str = "
    package celerybox:hostile;
    world hostile {
        include celerybox:task/canvas-task@0.1.0;
        import wasi:cli/exit@0.2.6;
        import wasi:random/random@0.2.6;
        import wasi:sockets/instance-network@0.2.6;
        import evil:host/power@1.0.0;
    }
    package wasi:cli@0.2.6 {
        interface exit { exit: func(status: result); }
    }
    package wasi:random@0.2.6 {
        interface random { get-random-bytes: func(len: u64) -> list<u8>; }
    }
    package wasi:sockets@0.2.6 {
        interface instance-network { resource network; instance-network: func() -> network; }
    }
    package evil:host@1.0.0 {
        interface power { seize: func(); }
    }
";

/// The parts of a guest; every part has a harmless default.
pub(crate) struct Guest {
    /// Its task.
    pub(crate) task: &'static str,
    /// The memory.
    pub(crate) memory: &'static str,
    /// Imports, in front of everything else.
    pub(crate) imports: &'static str,
    /// Globals, tables, functions, `start`.
    pub(crate) fields: &'static str,
    /// What `run` does; the default returns its positional arguments.
    pub(crate) run: String,
    /// What `cabi_realloc` does before it hands out memory.
    pub(crate) realloc: &'static str,
    /// What the post-return function of `run` does.
    pub(crate) post: &'static str,
    /// What `tasks` does before it answers.
    pub(crate) describe: &'static str,
    /// The names of the tasks it declares, the first one apart from `task`.
    pub(crate) names: Vec<String>,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            task: "guest.run",
            memory: "(memory (export \"memory\") 2)",
            imports: "",
            fields: "",
            run: "(call $ok (local.get $args) (local.get $args-length))".into(),
            realloc: "",
            post: "",
            describe: "",
            names: Vec::new(),
        }
    }
}

/// Where the list of tasks is: header, records, names. The memory's first page is for the bump allocator's data.
const RESULT: u32 = 512;
const TASKS: u32 = 1024;

impl Guest {
    /// A guest whose `run` is this code. It has the parameters `$task`, `$args`, `$kwargs` and their lengths, and the
    /// functions `$ok` (of a text: address, length) and `$number`.
    pub(crate) fn running(run: &str) -> Self {
        Self {
            run: run.into(),
            ..Self::default()
        }
    }

    /// The component.
    pub(crate) fn component(&self) -> Vec<u8> {
        component(&self.text())
    }

    fn text(&self) -> String {
        let (image, heap) = self.image();
        let Self {
            imports,
            memory,
            fields,
            run,
            realloc,
            post,
            describe,
            ..
        } = self;
        format!(
            r#"(module
                {imports}
                {memory}
                (global $heap (mut i32) (i32.const {heap}))
                {fields}
                (func $allocate (param $size i32) (result i32) (local $at i32)
                    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                    (global.set $heap (i32.add (local.get $at) (local.get $size)))
                    (block $room (loop $more
                        (br_if $room (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
                        (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
                        unreachable))
                    (local.get $at))
                (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
                    {realloc}
                    (call $allocate (local.get $size)))
                (func $ok (param $text i32) (param $length i32) (result i32)
                    (i32.store (i32.const {RESULT}) (i32.const 0))
                    (i32.store offset=4 (i32.const {RESULT}) (local.get $text))
                    (i32.store offset=8 (i32.const {RESULT}) (local.get $length))
                    (i32.const {RESULT}))
                (func $number (param $n i64) (result i32) (local $at i32)
                    (local.set $at (i32.const 480))
                    (loop $digit
                        (local.set $at (i32.sub (local.get $at) (i32.const 1)))
                        (i32.store8 (local.get $at)
                            (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $n) (i64.const 10)))))
                        (local.set $n (i64.div_u (local.get $n) (i64.const 10)))
                        (br_if $digit (i64.ne (local.get $n) (i64.const 0))))
                    (call $ok (local.get $at) (i32.sub (i32.const 480) (local.get $at))))
                (func (export "celerybox:task/handler@0.1.0#tasks") (result i32)
                    {describe}
                    (i32.const {TASKS}))
                (func (export "celerybox:task/handler@0.1.0#run")
                    (param $task i32) (param $task-length i32) (param $args i32) (param $args-length i32)
                    (param $kwargs i32) (param $kwargs-length i32) (result i32)
                    {run})
                (func (export "cabi_post_celerybox:task/handler@0.1.0#run") (param i32)
                    {post})
                (data (i32.const {TASKS}) "{image}"))"#
        )
    }

    /// The list that `tasks` answers, in memory: everything but the names is "not given", which is zero.
    fn image(&self) -> (String, u32) {
        let mut names = vec![self.task.to_owned()];
        names.extend(self.names.iter().cloned());
        let record = definition_size();
        let count = names.len() as u32;
        let records = TASKS + 8;
        let texts = records + count * record;
        let mut image = Vec::new();
        image.extend(records.to_le_bytes());
        image.extend(count.to_le_bytes());
        let mut end = texts;
        for name in &names {
            let mut bytes = vec![0; record as usize];
            bytes[..4].copy_from_slice(&end.to_le_bytes());
            bytes[4..8].copy_from_slice(&(name.len() as u32).to_le_bytes());
            image.extend(bytes);
            end += name.len() as u32;
        }
        image.extend(names.concat().into_bytes());
        let escaped = image.iter().map(|byte| format!("\\{byte:02x}")).collect();
        (escaped, end)
    }
}

/// Makes a core module in WAT a component that exports a handler.
pub(crate) fn component(text: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let (resolve, world) = world();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("the world is sound");
    let encoder = ComponentEncoder::default();
    let encoded = encoder.module(&module).and_then(|mut encoder| encoder.encode());
    encoded.unwrap_or_else(|error| panic!("{error:?}\n{text}"))
}

fn world() -> (Resolve, WorldId) {
    let mut resolve = Resolve::default();
    let contract = include_str!("../../../wit/task.wit");
    resolve
        .push_str("task.wit", contract)
        .expect("the contract is sound");
    let package = resolve
        .push_str("hostile.wit", WORLD)
        .expect("the world is sound");
    let world = resolve
        .select_world(&[package], Some("hostile"))
        .expect("there is one world");
    (resolve, world)
}

/// Bytes of one `definition` in memory.
fn definition_size() -> u32 {
    let (resolve, _) = world();
    let mut sizes = SizeAlign::default();
    sizes.fill(&resolve);
    let (_, types) = resolve
        .interfaces
        .iter()
        .find(|(_, interface)| interface.name.as_deref() == Some("types"))
        .expect("the contract has types");
    let size = sizes.size(&Type::Id(types.types["definition"])).size_wasm32();
    size as u32
}
