"""Sends one task many times, as fast as the client can, and prints the ids as a JSON list.

`python send.py NAME NUMBER ARGS [OPTIONS]`, ARGS and OPTIONS (of `apply_async`) as JSON.
"""

import json
import sys

from proj import app

if __name__ == "__main__":
    name, number, args = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    options = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
    with app.producer_pool.acquire(block=True) as producer:
        ids = [app.send_task(name, args, producer=producer, **options).id for _ in range(number)]
    print(json.dumps(ids))
