"""The Celery app of the interop tests, configured by the environment alone.

A client needs only `app`. The tasks below have the names, the arguments and the endings of the components in `tasks/` and
`tests/guests/`, so that a real Celery worker can stand beside celerybox, or in its place, in every test.
"""

import builtins
import json
import os
import time

import celery.contrib.testing.tasks  # noqa: F401  (celery.ping)
from celery import Celery
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

app = Celery("proj", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    result_expires=600,
    worker_hijack_root_logger=False,
)
if app.conf.broker_url.startswith("filesystem:"):
    # The folders of celerybox's embedded default.
    folders = {name: os.path.join(os.environ["TEST_DATA_DIR"], name) for name in ("queue", "control", "processed")}
    for folder in folders.values():
        os.makedirs(folder, exist_ok=True)
    app.conf.broker_transport_options = {
        "data_folder_in": folders["queue"],
        "data_folder_out": folders["queue"],
        "control_folder": folders["control"],
        "processed_folder": folders["processed"],
        "store_processed": True,
    }
for name, value in json.loads(os.environ.get("TEST_SETTINGS", "{}")).items():
    app.conf[name] = value


@app.task(name="arithmetic.add")
def add(x, y):
    return x + y


@app.task(name="arithmetic.mul")
def mul(x, y):
    return x * y


@app.task(name="arithmetic.tsum")
def tsum(numbers):
    return sum(numbers)


@app.task(name="spin.forever")
def forever():
    while True:
        pass


@app.task(name="probe.echo")
def echo(value):
    return value


@app.task(name="probe.sleep")
def sleep(seconds):
    time.sleep(seconds)
    return seconds


@app.task(name="probe.late", acks_late=True)
def late(seconds):
    time.sleep(seconds)
    return seconds


@app.task(name="probe.fail")
def fail(message):
    raise ValueError(message, 7)


@app.task(name="probe.progress", bind=True)
def progress(self, steps, delay):
    """Waits first, so that the client has subscribed before there is something to hear."""
    time.sleep(delay)
    for step in range(steps):
        self.update_state(state="PROGRESS", meta={"done": step, "of": steps})
    return steps


@app.task(name="probe.request", bind=True)
def request(self):
    names = ("id", "task", "args", "kwargs", "retries", "root_id", "parent_id", "correlation_id", "hostname")
    return {name: getattr(self.request, name) for name in names}


@app.task(name="probe.retry", bind=True)
def retry(self, until, countdown):
    """Asks for a retry until it has been retried `until` times; at most 3."""
    if self.request.retries < until:
        raise self.retry(exc=KeyError(f"attempt {self.request.retries}"), countdown=countdown, max_retries=3)
    return {"retries": self.request.retries, "id": self.request.id}


@app.task(name="probe.soft")
def soft():
    """Works until it is told that its soft limit has passed, then ends in good order."""
    try:
        while True:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        return "ended in good order"


@app.task(name="probe.soft_uncaught")
def soft_uncaught():
    while True:
        time.sleep(0.01)


@app.task(name="probe.reject")
def reject(reason):
    raise Reject(reason, requeue=False)


@app.task(name="probe.ignore", bind=True)
def ignore(self):
    self.update_state(state="BY_HAND", meta={"kept": True})
    raise Ignore()


@app.task(name="probe.switch", bind=True)
def switch(self, x=0, y=0, args=None, kwargs=None):
    """Asks for one retry with new positional (`args`) or keyword (`kwargs`) arguments; what is not replaced is inherited."""
    if self.request.retries > 0:
        return [x, y]
    raise self.retry(args=args, kwargs=kwargs, countdown=0)


@app.task(name="probe.exhausted", bind=True, max_retries=1, default_retry_delay=0)
def exhausted(self):
    raise self.retry()


@app.task(
    name="probe.auto",
    bind=True,
    max_retries=2,
    autoretry_for=(ConnectionError, LookupError),
    dont_autoretry_for=(KeyError,),
    retry_kwargs={"countdown": 0},
)
def auto(self, exc_type):
    if self.request.retries == 2:
        return 2
    raise getattr(builtins, exc_type)(f"try {self.request.retries}")


@app.task(name="probe.limited", rate_limit="2/s")
def limited(value):
    return value


@app.task(name="probe.late_fail", acks_late=True, acks_on_failure=False)
def late_fail():
    raise ValueError("refused")


@app.task(name="probe.late_timeout", bind=True, acks_late=True, acks_on_timeout=False, time_limit=1)
def late_timeout(self):
    if not self.request.delivery_info["redelivered"]:
        time.sleep(600)
    return "again"


@app.task(name="probe.requeue", bind=True, acks_late=True)
def requeue(self):
    if not self.request.delivery_info["redelivered"]:
        raise Reject("once more", requeue=True)
    return "again"


@app.task(name="probe.soft_ignored")
def soft_ignored(seconds):
    try:
        time.sleep(seconds)
        return False
    except SoftTimeLimitExceeded:
        time.sleep(0.05)
        return True


@app.task(name="sender.replace", bind=True)
def replace(self, signature, end):
    """Lets the signature take its place; the component of this name can do more (`end`)."""
    assert end == "replaced", end
    raise self.replace(app.signature(json.loads(signature)))
