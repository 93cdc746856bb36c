"""kombu on the folder of a test: what an unmodified client or worker does there. The last line of output is JSON."""

import json
import sys

from kombu import Exchange, Producer, Queue
from proj import app


def publish(queue, count):
    """Publishes messages with the numbers from 0 as their ids, with everything that kombu can carry."""
    with app.connection_for_write() as connection:
        producer = Producer(connection)
        for n in range(int(count)):
            headers = {"id": str(n), "task": "arithmetic.add", "null": None, "nested": {"a": [1, {"b": "ä"}]}}
            producer.publish(
                [[n], {}, {}],
                serializer="json",
                headers=headers,
                exchange="",
                routing_key=queue,
                priority=4,
                correlation_id=str(n),
                reply_to="somebody",
            )


def take(queue, count, settle):
    """Takes messages, and acknowledges them, or closes the connection without."""
    taken = []
    with app.connection_for_read() as connection, connection.channel() as channel:
        bound = Queue(queue, Exchange(queue), routing_key=queue, channel=channel)
        bound.declare()
        for _ in range(int(count)):
            message = bound.get()
            taken.append(
                {
                    "headers": message.headers,
                    "properties": message.properties,
                    "body": message.payload if message.content_type == "application/json" else None,
                    "bytes": list(message.body.encode() if isinstance(message.body, str) else message.body),
                    "content_type": message.content_type,
                    "content_encoding": message.content_encoding,
                }
            )
            if settle == "ack":
                message.ack()
        assert settle == "hold" or bound.get() is None
    return taken


def bind(exchange, kind, *bindings):
    """Declares an exchange with queues, each `key=queue`."""
    with app.connection_for_write() as connection, connection.channel() as channel:
        for binding in bindings:
            key, queue = binding.split("=")
            Queue(queue, Exchange(exchange, type=kind), routing_key=key, channel=channel).declare()


def get(*ids):
    """Waits for results as a client does."""
    return [app.AsyncResult(id).get(timeout=60) for id in ids]


def get_later(id, ready):
    """Sees that there is no result, says so by making the file `ready`, and waits for the result."""
    result = app.AsyncResult(id)
    assert result.state == "PENDING"
    open(ready, "w").close()
    return result.get(timeout=60)


def error(id):
    """Waits for a result that is an error."""
    try:
        app.AsyncResult(id).get(timeout=60)
    except ValueError as raised:
        return [type(raised).__name__, list(raised.args), app.AsyncResult(id).traceback]


def send(count):
    """Sends tasks; their ids."""
    return [app.send_task("arithmetic.add", (n, 1)).id for n in range(int(count))]


command, *arguments = sys.argv[1:]
print(json.dumps(globals()[command](*arguments)))
