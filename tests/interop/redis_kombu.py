"""kombu's own Redis transport, and a client, on the Redis of a test. The last line of output is JSON."""

import json
import os
import sys
import time

from kombu import Exchange, Producer, Queue
from proj import app


def publish(queue, *priorities):
    """Publishes messages with these priorities; their ids are their places in the list."""
    with app.connection_for_write() as connection:
        producer = Producer(connection)
        for n, priority in enumerate(priorities):
            producer.publish(
                [[n], {}, {}],
                serializer="json",
                headers={"id": str(n), "task": "arithmetic.add"},
                exchange="",
                routing_key=queue,
                priority=int(priority),
            )


def publish_to(exchange, kind, routing_key, count):
    """Publishes messages to a named exchange, whose bindings are in the database."""
    with app.connection_for_write() as connection:
        producer = Producer(connection, exchange=Exchange(exchange, type=kind), routing_key=routing_key)
        for n in range(int(count)):
            producer.publish([[n], {}, {}], serializer="json", headers={"id": str(n), "task": "arithmetic.add"})


def bind(exchange, kind, *bindings):
    """Declares an exchange with queues, each `key=queue`."""
    with app.connection_for_write() as connection, connection.channel() as channel:
        for binding in bindings:
            key, queue = binding.split("=")
            Queue(queue, Exchange(exchange, type=kind), routing_key=key, channel=channel).declare()


def received(message):
    return {
        "id": message.headers["id"],
        "redelivered": message.headers.get("redelivered", False),
        "info": message.delivery_info,
        "body": message.payload,
    }


def take(queue, count, then):
    """Takes messages, and acknowledges them, or dies without a word."""
    taken = []
    connection = app.connection_for_read()
    channel = connection.channel()
    bound = Queue(queue, Exchange(queue), routing_key=queue, channel=channel)
    bound.declare()
    while len(taken) < int(count):
        message = bound.get()
        if message is None:
            time.sleep(0.01)
            continue
        taken.append(received(message))
        if then == "ack":
            message.ack()
    if then == "die":
        print(json.dumps(taken), flush=True)
        os._exit(0)
    assert bound.get() is None
    connection.close()
    return taken


def restore(timeout, count):
    """Restores what is overdue until so many messages were restored."""
    app.conf.broker_transport_options = {"visibility_timeout": float(timeout)}
    restored = 0
    with app.connection_for_read() as connection, connection.channel() as channel:
        end = time.time() + 30
        while restored < int(count):
            before = channel.client.hlen("unacked")
            channel.qos.restore_visible(interval=1)
            restored += before - channel.client.hlen("unacked")
            assert time.time() < end, f"{restored} messages restored"
            time.sleep(0.05)
    return restored


def sweep(timeout, seconds):
    """Restores what is overdue for some seconds; how many messages that were."""
    app.conf.broker_transport_options = {"visibility_timeout": float(timeout)}
    restored = 0
    with app.connection_for_read() as connection, connection.channel() as channel:
        end = time.time() + float(seconds)
        while time.time() < end:
            before = channel.client.hlen("unacked")
            channel.qos.restore_visible(interval=1)
            restored += before - channel.client.hlen("unacked")
            time.sleep(0.05)
    return restored


def get(id):
    """Waits for a result as a client does, with all states on the way."""
    states = []
    result = app.AsyncResult(id).get(timeout=60, on_message=lambda message: states.append(message["status"]))
    return [result, states]


command, *arguments = sys.argv[1:]
print(json.dumps(globals()[command](*arguments)))
