"""Declares every queue of the app's settings (TEST_SETTINGS) as Celery does, and with the argument `delays` also what
native delayed delivery needs."""

import sys

from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
)
from proj import app

with app.connection_for_write() as connection:
    channel = connection.default_channel
    for queue in app.amqp.queues.values():
        queue(channel).declare()
    if "delays" in sys.argv:
        declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
        for queue in app.amqp.queues.values():
            bind_queue_to_native_delayed_delivery_exchange(connection, queue)
