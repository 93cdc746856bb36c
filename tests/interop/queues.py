"""What Celery itself makes of settings about queues: which queues a worker consumes, and where tasks go.

    queues.py SETTINGS WANTED UNWANTED TASKS

All four are JSON: settings (`task_queues` as a map, or as a list of arguments of `kombu.Queue`), names for -Q and -X,
and a list of [task name, options]. Prints {"consumed": [...], "sent": [...]}.
"""

import json
import re
import sys

from celery import Celery
from kombu import Exchange, Queue


def exchange(value):
    return Exchange(value.pop("name"), **value) if isinstance(value, dict) else Exchange(value)


def queue(value):
    name = value.pop("name")
    if "exchange" in value:
        value["exchange"] = exchange(value["exchange"])
    return Queue(name, **value)


def pattern(name):
    return re.compile(name[3:]) if name.startswith("re:") else name


def routes(value):
    if isinstance(value, dict):
        return {pattern(name): route for name, route in value.items()}
    return [(pattern(name), route) for name, route in value]


settings, wanted, unwanted, tasks = map(json.loads, sys.argv[1:])
if isinstance(settings.get("task_queues"), list):
    settings["task_queues"] = [queue(value) for value in settings["task_queues"]]
if isinstance(settings.get("task_routes"), list):
    settings["task_routes"] = [routes(value) for value in settings["task_routes"]]
elif "task_routes" in settings:
    settings["task_routes"] = routes(settings["task_routes"])

app = Celery(broker="memory://", set_as_current=False)
app.conf.update(settings)
queues = app.amqp.queues
queues.select(wanted)
queues.deselect(unwanted)


def described(exchange):
    return [exchange.name, exchange.type, exchange.durable, exchange.auto_delete, exchange.arguments or {}]


consumed = []
for q in queues.consume_from.values():
    consumed.append({
        "name": q.name,
        "exchange": described(q.exchange),
        "routing_key": q.routing_key,
        "durable": q.durable,
        "exclusive": q.exclusive,
        "auto_delete": q.auto_delete,
        "no_declare": q.no_declare or False,
        "arguments": q.queue_arguments or {},
        "binding_arguments": q.binding_arguments or {},
        "consumer_arguments": q.consumer_arguments or {},
        "expires": q.expires,
        "max_priority": q.max_priority,
    })


class Producer:
    connection = None

    def publish(self, body, exchange=None, routing_key=None, delivery_mode=None, priority=None, **_):
        name = getattr(exchange, "name", exchange)
        self.sent = {"exchange": name, "routing_key": routing_key, "delivery_mode": delivery_mode, "priority": priority}


sent = []
for name, options in tasks:
    producer = Producer()
    options = app.amqp.router.route(dict(options), name)
    message = app.amqp.create_task_message("id", name, [], {})
    app.amqp.send_task_message(producer, name, message, event_dispatcher=False, **options)
    sent.append(producer.sent)

print(json.dumps({"consumed": consumed, "sent": sent}))
