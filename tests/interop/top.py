"""`celerybox top` in a terminal of 80 columns and 24 lines: `top.py NODE COMMAND…`.

Waits until the worker NODE is shown, says so, and waits until the broker was away and is back; sends a task that fails
and waits until that is shown, revokes it, and ends with `q`; the terminal must be what it was before.
"""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

from proj import app

node, *command = sys.argv[1:]
master, slave = pty.openpty()
fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
before = termios.tcgetattr(slave)
environment = dict(os.environ, TERM="xterm")
process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
output = b""


def shown():
    """Everything that was drawn so far, without escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", " ", output.decode(errors="replace"))


def until(what, fact):
    global output
    end = time.monotonic() + 60
    while not fact():
        assert time.monotonic() < end, f"not within a minute: {what}; shown: {shown()[-3000:]}"
        if select.select([master], [], [], 0.1)[0]:
            output += os.read(master, 65536)


def drawn(text):
    """Cells that did not change are not drawn again, so that a text may come in parts: no spaces are looked for."""
    until(text, lambda: text in shown())


try:
    drawn(node)
    drawn("online")
    print("shown", flush=True)
    drawn("away")
    print("away", flush=True)
    drawn("back")
    result = app.send_task("probe.fail", ["seen in top"])
    drawn("FAILURE")
    drawn("seen in top")
    os.write(master, b"r")
    drawn("Revoke")
    os.write(master, b"y")
    until("the task is revoked", lambda: result.id in (app.control.inspect([node], timeout=5).revoked() or {}).get(node, []))
    assert termios.tcgetattr(slave) != before, "it reads keys one by one"
    os.write(master, b"q")
    until("its end", lambda: process.poll() is not None)
    assert process.returncode == 0, process.returncode
    assert termios.tcgetattr(slave) == before, "the terminal is as it was"
    assert "\x1b[?1049l" in output.decode(errors="replace"), "the screen is as it was"
finally:
    process.kill()
    process.wait()
