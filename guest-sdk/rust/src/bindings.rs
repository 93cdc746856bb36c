//! What wit-bindgen makes of `wit/task.wit`: the imports of the world `canvas-task` and the macro that exports a
//! component. What a component does not call it does not import: only one that uses `canvas` imports `publisher` and
//! `results`.
#![allow(missing_docs, unsafe_code, unreachable_pub, unused_imports, clippy::all)]

wit_bindgen::generate!({
    path: "wit",
    world: "celerybox:task/canvas-task",
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "celerybox_guest::__private::bindings",
});
