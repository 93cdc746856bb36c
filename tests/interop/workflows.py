"""Random workflows and all that became of them: `python workflows.py SEED NUMBER` prints it as JSON.

The client sends so many workflows at the same time and waits until nothing happens any more. Then it writes down every task
that there was: what is stored of it, with `result_extended`, and which events the workers sent about it, so that a task
that ran twice is seen. Ids differ from run to run; each gets a name that depends on nothing but what the task was and how it
hangs together with others, so two runs that came to the same print the same.
"""

import hashlib
import json
import random
import re
import sys
import time
import warnings
from collections import Counter

from amqp.exceptions import ChannelError
from celery import chain, chord, group, signals
from celery.canvas import _chain, chunks, xmap, xstarmap
from events import ENDS, Monitor
from kombu.utils.json import dumps
from proj import app

LIMIT = 300
#: Nothing has happened for so long: it is over.
QUIET = 1.5
ID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Seconds until a task that retries is tried again.
RETRY = 1
#: Tasks of whose end nobody says anything.
REPLACED = " is replaced"
LABEL = re.compile(r"\bw\d+\.\d+\b")
#: How often names are made out of those of the neighbours: further than any workflow is deep.
ROUNDS = 8


def is_group_at(end, sig):
    """Whether a workflow begins (0) or ends (-1) with a group."""
    if isinstance(sig, chord):
        return end == 0 or is_group_at(end, sig.body)
    if isinstance(sig, _chain):
        return is_group_at(end, sig.tasks[end])
    return isinstance(sig, group)


class Generator:
    """Any nesting of chains, groups and chords, with callbacks, errbacks, retries, replacements and failures in it.

    Methods say what is left out, because Celery itself does it in a different way each time, or wrongly.

    A task shows in events under a name of its own (`shadow`), which no other task of any workflow has. Most take whatever
    they are given; those that do not are immutable.
    """

    def __init__(self, seed):
        self.random, self.seed, self.count = random.Random(seed), seed, 0

    def label(self):
        self.count += 1
        return f"w{self.seed}.{self.count}"

    def now_and_then(self, share):
        return self.random.random() < share

    def accumulate(self):
        label = self.label()
        return app.signature("celery.accumulate", (label,), shadow=label)

    def special(self):
        """A task that fails or retries. It never retries at once: Celery sends the new message before it stores RETRY, which
        then takes the place of what another process stored meanwhile."""
        label = self.label()
        name, *args = self.random.choice(
            [
                ("probe.fail", f"no {label}"),
                ("probe.fail", f"no {label}"),
                ("probe.fail", f"no {label}"),
                ("probe.retry", self.random.randrange(1, 3), RETRY),
                ("probe.retry", 4, RETRY),
                ("probe.auto", "KeyError"),
            ]
        )
        return app.signature(name, tuple(args), immutable=True, shadow=label)

    def replaced(self, depth):
        """A task that lets a workflow take its place."""
        label, other = self.label(), self.any(depth)
        return app.signature("sender.replace", (json.dumps(other), "replaced"), immutable=True, shadow=label + REPLACED)

    def map(self):
        label, name = self.label(), self.random.choice(["probe.echo", "probe.echo", "probe.fail"])
        items = [f"{label} {n}" for n in range(self.random.randrange(1, 4))]
        if self.now_and_then(0.5):
            return xmap(app.signature(name), items, app=app).set(shadow=label)
        return xstarmap(app.signature(name), [[item] for item in items], app=app).set(shadow=label)

    def task(self):
        kind = self.random.random()
        if kind < 0.2:
            return self.special()
        if kind < 0.27:
            return self.map()
        return self.accumulate()

    def chunks(self):
        """Only alone or as a callback: within others Celery gives its parts none of the ids by which those wait for it."""
        label = self.label()
        items = [[f"{label} {n}"] for n in range(self.random.randrange(1, 6))]
        return chunks(app.signature("probe.echo"), items, 2, app=app)

    def linked(self, sig, depth):
        """Callbacks and errbacks, sometimes several."""
        while self.now_and_then(0.15):
            sig.link(self.chunks() if self.now_and_then(0.1) else self.any(min(depth, 1)))
        while self.now_and_then(0.15):
            sig.link_error(self.errback())
        return sig

    def errback(self):
        """No chain and no map: Celery takes those for functions that want the exception, which no message can hold."""
        kind = self.random.random()
        if kind < 0.6:
            return self.accumulate()
        if kind < 0.8:
            return self.special()
        members = [self.accumulate(), self.task()]
        return group(members) if kind < 0.9 else chord(members, self.accumulate())

    def many(self, depth, least):
        return [self.any(depth - 1) for _ in range(self.random.randrange(least, 4))]

    def apart(self, tasks):
        """No group right after a group: Celery gives such tasks new ids after it has told the first ones, and starts what
        follows a chord whose body is a group once for each task of that body."""
        parted = []
        for task in tasks:
            if parted and is_group_at(-1, parted[-1]) and is_group_at(0, task):
                parted.append(self.task())
            parted.append(task)
        return parted

    def any(self, depth):
        kind = self.random.random()
        if depth > 0 and kind < 0.05:
            sig = self.replaced(depth - 1)
        elif depth <= 0 or kind < 0.3:
            sig = self.task()
        elif kind < 0.55:
            sig = chain(*self.apart(self.many(depth, 2)))
        elif kind < 0.75:
            sig = group(self.many(depth, 1))
        else:
            sig = chord(self.many(depth, 1), self.any(depth - 1))
        return self.linked(sig, depth - 1)

    def workflow(self):
        return self.chunks() if self.now_and_then(0.04) else self.any(3)


def note(labels, headers, body):
    """Which label has which id: of what is sent, and of all signatures within."""
    if headers.get("shadow"):
        labels[headers["id"]] = headers["shadow"]
    left = [json.loads(dumps(body))]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            options = value.get("options")
            if isinstance(options, dict) and "task_id" in options and "shadow" in options:
                labels[options["task_id"]] = options["shadow"]
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def waiting():
    """How many messages nobody has taken yet."""
    with app.connection_or_acquire() as connection:
        try:
            return connection.default_channel.queue_declare("celery", passive=True).message_count
        except ChannelError:
            # An empty queue of Redis is none.
            return 0


def told(result, is_outermost=True):
    """What the client was told, without the ids of groups within: Celery shows those of an earlier freezing, which nothing has
    then. (With our worker there is something.)"""
    if result is None:
        return None
    (identity, parent), within = result
    if within is not None:
        within = [told(each, False) for each in within]
        identity = identity if is_outermost else "a group"
    return [[identity, told(parent, False)], within]


def without_process(value):
    """Signatures that were not sent, without the process of a worker that made them, and without ids that are null."""
    value.pop("reply_to", None)
    return {key: each for key, each in value.items() if each is not None or key not in ("root_id", "parent_id")}


def stored():
    """What is stored of each task, without what differs from run to run."""
    found = {}
    for key in app.backend.client.scan_iter("celery-task-meta-*", count=1000):
        meta = json.loads(app.backend.client.get(key), object_hook=without_process)
        for name in ("date_done", "traceback", "worker"):
            meta.pop(name, None)
        found[meta.pop("task_id")] = meta
    return found


def is_received(event):
    return event["type"] == "task-received"


def wait(monitor):
    """Until no message waits, no task runs, and nothing is heard or stored for a while."""
    end = time.monotonic() + LIMIT
    before, since = None, time.monotonic()
    while True:
        assert monitor.failed is None, monitor.failed
        events = [event for event in list(monitor.events) if event["type"].startswith("task-")]
        running = Counter(event["uuid"] for event in events if is_received(event) and not event["name"].endswith(REPLACED))
        running -= Counter(event["uuid"] for event in events if event["type"] in ENDS)
        now = (waiting(), len(+running), len(events), app.backend.client.dbsize())
        if now != before:
            before, since = now, time.monotonic()
        if now[:2] == (0, 0) and events and time.monotonic() > since + QUIET:
            return
        assert time.monotonic() < end, f"it does not come to an end: {now[:3]}"
        time.sleep(0.1)


def members(children):
    """The ids of the tasks in result tuples."""
    for (identity, _), within in children or []:
        yield identity
        yield from members(within)


def happened(monitor, labels):
    """What is stored and what was heard of each task."""
    tasks = {identity: {"stored": meta} for identity, meta in stored().items()}
    note(labels, {}, [task["stored"] for task in tasks.values()])
    for event in monitor.events:
        if not event["type"].startswith("task-"):
            continue
        task = tasks.setdefault(event["uuid"], {})
        # The parent process of a Python worker and its child do not agree on an order.
        task["events"] = sorted([*task.get("events", []), event["type"]])
        if is_received(event):
            received = {field: event[field] for field in ("name", "root_id", "parent_id", "retries")}
            task["received"] = sorted([*task.get("received", []), received], key=turn)
    for identity, task in tasks.items():
        for received in task.get("received", []):
            if LABEL.match(received["name"]):
                labels[identity] = received["name"]
    return tasks


def turn(received):
    """The order of the messages of one task; events of several workers may come in another one."""
    name = received["name"]
    return received["retries"], not name.endswith(REPLACED), len(name), name


def settle(tasks):
    """Takes out what depends on who was last.

    The body of a chord is started by whichever header task ends last, which is its parent, and whose root it has. (The end
    of that task was stored before: so the body is not one of the children that are stored, as callbacks are.) Where the
    header failed, the body's error is stored by that task, too, as if the body were itself: with its children.
    """
    stored = {identity: task.get("stored", {}) for identity, task in tasks.items()}
    children = {identity: set(members(meta.get("children"))) for identity, meta in stored.items()}
    ended = {identity for identity, task in tasks.items() if not ENDS.isdisjoint(task.get("events", []))}
    of_those_that_ended = {child for identity in ended for child in children[identity]}
    roots = {identity: task["received"][0]["root_id"] for identity, task in tasks.items() if "received" in task}
    for identity, meta in stored.items():
        if meta.get("children") and identity not in ended:
            meta["children"] = [child for child in meta["children"] if of_those_that_ended.isdisjoint(members([child]))]
        for each in (*tasks[identity].get("received", []), meta):
            parent = each.get("parent_id")
            if parent and each.get("root_id") == roots.get(parent):
                each["root_id"] = "that of its parent"
            if stored.get(parent, {}).get("status") == "SUCCESS" and identity not in {parent, *children[parent]}:
                each["parent_id"] = f"the last one of {stored[parent].get('group_id')}"


def renamed(text, names):
    return ID.sub(lambda found: names.get(found[0], "?"), text)


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def named(facts, labels):
    """The facts with a name for each id: its label, and a number. Only ids of which the very same is said have one name."""
    texts = {fact: fact + json.dumps(value, sort_keys=True) for fact, value in facts.items()}
    said = {}
    for text in texts.values():
        for each in set(ID.findall(text)):
            said.setdefault(each, []).append(text)
    # What has no label, as a group, is called after what has one: best after a member.
    in_group = {}
    for fact, value in facts.items():
        if fact in labels:
            in_group.setdefault(value.get("stored", {}).get("group_id"), []).append(labels[fact])
    called = {
        each: labels.get(each)
        or "of " + min(in_group.get(each) or LABEL.findall(renamed(" ".join(said[each]), labels)), default="none")
        for each in said
    }
    names = called
    for _ in range(ROUNDS):
        names = {
            each: digest([called[each], sorted(renamed(text, {**names, each: "this"}) for text in said[each])])
            for each in said
        }
    alike = {}
    for each in sorted(said, key=names.get):
        alike.setdefault(called[each], {}).setdefault(names[each], []).append(each)
    for label, different in alike.items():
        for number, ids in enumerate(different.values()):
            names.update({each: f"{label}/{number}" if number else label for each in ids})
    came = {}
    for fact, value in facts.items():
        came.setdefault(names.get(fact, fact), []).append(json.loads(renamed(json.dumps(value), names)))
    return {fact: sorted(values, key=digest) for fact, values in came.items()}


def counts(tasks, results):
    """How much there was to compare."""
    stored = [task["stored"] for task in tasks.values() if "stored" in task]
    told = set(ID.findall(json.dumps([results, [meta.get("children") for meta in stored]])))
    groups = {meta.get("group_id") for meta in stored}
    heard = Counter(kind for task in tasks.values() for kind in task.get("events", []))
    return {
        "tasks": len(tasks),
        "failures": sum(meta["status"] == "FAILURE" for meta in stored),
        "chord errors": sum(meta["status"] == "FAILURE" and meta["result"]["exc_type"] == "ChordError" for meta in stored),
        "never run": len(told - groups - set(tasks)),
        "replaced": sum(each["name"].endswith(REPLACED) for task in tasks.values() for each in task.get("received", [])),
        **heard,
    }


def main(seed, number):
    """Everything about each workflow, and how much that is."""
    labels, monitor = {}, Monitor()
    signals.before_task_publish.connect(lambda headers, body, **_: note(labels, headers, body), weak=False)
    results = {}
    for each in range(seed, seed + number):
        results[f"w{each}.0"] = told(Generator(each).workflow().apply_async().as_tuple())
    wait(monitor)
    tasks = happened(monitor, labels)
    settle(tasks)
    workflows = {}
    for fact, values in named({**tasks, **results}, labels).items():
        label = LABEL.search(fact + json.dumps(values))
        workflows.setdefault(label[0].split(".")[0] if label else "?", {})[fact] = values
    return {"workflows": workflows, "counts": counts(tasks, results)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
