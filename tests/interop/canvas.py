"""Who does what of a workflow: `python canvas.py NAME …` prints its answer as JSON."""

import json
import sys

from proj import app

LIMIT = 60


def shares(*workers):
    """How many of 60 chains' tasks each of these workers did."""
    workflows = [app.signature("arithmetic.add", (n, 1)) | app.signature("arithmetic.mul", (2,)) for n in range(60)]
    results = [workflow.apply_async() for workflow in workflows]
    assert [result.get(timeout=LIMIT) for result in results] == [2 * n + 2 for n in range(60)]
    assert [result.parent.get(timeout=LIMIT) for result in results] == [n + 1 for n in range(60)]
    names = [app.backend.get_task_meta(node.id)["worker"] for result in results for node in (result, result.parent)]
    return [names.count(worker) for worker in workers]


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
