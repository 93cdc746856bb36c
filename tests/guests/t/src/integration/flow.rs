//! Tasks that put other tasks in their place, send tasks, and return signatures. Their names are those of the module
//! beside this one, as in Celery's file.

use celerybox_guest::canvas::{AsyncResult, Signature, chain, chord, group, signature};
use celerybox_guest::{Context, TaskError, task};
use serde_json::{Value, json};

use super::tasks::{add, fail, identity, identity_of, raise_error, redis_echo, tsum};
use super::world::{redis, text};

type Done = Result<Value, TaskError>;

#[task(name = "t.integration.tasks.add_replaced")]
pub(crate) fn add_replaced(ctx: &Context, x: Value, y: Value) -> Done {
    Err(ctx.replace(add::s((x, y))))
}

#[task(name = "t.integration.tasks.record_replaced_task_nesting")]
pub(crate) fn record_replaced_task_nesting(
    ctx: &Context,
    replacements: u32,
    #[default(Vec::new())] nesting: Vec<u32>,
) -> Result<Vec<u32>, TaskError> {
    let mut nesting = nesting;
    nesting.push(ctx.request().replaced_task_nesting);
    match replacements.checked_sub(1) {
        Some(left) => Err(ctx.replace(record_replaced_task_nesting::s((left, nesting)))),
        None => Ok(nesting),
    }
}

#[task(name = "t.integration.tasks.add_replaced_with_chain")]
pub(crate) fn add_replaced_with_chain(ctx: &Context, x: Value, y: Value) -> Done {
    Err(ctx.replace(chain([add::s((x, y)), identity::s(())])))
}

/// What is linked: an echo of the result, or of a text whatever the result is.
fn echo(link_msg: Option<Value>) -> Signature {
    match link_msg {
        Some(message) => redis_echo::si((message,)),
        None => redis_echo::s(()),
    }
}

#[task(name = "t.integration.tasks.replace_with_chain")]
pub(crate) fn replace_with_chain(
    ctx: &Context,
    #[args] args: Vec<Value>,
    #[keyword_only]
    #[default(None)]
    link_msg: Option<Value>,
) -> Done {
    let chain = chain([identity_of(&args), identity::s(())]);
    Err(ctx.replace(chain.link(echo(link_msg))))
}

#[task(name = "t.integration.tasks.replace_with_chain_which_raises")]
pub(crate) fn replace_with_chain_which_raises(
    ctx: &Context,
    #[args] args: Vec<Value>,
    #[keyword_only]
    #[default(None)]
    link_msg: Option<Value>,
) -> Done {
    let chain = chain([identity_of(&args), raise_error::s(())]);
    Err(ctx.replace(chain.link_error(echo(link_msg))))
}

#[task(name = "t.integration.tasks.replace_with_empty_chain")]
pub(crate) fn replace_with_empty_chain(ctx: &Context, #[args] _args: Vec<Value>) -> Done {
    Err(ctx.replace(chain([])))
}

#[task(name = "t.integration.tasks.replace_with_chain_which_contains_a_group")]
pub(crate) fn replace_with_chain_which_contains_a_group(ctx: &Context) -> Done {
    Err(ctx.replace(chain([add::s((1, 2)), group([add::s((1,)), add::s((1,))])])))
}

fn sums(nums: Vec<Value>, val: &Value) -> Vec<Signature> {
    nums.into_iter().map(|num| add::s((num, val))).collect()
}

#[task(name = "t.integration.tasks.add_to_all")]
pub(crate) fn add_to_all(ctx: &Context, nums: Vec<Value>, val: Value) -> Done {
    Err(ctx.replace(group(sums(nums, &val))))
}

#[task(name = "t.integration.tasks.add_to_all_to_chord")]
pub(crate) fn add_to_all_to_chord(ctx: &Context, nums: Vec<Value>, val: Value) -> Result<u32, TaskError> {
    for sum in sums(nums, &val) {
        ctx.add_to_chord(sum)?;
    }
    Ok(0)
}

#[task(name = "t.integration.tasks.add_chord_to_chord")]
pub(crate) fn add_chord_to_chord(ctx: &Context, nums: Vec<Value>, val: Value) -> Result<u32, TaskError> {
    ctx.add_to_chord(group(sums(nums, &val)) | tsum::s(()))?;
    Ok(0)
}

#[task(name = "t.integration.tasks.fail_replaced")]
pub(crate) fn fail_replaced(ctx: &Context, #[args] args: Vec<Value>) -> Done {
    Err(ctx.replace(fail::si(args)))
}

#[task(name = "t.integration.tasks.second_order_replace1")]
pub(crate) fn second_order_replace1(ctx: &Context, #[default(false)] state: bool) -> Result<(), TaskError> {
    if state {
        return redis(&["RPUSH", "redis-echo", "Out A"]);
    }
    redis(&["RPUSH", "redis-echo", "In A"])?;
    let again = second_order_replace1::si(()).kwarg("state", true);
    Err(ctx.replace(chain([second_order_replace2::s(()), again])))
}

#[task(name = "t.integration.tasks.second_order_replace2")]
pub(crate) fn second_order_replace2(ctx: &Context, #[default(false)] state: bool) -> Result<(), TaskError> {
    if state {
        return redis(&["RPUSH", "redis-echo", "Out B"]);
    }
    redis(&["RPUSH", "redis-echo", "In B"])?;
    let again = second_order_replace2::si(()).kwarg("state", true);
    Err(ctx.replace(chain([redis_echo::s(("In/Out C",)), again])))
}

/// A result as Python writes one into JSON.
fn tuple(result: &AsyncResult) -> Value {
    let parent = result.parent().map(tuple);
    let members = match result.results() {
        [] => Value::Null,
        members => members.iter().map(tuple).collect(),
    };
    json!([[result.id(), parent], members])
}

#[task(name = "t.integration.tasks.build_chain_inside_task")]
pub(crate) fn build_chain_inside_task(ctx: &Context) -> Done {
    let both = group([add::s((3,)), add::s((4,))]);
    let chain = add::s((1, 1)) | add::s((2,)) | both | add::s((5,));
    Ok(tuple(&chain.apply_async(ctx)?))
}

#[task(name = "t.integration.tasks.replaced_with_me")]
pub(crate) fn replaced_with_me() -> bool {
    true
}

/// What the base class of this task does in Python: it stamps what takes its place.
#[task(name = "t.integration.tasks.replace_with_stamped_task")]
pub(crate) fn replace_with_stamped_task(ctx: &Context, replace_with: Option<Value>) -> Done {
    let wanted = replace_with.unwrap_or_else(|| replaced_with_me::s(()).to_value());
    let mut replacement =
        signature(text(&wanted["task"])).args(wanted["args"].as_array().cloned().unwrap_or_default());
    for (name, value) in wanted["kwargs"].as_object().into_iter().flatten() {
        replacement = replacement.kwarg(name, value);
    }
    for (name, value) in wanted["options"].as_object().into_iter().flatten() {
        replacement = replacement.set(name, value);
    }
    let mut names = wanted["options"]["stamped_headers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    names.push(json!("StampOnReplace"));
    let stamped = replacement
        .set("StampOnReplace", "This is the replaced task")
        .set("stamped_headers", names);
    Err(ctx.replace(stamped))
}

fn chain_of(inner: Signature) -> Value {
    chain([inner]).to_value()
}

fn chord_of(header: Signature) -> Value {
    chord([header], add::s(())).to_value()
}

fn one() -> Signature {
    add::s(())
}

#[task(name = "t.integration.tasks.return_nested_signature_chain_chain")]
pub(crate) fn return_nested_signature_chain_chain() -> Value {
    chain_of(chain([one()]))
}

#[task(name = "t.integration.tasks.return_nested_signature_chain_group")]
pub(crate) fn return_nested_signature_chain_group() -> Value {
    chain_of(group([one()]))
}

#[task(name = "t.integration.tasks.return_nested_signature_chain_chord")]
pub(crate) fn return_nested_signature_chain_chord() -> Value {
    chain_of(chord([one()], one()))
}

#[task(name = "t.integration.tasks.return_nested_signature_group_chain")]
pub(crate) fn return_nested_signature_group_chain() -> Value {
    group([chain([one()])]).to_value()
}

#[task(name = "t.integration.tasks.return_nested_signature_group_group")]
pub(crate) fn return_nested_signature_group_group() -> Value {
    group([group([one()])]).to_value()
}

#[task(name = "t.integration.tasks.return_nested_signature_group_chord")]
pub(crate) fn return_nested_signature_group_chord() -> Value {
    group([chord([one()], one())]).to_value()
}

#[task(name = "t.integration.tasks.return_nested_signature_chord_chain")]
pub(crate) fn return_nested_signature_chord_chain() -> Value {
    chord_of(chain([one()]))
}

#[task(name = "t.integration.tasks.return_nested_signature_chord_group")]
pub(crate) fn return_nested_signature_chord_group() -> Value {
    chord_of(group([one()]))
}

#[task(name = "t.integration.tasks.return_nested_signature_chord_chord")]
pub(crate) fn return_nested_signature_chord_chord() -> Value {
    chord_of(chord([one()], one()))
}

/// Fails for what is no signature all the way down.
#[task(name = "t.integration.tasks.rebuild_signature")]
pub(crate) fn rebuild_signature(sig_dict: Value) -> Result<(), TaskError> {
    fn check(signature: &Value) -> Result<(), TaskError> {
        if signature["task"].as_str().is_none() {
            return Err(TaskError::new(
                "TypeError",
                format!("{signature} is not a signature object"),
            ));
        }
        for inside in ["tasks", "header"] {
            signature["kwargs"][inside]
                .as_array()
                .into_iter()
                .flatten()
                .try_for_each(check)?;
        }
        match signature["kwargs"].get("body") {
            Some(body) if !body.is_null() => check(body),
            _ => Ok(()),
        }
    }
    check(&sig_dict)
}
