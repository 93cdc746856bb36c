"""Runs a command in a network of its own: `own_network.py ADDRESS COMMAND ARGUMENT…`. There is the loopback device with
one more address, and names are looked up at 127.0.0.1. Ends with 77 where this system does not allow that."""

import ctypes
import fcntl
import os
import socket
import struct
import sys
import tempfile

CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET = 0x10000000, 0x00020000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x8914, 0x8916, 1
NOT_ALLOWED = 77

libc = ctypes.CDLL(None, use_errno=True)


def call(function, *arguments):
    if function(*arguments) != 0:
        print(f"{function.__name__}: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(NOT_ALLOWED)


def replace(path, text):
    """In this process and its children, the file is another one."""
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    call(libc.mount, file.name.encode(), path.encode(), None, MS_BIND, None)
    os.unlink(file.name)


user, group = os.getuid(), os.getgid()
if user == 0:
    call(libc.unshare, CLONE_NEWNS | CLONE_NEWNET)
else:
    call(libc.unshare, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET)
    for file, text in [("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")]:
        with open(f"/proc/self/{file}", "w") as map:
            map.write(text)
call(libc.mount, b"none", b"/", None, MS_REC | MS_PRIVATE, None)
replace("/etc/resolv.conf", "nameserver 127.0.0.1\noptions attempts:1 timeout:2\n")
replace("/etc/nsswitch.conf", "hosts: dns\n")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    address = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(sys.argv[1]))
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH", b"lo", IFF_UP))
    fcntl.ioctl(control, SIOCSIFADDR, struct.pack("16s16s", b"lo:1", address))
os.execv(sys.argv[2], sys.argv[2:])
