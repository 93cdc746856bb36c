"""Workflows that go back and forth between two workers: `mixed.py OURS THEIRS`, the queues of the two. The client and the
other worker may be of any version of Celery since 5.2.

Everything is sent first and looked at afterwards.
"""

import itertools
import sys

import celery
from celery import chain, chord, group
from celery.exceptions import ChordError
from proj import add, app, echo, fail, mul, sleep, tsum

LIMIT = 60
QUEUES = sys.argv[1:]
numbers = itertools.count()
expected, errors = [], []


def on(queue, sig, *more):
    """The signature, to be run by the worker of this queue, and what follows it with `more`."""
    for each in more:
        sig.link(each)
    return sig.set(queue=queue)


def named(sig):
    """The signature with an id that is known beforehand, and that id."""
    identity = f"{app.oid}-{next(numbers)}"
    return sig.set(task_id=identity), identity


def comes_to(what, result, value):
    expected.append((what, result, value))


def fails(what, result, kind, text):
    errors.append((what, result, kind, text))


def told(what, identity, value):
    comes_to(what, app.AsyncResult(identity), value)


def links(first, last):
    """Callbacks and errbacks that the other worker runs."""
    follower, identity = named(on(last, mul.s(2)))
    comes_to("linked", add.apply_async((1, 2), queue=first, link=follower), 3)
    told("a link", identity, 6)
    several = [named(on(last, mul.s(n))) for n in (2, 3)]
    comes_to("linked twice", add.apply_async((1, 2), queue=first, link=[sig for sig, _ in several]), 3)
    for (_, identity), value in zip(several, (6, 9)):
        told("one of two links", identity, value)
    errback, identity = named(on(last, echo.s()))
    failing = fail.apply_async(("linked",), queue=first, link_error=errback)
    fails("linked", failing, ValueError, "('linked', 7)")
    told("an errback", identity, failing.id)
    errback, identity = named(on(last, echo.si("told")))
    fail.apply_async(("linked",), queue=first, link_error=errback)
    told("an immutable errback", identity, "told")


def chains(first, last):
    workflow = chain(on(first, add.s(1, 1)), on(last, mul.s(10)), on(first, add.s(1)), on(last, add.s(1)))
    comes_to("chain", workflow.apply_async(), 22)
    errback, identity = named(on(first, echo.si("told")))
    workflow = chain(on(first, add.s(1, 1)), on(last, fail.si("boom")), on(first, echo.s()), on(last, echo.s()))
    failed = workflow.apply_async(link_error=errback)
    for node in (failed, failed.parent, failed.parent.parent):
        fails("chain", app.AsyncResult(node.id), ValueError, "('boom', 7)")
    told("the errback of a chain", identity, "told")
    ends = group(on(first, add.s(1)), on(last, add.s(2)))
    comes_to("chain that ends in a group", chain(on(first, add.s(1, 1)), ends).apply_async(), [3, 4])


def chords(first, last):
    for slow, body in itertools.product((first, last), (first, last)):
        # Each has parts, and whoever has the slow one ends it.
        header = [on((first, last)[n % 2], add.s(n, n)) for n in range(5)] + [on(slow, sleep.s(0.3))]
        comes_to("chord", chord(header)(on(body, echo.s())), [0, 2, 4, 6, 8, 0.3])
    for slow, body in itertools.product((first, last), (first, last)):
        errback, identity = named(on(first, echo.s()))
        header = [on(first, add.s(1, 1)), on(last, fail.s("boom")), on(slow, sleep.s(0.3))]
        result = chord(header)(on(body, echo.s()).on_error(errback))
        text = f"Dependency {result.parent.results[1].id} raised ValueError('boom', 7)"
        fails("chord", app.AsyncResult(result.id), ChordError, text)
        told("the errback of a chord", identity, result.id)
    for body in (first, last):
        header = [chain(on(first, add.s(n, 1)), on(last, mul.s(2))) for n in range(3)]
        comes_to("chains in a header", chord(header)(on(body, tsum.s())), 12)
        nested = group(on(first, add.s(2, 2)), on(last, add.s(3, 3)))
        flat = chord(group(on(first, add.s(1, 1)), nested))(on(body, tsum.s()))
        comes_to("a group in a header", flat, 12)
        if celery.VERSION >= (5, 7):
            # An older client gives the inner group the id of the chord, and a Python worker that ends it hangs, or writes over
            # its size: with Python workers alone most of these chords never end.
            kept = chain(on(first, add.si(1, 200)), group(on(first, add.si(1, 1000)), on(last, add.si(1, 2000))))
            structured = chord([on(last, add.si(1, 0)), kept])(on(body, echo.s()))
            comes_to("a group at the end of a chain in a header", structured, [1, [1001, 2001]])
        inner = chord([on(first, add.s(1, 1)), on(last, add.s(2, 2))], on(body, tsum.s()))
        comes_to("a chord in a header", chord([inner, on(last, add.s(3, 3))])(on(first, echo.s())), [6, 6])
        members = group(on(first, tsum.s()), on(last, echo.s()))
        comes_to("a group as body", chord([on(first, add.s(1, 1)), on(body, add.s(2, 2))])(members), [6, [2, 4]])
        after = chain(on(body, tsum.s()), on(first, add.s(10)), on(last, mul.s(2)))
        comes_to("a chain as body", chord([on(first, add.s(1, 1)), on(last, add.s(2, 2))])(after), 32)


def begun_by_a_worker(first, last):
    """What a client leaves to the worker of the first task: it starts chords whose parts the other one has, too."""
    for slow, body in itertools.product((first, last), (first, last)):
        header = [on(first, add.s(1)), on(last, add.s(2)), on(slow, chain(sleep.si(0.2), add.si(1, 1)))]
        for task in header[2].tasks:
            on(slow, task)
        workflow = chain(on(first, add.s(1, 1)), chord(header, on(body, tsum.s())), on(last, add.s(100)))
        comes_to("a chord in a chain", workflow.apply_async(), 109)
    upgraded = chain(
        on(first, add.s(1, 1)),
        group(on(first, add.s(1)), on(last, add.s(2))),
        on(last, tsum.s()),
        group(on(last, add.s(1)), on(first, add.s(2))),
        on(first, tsum.s()),
    )
    comes_to("groups in a chain", upgraded.apply_async(), 17)
    if celery.VERSION < (5, 7):
        # Such a client makes what comes after a chord a part of its body. Where the chord fails, some of these parts get no
        # state from workers of any version, and the client waits for ever.
        return
    header = [on(first, add.s(1)), on(last, fail.si("late")), on(first, sleep.si(0.3))]
    failed = chain(on(first, add.s(1, 1)), chord(header, on(last, tsum.s())), on(first, add.s(1))).apply_async()
    fails("a chord in a chain", app.AsyncResult(failed.parent.id), ChordError, "ValueError('late', 7)")
    # A worker of Celery 5.2 that ends the chord leaves what comes after it waiting; here ours does.
    header = [chain(on(QUEUES[1], add.s(1)), on(QUEUES[0], fail.si("late")))]
    failed = chain(on(first, add.s(1, 1)), chord(header, on(last, tsum.s())), on(first, add.s(1))).apply_async()
    for node in (failed, failed.parent):
        fails("what comes after it", app.AsyncResult(node.id), ChordError, "ValueError('late', 7)")


for first, last in (QUEUES, QUEUES[::-1]):
    links(first, last)
    chains(first, last)
    chords(first, last)
    begun_by_a_worker(first, last)
problems = []
for what, result, value in expected:
    try:
        came = result.get(timeout=LIMIT)
    except Exception as error:
        came = error
    if came != value:
        problems.append(f"{what} ({result.id}): {came!r} instead of {value!r}")
        LIMIT = 5
for what, result, kind, text in errors:
    try:
        came = result.get(timeout=LIMIT)
    except Exception as error:
        came = error
    if type(came) is not kind or text not in str(came):
        problems.append(f"{what} ({result.id}): {came!r} instead of {kind.__name__}: {text}")
        LIMIT = 5
if problems:
    sys.exit("\n".join(problems))
print(len(expected) + len(errors))
