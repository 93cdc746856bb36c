"""What monitors hear of workers: `events.py FUNCTION ARGUMENT…`."""

import atexit
import json
import os
import re
import subprocess
import sys
import threading
import time

import expect
from celery.events.state import State
from proj import app

#: What differs from run to run, or from machine to machine.
VOLATILE = {
    "timestamp",
    "local_received",
    "clock",
    "pid",
    "uuid",
    "root_id",
    "hostname",
    "runtime",
    "traceback",
    "state",
}
ENDS = {"task-succeeded", "task-failed", "task-retried", "task-rejected", "task-revoked"}


class Monitor:
    """Hears all events from now on, in their order."""

    def __init__(self):
        self.events, self.state, self.ready, self.failed = [], State(), threading.Event(), None
        self.content_types = set()
        threading.Thread(target=self.hear, daemon=True).start()
        assert self.ready.wait(60)

    def hear(self):
        def take(event):
            self.events.append(event)
            self.state.event(event)

        try:
            if command := os.environ.get("TEST_MONITOR"):
                return self.hear_through(json.loads(command), take)
            with app.connection_for_read() as connection:
                receiver = app.events.Receiver(connection, handlers={"*": take})
                receive = receiver._receive

                def look(body, message, **options):
                    self.content_types.add(message.content_type)
                    receive(body, message, **options)

                receiver._receive = look
                receiver.on_consume_ready = lambda *args, **options: self.ready.set()
                receiver.capture(limit=None, timeout=None, wakeup=False)
        except BaseException as error:
            self.failed = error
            raise

    def hear_through(self, command, take):
        """Hears what our own monitor prints."""
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as monitor:
            atexit.register(monitor.kill)
            self.ready.set()
            for line in monitor.stdout:
                take({**json.loads(line), "local_received": time.time()})
        raise AssertionError("the monitor ended")

    def of(self, uuid):
        return [event for event in list(self.events) if event.get("uuid") == uuid]

    def types(self, uuid):
        return [event["type"] for event in self.of(uuid)]

    def of_worker(self, hostname, kind):
        return [event for event in list(self.events) if event["hostname"] == hostname and event["type"] == kind]

    def wait(self, what, fact):
        end = time.monotonic() + 60
        while not fact():
            assert self.failed is None, self.failed
            seen = [(event["type"], event.get("uuid"), event["hostname"]) for event in self.events[-40:]]
            assert time.monotonic() < end, (what, seen)
            time.sleep(0.02)


def shape(value, own):
    """A value without what is of this run alone: a moment in time is one, whenever it is."""
    if value == own:
        return "the task itself"
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", value):
        return "a time"
    return value


def compare():
    """The same tasks on the queues of a real Celery worker and of ours: the same events, field by field, in the same order."""
    monitor = Monitor()
    alive = lambda: {worker.hostname for worker in monitor.state.alive_workers()}  # noqa: E731
    monitor.wait("both are alive", lambda: {"ours@test", "theirs@test"} <= alive())
    cases = [
        ("arithmetic.add", [2, 3], {}, 3),
        ("probe.echo", [{"a": [1.5, None, "x" * 2000]}], {}, 3),
        ("probe.fail", ["boom"], {}, 3),
        # Without a pause Celery's retry is received before it is told of. The keys of its result are in another order.
        ("probe.retry", [1, 1], {}, 6),
        ("probe.reject", ["no thanks"], {}, 3),
        ("probe.late_fail", [], {}, 4),
        ("probe.requeue", [], {}, 6),
        ("probe.ignore", [], {}, 2),
        ("probe.echo", ["later"], {"countdown": 0.2, "expires": 60, "shadow": "another.name"}, 3),
        ("probe.echo", ["too late"], {"expires": -5}, 1),
        ("no.such.task", [], {}, 1),
    ]
    if app.conf.broker_url.startswith("filesystem:"):
        # Kombu's files do not say that a message came before, which this task waits for.
        cases = [case for case in cases if case[0] != "probe.requeue"]
    for name, args, options, count in cases:
        seen = {}
        for queue in ("ours", "theirs"):
            uuid = app.send_task(name, tuple(args), queue=queue, **options).id
            monitor.wait((queue, name), lambda: len(monitor.of(uuid)) >= count)
            seen[queue] = monitor.of(uuid)
        same(name, seen)
    terminated(monitor)
    # Celery tells this twice, once with another exception.
    limited = app.send_task("spin.forever", time_limit=1, queue="ours").id
    monitor.wait("the limit", lambda: monitor.types(limited) == ["task-received", "task-started", "task-failed"])
    assert monitor.of(limited)[-1]["exception"] == "TimeLimitExceeded(1)"
    # Both say goodbye.
    app.control.shutdown(destination=["ours@test", "theirs@test"])
    for hostname in ("ours@test", "theirs@test"):
        monitor.wait("offline", lambda: monitor.of_worker(hostname, "worker-offline"))
    for kind in ("worker-heartbeat", "worker-offline"):
        workers(monitor.of_worker("ours@test", kind)[-1], monitor.of_worker("theirs@test", kind)[-1])
    expect.within(60, lambda: not {"ours@test", "theirs@test"} & alive())
    # Each event of ours has a time of the clock for itself.
    clocks = [event["clock"] for event in monitor.events if event["hostname"] == "ours@test"]
    assert len(clocks) == len(set(clocks)), clocks


def terminated(monitor):
    """A revoke with terminate of a task that runs."""
    seen = {}
    for queue in ("ours", "theirs"):
        uuid = app.send_task("probe.sleep", [600], queue=queue).id
        monitor.wait("started", lambda: len(monitor.of(uuid)) >= 2)
        app.control.revoke(uuid, terminate=True, signal="SIGTERM", destination=[f"{queue}@test"])
        monitor.wait("terminated", lambda: len(monitor.of(uuid)) >= 3)
        seen[queue] = monitor.of(uuid)
    same("terminated", seen)


def same(name, seen):
    ours, theirs = seen["ours"], seen["theirs"]
    if name == "probe.retry":
        # Celery may receive the retry before it tells of it.
        ours, theirs = (sorted(events, key=lambda event: event["type"] == "task-retried") for events in (ours, theirs))
    assert [event["type"] for event in ours] == [event["type"] for event in theirs], (name, ours, theirs)
    clocks = [event["clock"] for event in seen["ours"]]
    assert clocks == sorted(clocks), (name, ours)
    for left, right in zip(ours, theirs):
        assert left["hostname"] == "ours@test" and right["hostname"] == "theirs@test"
        # The monitor adds the state as it sees it, which hangs on the order.
        assert not (set(left) ^ set(right)) - {"state"}, (name, left["type"], set(left) ^ set(right))
        for field in sorted(set(left) - VOLATILE - ({"result"} if name == "probe.retry" else set())):
            same = shape(left[field], left["uuid"]) == shape(right[field], right["uuid"])
            assert same, (name, left["type"], field, left[field], right[field])
        for field in ("timestamp", "clock", "pid", "utcoffset"):
            assert type(left[field]) is type(right[field]), (name, field, left[field], right[field])
        assert abs(left["timestamp"] - left["local_received"]) < 60, left
        if "runtime" in left:
            assert type(left["runtime"]) is float and left["runtime"] > 0, left


def workers(ours, theirs):
    assert set(ours) == set(theirs), set(ours) ^ set(theirs)
    for field, value in ours.items():
        assert type(value) is type(theirs[field]), (field, value, theirs[field])
    for field in ("freq", "sw_ident", "sw_sys", "utcoffset"):
        assert ours[field] == theirs[field], (field, ours[field], theirs[field])
    assert ours["processed"] >= 10 and theirs["processed"] >= 10, (ours, theirs)
    assert all(type(load) is float for load in ours["loadavg"]) and len(ours["loadavg"]) == 3, ours


def switched():
    """Events of tasks come once they are wanted, and `task-sent` tells what a worker sends."""
    monitor = Monitor()
    monitor.wait("alive", lambda: [worker.hostname for worker in monitor.state.alive_workers()] == ["ours@test"])
    quiet = app.send_task("arithmetic.add", [1, 1])
    assert quiet.get(timeout=60) == 2
    app.control.enable_events(destination=["ours@test"], reply=True, timeout=60, limit=1)
    loud = app.send_task("arithmetic.add", [1, 2])
    monitor.wait("enabled", lambda: monitor.types(loud.id) == ["task-received", "task-started", "task-succeeded"])
    app.control.disable_events(destination=["ours@test"], reply=True, timeout=60, limit=1)
    again = app.send_task("arithmetic.add", [1, 3])
    assert again.get(timeout=60) == 4
    # What follows an event of a worker was sent after it.
    count = len(monitor.of_worker("ours@test", "worker-heartbeat"))
    monitor.wait("a heartbeat", lambda: len(monitor.of_worker("ours@test", "worker-heartbeat")) > count)
    assert monitor.types(quiet.id) == [] and monitor.types(again.id) == []


def unwanted():
    """One worker says nothing, the other everything."""
    monitor = Monitor()
    monitor.wait("alive", lambda: monitor.state.alive_workers())
    quiet = app.send_task("arithmetic.add", [1, 1], queue="quiet")
    assert quiet.get(timeout=60) == 2
    for command in (app.control.enable_events, app.control.disable_events):
        (answer,) = command(destination=["quiet@test"], reply=True, timeout=60, limit=1)
        assert answer == {"quiet@test": {"error": "event dispatcher unavailable"}}, answer
    loud = app.send_task("arithmetic.add", [1, 2], queue="ours")
    monitor.wait("ours", lambda: monitor.types(loud.id) == ["task-received", "task-started", "task-succeeded"])
    assert {event["hostname"] for event in monitor.events} == {"ours@test"}
    assert monitor.content_types == {"application/x-yaml"}, monitor.content_types


def sent():
    """A worker tells of what it sends: a callback, and a retry."""
    monitor = Monitor()
    first = app.signature("arithmetic.add", args=(1, 2), link=app.signature("arithmetic.add", args=(10,))).apply_async()
    is_sent = lambda event: event["type"] == "task-sent" and event["root_id"] == first.id  # noqa: E731
    monitor.wait("task-sent", lambda: any(is_sent(event) for event in list(monitor.events)))
    (event,) = [event for event in monitor.events if is_sent(event)]
    expected = {
        "name": "arithmetic.add",
        "args": "(3, 10)",
        "kwargs": "{}",
        "parent_id": first.id,
        "retries": 0,
        "eta": None,
        "expires": None,
        "queue": "celery",
        "routing_key": "celery",
    }
    assert {name: event[name] for name in expected} == expected, event
    assert re.fullmatch(r"gen\d+@.*", event["hostname"]), event
    monitor.wait("received", lambda: "task-received" in monitor.types(event["uuid"]))
    retried = app.send_task("probe.retry", [1, 0]).id
    ends = ["task-received", "task-started", "task-retried", "task-received", "task-started", "task-succeeded"]
    monitor.wait("retried", lambda: sorted(monitor.types(retried)) == sorted([*ends, "task-sent"]))
    (event,) = [event for event in monitor.of(retried) if event["type"] == "task-sent"]
    expected = {"name": "probe.retry", "retries": 1, "root_id": retried, "queue": "celery"}
    assert {name: event[name] for name in expected} == expected, event


def collect(file, number):
    """Writes to a file that it listens; then hears so many tasks to their end, each event once."""
    monitor = Monitor()
    monitor.wait("alive", lambda: monitor.state.alive_workers())
    with open(file, "w", encoding="utf-8") as told:
        told.write("listening")
    end = time.monotonic() + 150
    succeeded = lambda: [e["uuid"] for e in list(monitor.events) if e["type"] == "task-succeeded"]  # noqa: E731
    while len(succeeded()) < int(number):
        assert time.monotonic() < end, succeeded()
        time.sleep(0.05)
    for uuid in succeeded():
        assert monitor.types(uuid) == ["task-received", "task-started", "task-succeeded"], monitor.of(uuid)
    monitor.wait("online again", lambda: monitor.of_worker("ours@test", "worker-online"))


def cannot_go_on():
    """What follows a task makes no sense."""
    monitor = Monitor()
    monitor.wait("alive", lambda: monitor.state.alive_workers())
    link = app.signature("arithmetic.add", options={"countdown": "soon"})
    result = app.send_task("arithmetic.add", (1, 2), link=link)
    monitor.wait("told", lambda: len(monitor.of(result.id)) >= 3)
    assert monitor.types(result.id) == ["task-received", "task-started", "task-failed"], monitor.of(result.id)
    assert monitor.of(result.id)[-1]["exception"].startswith("ValueError("), monitor.of(result.id)
    expect.raises(ValueError, lambda: result.get(timeout=60))


def elect(number):
    """Lets all workers choose who sends a task, which ours runs."""
    for each in range(int(number)):
        action = {"task": "probe.echo", "args": [each], "options": {"queue": "ours@test"}}
        app.control.election(f"e{each}", "task", action)
        time.sleep(0.5)


def heard(*nodes):
    """Everybody who listens has heard of these nodes."""
    monitor = Monitor()
    for node in nodes:
        monitor.wait(node, lambda: len(monitor.of_worker(node, "worker-heartbeat")) >= 3)


def hostile():
    """Events that make no sense, of nobody and of everybody."""
    with app.connection_for_write() as connection, connection.Producer() as producer:
        exchange = app.events.Receiver(connection).exchange

        def publish(body, key="worker.heartbeat", **options):
            producer.publish(body, exchange=exchange, routing_key=key, declare=[exchange], **options)

        raw = {"content_type": "application/json", "content_encoding": "utf-8"}
        for body in (b"", b"\xff", b"[" * 100_000, b"{", b"null", b"[1, [2], {}]", b"x" * 2_000_000):
            publish(body, **raw)
        beat = {"type": "worker-heartbeat", "hostname": "h", "clock": 1, "freq": 2.0, "timestamp": 1.0, "pid": 1}
        for change in (
            {"hostname": None},
            {"hostname": "x" * 100_000},
            {"hostname": ""},
            {"freq": -1},
            {"freq": 1e308},
            {"freq": "2"},
            {"clock": 2**62},
            {"clock": -1},
            {"clock": "x"},
            {"type": 7},
            {"type": "worker-elect"},
            {"type": "worker-elect", "id": {}, "topic": [], "action": None, "cver": 1},
            {"type": "worker-elect", "id": "e", "topic": "task", "action": {"x": "y" * 900_000}, "cver": 1},
            {"type": "worker-elect-ack"},
            {"type": "worker-elect-ack", "id": "nobody's"},
        ):
            publish({**beat, **change}, serializer="json")
        for number in range(3000):
            publish({**beat, "hostname": f"w{number}@nowhere", "freq": 3600}, serializer="json")
    assert app.control.ping(destination=["ours@test"], timeout=60) == [{"ours@test": {"ok": "pong"}}]
    clock = app.control.inspect(destination=["ours@test"], timeout=60).clock()["ours@test"]["clock"]
    assert clock < 2**60, clock


def revoke(uuid):
    app.control.revoke(uuid)


def revoked(node, uuid):
    """Whether a node knows it."""
    inspect = app.control.inspect(destination=[node], timeout=60)
    expect.within(60, lambda: uuid in inspect.revoked()[node])


def send(name, args, uuid):
    app.send_task(name, json.loads(args), task_id=uuid)


if __name__ == "__main__":
    function, *arguments = sys.argv[1:]
    globals()[function](*arguments)
