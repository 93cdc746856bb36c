//! What the README says of limits is what the worker does.

use celerybox::sandbox::Limits;

#[test]
fn the_table_of_limits_shows_every_limit_with_its_default() {
    let readme = include_str!("../../README.md");
    // Naming every field: a new limit does not compile until it is in this list, and then in the table.
    let Limits {
        time,
        memory,
        memories,
        table_elements,
        tables,
        instances,
        handles,
        descriptors,
        messages,
        message_bytes,
        host_call_bytes,
        host_calls,
        body,
        arguments,
        result,
        depth,
        output,
        state_bytes,
        state_updates,
        fuel,
        component_size,
    } = Limits::default();
    assert_eq!((time, fuel), (None, None), "the table says that there is none");
    let limits = [
        ("memory", memory as u64),
        ("memories", memories as u64),
        ("table_elements", table_elements as u64),
        ("tables", tables as u64),
        ("instances", instances as u64),
        ("handles", handles as u64),
        ("descriptors", descriptors as u64),
        ("messages", messages),
        ("message_bytes", message_bytes as u64),
        ("host_call_bytes", host_call_bytes as u64),
        ("host_calls", host_calls),
        ("body", body as u64),
        ("arguments", arguments as u64),
        ("result", result as u64),
        ("depth", depth as u64),
        ("output", output as u64),
        ("state_bytes", state_bytes as u64),
        ("state_updates", state_updates),
        ("component_size", component_size),
    ];
    for (name, default) in limits {
        assert!(
            readme.contains(&format!("| `{name}` | {default} |")),
            "{name} with default {default}"
        );
    }
    assert!(readme.contains("| `time` | none |"));
    assert!(readme.contains("| `fuel` | none |"));
}
