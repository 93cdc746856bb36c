"""`python sending_chord.py HEADER BODY`: sends a chord of these signatures and prints its value."""

import json
import sys

from celery import chord, signature
from proj import app

if __name__ == "__main__":
    header, body = (json.loads(argument) for argument in sys.argv[1:])
    sent = chord([signature(part, app=app) for part in header], signature(body, app=app), app=app)()
    print(json.dumps(sent.get(timeout=90)))
