"""What a Python client sees of a worker: one function a check, `python checks.py NAME` runs one.

The client is Celery's own. A check ends with exit status 0, or with the traceback of what did not hold.
"""

import os
import sys
import time
from datetime import datetime, timedelta, timezone

import expect
from celery import chain, group, states
from celery.exceptions import (
    MaxRetriesExceededError,
    NotRegistered,
    Reject,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    TimeoutError,
)
from proj import app

LIMIT = 60


def call(name, *args, **options):
    return app.send_task(name, args, **options)


def add(*args, **options):
    return call("arithmetic.add", *args, **options)


def s(name, *args, **options):
    """A signature of a task that a client need not know."""
    return app.signature(name, args, **options)


def polls_only():
    """The filesystem backend sends no messages; a client looks at the files."""
    return app.conf.result_backend.startswith("file:")


def apply():
    result = call("arithmetic.add", 2, 3)
    assert result.get(timeout=LIMIT) == 5
    assert result.state == states.SUCCESS and result.successful()
    named = app.send_task("arithmetic.add", kwargs={"x": 40, "y": 2})
    assert named.get(timeout=LIMIT) == 42
    mixed = app.send_task("arithmetic.add", [40], {"y": 2})
    assert mixed.get(timeout=LIMIT) == 42
    from proj import add

    assert add.delay(20, 22).get(timeout=LIMIT) == 42


def values():
    """JSON comes back as it went, whatever is in it."""
    for value in (
        None,
        True,
        0,
        -1,
        2**53 + 1,
        2**80,
        -(2**64),
        1.5,
        1e300,
        "",
        "ünïcödé 🦀 \x00 \u2028",
        [],
        {},
        [[1, [2, [3, []]]]],
        {"a": {"b": [None, {"c": "d"}]}, "": 1},
        "x" * 100_000,
    ):
        got = call("probe.echo", value).get(timeout=LIMIT)
        assert got == value and type(got) is type(value), (str(got)[:80], str(value)[:80])


def many():
    """A group of 100 ends in order, whatever the worker's concurrency."""
    results = group(app.signature("arithmetic.add", (i, i)) for i in range(100))()
    assert results.get(timeout=LIMIT) == [2 * i for i in range(100)]


def progress():
    """Every state that the task reports reaches `on_message`, in order, with the result as the last one."""
    if polls_only():
        result = call("probe.progress", 3, 0.5)
        expect.within(LIMIT, lambda: result.state == "PROGRESS" or result.ready())
        assert result.get(timeout=LIMIT) == 3
        return
    seen = []
    result = call("probe.progress", 5, 1)
    assert result.get(timeout=LIMIT, on_message=seen.append) == 5
    assert all(message["task_id"] == result.id for message in seen)
    assert seen[-1]["status"] == states.SUCCESS and seen[-1]["result"] == 5
    steps = [message["result"] for message in seen if message["status"] == "PROGRESS"]
    assert steps == [{"done": i, "of": 5} for i in range(5)], seen


def progress_state():
    """A state of the task's own is there to be read while the task runs and after it ignored its result."""
    result = call("probe.ignore")
    expect.within(LIMIT, lambda: result.state == "BY_HAND")
    assert result.info == {"kept": True}


def request():
    result = call("probe.request")
    got = result.get(timeout=LIMIT)
    assert got["id"] == result.id and got["root_id"] == result.id and got["correlation_id"] == result.id
    assert got["task"] == "probe.request" and got["retries"] == 0 and got["parent_id"] is None
    assert "@" in got["hostname"]
    assert got["args"] == [] and got["kwargs"] == {}


def retry():
    result = call("probe.retry", 2, 0.2)
    assert result.get(timeout=LIMIT) == {"retries": 2, "id": result.id}


def retry_state():
    result = call("probe.retry", 1, 3)
    expect.within(LIMIT, lambda: result.state == states.RETRY)
    info = result.info
    assert isinstance(info, KeyError) and info.args == ("attempt 0",), repr(info)
    assert result.get(timeout=LIMIT) == {"retries": 1, "id": result.id}


def retries_exhausted():
    """With an exception given, `retry` raises that one when there are no tries left."""
    result = call("probe.retry", 99, 0)
    error = expect.raises(KeyError, lambda: result.get(timeout=LIMIT))
    assert error.args == ("attempt 3",), error.args
    assert result.state == states.FAILURE
    assert not isinstance(error, MaxRetriesExceededError)


def failure():
    result = call("probe.fail", "no such colour")
    error = expect.raises(ValueError, lambda: result.get(timeout=LIMIT))
    assert type(error) is ValueError and error.args == ("no such colour", 7), error.args
    assert result.state == states.FAILURE and result.failed()
    assert isinstance(result.result, ValueError)
    assert "Traceback" in result.traceback and "no such colour" in result.traceback, result.traceback


def wrong_arguments():
    few = expect.raises(TypeError, lambda: call("arithmetic.add", 1).get(timeout=LIMIT))
    assert "add() missing 1 required positional argument: 'y'" in str(few), str(few)
    many = expect.raises(TypeError, lambda: call("arithmetic.add", 1, 2, 3).get(timeout=LIMIT))
    assert "add() takes 2 positional arguments but 3 were given" in str(many), str(many)
    odd = expect.raises(TypeError, lambda: app.send_task("arithmetic.add", [1, 2], {"z": 3}).get(timeout=LIMIT))
    assert "add() got an unexpected keyword argument 'z'" in str(odd), str(odd)
    twice = expect.raises(TypeError, lambda: app.send_task("arithmetic.add", [1], {"x": 3}).get(timeout=LIMIT))
    assert "add() got multiple values for argument 'x'" in str(twice), str(twice)


def not_registered():
    result = call("no.such.task", 1)
    error = expect.raises(NotRegistered, lambda: result.get(timeout=LIMIT))
    assert "no.such.task" in str(error)
    apply()


def expires():
    past = datetime.now(timezone.utc) - timedelta(seconds=5)
    result = call("arithmetic.add", 1, 1, expires=past)
    expect.raises(TaskRevokedError, lambda: result.get(timeout=LIMIT))
    assert result.state == states.REVOKED
    later = call("arithmetic.add", 1, 1, expires=60)
    assert later.get(timeout=LIMIT) == 2
    # Received in time, too late when its countdown has passed.
    between = call("arithmetic.add", 1, 1, countdown=1.5, expires=0.5)
    expect.raises(TaskRevokedError, lambda: between.get(timeout=LIMIT))


def countdown():
    """A waiting task does not hold up the others, and does not begin before its time."""
    start = time.monotonic()
    slow = call("arithmetic.add", 1, 1, countdown=5)
    eta = call("arithmetic.add", 2, 2, eta=datetime.now(timezone.utc) + timedelta(seconds=5))
    assert call("arithmetic.add", 3, 3).get(timeout=LIMIT) == 6
    assert not slow.ready() and not eta.ready(), time.monotonic() - start
    assert slow.get(timeout=LIMIT) == 2 and eta.get(timeout=LIMIT) == 4
    assert time.monotonic() - start >= 4.9


def ignore_result():
    ignored = call("arithmetic.add", 1, 1, ignore_result=True)
    failed = call("probe.fail", "nobody reads this", ignore_result=True)
    # Sent after them to a worker that takes messages in order; still, they may run at the same time: wait for more than one.
    for _ in range(3):
        apply()
    backend = app.backend
    for result in (ignored, failed):
        if hasattr(backend, "get_key_for_task"):
            assert backend.get(backend.get_key_for_task(result.id)) is None
        else:
            expect.raises(TimeoutError, lambda: app.AsyncResult(result.id).get(timeout=0.5))


def track_started():
    result = call("probe.sleep", 2)
    expect.within(LIMIT, lambda: result.state == states.STARTED)
    assert isinstance(result.info["pid"], int) and "@" in result.info["hostname"], result.info
    assert result.get(timeout=LIMIT) == 2


def soft_limit():
    result = call("probe.soft", soft_time_limit=1, time_limit=20)
    assert result.get(timeout=LIMIT) == "ended in good order"
    uncaught = call("probe.soft_uncaught", soft_time_limit=1, time_limit=20)
    error = expect.raises(SoftTimeLimitExceeded, lambda: uncaught.get(timeout=LIMIT))
    assert error.args in ((), ("SoftTimeLimitExceeded()",)), error.args
    assert uncaught.state == states.FAILURE


def hard_limit():
    """An endless loop ends; a sleeping task too; neighbours are answered meanwhile."""
    spins = [call("spin.forever", time_limit=2), call("probe.sleep", 60, time_limit=2)]
    start = time.monotonic()
    apply()
    for result in spins:
        error = expect.raises(TimeLimitExceeded, lambda: result.get(timeout=LIMIT))
        assert error.args == (2,) or error.args == (2.0,), error.args
        assert result.state == states.FAILURE
    assert time.monotonic() - start < 15


def extended():
    result = app.send_task("arithmetic.add", [2], {"y": 3})
    assert result.get(timeout=LIMIT) == 5
    assert result.name == "arithmetic.add", result.name
    assert list(result.args) == [2] and result.kwargs == {"y": 3}, (result.args, result.kwargs)
    assert result.retries == 0 and result.queue == "celery" and "@" in result.worker
    assert abs((datetime.now(timezone.utc) - result.date_done.replace(tzinfo=timezone.utc)).total_seconds()) < 60


def reject():
    """Celery 5.7 stores a rejection that does not go back as a failure."""
    result = call("probe.reject", "not today")
    error = expect.raises(Reject, lambda: result.get(timeout=LIMIT))
    assert error.args == ("not today", False), error.args
    apply()


def garbage():
    """What nobody can decode is taken off the queue, and the worker goes on."""
    headers = {"lang": "py", "task": "arithmetic.add", "id": "garbage", "root_id": "garbage", "parent_id": None}
    heads = [headers, {}, {"task": "no.such.task", "id": "garbage"}]
    bodies = [
        ("{not json", "application/json", "utf-8"),
        (b"\xff\xfe\x00", "application/json", "binary"),
        (b"cos\nsystem\n(S'true'\ntR.", "application/x-python-serialize", "binary"),
        ("[[], {}, {}]", "text/x-unheard-of", "utf-8"),
    ]
    if os.environ.get("CELERYBOX_TEST_PYTHON_WORKER") != "1":
        # Each of these ends a Celery worker, which is no example to follow.
        heads += [{"task": 7, "id": None}, {"task": "arithmetic.add", "id": 7}]
        bodies += [(body, "application/json", "utf-8") for body in ("[1, 2, 3]", '"a string"', "null", "")]
    with app.connection_for_write() as connection:
        producer = connection.Producer(serializer="json")
        queue = app.amqp.queues["celery"]
        queue(connection.default_channel).declare()
        options = {"exchange": "", "routing_key": "celery", "retry": True}
        for body, content_type, encoding in bodies:
            for head in heads:
                producer.publish(body, content_type=content_type, content_encoding=encoding, headers=head, **options)
    apply()


def retry_arguments():
    """New arguments of a retry replace the inherited ones that name the same parameter, and no others."""
    switched = app.send_task("probe.switch", kwargs={"x": 1, "y": 2, "args": [10]})
    assert switched.get(timeout=LIMIT) == [10, 2]
    switched = app.send_task("probe.switch", [1, 2], {"kwargs": {"y": 20}})
    assert switched.get(timeout=LIMIT) == [1, 20]


def max_retries_exceeded():
    """Without an exception given, the error says which task it was, with its arguments."""
    result = call("probe.exhausted")
    error = expect.raises(MaxRetriesExceededError, lambda: result.get(timeout=LIMIT))
    text = f"Can't retry probe.exhausted[{result.id}] args:() kwargs:{{}}"
    assert str(error).replace("args:[]", "args:()") == text, str(error)


def autoretry():
    """Classes that are derived from a listed one are tried again; what is excepted, or not listed, is not."""
    for exc_type in ("ConnectionRefusedError", "IndexError"):
        assert call("probe.auto", exc_type).get(timeout=LIMIT) == 2
    expect.raises(KeyError, lambda: call("probe.auto", "KeyError").get(timeout=LIMIT))
    once = call("probe.auto", "ValueError")
    error = expect.raises(ValueError, lambda: once.get(timeout=LIMIT))
    assert error.args == ("try 0",), error.args


def requeue():
    """A message that was put back is delivered again, marked as such."""
    assert call("probe.requeue").get(timeout=LIMIT) == "again"


def late_timeout():
    """`acks_on_timeout=False` puts the message of a task back that its hard limit ended."""
    result = call("probe.late_timeout")
    # Each time anew: the failure of the first run is stored too, and a result object keeps what it read.
    expect.within(LIMIT, lambda: app.AsyncResult(result.id).state == states.SUCCESS)
    assert app.AsyncResult(result.id).get(timeout=LIMIT) == "again"


def late_failure():
    """`acks_on_failure=False` refuses the message of a failed task for good: it fails once."""
    expect.raises(ValueError, lambda: call("probe.late_fail").get(timeout=LIMIT))
    apply()


def soft_limit_ignored():
    """A task that goes on after its soft limit has succeeded."""
    result = app.send_task("probe.soft_ignored", [3], soft_time_limit=1, time_limit=30)
    assert result.get(timeout=LIMIT) is True


def eta():
    """An ETA in the past is now, one that no clock reaches is a failure."""
    past = datetime.now(timezone.utc) - timedelta(days=3)
    assert call("arithmetic.add", 1, 1, eta=past).get(timeout=LIMIT) == 2
    never = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-14)))
    expect.raises(OverflowError, lambda: call("arithmetic.add", 1, 1, eta=never).get(timeout=LIMIT))


def rate_limit():
    """Two a second, one of them saved; other tasks do not wait for them."""
    start = time.monotonic()
    limited = [call("probe.limited", n) for n in range(5)]
    assert call("arithmetic.add", 1, 1).get(timeout=LIMIT) == 2
    assert [result.get(timeout=LIMIT) for result in limited] == list(range(5))
    assert time.monotonic() - start >= 1.9, time.monotonic() - start


def exceptions():
    """A task names Python's own exceptions, and is not believed when it names anything else."""
    for exc_type in (KeyError, PermissionError, ConnectionResetError):
        result = call("probe.raise_from", "builtins", exc_type.__name__, "x")
        error = expect.raises(exc_type, lambda: result.get(timeout=LIMIT))
        assert type(error) is exc_type and error.args == ("x",), repr(error)
    for module, name in (("os", "system"), ("builtins", "eval"), ("subprocess", "Popen"), ("", "X")):
        error = expect.raises(Exception, lambda: call("probe.raise_from", module, name, "x").get(timeout=LIMIT))
        assert type(error).__module__ == "celery.backends.base" and type(error).__name__ == name, repr(error)


def large_result():
    """A result that is too large is a failure that names the limit."""
    assert len(call("probe.letters", 1_000_000).get(timeout=LIMIT)) == 1_000_000
    error = expect.raises(ValueError, lambda: call("probe.letters", 1_100_000).get(timeout=LIMIT))
    assert "limits.result" in str(error), str(error)


def link():
    """Callbacks get the value; several are one group. What was sent is in `children` once there is a result."""
    one = add(2, 3, link=s("arithmetic.add", 10))
    assert one.get(timeout=LIMIT) == 5
    (child,) = one.children
    assert child.get(timeout=LIMIT) == 15
    two = add(2, 3, link=[s("arithmetic.add", 10), s("arithmetic.mul", 10), s("probe.echo", "alone", immutable=True)])
    assert two.get(timeout=LIMIT) == 5
    (children,) = two.children
    assert children.get(timeout=LIMIT) == [15, 50, "alone"]
    both = add(2, 3, link=[group(s("arithmetic.add", 1), s("arithmetic.add", 2)), s("arithmetic.mul", 2)])
    assert both.get(timeout=LIMIT) == 5
    assert [child.get(timeout=LIMIT) for child in both.children] == [[6, 7], [10]]


def link_error():
    """Errbacks get the id of the task that failed, immutable ones only their own arguments."""
    told, alone, never = s("probe.echo"), s("probe.echo", "alone", immutable=True), s("probe.echo", immutable=False)
    results = [errback.freeze() for errback in (told, alone, never)]
    failed = call("probe.fail", "told", link_error=[told, alone], link=never)
    expect.raises(ValueError, lambda: failed.get(timeout=LIMIT))
    assert results[0].get(timeout=LIMIT) == failed.id
    assert results[1].get(timeout=LIMIT) == "alone"
    late = s("probe.echo")
    result = late.freeze()
    killed = call("spin.forever", time_limit=1, link_error=late)
    expect.raises(TimeLimitExceeded, lambda: killed.get(timeout=LIMIT))
    assert result.get(timeout=LIMIT) == killed.id
    assert results[2].state == states.PENDING


def link_error_called():
    """An errback of three arguments is called by the worker itself."""
    failed = call("probe.fail", "told", link_error=app.signature("probe.told", kwargs={"note": "noted"}))
    expect.raises(ValueError, lambda: failed.get(timeout=LIMIT))


def chain_of_three():
    result = chain(s("arithmetic.add", 1, 2), s("arithmetic.add", 3), s("arithmetic.mul", 4))()
    assert result.get(timeout=LIMIT) == 24
    assert [node.get(timeout=LIMIT) for node in (result.parent, result.parent.parent)] == [6, 3]
    assert result.parent.children == [result] and result.parent.parent.children == [result.parent]
    assert result.children == []


def chain_fails():
    """Nothing after the task that failed runs; all of it has its error, and its errback is called once."""
    errback = s("probe.echo")
    told = errback.freeze()
    fails = s("probe.fail", "no", immutable=True)
    workflow = chain(s("arithmetic.add", 1, 2), fails, s("arithmetic.add", 3), s("arithmetic.mul", 4))
    workflow.link_error(errback)
    result = workflow()
    error = expect.raises(ValueError, lambda: result.get(timeout=LIMIT))
    assert error.args == ("no", 7), error.args
    failed = result.parent.parent
    assert failed.parent.get(timeout=LIMIT) == 3
    for node in (failed, result.parent, result):
        expect.within(LIMIT, node.ready)
        assert node.state == states.FAILURE and node.result.args == ("no", 7), (node.state, node.result)
        assert node.traceback == failed.traceback
    assert told.get(timeout=LIMIT) == failed.id


def chain_ends_in_group():
    result = chain(s("arithmetic.add", 1, 2), group(s("arithmetic.add", 1), s("arithmetic.mul", 5)))()
    assert result.get(timeout=LIMIT) == [4, 15]
    assert result.parent.get(timeout=LIMIT) == 3
    ((child),) = result.parent.children
    assert child.id == result.id and [member.id for member in child] == [member.id for member in result]


def lineage():
    """Every task of a workflow names its first task, and the one that sent it."""
    ask = s("probe.request", immutable=True)
    callback = s("probe.request", immutable=True)
    called = callback.freeze()
    result = chain(ask.clone(), ask.clone().set(link=callback), ask.clone())()
    last = result.get(timeout=LIMIT)
    first = result.parent.parent.id
    assert (last["root_id"], last["parent_id"]) == (first, result.parent.id)
    assert result.parent.get(timeout=LIMIT)["parent_id"] == first
    linked = called.get(timeout=LIMIT)
    assert (linked["root_id"], linked["parent_id"]) == (first, result.parent.id)


def stamps():
    """Stamps travel with each task of a workflow."""
    workflow = chain(s("arithmetic.add", 1, 2), s("arithmetic.add", 3))
    workflow.stamp(order="A7")
    result = workflow()
    assert result.get(timeout=LIMIT) == 6
    for node in (result, result.parent):
        # A worker stores its task's result after it has sent what follows: another may have done that by then.
        node.get(timeout=LIMIT)
        meta = node.backend.get_task_meta(node.id)
        assert meta["stamped_headers"] == ["order"] and meta["order"] == "A7", meta


def maps():
    """`celery.map` and `celery.starmap` call the task for each item within one message."""
    from proj import add, echo, fail

    assert echo.map([1, [2, "ü"], None]).delay().get(timeout=LIMIT) == [1, [2, "ü"], None]
    assert echo.map([]).delay().get(timeout=LIMIT) == []
    assert add.starmap([(1, 2), (3, 4)]).apply_async().get(timeout=LIMIT) == [3, 7]
    error = expect.raises(ValueError, lambda: fail.map(["boom"]).delay().get(timeout=LIMIT))
    assert error.args == ("boom", 7), error.args
    expect.raises(TypeError, lambda: add.starmap([(1, 2), (3,)]).delay().get(timeout=LIMIT))
    unknown = call("celery.map", {"task": "nowhere.nothing", "args": [], "kwargs": {}}, [1])
    expect.raises(NotRegistered, lambda: unknown.get(timeout=LIMIT))
    late = app.send_task("celery.map", [{"task": "probe.sleep"}, [0.2] * 20], time_limit=1)
    expect.raises(TimeLimitExceeded, lambda: late.get(timeout=LIMIT))


def builtins():
    """The tasks that every worker has."""
    assert call("celery.accumulate", 1, [2]).get(timeout=LIMIT) == [1, [2]]
    assert app.send_task("celery.accumulate", [1, 2], {"index": -1}).get(timeout=LIMIT) == 2
    too_far = app.send_task("celery.accumulate", [1, 2], {"index": 2})
    expect.raises(IndexError, lambda: too_far.get(timeout=LIMIT))
    assert call("celery.ping").get(timeout=LIMIT) == "pong"
    assert call("celery.backend_cleanup").get(timeout=LIMIT) is None
    error = expect.raises(NotImplementedError, lambda: call("celery.chain").get(timeout=LIMIT))
    assert str(error) == "chain is not a real task", error


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("true")
