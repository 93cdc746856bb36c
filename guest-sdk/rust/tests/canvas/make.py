"""Makes signatures.jsonl: what Celery 5.7 makes of these canvases. Run as `python make.py > signatures.jsonl`.

A line is [name, signature]. ../canvas.rs makes the same ones.
"""

import json
import warnings

from celery import Celery, chain, chord, group, signature

warnings.simplefilter("ignore")
app = Celery("proj", set_as_current=True)


@app.task(name="proj.add")
def add(x, y):
    return x + y


def linked(sig):
    sig.link(add.s(10))
    sig.link(add.s(11))
    sig.link_error(add.si(12))
    return sig


def cases():
    yield "task", add.s(2, 2)
    yield "one argument", add.s(4)
    yield "no argument", add.s()
    yield "a list as the argument", add.s([1, 2])
    yield "immutable", add.si(1, 2)
    yield "by name", signature("other.task", args=(1,), kwargs={"y": "z"})
    yield "options", add.s(1).set(countdown=3, expires=1.5, queue="q", priority=4, time_limit=30, soft_time_limit=20)
    yield "more options", add.s(1).set(exchange="x", routing_key="k", task_id="t", eta="2030-01-01T00:00:00", shadow="s")
    yield "linked", linked(add.s(1))
    yield "chain", chain(add.s(2, 2), add.s(4), add.s(8))
    yield "chain of one", chain([add.s(1)])
    yield "pipe", add.s(2, 2) | add.s(4) | add.s(8)
    yield "chain of chains", chain(add.s(1), chain(add.s(2), add.s(3)), add.s(4))
    yield "pipe of chains", (add.s(1) | add.s(2)) | (add.s(3) | add.s(4))
    yield "group", group(add.s(1, 1), add.s(2, 2))
    yield "group of one", group([add.s(1, 1)])
    yield "empty group", group([])
    yield "chord", chord([add.s(1, 1), add.s(2, 2)], add.s(3))
    yield "chord of one chain", chord([chain(add.s(1, 1), add.s(2))], add.s(3))
    yield "chord of a group", chord(group(add.s(1, 1), add.s(2, 2)), add.s(3))
    yield "group then task", group(add.s(1, 1), add.s(2, 2)) | add.s(3)
    yield "group then group", group(add.s(1), add.s(2)) | group(add.s(3), add.s(4))
    yield "group then nothing", group(add.s(1), add.s(2)) | group([])
    yield "task then group", add.s(1, 1) | group(add.s(2), add.s(3))
    yield "task, group, task", chain(add.s(1, 1), group(add.s(2), add.s(3)), add.s(4))
    yield "task, group, task, task", chain(add.s(1, 1), group(add.s(2), add.s(3)), add.s(4), add.s(5))
    yield "task, group, group", chain(add.s(1, 1), group(add.s(2), add.s(3)), group(add.s(4), add.s(5)))
    yield "task, group of one, task", chain(add.s(1, 1), group([add.s(2)]), add.s(4))
    yield "task, empty group, task", chain(add.s(1, 1), group([]), add.s(4))
    yield "chain of a group", chain([group(add.s(1), add.s(2))])
    yield "group, task as chain", chain(group(add.s(1), add.s(2)), add.s(3))
    yield "chord then task", chord([add.s(1, 1)], add.s(2)) | add.s(3)
    yield "chord then group", chord([add.s(1, 1)], add.s(2)) | group(add.s(3), add.s(4))
    yield "chain, chord, task", chain(add.s(0), chord([add.s(1, 1)], add.s(2)), add.s(3))
    yield "chain, chord, chord", chain(add.s(0), chord([add.s(1)], add.s(2)), chord([add.s(3)], add.s(4)))
    yield "linked group", linked(group(add.s(1), add.s(2)))
    yield "linked chain", linked(chain(add.s(1), add.s(2)))
    yield "linked chord", linked(chord([add.s(1), add.s(2)], add.s(3)))
    yield "linked chain in a chain", chain(linked(chain(add.s(1), add.s(2))), add.s(3))
    yield "map", add.map([1, 2])
    yield "starmap", add.starmap([(1, 2), (3, 4)])
    yield "chunks", add.chunks([(1, 2), (3, 4)], 1)
    yield "nested", group(chain(add.s(1, 1), add.s(2)), chord([add.s(3, 3), group(add.s(4, 4), add.s(5, 5))], add.s(6)))


if __name__ == "__main__":
    for name, sig in cases():
        print(json.dumps([name, json.loads(json.dumps(sig))]))
