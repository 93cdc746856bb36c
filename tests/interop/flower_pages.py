"""Flower, seen and pressed in a headless Chromium: `flower_pages.py OURS THEIRS`, the names of a worker of celerybox that consumes
`celery`, and of one of Celery that consumes something else. Ends with OURS being shut down.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request

import expect
from celery.exceptions import TaskRevokedError
from proj import app
from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
from selenium.webdriver.common.by import By

OURS, THEIRS = sys.argv[1:]
inspect = app.control.inspect(destination=[OURS], timeout=20)


@contextlib.contextmanager
def flower():
    """The address of a Flower of our own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "celery", "-A", "proj", "flower", "--address=127.0.0.1", f"--port={port}"]
    environment = dict(os.environ, FLOWER_UNAUTHENTICATED_API="true")
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    address = f"http://127.0.0.1:{port}"

    def answers():
        assert process.poll() is None, "flower ended"
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{address}/healthcheck", timeout=5).status == 200

    try:
        expect.within(120, answers)
        yield address
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def browser():
    options = webdriver.ChromeOptions()
    # Where Debian has them; elsewhere selenium fetches a browser and its driver.
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for argument in (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-dev-shm-usage",
            "--window-size=1600,1200",
            f"--user-data-dir={folder}",
        ):
            options.add_argument(argument)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        driver.set_page_load_timeout(120)
        try:
            yield driver
        finally:
            driver.quit()


class Pages:
    def __init__(self, address, driver):
        self.address, self.driver = address, driver

    def open(self, path):
        # A new page each time: the same address with another fragment would not be loaded again.
        self.driver.get("about:blank")
        self.driver.get(self.address + path)

    def text(self):
        return self.driver.find_element(By.TAG_NAME, "body").text

    def shows(self, path, *texts):
        """The page shows all of these, sooner or later."""

        def shown():
            self.open(path)
            expect.within(5, lambda: all(text in self.text() for text in texts))
            return True

        def tried():
            with contextlib.suppress(AssertionError):
                return shown()

        expect.within(120, tried)
        return self.text()

    def row(self, table, *texts):
        """The row of a table with these texts."""

        rows = []

        def found():
            # Tables are made anew while one looks.
            with contextlib.suppress(StaleElementReferenceException):
                for row in self.driver.find_elements(By.CSS_SELECTOR, f"#{table} tr"):
                    if all(text in row.text for text in texts):
                        rows.append(row)
            return rows

        expect.within(60, found)
        return rows[0]

    def tab(self, name):
        self.open(f"/worker/{OURS}")
        self.driver.find_element(By.CSS_SELECTOR, f'.nav-tabs a[href="#tab-{name}"]').click()
        expect.within(30, self.driver.find_element(By.ID, f"tab-{name}").is_displayed)

    def tab_with(self, name, fact):
        """A tab with something: Flower shows what it knew when the page was asked for, and asks the worker then."""

        def shown():
            self.tab(name)
            return fact()

        expect.within(120, shown)

    def press(self, id, answer):
        """Presses a button, and waits for what Flower says."""
        button = self.driver.find_element(By.ID, id)
        expect.within(30, button.is_displayed)
        self.scroll_to(button)

        def pressed():
            # While the page still moves, something else may be in front of it.
            with contextlib.suppress(ElementClickInterceptedException):
                button.click()
                return True

        expect.within(30, pressed)
        said = lambda: self.driver.find_element(By.ID, "alert-container").text  # noqa: E731
        expect.within(60, said)
        assert answer in said(), (id, said())

    def scroll_to(self, element):
        script = "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})"
        self.driver.execute_script(script, element)

    def fill(self, element, text):
        self.scroll_to(element)
        element.clear()
        element.send_keys(text)


def api(pages, path):
    with urllib.request.urlopen(pages.address + path, timeout=60) as answer:
        return json.load(answer)


def workers(pages):
    pages.open("/workers")
    for name in (OURS, THEIRS):
        pages.row("workers-table", name, "Online")


def events_come(pages):
    """Flower asks workers for events of tasks; the ones before that it does not hear of."""

    def heard():
        app.send_task("probe.echo", ["heard"]).get(timeout=60)
        return api(pages, "/api/tasks?taskname=probe.echo")

    expect.within(120, heard)


def tasks(pages):
    added = app.send_task("arithmetic.add", (20, 22))
    failed = app.send_task("probe.fail", ["boom in flower"])
    assert added.get(timeout=60) == 42
    expect.within(60, failed.ready)
    text = pages.shows(f"/task/{added.id}", "SUCCESS", "arithmetic.add", "Runtime", OURS)
    for row in ("args (20, 22)", "kwargs {}", "Result 42"):
        assert row in text, (row, text)
    pages.shows(f"/task/{failed.id}", "FAILURE", "ValueError('boom in flower', 7)", "Traceback", OURS)
    trace = pages.driver.find_element(By.TAG_NAME, "pre").text
    assert "ValueError" in trace and "boom in flower" in trace, trace
    pages.open("/tasks")
    pages.row("tasks-table", added.id, "arithmetic.add", "SUCCESS", "(20, 22)", "42", OURS)
    pages.row("tasks-table", failed.id, "probe.fail", "FAILURE", "boom in flower", OURS)


def worker_page(pages):
    text = pages.shows(f"/worker/{OURS}", "Worker PID", "Max concurrency", "Implementation")
    assert str(inspect.stats()[OURS]["pid"]) in text
    pages.tab("broker")
    assert "Transport" in pages.text()
    pages.tab("queues")
    pages.row("tab-queues", "celery")
    pages.tab_with("tasks", lambda: "arithmetic.add" in pages.text())
    pages.tab_with("config", lambda: "broker_url" in pages.text())


def pool(pages):
    size = lambda: inspect.stats()[OURS]["pool"]["max-concurrency"]  # noqa: E731
    before = size()
    pages.tab("pool")
    pages.press("worker-pool-grow", "Growing")
    expect.within(60, lambda: size() == before + 1)
    pages.tab("pool")
    pages.press("worker-pool-shrink", "Shrinking")
    expect.within(60, lambda: size() == before)


def consumers(pages):
    consumed = lambda: [queue["name"] for queue in inspect.active_queues()[OURS]]  # noqa: E731
    pages.tab("queues")
    pages.fill(pages.driver.find_element(By.ID, "add-consumer-name"), "added-in-flower")
    pages.press("worker-add-consumer", "add consumer added-in-flower")
    expect.within(60, lambda: "added-in-flower" in consumed())
    app.send_task("arithmetic.add", [1, 2], queue="added-in-flower").get(timeout=60)
    cancel = "worker-cancel-consumer-added-in-flower"
    pages.tab_with("queues", lambda: pages.driver.find_elements(By.ID, cancel))
    pages.press(cancel, "no longer consuming from added-in-flower")
    expect.within(60, lambda: "added-in-flower" not in consumed())


def limits(pages):
    def field(task):
        return pages.row("limits-table", task).find_elements(By.TAG_NAME, "input")

    pages.tab("limits")
    pages.fill(field("probe.echo")[0], "7")
    pages.press("task-rate-limit-probe.echo", "new rate limit set successfully")
    registered = inspect.registered("rate_limit")[OURS]
    assert any(line.startswith("probe.echo [rate_limit=7") for line in registered), registered
    pages.tab("limits")
    pages.fill(field("probe.sleep")[1], "2")
    pages.press("task-timeout-hard-probe.sleep", "time limits set successfully")
    limited = app.send_task("probe.sleep", [600])
    expect.within(60, limited.ready)
    assert type(limited.result).__name__ == "TimeLimitExceeded", limited.result


def revoke(pages):
    later = app.send_task("arithmetic.add", [1, 1], countdown=900)
    pages.shows(f"/task/{later.id}", "RECEIVED")
    pages.press("task-revoke", "Revoked")
    expect.within(60, lambda: later.id in inspect.revoked()[OURS])


def terminate(pages):
    endless = app.send_task("spin.forever")
    pages.shows(f"/task/{endless.id}", "STARTED")
    pages.press("task-terminate", "Revoked")
    expect.within(60, endless.ready)
    assert isinstance(endless.result, TaskRevokedError), endless.result
    pages.shows(f"/task/{endless.id}", "REVOKED")


def shutdown(pages):
    pages.open(f"/worker/{OURS}")
    pages.driver.find_element(By.ID, "worker-group").click()
    pages.press("worker-shutdown", "Shutting down!")


with flower() as address, browser() as driver:
    pages = Pages(address, driver)
    for part in (workers, events_come, tasks, worker_page, pool, consumers, limits, revoke, terminate, shutdown):
        print("flower:", part.__name__, file=sys.stderr)
        try:
            part(pages)
        except Exception:
            print(driver.current_url, pages.text(), sep="\n", file=sys.stderr)
            raise
