"""What an old Python client sees of the worker: `old.py VERSION PROTOCOL`, run by the environment of that version.

Of `proj.py` only the app can be had here: the client knows the tasks by name.
"""

import inspect
import os
import sys
import time
from datetime import datetime, timedelta

for name in ("getargspec", "formatargspec"):
    # vine 1.3, which Celery 4.4 stands on, imports both and calls neither; Python 3.11 has them no more.
    if not hasattr(inspect, name):
        setattr(inspect, name, inspect.getfullargspec)

import celery
from celery import Celery, group, states
from celery.exceptions import NotRegistered, TaskRevokedError

LIMIT = 60
version, protocol = sys.argv[1], int(sys.argv[2])
assert celery.__version__ == version, celery.__version__
app = Celery("old", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(task_protocol=protocol, result_expires=600)


def call(name, *args, **options):
    return app.send_task(name, args, **options)


def raises(kind, result):
    try:
        value = result.get(timeout=LIMIT)
    except kind as error:
        return error
    raise AssertionError("no {} but {!r}".format(kind, value))


result = call("arithmetic.add", 2, 3)
assert result.get(timeout=LIMIT) == 5 and result.state == states.SUCCESS
assert app.send_task("arithmetic.add", [40], {"y": 2}).get(timeout=LIMIT) == 42
for value in (None, 2**80, "\u00fcn\u00efc\u00f6d\u00e9", {"a": [1.5, {"b": []}]}, "x" * 100000):
    assert call("probe.echo", value).get(timeout=LIMIT) == value
for compression in ("gzip", "bzip2"):
    assert call("probe.echo", "x" * 5000, compression=compression).get(timeout=LIMIT) == "x" * 5000

failed = call("probe.fail", "no such colour")
error = raises(ValueError, failed)
assert type(error) is ValueError and error.args == ("no such colour", 7), error.args
assert failed.state == states.FAILURE and "Traceback" in failed.traceback
assert "missing 1 required positional argument" in str(raises(TypeError, call("arithmetic.add", 1)))
assert "no.such.task" in str(raises(NotRegistered, call("no.such.task")))

retried = call("probe.retry", 2, 0.2)
assert retried.get(timeout=LIMIT) == {"retries": 2, "id": retried.id}

start = time.time()
later = call("arithmetic.add", 1, 1, countdown=1.5)
assert later.get(timeout=LIMIT) == 2 and time.time() - start >= 1.4
past = call("arithmetic.add", 1, 1, expires=datetime.utcnow() - timedelta(seconds=5))
raises(TaskRevokedError, past)
assert past.state == states.REVOKED
assert call("arithmetic.add", 1, 1, expires=60).get(timeout=LIMIT) == 2

many = group(app.signature("arithmetic.add", (i, i)) for i in range(20))()
assert many.get(timeout=LIMIT) == [2 * i for i in range(20)]
request = call("probe.request")
assert request.get(timeout=LIMIT)["id"] == request.id
