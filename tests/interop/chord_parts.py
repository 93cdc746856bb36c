"""Celery's own Redis backend as one that counts parts of a chord. The last line of output is JSON."""

import json
import sys

from celery import signature
from celery.app.task import Context
from proj import app


def request(group, task_id, index, body):
    return Context(id=task_id, group=group, group_index=index, chord=body, delivery_info={}, root_id=task_id)


def begin(group, size):
    app.backend.set_chord_size(group, int(size))


def add(group, task_id, index, value, body_id="body", body_name="probe.echo"):
    """Counts a part; the one that completes the chord sends the body."""
    body = dict(signature(body_name, app=app, options={"task_id": body_id, "group_id": group}))
    app.backend.on_chord_part_return(
        request(group, task_id, int(index), body), "SUCCESS", json.loads(value)
    )


name, *arguments = sys.argv[1:]
print(json.dumps(globals()[name](*arguments)))
