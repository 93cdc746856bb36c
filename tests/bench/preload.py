"""Fills the queue `celery` with copies of one message that Celery itself made, as fast as the broker takes them.

`python preload.py NAME NUMBER ARGS`, ARGS as JSON. Every copy has an id of its own.
"""

import json
import sys
from uuid import uuid4

import amqp
from proj import app


def template(name, args):
    """What `send_task` would publish: headers, properties and body, under a made-up id."""
    task_id = str(uuid4())
    message = app.amqp.as_task_v2(task_id, name, args, {})
    return task_id, message


def redis(connection, name, number, args):
    """Publishes one message, takes the envelope off its list, and pushes it back with new ids."""
    task_id, message = template(name, args)
    producer = connection.Producer()
    producer.publish(message.body, routing_key="celery", headers=message.headers, serializer="json", **message.properties)
    client = connection.default_channel.client
    envelope = client.rpop("celery").decode()
    tag = json.loads(envelope)["properties"]["delivery_tag"]
    for start in range(0, number, 1000):
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(min(1000, number - start)):
                pipeline.lpush("celery", envelope.replace(task_id, str(uuid4())).replace(tag, str(uuid4())))
            pipeline.execute()


def rabbitmq(connection, name, number, args):
    task_id, message = template(name, args)
    channel = connection.default_channel
    app.amqp.queues["celery"](channel).declare()
    body, headers = json.dumps(message.body), json.dumps(message.headers)
    for _ in range(number):
        new_id = str(uuid4())
        channel.basic_publish(
            amqp.Message(
                body,
                content_type="application/json",
                content_encoding="utf-8",
                application_headers=json.loads(headers.replace(task_id, new_id)),
                correlation_id=new_id,
                reply_to="",
                delivery_mode=2,
                priority=0,
            ),
            routing_key="celery",
        )
    # The answer to a synchronous method comes after everything before it was taken.
    channel.queue_declare("celery", passive=True)


if __name__ == "__main__":
    with app.connection_for_write() as connection:
        fill = redis if connection.transport.driver_type == "redis" else rabbitmq
        fill(connection, sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
