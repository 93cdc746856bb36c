"""`python sending.py call TASK ARGS`: the task's value. `python sending.py results IDS`: the values of some ids.

`python sending.py children TASK ARGS`: the task's value and the ids of its children. `python sending.py signatures`: canvases as JSON.
"""

import json
import sys

from celery import chain, chord, group
from proj import add, app, mul, tsum

LIMIT = 90


def value(id):
    result = app.AsyncResult(id)
    try:
        return result.get(timeout=LIMIT)
    except Exception as error:  # the test says which one it expects
        return [result.state, repr(error)]


def main(what, *args):
    if what == "call":
        name, given = args
        return value(app.send_task(name, json.loads(given)).id)
    if what == "results":
        return [value(id) for id in json.loads(args[0])]
    if what == "children":
        name, given = args
        result = app.send_task(name, json.loads(given))
        answered = result.get(timeout=LIMIT)
        ids = [[child.id, [member.id for member in getattr(child, "results", [])]] for child in result.children]
        return {"value": answered, "children": ids}
    if what == "signatures":
        return {
            "task": add.s(2, 3),
            "chain": chain(add.s(2, 3), mul.s(4)),
            "group": group(add.s(1, 1), add.s(2, 2), add.s(3, 3)),
            "chord": chord([add.s(1, 1), add.s(2, 2)], tsum.s()),
        }
    raise SystemExit(f"{what} is not known")


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
