"""Sends a task to the queue `refusing` and prints the headers of what then arrives in the queue `dead`.

`python dead_letter.py NAME`.
"""

import json
import sys
import time

from kombu import Exchange, Queue
from proj import app

if __name__ == "__main__":
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    refusing = Queue("refusing", Exchange("refusing"), routing_key="refusing", queue_arguments=arguments)
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        dead = Queue("dead", channel=channel)
        dead.queue_declare()
        app.send_task(sys.argv[1], queue=refusing)
        end = time.monotonic() + 60
        while (message := dead.get(no_ack=True)) is None:
            assert time.monotonic() < end, "nothing was refused within a minute"
            time.sleep(0.05)
    print(json.dumps(message.headers, default=str))
