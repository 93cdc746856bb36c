"""What Celery itself sends for random signatures: `python canvas_messages.py SEED COUNT`.

Every workflow is sent as a client sends it, and then followed: whatever the messages hold as callbacks, chain, errbacks and
chord is applied as a worker applies it. One case a step: what went in, and the messages and chord sizes that came out.
"""

import json
import random
import sys

import celery.app.amqp
import celery.app.base
import celery.canvas
from celery import Celery, chain, chord, group
from celery._state import _task_stack
from celery.result import AsyncResult, GroupResult, ResultSet
from kombu.utils.json import dumps, loads

app = Celery("oracle", broker="memory://", backend="redis://127.0.0.1:1")
app.set_current()
steps = []
count = 0


def uuid():
    global count
    count += 1
    return f"u-{count}"


celery.canvas.uuid = uuid
celery.app.base.uuid = uuid
AsyncResult.then = lambda self, *args, **kwargs: None
ResultSet.then = lambda self, *args, **kwargs: None
backend = app.backend
backend.on_task_call = lambda *args, **kwargs: None
backend.set_chord_size = lambda group_id, size: steps.append({"size": [group_id, size]})


def apply_chord(header_result_args, body, **kwargs):
    result = GroupResult(*header_result_args)
    if any(isinstance(member, GroupResult) for member in result.results):
        steps.append({"save": [result.id, loads(dumps(result.as_tuple()))]})


backend.apply_chord = apply_chord


def send_task_message(producer, name, message, **options):
    body = loads(dumps(message.body))
    headers = loads(dumps(message.headers))
    steps.append({"publish": {"headers": headers, "body": body, "priority": options.get("priority"),
                              "queue": getattr(options.get("queue"), "name", None)}})


app.amqp.send_task_message = send_task_message


@app.task(name="oracle.host", bind=True)
def host(self):
    pass


def within(sender, act):
    """Does something as a client, or as the worker that runs the task `sender`."""
    steps.clear()
    if sender is None:
        result, children = act(), None
    else:
        host.push_request(called_directly=False, delivery_info={}, **sender)
        _task_stack.push(host)
        try:
            result = act()
            children = loads(dumps([child.as_tuple() for child in host.request.children]))
        finally:
            _task_stack.pop()
            host.pop_request()
    result = None if result is None else loads(dumps(result.as_tuple()))
    return {"sender": sender, "steps": loads(dumps(steps)), "result": result, "children": children}


class Generator:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def task(self):
        number = self.random.randrange(100)
        sig = app.signature(self.random.choice(["t.add", "t.mul", "t.sub"]), (number,))
        if self.random.random() < 0.15:
            sig = sig.set(immutable=True)
        if self.random.random() < 0.1:
            sig = sig.set(queue="other", priority=self.random.randrange(9))
        if self.random.random() < 0.1:
            sig = sig.set(stamped_headers=["mark"], mark=number)
        return sig

    def links(self, sig):
        if self.random.random() < 0.12:
            sig.link(self.any(0))
        if self.random.random() < 0.12:
            sig.link_error(self.task())
        return sig

    def many(self, depth, least=1):
        return [self.any(depth - 1) for _ in range(self.random.randrange(least, 4))]

    def apart(self, tasks):
        """No group right after a group: Celery gives such tasks new ids after it has told the first ones."""
        parted = []
        for task in tasks:
            if parted and isinstance(parted[-1], group) and isinstance(task, group):
                parted.append(self.task())
            parted.append(task)
        return parted

    def any(self, depth=3):
        kind = self.random.random()
        if depth <= 0 or kind < 0.35:
            return self.links(self.task())
        if kind < 0.6:
            sig = chain(*self.apart(self.many(depth, 2)))
            return self.links(sig) if isinstance(sig, celery.canvas._chain) else sig
        if kind < 0.8:
            return group(self.many(depth))
        if kind < 0.96:
            return self.links(chord(self.many(depth), self.any(depth - 1)))
        items = [[n, n] for n in range(self.random.randrange(1, 6))]
        sig = app.signature("t.add")
        return self.random.choice([
            celery.canvas.xstarmap(sig, items, app=app),
            celery.canvas.chunks(sig, items, 2, app=app),
        ])


def plain(signature):
    return loads(dumps(signature))


def refused(error):
    """What Celery refuses, or cannot do, is no case."""
    return {"error": f"{type(error).__name__}: {error}"}


def case(signature, args, options, sender):
    given = plain(signature)
    try:
        came = within(sender, lambda: celery.canvas.signature(plain(given), app=app).apply_async(tuple(args), **options))
    except Exception as error:  # pylint: disable=broad-except
        came = refused(error)
    return {"signature": given, "args": args, "options": plain(options), **came}


def follow(message, cases, left):
    """Applies what the message holds, as the worker does that ran its task."""
    headers, (_, _, embed) = message["headers"], message["body"]
    sender = {"id": headers["id"], "root_id": headers["root_id"]}
    options = {"parent_id": headers["id"], "root_id": headers["root_id"]}
    todo = [(callback, [7], options) for callback in embed["callbacks"] or []]
    if embed["chain"]:
        todo.append((embed["chain"][-1], [7], {**options, "chain": embed["chain"][:-1]}))
    if embed["chord"] and headers["group_index"] == 0:
        todo.append((embed["chord"], [[7, 7]], {}))
    for signature, args, options in todo:
        if left[0] <= 0:
            return
        left[0] -= 1
        one = case(signature, args, options, sender)
        cases.append(one)
        for step in one.get("steps", []):
            if "publish" in step:
                follow(step["publish"], cases, left)


def main(seed, number):
    cases = []
    for each in range(seed, seed + number):
        signature = Generator(each).any()
        one = case(signature, [1, 2] if each % 2 else [], {}, None)
        one["seed"] = each
        cases.append(one)
        for step in one.get("steps", []):
            if "publish" in step:
                follow(step["publish"], cases, [12])
    print(json.dumps(cases))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
