"""Every command of remote control, sent to a Python worker and to one of ours by the real client: `fleet_control.py CASES`.

`CASES` is a JSON file with what may differ, and why; a difference that is not there fails, and so does one that is there
and is none. Texts of answers (`ok`, `error`) must be the same, of all else the shape: keys and types.
"""

import json
import sys
import time
import uuid

import expect
from proj import app

OURS, THEIRS = "ours@test", "theirs@test"
BOTH = [OURS, THEIRS]
#: Each has a queue of its own.
QUEUES = {OURS: "ours", THEIRS: "theirs"}
#: What an answer says of a task is the same, but for these.
OF_ONE = {"id", "hostname", "time_start", "worker_pid"}
differences = {}


def ask(command, to=BOTH, **arguments):
    """The answers of both by name of the node."""
    replies = app.control.broadcast(command, arguments, reply=True, destination=to, limit=len(to), timeout=20)
    answers = {node: answer for reply in replies for node, answer in reply.items()}
    assert sorted(answers) == sorted(to), (command, arguments, answers)
    return answers


def shape(value, path=""):
    """The types of all leaves by their path; the elements of a list have the same path."""
    if isinstance(value, dict):
        if set(value) & {"ok", "error"} and len(value) == 1:
            return {f"{path}.{key}": text for key, text in value.items()}
        found = {}
        for key, inner in value.items():
            found.update(shape(inner, f"{path}.{key}"))
        return found or {path: "{}"}
    if isinstance(value, list):
        found = {}
        for inner in value:
            found.update(shape(inner, f"{path}[]"))
        return found or {path: "[]"}
    kinds = {bool: "bool", int: "number", float: "number", str: "text", type(None): "null"}
    return {path: kinds[type(value)]}


def compare(name, command, **arguments):
    """Asks both, and notes where the answers differ."""
    answers = ask(command, **arguments)
    ours, theirs = shape(answers[OURS], name), shape(answers[THEIRS], name)
    for path in sorted(set(ours) | set(theirs)):
        pair = [ours.get(path), theirs.get(path)]
        if pair[0] != pair[1]:
            differences[path] = pair
    return answers


def plain(info, node):
    """What is said of a task, without what is of this one alone."""
    route = dict(info["delivery_info"])
    assert info["hostname"] == node and route.pop("routing_key") == QUEUES[node], info
    return {**{name: value for name, value in info.items() if name not in OF_ONE}, "delivery_info": route}


def stored(id):
    return app.backend.get_task_meta(id, cache=False)["status"]


def looking():
    for command in ["ping", "clock", "active_queues", "memsample", "memdump", "objgraph", "heartbeat", "registered"]:
        compare(command, command)
    for alias, command in {
        "dump_tasks": "registered",
        "dump_active": "active",
        "dump_reserved": "reserved",
        "dump_schedule": "scheduled",
        "dump_revoked": "revoked",
        "dump_conf": "conf",
    }.items():
        assert ask(alias) == ask(command), alias
    answers = compare("registered items", "registered", taskinfoitems=["max_retries", "acks_late", "_x", "nothing"])
    for name in ["probe.late", "probe.exhausted", "arithmetic.add"]:
        lines = [next(line for line in answer if line.startswith(name + " ")) for answer in answers.values()]
        assert lines[0] == lines[1], lines
    # Each has tasks that the other one has not; of those that both have the same is said, in the same order.
    for options in [{}, {"builtins": True}, {"taskinfoitems": ["name", "rate_limit", "name", "send_events"]}]:
        ours, theirs = (ask("registered", **options)[node] for node in BOTH)
        both = {line.split()[0] for line in ours} & {line.split()[0] for line in theirs}
        ours, theirs = ([line for line in lines if line.split()[0] in both] for lines in (ours, theirs))
        assert ours == theirs and len(ours) > 20, (options, ours, theirs)
        assert ("celery.chord_unlock" in ours) == ("builtins" in options), ours
    compare("hello", "hello", from_node="other@test", revoked=["said-by-a-neighbour"])
    assert "said-by-a-neighbour" in ask("revoked")[OURS]
    assert ask("hello", from_node=OURS, to=[OURS]) == {OURS: None}
    compare("revoked", "revoked")
    reports = {node: report["ok"] for node, report in ask("report").items()}
    ours, theirs = (
        [line.split("->")[0] for line in reports[node].splitlines() if "->" in line.split()[:2]] for node in BOTH
    )
    assert ours == theirs == ["software ", "platform ", "loader   ", "settings "], reports
    assert all("\nsoftware -> celery:5." in report for report in reports.values()), reports
    confs = app.control.inspect(destination=BOTH, timeout=20).conf()
    conf = confs[OURS]
    # Those that both were given, with the same masks over their secrets; Kombu's Redis is masked without having one.
    for key in ["worker_prefetch_multiplier", "result_extended", "deprecated_settings"]:
        assert key in conf and conf[key] == confs[THEIRS][key], (key, confs)
    ours, theirs = (confs[node]["broker_url"] for node in BOTH)
    assert ours == theirs.replace(":********@", "") if ours.startswith("redis") else ours == theirs, (ours, theirs)
    for key in (
        "worker_hijack_root_logger worker_log_color accept_content enable_utc timezone broker_url result_backend "
        "broker_heartbeat deprecated_settings include"
    ).split():
        assert key in conf, (key, conf)
    assert len(ask("conf", with_defaults=True)[OURS]) > len(conf)
    compare("stats", "stats")


def mistakes():
    for name, command, arguments in [
        ("unknown", "no_such_command", {}),
        ("no ids", "query_task", {}),
        ("no rate", "rate_limit", {}),
        ("one argument", "rate_limit", {"task_name": "probe.echo"}),
        ("no word", "rate_limit", {"task_name": "probe.echo", "rate_limit": "abc"}),
        ("no unit", "rate_limit", {"task_name": "probe.echo", "rate_limit": "10/x"}),
        ("no number", "rate_limit", {"task_name": "probe.echo", "rate_limit": "/m"}),
        ("rate of no task", "rate_limit", {"task_name": "no.such", "rate_limit": "1/m"}),
        ("limit of no task", "time_limit", {"task_name": "no.such", "soft": 1, "hard": 2}),
        ("restarts off", "pool_restart", {}),
        ("autoscale off", "autoscale", {"max": 3, "min": 1}),
        ("too much", "enable_events", {"x": 1}),
        ("too much for autoscale", "autoscale", {"x": 1}),
        ("no queue", "add_consumer", {}),
        ("no node", "hello", {}),
        ("no id", "revoke", {}),
        ("no signal", "terminate", {"task_id": "x"}),
        ("unknown signal", "revoke", {"task_id": "nobody", "terminate": True, "signal": "SIGFOO"}),
        ("headers without values", "revoke_by_stamped_headers", {"headers": ["a"]}),
    ]:
        compare(name, command, **arguments)
    # Ours alone: the Python worker would try.
    for command, arguments, text in [
        ("pool_grow", {"n": 10**9}, "at most"),
        ("pool_grow", {"n": -1}, "negative"),
        ("pool_grow", {"n": "many"}, "whole number"),
        ("pool_shrink", {"n": 10**30}, "one must be left"),
        ("time_limit", {"task_name": "probe.echo", "hard": "long"}, "number of seconds"),
        ("add_consumer", {"queue": "x" * 5000}, "bytes"),
        ("add_consumer", {"queue": "q", "exchange_type": "nonsense"}, "nonsense"),
        ("rate_limit", {"task_name": "probe.echo", "rate_limit": "-1/s"}, "Invalid rate limit"),
        ("query_task", {"ids": [[[]]] * 1000}, None),
    ]:
        answer = ask(command, to=[OURS], **arguments)[OURS]
        assert (text in answer["error"]) if text else answer == {}, (command, answer)


def limits():
    compare("rate", "rate_limit", task_name="probe.echo", rate_limit="20/m")
    assert all("probe.echo [rate_limit=20/m]" in answer for answer in ask("registered").values())
    begun = time.monotonic()
    first, second = ([app.send_task("probe.echo", [n], queue=queue) for queue in QUEUES.values()] for n in (1, 2))
    for task in first:
        assert task.get(timeout=60) == 1
    # What waits for its rate is nowhere yet.
    assert ask("reserved") == {OURS: [], THEIRS: []}
    assert ask("query_task", ids=[task.id for task in second]) == {OURS: {}, THEIRS: {}}
    for task in second:
        assert task.get(timeout=60) == 2
    assert time.monotonic() - begun > 2.5
    compare("rate off", "rate_limit", task_name="probe.echo", rate_limit=0)
    # Celery's answer only: its processes made their copy of the limit when they started.
    compare("time limits", "time_limit", task_name="probe.sleep", soft=None, hard=1.0)
    slow = app.send_task("probe.sleep", [600], queue="ours")
    expect.within(60, lambda: stored(slow.id) == "FAILURE")
    assert type(slow.result).__name__ == "TimeLimitExceeded", slow.result
    compare("no time limits", "time_limit", task_name="probe.sleep", soft=None, hard=None)


def pool():
    def sizes():
        """Slots and prefetch of both; ours is one process, and Celery's `max-concurrency` stays what it was."""
        stats = ask("stats")
        ours, theirs = stats[OURS]["pool"]["max-concurrency"], len(stats[THEIRS]["pool"]["processes"])
        return [ours, theirs], [stats[node]["prefetch_count"] for node in BOTH]

    # Celery's has still its place for a task that was revoked before its time.
    slots, prefetch = sizes()
    compare("grow", "pool_grow", n=2)
    # Celery cannot shrink what it is still starting.
    larger = [n + 2 for n in slots], [n + 8 for n in prefetch]
    expect.becomes(larger, sizes)
    answers = compare("shrink", "pool_shrink", n=2)
    assert all("ok" in answer for answer in answers.values()), answers
    # A process of Celery's that has just started may not hear that it is to end.
    expect.becomes((slots[0], prefetch), lambda: (sizes()[0][0], sizes()[1]))


def queues():
    def consumed():
        return {node: [queue["name"] for queue in answer] for node, answer in ask("active_queues").items()}

    name = f"added.{uuid.uuid4().hex}"
    compare("add consumer", "add_consumer", queue=name)
    expect.within(60, lambda: all(name in names for names in consumed().values()))
    answers = compare("an added queue", "active_queues")
    added = {node: next(queue for queue in answer if queue["name"] == name) for node, answer in answers.items()}
    assert added[OURS] == added[THEIRS], added
    ask("cancel_consumer", to=[THEIRS], queue=name)
    expect.within(60, lambda: name not in consumed()[THEIRS])
    assert app.send_task("probe.echo", ["by ours"], queue=name).get(timeout=60) == "by ours"
    # Once more changes nothing.
    compare("add consumer", "add_consumer", queue=name)
    answers = compare("cancel consumer", "cancel_consumer", queue=name)
    assert answers[OURS] == {"ok": f"no longer consuming from {name}"}
    expect.within(60, lambda: all(name not in names for names in consumed().values()))


def events():
    compare("events on", "enable_events")
    compare("events still on", "enable_events")
    compare("events off", "disable_events")
    compare("events still off", "disable_events")


def revoking():
    """What is revoked before it is sent runs nowhere, and is stored at once."""
    unseen, one, two = str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4())
    compare("revoke unseen", "revoke", task_id=unseen)
    expect.within(60, lambda: stored(unseen) == "REVOKED")
    # With an answer, so that both have heard it.
    ask("revoke", task_id=[one, two])
    known = {node: [id for id in ids if id in (unseen, one, two)] for node, ids in ask("revoked").items()}
    assert all(ids[0] == unseen and sorted(ids[1:]) == sorted([one, two]) for ids in known.values()), known
    for queue, id in [("ours", one), ("theirs", two)]:
        app.send_task("probe.echo", ["never"], queue=queue, task_id=id)
    expect.within(60, lambda: stored(one) == stored(two) == "REVOKED")
    compare("terminate unknown", "terminate", task_id="nobody", signal="KILL")
    compare("stamps", "revoke_by_stamped_headers", headers={"customer": ["a"]})
    compare("stamps as words", "revoke_by_stamped_headers", headers=["customer=b"], terminate=True)
    for queue in ["ours", "theirs"]:
        stamped = app.signature("probe.echo", ("never",))
        stamped.stamp(customer="b")
        result = stamped.apply_async(queue=queue)
        expect.within(60, lambda: stored(result.id) == "REVOKED")


def busy():
    """Each has a task that runs, one that waits, and one that waits for its time."""
    running, waiting, later = (
        {
            queue: app.send_task("probe.sleep", [600], queue=queue, countdown=countdown)
            for queue in ["ours", "theirs"]
        }
        for countdown in [None, None, 600]
    )
    expect.within(60, lambda: all(len(tasks) == 1 for tasks in ask("active").values()))
    expect.within(60, lambda: all(ask("scheduled").values()))
    expect.within(60, lambda: all(ask("reserved").values()))
    for command, tasks in [("active", running), ("reserved", waiting), ("scheduled", later)]:
        answers, seen = compare(command, command), []
        for node, queue in QUEUES.items():
            (info,) = answers[node]
            entry = {name: value for name, value in info.items() if name not in ("eta", "request")}
            info = info.get("request", info)
            assert info["id"] == tasks[queue].id, (command, answers)
            seen.append((plain(info, node), entry if command == "scheduled" else None))
        assert seen[0] == seen[1], (command, seen)
    compare("active safe", "active", safe=True)
    states = ask("query_task", ids=[task.id for tasks in (running, waiting, later) for task in tasks.values()])
    for node, queue in QUEUES.items():
        found = {id: state for id, (state, _) in states[node].items()}
        expected = {"active": running, "reserved": waiting, "scheduled": later}
        assert found == {tasks[queue].id: state for state, tasks in expected.items()}, states
    compare("stats when busy", "stats")
    for tasks in (waiting, later):
        ids = [task.id for task in tasks.values()]
        app.control.revoke(ids)
        # At once, though their time has not come.
        expect.within(60, lambda: all(stored(id) == "REVOKED" for id in ids))
    for node, queue in [(OURS, "ours"), (THEIRS, "theirs")]:
        answer = ask("revoke", to=[node], task_id=running[queue].id, terminate=True, signal="SIGKILL")
        assert answer == {node: {"ok": f"terminate: {running[queue].id}"}}, answer
        expect.within(60, lambda: stored(running[queue].id) == "REVOKED")
    stamped = app.signature("probe.sleep", (600,))
    stamped.stamp(fleet="x")
    sent = stamped.apply_async(queue="ours").id
    running = lambda: [task["id"] for task in ask("active", to=[OURS])[OURS]]  # noqa: E731
    expect.within(60, lambda: running() == [sent])
    answer = ask("revoke_by_stamped_headers", to=[OURS], headers={"fleet": ["x", "y"]}, terminate=True)
    assert "revoked" in answer[OURS]["ok"] and "not terminated" not in answer[OURS]["ok"], answer
    expect.within(60, lambda: not running() and stored(sent) == "REVOKED")


def main(cases):
    with open(cases) as file:
        allowed = json.load(file)
    # A Python worker whose process was killed does not always begin another task, above all on RabbitMQ, and its pool
    # takes more tasks than it has processes once it was shrunk: both come last.
    for part in [looking, mistakes, limits, queues, events, revoking, busy, pool]:
        part()
    # Nobody answers it.
    app.control.broadcast("election", {"id": "e1", "topic": "t", "action": None}, destination=[OURS])
    assert ask("ping") == {OURS: {"ok": "pong"}, THEIRS: {"ok": "pong"}}
    app.control.shutdown(destination=BOTH)
    unlisted = {path: pair for path, pair in differences.items() if path not in allowed}
    assert not unlisted, "differences without a reason: " + json.dumps(unlisted, indent=1)
    gone = [path for path in allowed if path not in differences]
    assert not gone, f"these do not differ any more: {gone}"


main(sys.argv[1])
