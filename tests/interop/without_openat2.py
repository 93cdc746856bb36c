"""Runs a command as on a kernel without `openat2`: `without_openat2.py COMMAND ARGUMENT…`."""

import ctypes
import errno
import os
import platform
import struct
import sys

OPENAT2 = 437
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06

# The number of the call is the first word of what the filter sees; on the usual processors `openat2` has the same one.
assert platform.machine() in ("x86_64", "aarch64", "riscv64"), platform.machine()
steps = [
    (LOAD_WORD, 0, 0, 0),
    (JUMP_IF_EQUAL, 0, 1, OPENAT2),
    (RETURN, 0, 0, ERRNO | errno.ENOSYS),
    (RETURN, 0, 0, ALLOW),
]
code = b"".join(struct.pack("HBBI", *step) for step in steps)
program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(kept := ctypes.create_string_buffer(code)))
libc = ctypes.CDLL(None, use_errno=True)
for arguments in [
    (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
    (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(program), 0, 0),
]:
    assert libc.prctl(*arguments) == 0, os.strerror(ctypes.get_errno())
assert libc.syscall(OPENAT2, -100, b"/", None, 0) == -1 and ctypes.get_errno() == errno.ENOSYS
os.execv(sys.argv[1], sys.argv[1:])
