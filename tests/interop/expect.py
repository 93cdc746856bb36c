"""The two words of pytest that the checks need; the environment stays small without the rest."""

import time


def raises(kind, run):
    """Runs, and returns the exception of that kind that it must raise."""
    try:
        value = run()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected, not {value!r}")


def within(seconds, fact):
    """Waits for a fact."""
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def becomes(value, look):
    """Waits up to a minute until a look finds this value."""
    end = time.monotonic() + 60
    while (found := look()) != value:
        assert time.monotonic() < end, f"{found} did not become {value}"
        time.sleep(0.02)
