//! Arguments bind as in Python 3.11, word by word: `binding/make.py` asked it.

use std::collections::BTreeMap;

use celerybox_guest::testing::TestContext;
use celerybox_guest::{Context, Task, TaskError, task};
use serde_json::value::RawValue;
use serde_json::{Value, json};

#[task]
fn none() -> Value {
    json!([])
}

#[task]
fn one(x: i64) -> Value {
    json!([x])
}

#[task]
fn two(x: i64, y: i64) -> Value {
    json!([x, y])
}

#[task]
fn three(x: i64, y: i64, z: i64) -> Value {
    json!([x, y, z])
}

#[task]
fn four(x: i64, y: i64, z: i64, w: i64) -> Value {
    json!([x, y, z, w])
}

#[task]
fn default(x: i64, #[default(20)] y: i64) -> Value {
    json!([x, y])
}

#[task]
fn defaults(#[default(10)] x: i64, #[default(20)] y: i64) -> Value {
    json!([x, y])
}

#[task]
fn keyword(x: i64, #[keyword_only] k: i64) -> Value {
    json!([x, k])
}

#[task]
fn only_keyword(#[keyword_only] k: i64) -> Value {
    json!([k])
}

#[task]
fn keywords(#[default(10)] x: i64, #[keyword_only] k: i64, #[default(40)] d: i64, e: i64) -> Value {
    json!([x, k, d, e])
}

#[task]
fn rest(x: i64, #[args] rest: Vec<i64>) -> Value {
    json!([x, rest])
}

#[task]
fn extra(x: i64, #[kwargs] extra: BTreeMap<String, i64>) -> Value {
    json!([x, extra])
}

#[task]
fn everything(
    x: i64,
    #[default(20)] y: i64,
    #[args] rest: Vec<i64>,
    k: i64,
    #[default(40)] d: i64,
    #[kwargs] extra: BTreeMap<String, i64>,
) -> Value {
    json!([x, y, rest, k, d, extra])
}

#[task]
fn bound(_ctx: &Context, x: i64, #[default(20)] y: i64) -> Value {
    json!([x, y])
}

#[task]
fn bound_one(_ctx: Context, x: i64) -> Value {
    json!([x])
}

#[task(bind)]
fn bound_none(_ctx: &Context) -> Value {
    json!([])
}

/// A line of `calls.jsonl`. Keyword arguments stay in their order: the first wrong one is reported.
type Call<'a> = (String, &'a RawValue, &'a RawValue, String, Value);

const TASKS: &[Task] = &[
    none::TASK,
    one::TASK,
    two::TASK,
    three::TASK,
    four::TASK,
    default::TASK,
    defaults::TASK,
    keyword::TASK,
    only_keyword::TASK,
    keywords::TASK,
    rest::TASK,
    extra::TASK,
    everything::TASK,
    bound::TASK,
    bound_one::TASK,
    bound_none::TASK,
];

fn run(task: Task, args: &str, kwargs: &str) -> Result<Value, TaskError> {
    let value = TestContext::new().run(task, args, kwargs)?;
    Ok(serde_json::from_str(&value)?)
}

fn message(task: Task, args: &str, kwargs: &str) -> String {
    run(task, args, kwargs).unwrap_err().to_string()
}

#[test]
fn calls_end_as_in_python() {
    let mut tried = BTreeMap::new();
    for line in include_str!("binding/calls.jsonl").lines() {
        let (function, args, kwargs, kind, expected): Call = serde_json::from_str(line).unwrap();
        let name = format!("binding.{function}");
        let task = TASKS.iter().find(|task| task.name == name).unwrap();
        let got = match run(*task, args.get(), kwargs.get()) {
            Ok(value) => ("value".to_owned(), value),
            Err(error) => {
                let failure = error.failure().unwrap();
                assert_eq!(failure.module(), Some("builtins"));
                let args: [Value; 1] = serde_json::from_str(failure.args()).unwrap();
                (failure.exc_type().to_owned(), args[0].clone())
            }
        };
        assert_eq!(got, (kind.clone(), expected), "{line}");
        *tried.entry((function, kind)).or_insert(0) += 1;
    }
    // Every function was called rightly and wrongly.
    assert_eq!(tried.len(), 2 * TASKS.len());
}

#[test]
fn signatures_are_shown_as_python_writes_them() {
    let shown: BTreeMap<&str, &str> = TASKS
        .iter()
        .map(|task| (task.signature.function, task.signature.text))
        .collect();
    assert_eq!(shown["none"], "()");
    assert_eq!(shown["default"], "(x, y=20)");
    assert_eq!(shown["keywords"], "(x=10, *, k, d=40, e)");
    assert_eq!(shown["everything"], "(x, y=20, *rest, k, d=40, **extra)");
    assert_eq!(shown["bound"], "(x, y=20)");
}

#[test]
fn a_wrong_type_names_the_argument_and_the_type() {
    assert_eq!(
        message(two::TASK, r#"[1, "a"]"#, "{}"),
        "TypeError: two() argument 'y': invalid type: string \"a\", expected i64"
    );
    assert_eq!(
        message(two::TASK, "[1]", r#"{"y": null}"#),
        "TypeError: two() argument 'y': invalid type: null, expected i64"
    );
    assert_eq!(
        message(rest::TASK, "[1, 2, []]", "{}"),
        "TypeError: rest() argument '*rest': invalid type: sequence, expected i64"
    );
    assert_eq!(
        message(extra::TASK, "[1]", r#"{"a": 1.5}"#),
        "TypeError: extra() argument '**extra': invalid type: floating point `1.5`, expected i64"
    );
    assert_eq!(
        message(one::TASK, "[-9223372036854775809]", "{}"),
        "TypeError: one() argument 'x': integer `-9223372036854775809` is too large, expected i64"
    );
    assert_eq!(
        run(one::TASK, "[-9223372036854775808]", "{}").unwrap(),
        json!([i64::MIN])
    );
}

#[test]
fn a_long_value_is_not_repeated_in_the_message() {
    let text = "ä".repeat(1 << 20);
    let message = message(one::TASK, &json!([text]).to_string(), "{}");
    assert!(message.len() < 400, "{}", message.len());
    assert!(message.ends_with("expected i64"), "{message}");
}

#[test]
fn of_equal_names_the_last_counts() {
    let value = run(two::TASK, "[1]", r#"{"y": 2, "y": 3}"#);
    assert_eq!(value.unwrap(), json!([1, 3]));
}

#[test]
fn names_with_escapes_are_found() {
    let value = run(one::TASK, "[]", r#"{"\u0078": 7}"#);
    assert_eq!(value.unwrap(), json!([7]));
    let value = run(extra::TASK, "[1]", r#"{"\u0061\n": 7}"#);
    assert_eq!(value.unwrap(), json!([1, {"a\n": 7}]));
}

#[test]
fn what_is_no_list_or_map_is_an_error() {
    for (args, kwargs) in [
        ("{}", "{}"),
        ("[1", "{}"),
        ("[1] 2", "{}"),
        ("", "{}"),
        ("[1]", "[]"),
        ("[1]", "{1:2}"),
    ] {
        let error = run(one::TASK, args, kwargs).unwrap_err();
        let failure = error.failure().unwrap();
        assert_eq!(failure.exc_type(), "ValueError", "{args} {kwargs}");
    }
}

#[test]
fn deep_nesting_ends_as_an_error() {
    let deep = format!("[{}{}]", "[".repeat(100_000), "]".repeat(100_000));
    #[task]
    fn any(value: Value) -> Value {
        value
    }
    assert!(message(any::TASK, &deep, "{}").contains("recursion limit"));
}
