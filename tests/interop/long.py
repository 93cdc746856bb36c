"""Sends many tasks with random options, for the long test (`tests/it/long.rs`).

`python long.py NUMBER SEED FILE`: one line of JSON for each message that was sent, as soon as it was: id, task, whether a
state is to be expected and which. Where it is not known whether a message arrived, another one is sent as a new task, and
nothing is expected of the first: Celery's own way, to send the same message again, makes two of one.
"""

import json
import random
import signal
import sys

from proj import app

#: Seconds that the broker may take for anything.
PATIENCE = 20

#: task, arguments, options, the state in which it has to end (None: nothing is stored), acknowledged late?
KINDS = [
    ("arithmetic.add", [2, 3], {}, "SUCCESS", False),
    ("arithmetic.add", [2, 3], {"ignore_result": True}, None, False),
    ("arithmetic.add", [2], {}, "FAILURE", False),
    ("probe.echo", ["x" * 2000], {}, "SUCCESS", False),
    ("probe.sleep", [0.02], {}, "SUCCESS", False),
    ("probe.late", [0.0], {}, "SUCCESS", True),
    ("probe.late", [0.02], {}, "SUCCESS", True),
    ("probe.retry", [1, 0.5], {}, "SUCCESS", False),
    ("probe.fail", ["no"], {}, "FAILURE", False),
]


def options(choice):
    """Options that do not change how the task ends."""
    if choice.random() < 0.1:
        yield "countdown", round(choice.uniform(0.1, 5), 1)
    if choice.random() < 0.3:
        yield "priority", choice.randrange(10)
    if choice.random() < 0.2:
        yield "expires", 3600
    if choice.random() < 0.2:
        yield "time_limit", 60
    if choice.random() < 0.2:
        yield "compression", choice.choice(["gzip", "bzip2", "lzma"])
    if choice.random() < 0.2:
        yield "shadow", "another name"
    if choice.random() < 0.2:
        yield "headers", {"x-mine": [1, {"deep": None}]}


def connect_again():
    """Waits for the broker, and leaves the connections that are gone."""
    app._pool = app.amqp._producer_pool = None
    while True:
        signal.alarm(PATIENCE)
        try:
            with app.connection() as connection:
                connection.ensure_connection(interval_start=0.2, interval_step=0.2, interval_max=1)
            return
        except Exception as error:
            print(f"not connected: {error!r}", file=sys.stderr)


def too_late(*_):
    """A server that is just starting may take a connection and never answer."""
    raise TimeoutError("the broker does not answer")


def main(number, seed, path):
    choice = random.Random(seed)
    if app.conf.broker_url.startswith("amqp"):
        # Or else what RabbitMQ had not read when it stopped would count as sent.
        app.conf.broker_transport_options = {"confirm_publish": True}
    signal.signal(signal.SIGALRM, too_late)
    with open(path, "w") as file:
        for _ in range(number):
            name, args, fixed, state, late = choice.choice(KINDS)
            more = dict(options(choice))
            while True:
                task_id = f"{seed}-{random.getrandbits(96):024x}"
                signal.alarm(PATIENCE)
                try:
                    app.send_task(name, args, task_id=task_id, retry=False, **fixed, **more)
                except Exception as error:
                    print(f"not sent: {error!r}", file=sys.stderr)
                    connect_again()
                    continue
                break
            file.write(json.dumps({"id": task_id, "task": name, "state": state, "late": late}) + "\n")
            file.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
