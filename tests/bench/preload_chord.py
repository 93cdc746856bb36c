"""Sends one chord of `add` tasks with the real client and prints the id of its body, as JSON: `python preload_chord.py NUMBER`."""

import json
import sys

from celery import chord
from proj import add, tsum

print(json.dumps(chord([add.s(2, 3) for _ in range(int(sys.argv[1]))])(tsum.s()).id))
