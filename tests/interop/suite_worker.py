"""A pytest plugin that puts another worker in the place of the one that Celery's integration tests start in their own
process (contract section 10.2). Nothing else of the tests is changed.

`SUITE_WORKER` is the worker's command as a JSON list, `SUITE_LOG` the file of its output, `SUITE_REPORT` the file that
gets how each test ended, as JSON.
"""

import json
import os
import subprocess
import time

import celery.contrib.pytest
import pytest
from celery.contrib.testing.tasks import ping  # noqa: F401
from celery.utils.nodenames import anon_nodename

ended = {}


@pytest.fixture(scope="session")
def celery_session_worker(celery_session_app, celery_includes, celery_class_tasks):
    for module in celery_includes:
        celery_session_app.loader.import_task_module(module)
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    # test_inspect asks for the node by this name.
    command = [*json.loads(os.environ["SUITE_WORKER"]), "-n", anon_nodename()]
    with open(os.environ["SUITE_LOG"], "wb") as log:
        worker = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while b" ready." not in open(os.environ["SUITE_LOG"], "rb").read():
            assert worker.poll() is None and time.monotonic() < until, "the worker does not start"
            time.sleep(0.05)
        with celery_session_app.connection_for_write():
            answer = celery_session_app.send_task("celery.ping").get(timeout=30)
        assert answer == "pong", answer
        yield worker
        assert worker.poll() is None, "the worker ended"
    finally:
        worker.terminate()
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            worker.kill()


#: conftest.py of the tests takes its fixtures from this module.
celery.contrib.pytest.celery_session_worker = celery_session_worker


def pytest_runtest_logreport(report):
    name = report.nodeid.rpartition("/")[2]
    if report.when == "call" or report.outcome != "passed":
        outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
        if outcome == "failed" or ended.get(name, [""])[0] != "failed":
            ended[name] = [outcome, str(report.longrepr)[-2000:] if outcome == "failed" else ""]


def pytest_sessionfinish():
    with open(os.environ["SUITE_REPORT"], "w") as file:
        json.dump(ended, file)
