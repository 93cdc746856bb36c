"""One task at a time: sends `arithmetic.add` and waits for its result, over and over.

`python latency.py NUMBER`; prints the milliseconds of each as a JSON list. The first 50 are not counted.
"""

import json
import sys
import time

from proj import app

if __name__ == "__main__":
    times = []
    for number in range(int(sys.argv[1]) + 50):
        start = time.perf_counter()
        assert app.send_task("arithmetic.add", (number, 1)).get(timeout=60) == number + 1
        times.append((time.perf_counter() - start) * 1000)
    print(json.dumps(times[50:]))
