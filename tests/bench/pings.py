"""Asks the worker twenty times whether it is there, and prints how long the answer took: `"… ms, … at most"`."""

import json
import time

from proj import app

times = []
for _ in range(20):
    start = time.perf_counter()
    assert app.control.broadcast("ping", reply=True, limit=1, timeout=30), "no answer"
    times.append((time.perf_counter() - start) * 1000)
times.sort()
print(json.dumps(f"{times[len(times) // 2]:.1f} ms, {times[-1]:.1f} at most"))
