"""What `celery inspect` and `celery control` see of the worker `w1@test`: `control.py NAME…`."""

import subprocess
import sys
import time
import uuid

import expect
from proj import app

NODE = "w1@test"
ONE = {"destination": [NODE], "limit": 1, "timeout": 10}
#: With a destination nobody waits for others who might answer.
inspect = app.control.inspect(destination=[NODE], timeout=10)


def ping():
    assert app.control.ping(timeout=2) == [{NODE: {"ok": "pong"}}]
    assert inspect.ping() == {NODE: {"ok": "pong"}}
    before, after = inspect.clock()[NODE]["clock"], inspect.clock()[NODE]["clock"]
    assert after > before
    assert inspect.active() == {NODE: []}


def who_is_meant():
    def of(**options):
        return app.control.inspect(timeout=1, **options).ping()

    assert of(destination=[NODE]) == {NODE: {"ok": "pong"}}
    assert of(pattern="w?@*", matcher="glob") == {NODE: {"ok": "pong"}}
    assert of(pattern="w[1-3]", matcher="pcre") == {NODE: {"ok": "pong"}}
    assert of(destination=["other@test"]) is None
    assert of(pattern="other*", matcher="glob") is None


def hostile():
    """Whatever comes, the mailbox is read on."""
    unknown = app.control.broadcast("no_such_command", reply=True, **ONE)
    assert unknown == [{NODE: {"error": "KeyError('no_such_command')"}}], unknown
    missing = app.control.broadcast("query_task", reply=True, **ONE)
    text = "TypeError(\"query_task() missing 1 required positional argument: 'ids'\")"
    assert missing == [{NODE: {"error": text}}], missing
    mailbox = app.control.mailbox
    with app.connection_for_write() as connection, connection.Producer() as producer:
        for body, options in [
            (b"", {}),
            (b"\xff\x00", {"content_type": "application/json", "content_encoding": "utf-8"}),
            (b"[1, 2", {"content_type": "application/json", "content_encoding": "utf-8"}),
            (b"[\"ping\"]", {"content_type": "application/json", "content_encoding": "utf-8"}),
            (b"[" * 100_000, {"content_type": "application/json", "content_encoding": "utf-8"}),
            (b"\x80\x04}.", {"content_type": "application/x-python-serialize", "content_encoding": "binary"}),
            (b"x" * 2_000_000, {"content_type": "application/json", "content_encoding": "utf-8"}),
        ]:
            producer.publish(body, exchange=mailbox.exchange, declare=[mailbox.exchange], **options)
        for body in [
            {},
            {"method": None},
            {"method": "ping", "arguments": {"x": 1, "unknown": []}},
            {"method": "ping", "arguments": [1]},
            {"method": "ping", "reply_to": {"exchange": "", "routing_key": "nobody." + uuid.uuid4().hex}, "ticket": {}},
            {"method": "ping", "reply_to": {"exchange": "no such exchange", "routing_key": "x"}, "ticket": None},
            {"method": "ping", "reply_to": 3},
            {"method": "ping", "pattern": "(((((", "matcher": "pcre"},
        ]:
            producer.publish(
                body, exchange=mailbox.exchange, serializer="json", headers={"clock": 2**62, "expires": "never"}
            )
    expect.within(60, lambda: inspect.ping() == {NODE: {"ok": "pong"}})
    assert inspect.clock()[NODE]["clock"] < 2**60
    huge()


def huge():
    """What is too much is refused with an answer, or bounded, and costs no memory in the end."""

    def ask(command, **arguments):
        (answer,) = app.control.broadcast(command, arguments, reply=True, **ONE)
        return answer[NODE]

    lines = ask("registered", taskinfoitems=["max_retries", "_x"] * 10_000 + ["nothing"])
    assert "ValueError" in lines["error"] and "bytes" in lines["error"], lines
    lines = ask("registered", taskinfoitems=["max_retries", "_x", "nothing"] * 1000)
    assert "probe.echo [max_retries=3]" in lines, lines
    for command, arguments in [
        ("revoke", {"task_id": ["x" * 100_000]}),
        ("query_task", {"ids": ["x" * 100_000]}),
        ("add_consumer", {"queue": "q", "queue_arguments": {"x" * 300: "y" * 10_000}}),
        ("add_consumer", {"queue": "q", "queue_arguments": {"x": "y" * 100_000}}),
        ("rate_limit", {"task_name": "probe.echo", "rate_limit": "0" * 5000 + "1/s"}),
        ("revoke_by_stamped_headers", {"headers": {"a": ["x" * 5000]}}),
        ("revoke_by_stamped_headers", {"headers": {"x" * 5000: ["a"]}}),
        ("revoke_by_stamped_headers", {"headers": {"a": list(range(100_000))}}),
        ("election", {"id": "x" * 300, "topic": "task", "action": None}),
        ("election", {"id": "e", "topic": "task", "action": {"task": "x" * 900_000}}),
        ("ping", {"x" * 300: "y" * 100_000}),
    ]:
        answer = ask(command, **arguments)
        assert list(answer) == ["error"], (command, str(answer)[:300])
    assert ask("ping", **{"x" * 300: 1}) == {"ok": "pong"}
    # As in Celery the last ones are kept.
    ids = [f"{uuid.uuid4()}-{n}" for n in range(60_000)]
    assert ask("hello", from_node="other@test", revoked=ids)["clock"] > 0
    revoked = inspect.revoked()[NODE]
    assert len(revoked) == 50_000 and revoked[-1] == ids[-1], (len(revoked), revoked[-1])
    assert ask("revoke", task_id="the last", terminate=True, signal="SIGFOO")["error"].startswith("AttributeError(")
    assert inspect.revoked()[NODE][-1] == "the last"


def busy():
    """One slot: of two tasks one runs and one waits."""
    expect.within(60, lambda: len(inspect.active()[NODE]) == 1)
    (info,) = inspect.active()[NODE]
    assert list(info) == [
        "id",
        "name",
        "args",
        "kwargs",
        "type",
        "hostname",
        "time_start",
        "acknowledged",
        "delivery_info",
        "worker_pid",
    ], info
    assert info["name"] == info["type"] == "probe.sleep" and info["args"] == [600] and info["kwargs"] == {}
    assert info["hostname"] == NODE and info["acknowledged"] is True and info["worker_pid"] > 1
    assert abs(info["time_start"] - time.time()) < 300
    assert set(info["delivery_info"]) == {"exchange", "routing_key", "priority", "redelivered"}
    assert info["delivery_info"]["routing_key"] == "celery"
    (safe,) = inspect.active(safe=True)[NODE]
    assert safe["args"] == "[600]" and safe["kwargs"] == "{}", safe
    (waiting,) = inspect.reserved()[NODE]
    assert waiting["time_start"] is None and waiting["worker_pid"] is None and waiting["acknowledged"] is False
    states = inspect.query_task([info["id"], waiting["id"], "unknown"])[NODE]
    assert {id: state for id, (state, _) in states.items()} == {info["id"]: "active", waiting["id"]: "reserved"}
    later = app.send_task("arithmetic.add", [1, 1], countdown=600)
    expect.within(60, lambda: inspect.scheduled()[NODE])
    (scheduled,) = inspect.scheduled()[NODE]
    assert scheduled["request"]["id"] == later.id and scheduled["eta"].endswith("+00:00"), scheduled
    # The waiting one is revoked and the running one ended.
    answer = app.control.revoke(waiting["id"], reply=True, **ONE)
    assert answer == [{NODE: {"ok": "tasks {'%s'} flagged as revoked" % waiting["id"]}}], answer
    assert inspect.revoked()[NODE][-1] == waiting["id"]
    answer = app.control.revoke(info["id"], terminate=True, reply=True, **ONE)
    assert answer == [{NODE: {"ok": "terminate: " + info["id"]}}], answer
    expect.within(60, lambda: inspect.active() == {NODE: []})


def command_line():
    def celery(*words):
        command = [sys.executable, "-m", "celery", "-A", "proj", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    for words, text in [
        (("inspect", "-d", NODE, "-t", "10", "ping"), "pong"),
        (("inspect", "-d", NODE, "-t", "10", "active"), "- empty -"),
        (("status", "-t", "2"), "1 node online."),
    ]:
        ran = celery(*words)
        assert ran.returncode == 0 and text in ran.stdout and NODE in ran.stdout, (words, ran)


def groups():
    """Only `inspect` and `tune` are obeyed, and there are at most three slots."""
    for command, arguments in [("revoke", {"task_id": "x"}), ("terminate", {"task_id": "x", "signal": "KILL"})]:
        (answer,) = app.control.broadcast(command, arguments, reply=True, **ONE)
        assert answer[NODE]["error"].startswith("PermissionError("), answer
        assert "control_groups" in answer[NODE]["error"] and "'revoke'" in answer[NODE]["error"], answer
    app.control.shutdown(destination=[NODE])
    # Who may not revoke does not do so as a neighbour either.
    app.control.broadcast("hello", {"from_node": "w2@test", "revoked": ["x"]}, reply=True, **ONE)
    assert inspect.revoked() == {NODE: []}
    (answer,) = app.control.pool_grow(2, reply=True, **ONE)
    assert answer == {NODE: {"ok": "pool will grow"}}, answer
    (answer,) = app.control.pool_grow(1, reply=True, **ONE)
    assert "3 slots and can have at most 3" in answer[NODE]["error"], answer
    assert "worker_max_concurrency" in answer[NODE]["error"], answer
    assert inspect.stats()[NODE]["pool"]["max-concurrency"] == 3


def runs():
    expect.within(60, lambda: len(inspect.active()[NODE]) == 1)


def restart():
    answer = app.control.pool_restart(reply=True, **ONE)
    assert answer == [{NODE: {"ok": "reload started"}}], answer


def has(task):
    assert len(inspect.active()[NODE]) <= 1
    registered = inspect.registered()[NODE]
    assert task in registered and "probe.echo" not in registered, registered
    assert app.send_task(task, [2, 3]).get(timeout=60) == 5


def silence():
    assert app.control.inspect(timeout=2).ping() is None


def shutdown():
    app.control.shutdown(destination=[NODE])


if __name__ == "__main__":
    if sys.argv[1] == "has":
        has(sys.argv[2])
        sys.exit()
    for name in sys.argv[1:]:
        globals()[name]()
