"""Sends one task and prints its result: call.py NAME ARGS [OPTIONS], ARGS and OPTIONS (of `apply_async`) as JSON."""

import json
import sys

from proj import app

name, args = sys.argv[1], json.loads(sys.argv[2])
options = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
print(json.dumps(app.send_task(name, args, **options).get(timeout=60)))
