"""Seeds for the fuzz targets out of the wire samples: `corpus.py SAMPLES CORPUS`."""

import base64
import hashlib
import json
import os
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
            walk(json.load(file))
for text in ("2030-01-02T03:04:05.678901+00:00", "20300102T030405Z", "2030-01-02 24:00", "2030-01", "9999-12-31T23:59:59-12:00"):
    seed("iso8601", text.encode())
