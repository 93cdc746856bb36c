"""Workflows and what became of them: `python canvas.py NAME …` prints its answer as JSON."""

import json
import random
import re
import sys
import time

from celery import chain, chord, group, states
from celery.result import GroupResult, result_from_tuple
from proj import app

LIMIT = 60


def shares(*workers):
    """How many of 60 chains' tasks each of these workers did."""
    workflows = [app.signature("arithmetic.add", (n, 1)) | app.signature("arithmetic.mul", (2,)) for n in range(60)]
    results = [workflow.apply_async() for workflow in workflows]
    assert [result.get(timeout=LIMIT) for result in results] == [2 * n + 2 for n in range(60)]
    assert [result.parent.get(timeout=LIMIT) for result in results] == [n + 1 for n in range(60)]
    names = [app.backend.get_task_meta(node.id)["worker"] for result in results for node in (result, result.parent)]
    return [names.count(worker) for worker in workers]


class Generator:
    """Any nesting of chains, groups and chords, with failures in it. Every task takes whatever it is given."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def task(self):
        number = self.random.randrange(100)
        if self.random.random() < 0.12:
            return app.signature("probe.fail", (f"no {number}",), immutable=True)
        sig = app.signature("celery.accumulate", (number,))
        if self.random.random() < 0.1:
            sig.link(app.signature("celery.accumulate", ("linked",)))
        return sig

    def many(self, depth, least):
        return [self.any(depth - 1) for _ in range(self.random.randrange(least, 4))]

    def apart(self, tasks):
        """No group right after a group: Celery gives such tasks new ids after it has told the first ones."""
        parted = []
        for task in tasks:
            if parted and isinstance(task, group):
                parted.append(self.task())
            parted.append(task)
        return parted

    def any(self, depth):
        kind = self.random.random()
        if depth <= 0 or kind < 0.3:
            return self.task()
        if kind < 0.6:
            return chain(*self.apart(self.many(depth, 2)))
        if kind < 0.8:
            return group(self.many(depth, 1))
        return chord(self.many(depth, 1), self.task())


def described(result, seen):
    """A result with its parents and children: states, values and errors, without ids."""
    if result is None:
        return None
    parent = described(result.parent, seen)
    if isinstance(result, GroupResult):
        return {"parent": parent, "members": [described(member, seen) for member in result.results]}
    if result.id in seen:
        return "again"
    seen.add(result.id)
    meta = app.backend.get_task_meta(result.id)
    state, value = meta["status"], meta["result"]
    if state in states.EXCEPTION_STATES:
        value = [type(value).__name__, [repr(part) for part in value.args]]
    if isinstance(value, list) and value[:1] == ["ChordError"]:
        # Those of whichever header task was the last to end.
        meta = {}
    value = re.sub("[0-9a-f]{8}-[0-9a-f-]{27}", "<id>", json.dumps(value))
    children = [
        described(result_from_tuple(child, app) if isinstance(child, (list, tuple)) else child, seen)
        for child in meta.get("children") or []
    ]
    return {"parent": parent, "state": state, "value": value, "children": children}


def unfinished(description):
    text = json.dumps(description)
    return any(f'"{state}"' in text for state in ("PENDING", "STARTED", "RETRY"))


def workflows(seed, number):
    """The descriptions of so many random workflows that were run at the same time. Some of Celery's never come to an
    end: then it is over when nothing has changed for a while."""
    seeds = range(int(seed), int(seed) + int(number))
    results = [Generator(each).any(3).apply_async() for each in seeds]
    before, since = None, time.monotonic()
    while True:
        descriptions = [described(result, set()) for result in results]
        if descriptions != before:
            before, since = descriptions, time.monotonic()
        if time.monotonic() > since + 6 or not any(unfinished(description) for description in descriptions):
            return [{"seed": each, "came": came} for each, came in zip(seeds, descriptions)]
        time.sleep(0.1)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
