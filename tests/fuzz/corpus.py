"""Seeds for the fuzz targets out of the wire samples: `corpus.py SAMPLES CORPUS`."""

import base64
import hashlib
import json
import os
import struct
import sys

CONTENT = ["application/json", "application/x-yaml", "application/x-msgpack", "application/x-python-serialize"]
COMPRESSIONS = [None, "application/x-gzip", "application/x-bz2", "application/x-lzma", "application/x-brotli", "application/zstd"]
FOLDER = sys.argv[2]


def seed(target, content):
    folder = os.path.join(FOLDER, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, hashlib.sha1(content).hexdigest()), "wb") as file:
        file.write(content)


def envelope(text, parsed):
    seed("envelope", text.encode())
    properties, headers = parsed["properties"], parsed["headers"]
    body = parsed["body"].encode()
    if properties.get("body_encoding") == "base64":
        body = base64.b64decode(body)
    content, compression = parsed.get("content-type"), headers.get("compression")
    if content == "application/data":
        seed("signed", body)
        seed("signed", base64.b64decode(body))
    if compression in COMPRESSIONS[1:]:
        seed("compression", bytes([COMPRESSIONS.index(compression) - 1]) + body)
    elif content in CONTENT:
        number = CONTENT.index(content)
        seed(["json", "yaml", "msgpack", "pickle"][number], body)
        for which in range(len(COMPRESSIONS)):
            seed("request", bytes([number, which, 0 if "task" in headers else 1]) + body)
    for name in ("eta", "expires"):
        if isinstance(headers.get(name), str):
            seed("iso8601", headers[name].encode())


def walk(value):
    if isinstance(value, dict):
        if "value_base64" in value:
            content = base64.b64decode(value["value_base64"])
            seed("result", content)
            for target in ("yaml", "msgpack", "pickle"):
                seed(target, content)
        for item in value.values():
            walk(item)
    elif isinstance(value, list):
        for item in value:
            walk(item)
    elif isinstance(value, str) and value[:1] in "{[" and value:
        try:
            inner = json.loads(value)
        except ValueError:
            return
        if isinstance(inner, dict) and {"body", "headers", "properties"} <= inner.keys():
            if isinstance(inner["headers"], dict):
                envelope(value, inner)
        elif isinstance(inner, dict) and "status" in inner:
            seed("result", value.encode())
            if isinstance(inner.get("date_done"), str):
                seed("iso8601", inner["date_done"].encode())


for name in sorted(os.listdir(sys.argv[1])):
    if name.endswith(".json"):
        with open(os.path.join(sys.argv[1], name), encoding="utf-8") as file:
            sample = json.load(file)
        walk(sample)
        for record in (sample.get("unacked") or {}).values() if isinstance(sample, dict) else ():
            seed("record", record.encode())
for text in ("2030-01-02T03:04:05.678901+00:00", "20300102T030405Z", "2030-01-02 24:00", "2030-01", "9999-12-31T23:59:59-12:00"):
    seed("iso8601", text.encode())

for record in ('[{"body": "e30=", "properties": {"priority": 3}}, "", "q"]', '[{"headers": {"redelivered": 0}}, null, null]'):
    seed("record", record.encode())
for lines in (
    ("(x, y=3, *, base=10)", "[1, 2]", '{"base": 2}', '{"y": 5, "base": 3}'),
    ("(x, y=3, *, base=10)", "[]", '{"x": 1, "y": 12345678901234567890123}', "[9]"),
    ("(a, /, b: int = '\\',(', *rest, c)", "[1, 2, 3]", '{"c": null}', '{"b": [1], "a": {}}'),
):
    seed("parameters", "\n".join(lines).encode())
for content in ('{"celerybox_worker_state": 1, "revoked": ["a", "\\u00fc\\ud83d\\ude00"]}', '{"celerybox_worker_state": 2, "revoked": []}'):
    seed("state_db", content.encode())


def frame(kind, payload):
    return struct.pack(">BHI", kind, 1, len(payload)) + payload + b"\xce"


def table(entries):
    return struct.pack(">I", len(entries)) + entries


EVERY_TYPE = (
    b"\x01aV\x01bt\x01\x01cb\0\x01dB\0\x01es\0\0\x01fU\0\0\x01gu\0\0\x01hI\0\0\0\0\x01ii\0\0\0\0\x01jf\0\0\0\0\x01kD\0\0\0\0\0"
    b"\x01lL" + bytes(8) + b"\x01ml" + bytes(8) + b"\x01nd" + bytes(8) + b"\x01oT" + bytes(8)
    + b"\x01pS\0\0\0\x01\xff\x01qx\0\0\0\x01\xff\x01rA\0\0\0\x02VV\x01sF\0\0\0\x03\x01aV"
)
HEAD = b"\0\x3c" + bytes(9) + b"\x01"
for frames in (
    frame(2, HEAD + b"\xff\xfe\x01a\x01b" + table(EVERY_TYPE) + b"\x02\x05\x01c\x01d\x01e\x01f" + bytes(7) + b"\x09\x01g\x01h\x01i\x01j"),
    frame(2, HEAD + b"\x20\0" + table(b"\x01k" + b"A\0\0\0\x0aA\0\0\0\x05A\0\0\0\0")),
    frame(1, b"\0\x3c\0\x3c\x01t" + bytes(7) + b"\x01\0\x01\xff\x03a\xe2\x82") + frame(2, HEAD + b"\0\0") + frame(3, b"{}"),
    frame(1, b"\0\x0a\0\x1e\x07\xff\0\0\x10\0\0\0") + frame(8, b""),
    frame(1, b"\0\x14\0\x28\x01\x94\x03no\xc3\0\0\0\0"),
    frame(2, HEAD + b"\x80\0\x02\xc3\x28" + bytes(5000)),
):
    for cut in (0, 6, 255):
        seed("screen", bytes([cut]) + frames)
