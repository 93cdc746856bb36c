//! What the tasks of Celery's integration tests do (contract sections 10.2 and 10.3), under the names they have there:
//! crate and modules are called as its package is, so that `t.integration.tasks.add` is a name that nobody writes down.

#![expect(
    clippy::disallowed_names,
    reason = "parameters are called as in Celery's tests, which pass them by name"
)]

mod integration {
    pub(crate) mod flow;
    pub(crate) mod tasks;
    pub(crate) mod world;
}

use integration::flow;
use integration::tasks::*;

celerybox_guest::tasks![
    identity,
    add,
    mul,
    write_to_file_and_return_int,
    add_not_typed,
    add_ignore_result,
    add_with_result,
    raise_error,
    chain_add,
    chord_add,
    delayed_sum,
    delayed_sum_with_soft_guard,
    tsum,
    xsum,
    sum_and_record,
    flow::add_replaced,
    flow::record_replaced_task_nesting,
    flow::add_replaced_with_chain,
    flow::replace_with_chain,
    flow::replace_with_chain_which_raises,
    flow::replace_with_empty_chain,
    flow::replace_with_chain_which_contains_a_group,
    flow::add_to_all,
    flow::add_to_all_to_chord,
    flow::add_chord_to_chord,
    flow::fail_replaced,
    flow::second_order_replace1,
    flow::second_order_replace2,
    flow::build_chain_inside_task,
    flow::replace_with_stamped_task,
    flow::replaced_with_me,
    flow::return_nested_signature_chain_chain,
    flow::return_nested_signature_chain_group,
    flow::return_nested_signature_chain_chord,
    flow::return_nested_signature_group_chain,
    flow::return_nested_signature_group_group,
    flow::return_nested_signature_group_chord,
    flow::return_nested_signature_chord_chain,
    flow::return_nested_signature_chord_group,
    flow::return_nested_signature_chord_chord,
    flow::rebuild_signature,
    print_unicode,
    return_exception,
    sleeping,
    ids,
    collect_ids,
    retry,
    retry_unpickleable,
    retry_with_args_after_kwargs,
    retry_with_kwargs_after_args,
    retry_once,
    retry_once_ignore_result,
    retry_once_with_result,
    retry_once_priority,
    retry_once_headers,
    redis_echo,
    redis_echo_group_id,
    redis_count,
    fail,
    fail_unpickleable,
    return_priority,
    return_request_eta,
    return_properties,
    auto_retry_class_task,
    errback_old_style,
    errback_new_style,
    errback_old_style_with_args,
    errback_new_style_with_args,
    add_pydantic,
    add_pydantic_string_annotations,
    reject_then_succeed,
    reject_without_requeue,
    return_request_time_limits,
    task_with_declared_time_limits,
];
