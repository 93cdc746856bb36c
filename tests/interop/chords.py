"""Chords as a Python client sees them: one function a check, `python chords.py NAME [QUEUE…]` runs one.

The queues are those of the workers that take part: the last one is that of the worker under test, which has the queue
`celery`, too, where what names no queue goes.
"""

import json
import sys
import time
from datetime import datetime, timedelta, timezone

import expect
from celery import chain, chord, group
from celery.exceptions import ChordError
from events import Monitor
from proj import add, app, echo, fail, late, late_fail, retry, sleep, tsum

LIMIT = 30
name, *QUEUES = sys.argv[1:]
app.conf.task_default_queue = QUEUES[-1]
# A client that takes both sides of a chord from one queue needs no other.
FIRST, LAST = QUEUES[0], QUEUES[-1]


def alone(result):
    """The result without its parents, whose errors `get` would raise first."""
    return app.AsyncResult(result.id)


def fails(result, culprit, error):
    """With a backend that counts parts the error names the task, with `celery.chord_unlock` it does not."""
    text = error if app.conf.result_backend.startswith("file:") else f"Dependency {culprit} raised {error}"
    error = expect.raises(ChordError, lambda: alone(result).get(timeout=LIMIT))
    assert str(error) == text, str(error)


def once(monitor, *ids):
    """Each of these tasks was sent once: no second one came a moment later."""
    monitor.wait("each is received", lambda: all("task-received" in monitor.types(identity) for identity in ids))
    time.sleep(1)
    received = [monitor.types(identity).count("task-received") for identity in ids]
    assert received == [1] * len(ids), received


def simple():
    result = chord([add.s(n, n) for n in range(10)])(tsum.s())
    assert result.get(timeout=LIMIT) == 90
    header = result.parent
    assert header.join(timeout=LIMIT) == [2 * n for n in range(10)]
    # In the order of the header, whoever is first.
    slow = chord([sleep.s(0.4), sleep.s(0.2), sleep.s(0), echo.s({"x": [None, 2**80]})])(echo.s())
    assert slow.get(timeout=LIMIT) == [0.4, 0.2, 0, {"x": [None, 2**80]}]
    one = chord([add.s(1, 1)])(echo.s())
    assert one.get(timeout=LIMIT) == [2]


def crossing():
    """Each worker has a part of the header and may be the last one; each may have the body."""
    for first, last in ((FIRST, LAST), (LAST, FIRST)):
        for body in (first, last):
            header = [add.s(n, n).set(queue=(first, last)[n % 2]) for n in range(6)]
            header.append(sleep.s(0.5).set(queue=last))
            result = chord(header)(echo.s().set(queue=body))
            assert result.get(timeout=LIMIT) == [0, 2, 4, 6, 8, 10, 0.5]
        header = [add.s(1, 1).set(queue=first), fail.s("boom").set(queue=first), sleep.s(0.3).set(queue=last)]
        result = chord(header)(echo.s().set(queue=first))
        culprit = result.parent.results[1]
        fails(result, culprit.id, "ValueError('boom', 7)")


def failing():
    monitor = Monitor()
    errback = echo.si("called").set(task_id=app.oid + "-immutable")
    told = echo.s().set(task_id=app.oid + "-told")
    result = chord([add.s(1, 1), fail.s("boom")])(tsum.s().on_error(errback).on_error(told))
    culprit = result.parent.results[1]
    fails(result, culprit.id, "ValueError('boom', 7)")
    assert app.AsyncResult(told.options["task_id"]).get(timeout=LIMIT) == result.id
    assert app.AsyncResult(errback.options["task_id"]).get(timeout=LIMIT) == "called"
    assert result.parent.results[0].get(timeout=LIMIT) == 2
    once(monitor, told.options["task_id"], errback.options["task_id"])
    # A body that fails by itself.
    result = chord([add.s(1, 1)])(fail.si("late"))
    error = expect.raises(ValueError, lambda: alone(result).get(timeout=LIMIT))
    assert error.args == ("late", 7), error.args
    # What comes after the chord fails with it.
    last = chain(chord([add.s(1, 1), fail.s("boom")], tsum.s()), add.s(1)).apply_async()
    expect.raises(ChordError, lambda: alone(last).get(timeout=LIMIT))
    expired = add.s(1, 1).set(expires=datetime.now(timezone.utc) - timedelta(hours=1), task_id=app.oid + "-expired")
    if app.conf.broker_url.startswith("redis"):
        result = chord([add.s(1, 1), expired])(tsum.s())
        fails(result, expired.options["task_id"], "TaskRevokedError('expired')")


def group_body():
    result = chord([add.s(1, 1), add.s(2, 2)])(group(tsum.s(), echo.s()))
    assert result.get(timeout=LIMIT) == [6, [2, 4]]
    monitor = Monitor()
    told = echo.s().set(task_id=app.oid + "-member")
    result = chord([add.s(1, 1), fail.s("boom")])(group(tsum.s().on_error(told), echo.s()))
    for member in result.results:
        error = expect.raises(ValueError, lambda: alone(member).get(timeout=LIMIT))  # noqa: B023
        assert error.args == ("boom", 7), error.args
    assert app.AsyncResult(told.options["task_id"]).get(timeout=LIMIT) == result.results[0].id
    once(monitor, told.options["task_id"])


def nested():
    inner = chain(add.si(1, 200), group(add.si(1, 1000), add.si(1, 2000)))
    result = chord([add.si(1, 0), inner])(echo.s())
    assert result.get(timeout=LIMIT) == [1, [1001, 2001]]
    flat = chord(group(add.s(1, 1), group(add.s(2, 2), add.s(3, 3))))(tsum.s())
    assert flat.get(timeout=LIMIT) == 12
    of_chords = chord([chord([add.s(1, 1), add.s(2, 2)], tsum.s()), add.s(3, 3)])(echo.s())
    assert of_chords.get(timeout=LIMIT) == [6, 6]
    monitor = Monitor()
    told = [echo.s().set(task_id=app.oid + name) for name in ("-inner", "-outer")]
    inner = chord([add.s(1, 1), fail.s("boom")], tsum.s().on_error(told[0]))
    outer = chord([inner, add.s(3, 3)])(tsum.s().on_error(told[1]))
    if app.conf.result_backend.startswith("redis"):
        # Celery does not tell the chord around a chord that its body failed; see the contract, section 4.6.
        expect.raises(ChordError, lambda: alone(outer.parent.results[0]).get(timeout=LIMIT))
        assert outer.parent.results[1].get(timeout=LIMIT) == 6
        once(monitor, told[0].options["task_id"])
        assert outer.state == "PENDING", outer.state
        assert monitor.types(told[1].options["task_id"]) == []
    else:
        expect.raises(ChordError, lambda: alone(outer).get(timeout=LIMIT))
        once(monitor, *(errback.options["task_id"] for errback in told))


def chains():
    assert chord([add.s(1, 1), add.s(2, 2)])(chain(tsum.s(), add.s(10))).get(timeout=LIMIT) == 16
    in_chain = chain(add.s(1, 1), chord([add.s(1), add.s(2)], tsum.s()), add.s(100))
    assert in_chain.apply_async().get(timeout=LIMIT) == 107
    upgraded = chain(add.s(1, 1), group(add.s(1), add.s(2)), tsum.s(), group(add.s(1), add.s(2)), tsum.s())
    assert upgraded.apply_async().get(timeout=LIMIT) == 17
    headers = chord([chain(add.s(1, 1), add.s(1)), chain(add.s(2, 2), add.s(2))])(tsum.s())
    assert headers.get(timeout=LIMIT) == 9
    assert chord([])(tsum.s()).get(timeout=LIMIT) == 0
    assert chain(echo.s(1), chord([], tsum.s())).apply_async().get(timeout=LIMIT) == 0


def counted_once():
    """A header task that is retried reports once, one without a result all the same."""
    result = chord([retry.s(1, 0), add.s(1, 1).set(ignore_result=True), late.s(0)])(echo.s())
    first, second, third = result.get(timeout=LIMIT)
    assert (first["retries"], second, third) == (1, 2, 0), (first, second, third)


def ignored():
    """`celery.chord_unlock` waits for stored results: a header task has one, also where results are ignored. (A worker in
    Python stores none, and the chord waits for ever.)"""
    first, boom = add.s(1, 1).set(ignore_result=True), fail.si("boom").set(ignore_result=True)
    nested = chain(add.s(2, 2), group(add.s(3), echo.s())).set(ignore_result=True)
    assert chord([first, nested])(echo.s()).get(timeout=LIMIT) == [2, [7, 4]]
    result = chord([add.s(1, 1).set(ignore_result=True), boom])(echo.s())
    fails(result, result.parent.results[1].id, "ValueError('boom', 7)")
    before = chain(fail.si("first").set(ignore_result=True), add.si(1, 1).set(ignore_result=True))
    result = chord([before, add.s(1, 1)])(echo.s())
    fails(result, result.parent.results[0].id, "ValueError('first', 7)")
    alone = add.apply_async((1, 1), ignore_result=True, queue=LAST)
    echo.si(0).apply_async(queue=LAST).get(timeout=LIMIT)
    assert app.backend.get_task_meta(alone.id)["status"] == "PENDING"


def chunks():
    result = add.chunks(zip(range(10), range(10)), 4).apply_async()
    assert result.get(timeout=LIMIT) == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]
    items = [[n, n] for n in range(5)] + [[2**60, 1]]
    sent = app.send_task("celery.chunks", kwargs={"task": dict(add.s()), "it": items, "n": 2})
    tuples = sent.get(timeout=LIMIT)
    members = app.GroupResult(tuples[0][0], [app.AsyncResult(member[0][0]) for member in tuples[1]])
    assert members.join(timeout=LIMIT) == [[0, 2], [4, 6], [8, 2**60 + 1]]
    assert [child.id for child in sent.children] == [tuples[0][0]], sent.children


def old_clients():
    """What clients of Celery 3 sent."""
    tasks = [dict(add.s(n)) for n in range(3)]
    for n, task in enumerate(tasks):
        task["options"] = {"task_id": f"{app.oid}-old-{n}"}
    saved = [["g-" + app.oid, None], [[[task["options"]["task_id"], None], None] for task in tasks]]
    sent = app.send_task("celery.group", [tasks, saved, "g-" + app.oid, [10]])
    sent.get(timeout=LIMIT)
    for n in range(3):
        assert app.AsyncResult(f"{app.oid}-old-{n}").get(timeout=LIMIT) == 10 + n
    body = dict(tsum.s().set(task_id=app.oid + "-old-body"))
    app.send_task("celery.chord", [[dict(add.s(1)), dict(add.s(2))], body], {"partial_args": [5]}).get(timeout=LIMIT)
    assert app.AsyncResult(app.oid + "-old-body").get(timeout=LIMIT) == 13


def unlock_gives_up():
    """`celery.chord_unlock` with a limit fails the body when nothing will look again."""
    body = echo.s().set(task_id=app.oid + "-never")
    waiting = [[["nobody-" + app.oid, None], None]]
    kwargs = {"interval": 0.1, "max_retries": 2, "result": waiting}
    app.send_task("celery.chord_unlock", ["g", dict(body)], kwargs)
    error = expect.raises(ChordError, lambda: app.AsyncResult(body.options["task_id"]).get(timeout=LIMIT))
    assert "chord_unlock could not be retried: MaxRetriesExceededError(" in str(error), str(error)


def refused():
    """`rpc://` keeps no chords: whoever starts one is told."""
    expect.raises(NotImplementedError, lambda: chord([add.s(1, 1)])(tsum.s()))
    late_chord = dict(chord([add.s(1), add.s(2)], tsum.s()))
    result = app.send_task("arithmetic.add", [1, 1], chain=[late_chord])
    expect.raises(NotImplementedError, lambda: result.get(timeout=LIMIT))


def late_chords():
    """One chord a queue with one late-acked task; the bodies go to a queue of their own. The last line has their ids."""
    ids = []
    for queue in QUEUES:
        result = chord([late.s(0).set(queue=queue)])(echo.s().set(queue="bodies"))
        ids.append({"queue": queue, "group": result.parent.id, "body": result.id, "also": []})
    print(json.dumps(ids))


def late_chains():
    """The same with a header that is a chain of two, the last one with a callback that goes to the queue of the bodies."""
    ids = []
    for queue in QUEUES:
        also = f"{app.oid}-{queue}"
        header = chain(late.si(0).set(queue=queue), late.si(0).set(queue=queue))
        header.tasks[1].link(echo.s().set(queue="bodies", task_id=also))
        result = chord([header])(echo.s().set(queue="bodies"))
        ids.append({"queue": queue, "group": result.parent.id, "body": result.id, "also": [also]})
    print(json.dumps(ids))


def late_failures():
    """The same with a header that is a chain whose first task fails, and a task after the body."""
    ids = []
    for queue in QUEUES:
        header = chain(late_fail.si().set(queue=queue), echo.si(0).set(queue=queue))
        after = echo.si(1).set(queue="bodies")
        result = chain(chord([header], echo.s().set(queue="bodies")), after).apply_async()
        body, group = result.parent, result.parent.parent
        ids.append({"queue": queue, "group": group.id, "body": body.id, "also": [result.id, group.results[0].id]})
    print(json.dumps(ids))


if __name__ == "__main__":
    globals()[name]()
    if name not in ("late_chords", "late_chains", "late_failures"):
        print("true")
