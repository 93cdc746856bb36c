//! What the WIT contract looks like in Rust, generated from `wit/task.wit`.

#![allow(missing_docs, unreachable_pub)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "canvas-task",
    imports: {
        "celerybox:task/context.update-state": async | trappable,
        "celerybox:task/publisher": async | trappable,
        "celerybox:task/results": async | trappable,
        default: trappable,
    },
    exports: { default: async },
});
