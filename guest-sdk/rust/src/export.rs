//! What the macros expand to beside ordinary code: names and checks made at compile time, and the export.

use crate::task::Task;

/// The length of `module.function`, for `task_name!`.
#[must_use]
pub const fn name_length(module: &str, function: &str) -> usize {
    let module = module.as_bytes();
    let mut length = 1 + function.len();
    let mut at = 0;
    while at < module.len() {
        // `::` becomes one dot.
        at += if module[at] == b':' { 2 } else { 1 };
        length += 1;
    }
    length
}

/// `module.function` with dots for `::`, as Celery names a task after its module. For `task_name!`.
#[must_use]
pub const fn name_bytes<const N: usize>(module: &str, function: &str) -> [u8; N] {
    let (module, function) = (module.as_bytes(), function.as_bytes());
    let mut bytes = [b'.'; N];
    let (mut from, mut to) = (0, 0);
    while from < module.len() {
        if module[from] == b':' {
            from += 2;
        } else {
            bytes[to] = module[from];
            from += 1;
        }
        to += 1;
    }
    to += 1;
    let mut at = 0;
    while at < function.len() {
        bytes[to + at] = function[at];
        at += 1;
    }
    bytes
}

/// The name of a task that was given none.
#[doc(hidden)]
#[macro_export]
macro_rules! __task_name {
    ($function:literal) => {{
        const MODULE: &str = ::core::module_path!();
        const BYTES: [u8; $crate::__private::name_length(MODULE, $function)] =
            $crate::__private::name_bytes(MODULE, $function);
        match ::core::str::from_utf8(&BYTES) {
            Ok(name) => name,
            Err(_) => ::core::unreachable!(),
        }
    }};
}

/// Refuses two tasks of one name, and names of more than 255 bytes, when the crate is compiled.
pub const fn check(tasks: &[Task]) {
    let mut at = 0;
    while at < tasks.len() {
        assert!(
            tasks[at].name.len() <= 255,
            "a task's name is longer than 255 bytes"
        );
        let mut other = 0;
        while other < at {
            assert!(
                !equal(tasks[at].name, tasks[other].name),
                "two tasks have the same name"
            );
            other += 1;
        }
        at += 1;
    }
}

const fn equal(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Exports functions marked with `#[task]` as a component. Once in a crate, with all its tasks, which may also be in
/// modules:
///
/// ```
/// use celerybox_guest::{task, tasks};
///
/// #[task(name = "proj.add")]
/// fn add(x: i64, y: i64) -> i64 {
///     x + y
/// }
///
/// mod text {
///     #[celerybox_guest::task(name = "proj.upper")]
///     pub(crate) fn upper(text: String) -> String {
///         text.to_uppercase()
///     }
/// }
///
/// tasks![add, text::upper];
/// # fn main() {}
/// ```
///
/// Two tasks of the same name do not compile. On other targets than WebAssembly nothing else happens.
#[macro_export]
macro_rules! tasks {
    ($($task:ty),* $(,)?) => {
        const _: () = {
            const TASKS: &[$crate::Task] = &[$(<$task>::TASK),*];
            $crate::__private::check(TASKS);

            #[cfg(target_family = "wasm")]
            const _: () = {
                struct Component;

                impl $crate::__private::Guest for Component {
                    fn tasks() -> ::std::vec::Vec<$crate::__private::Definition> {
                        $crate::__private::definitions(TASKS)
                    }

                    fn run(
                        task: ::std::string::String,
                        args: ::std::string::String,
                        kwargs: ::std::string::String,
                    ) -> ::core::result::Result<::std::string::String, $crate::__private::Ending> {
                        $crate::__private::run(TASKS, &task, &args, &kwargs)
                    }
                }

                $crate::__private::bindings::export_component!(
                    Component with_types_in $crate::__private::bindings
                );
            };
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Signature;
    use crate::task::Options;

    const fn named(name: &'static str) -> Task {
        Task {
            name,
            signature: &Signature {
                function: "f",
                bound: false,
                parameters: &[],
                text: "()",
            },
            options: Options::NONE,
            call: |_, _| Ok(String::new()),
        }
    }

    #[test]
    fn different_names_are_allowed() {
        check(&[named("p.a"), named("p.b"), named("p.aa")]);
        check(&[]);
    }

    #[test]
    #[should_panic(expected = "same name")]
    fn equal_names_are_refused() {
        check(&[named("p.a"), named("p.b"), named("p.a")]);
    }

    #[test]
    #[should_panic(expected = "longer than 255")]
    fn long_names_are_refused() {
        check(&[named(include_str!("lib.rs"))]);
    }

    #[test]
    fn names_have_dots() {
        const NAME: &str = "proj::math::deep";
        const LENGTH: usize = name_length(NAME, "add");
        assert_eq!(&name_bytes::<LENGTH>(NAME, "add"), b"proj.math.deep.add");
        assert_eq!(&name_bytes::<5>("p", "add"), b"p.add");
    }
}
