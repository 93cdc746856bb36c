"""Sends control messages to everybody, `python flood.py RATE`: so many a second, until it is ended.

They are copies of one `ping` that Celery itself made, whose answer nobody waits for; so sending them costs little.
"""

import sys
import time

from proj import app

STEP = 0.02


def redis(connection):
    """Hears what the client publishes, and gives a function that publishes it again so many times."""
    client = connection.default_channel.client
    heard = client.pubsub()
    heard.psubscribe("*")
    assert heard.get_message(timeout=10)["type"] == "psubscribe"
    app.control.broadcast("ping", connection=connection)
    message = heard.get_message(timeout=10)
    heard.close()
    channel, data = message["channel"], message["data"]

    def send(number):
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(number):
                pipeline.publish(channel, data)
            pipeline.execute()

    return send


def rabbitmq(connection):
    exchange = app.control.mailbox.exchange
    channel = connection.default_channel
    exchange(channel).declare()
    queue = channel.queue_declare("", exclusive=True).queue
    channel.queue_bind(queue, exchange.name)
    app.control.broadcast("ping", connection=connection)
    end = time.monotonic() + 10
    while (message := channel.basic_get(queue, no_ack=True)) is None:
        assert time.monotonic() < end, "the client's message does not come"
    channel.queue_delete(queue)

    def send(number):
        for _ in range(number):
            channel.basic_publish(message, exchange=exchange.name)

    return send


if __name__ == "__main__":
    rate = int(sys.argv[1])
    with app.connection_for_write() as connection:
        send = (redis if connection.transport.driver_type == "redis" else rabbitmq)(connection)
        print("sending", flush=True)
        begun, sent = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - begun) * rate)
            send(due - sent)
            sent = due
            time.sleep(STEP)
