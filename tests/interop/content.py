"""Serializers, compressions and signatures, as real clients use them: `python content.py NAME [FOLDER]`."""

import base64
import datetime
import decimal
import os
import sys
import uuid

import proj
from celery import Celery, Signature
from kombu import Connection
from kombu.serialization import enable_insecure_serializers, registry

LIMIT = 60
SERIALIZERS = ["json", "yaml", "msgpack", "pickle"]
COMPRESSIONS = [None, "gzip", "bzip2", "lzma", "brotli", "zstd"]

UTC = datetime.timezone.utc
PLAIN = [None, True, -1, 2**63 - 1, 1.5, 1e300, "ünïcödé 🦀 yes", "", [], {}, {"a": [{"b": None}]}, "2026-11-21"]
BYTES = [b"text", b"\xff\x00"]
DATES = [
    datetime.datetime(2026, 11, 21, 10, 0, 0, 5, UTC),
    datetime.datetime(2026, 11, 21),
    datetime.datetime(2026, 11, 21, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=-5, minutes=-30))),
    datetime.date(2026, 1, 2),
]
OTHERS = [datetime.time(1, 2, 3, 4), decimal.Decimal("1.10"), uuid.UUID(int=5)]
# What each serializer can carry.
VALUES = {
    "json": PLAIN + BYTES + DATES + OTHERS + [2**80, float("inf")],
    "yaml": PLAIN + BYTES + DATES + [2**80, float("inf")],
    "msgpack": PLAIN + BYTES + [2**64 - 1, float("inf")],
    "pickle": PLAIN + BYTES + DATES + OTHERS + [2**80, -(2**70), float("inf")],
}


def new_app(**settings):
    app = Celery("content", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
    # The folders of the place, where its broker is one.
    options = proj.app.conf.broker_transport_options
    app.conf.update({"accept_content": SERIALIZERS, "result_expires": 600, "broker_transport_options": options, **settings})
    return app


def same(got, sent):
    assert got == sent and type(got) is type(sent), (str(got)[:200], str(sent)[:200])
    for part, other in zip(got, sent) if isinstance(got, list) else []:
        same(part, other)


def messages():
    """Every serializer with every compression comes as it was sent; the results are JSON."""
    app = new_app()
    sent = []
    for serializer in SERIALIZERS:
        for compression in COMPRESSIONS:
            values = VALUES[serializer]
            result = app.send_task("probe.echo", [values], serializer=serializer, compression=compression)
            sent.append((result, values))
    for protocol in (1, 2):
        for serializer in SERIALIZERS:
            app.conf.task_protocol = protocol
            app.amqp.__dict__.pop("create_task_message", None)
            app.amqp.__dict__.pop("task_protocol", None)
            values = ("tuple", {"x": (1, 2)})
            expected = ["tuple", {"x": [1, 2]}]
            # A signature is pickled as a call.
            link = Signature("probe.echo", args=["linked"], app=app)
            result = app.send_task("probe.echo", [values], serializer=serializer if serializer != "yaml" else "json", link=link)
            sent.append((result, expected))
    for result, values in sent:
        same(result.get(timeout=LIMIT), values)
    nan = app.send_task("probe.echo", [float("nan")]).get(timeout=LIMIT)
    assert nan != nan


def results(names):
    """A worker for each form of results, on a queue of the form's name; clients have the same settings."""
    sent = []
    for form in names.split():
        serializer, _, compression = form.partition("-")
        app = new_app(result_serializer=serializer, result_compression=compression or None)
        values = VALUES[serializer]
        good = app.send_task("probe.echo", [values], queue=form)
        bad = app.send_task("probe.fail", ["no"], queue=form)
        sent.append((form, good, bad, values))
    for form, good, bad, values in sent:
        same(good.get(timeout=LIMIT), values)
        error = bad.get(timeout=LIMIT, propagate=False)
        assert type(error) is ValueError and error.args == ("no", 7), (form, repr(error))
        assert bad.traceback, form


def cases(number):
    """Random values in every form that Python's serializers have for them, each with the JSON that it means."""
    import pickle
    import random

    import msgpack
    import yaml
    from kombu.utils import json as kombu_json

    chance = random.Random(7)
    words = ["yes", "no", "on", "~", "null", "010", "1_0", "0x1f", "1:30", "1e3", "1.", ".5", "-.inf", "<<", "=", "2026-11-21",
        "2026-11-21 10:00:00", "- a", "a: b", "#", "&a", "*a", "!t", "%", "@", "`", "'", '"', "\\", " x ", "a\nb\n", "\t",
        "ünï\u2028🦀", "x" * 200, "", "?", "|", ">", "[", "{", ",", "\x85", "\ufeffx", "---", "..."]
    edges = [0, 1, -1, 255, 256, 65535, 65536, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63), 1e-7, 1e16, 1.5, -0.0, 1e300, 5e-324]

    def scalar(kind):
        common = [None, True, False, chance.choice(edges), chance.random(), chance.choice(words)]
        own = {
            "json": BYTES + DATES + OTHERS,
            "yaml": BYTES + DATES,
            "msgpack": BYTES,
            "pickle": BYTES + DATES + OTHERS + [b"", bytearray(b"x"), datetime.timedelta(-1, 2, 3)],
        }
        return chance.choice(common + own[kind])

    def value(kind, depth=0):
        shape = chance.random() if depth < 4 else 1
        if shape < 0.3:
            return [value(kind, depth + 1) for _ in range(chance.randrange(5))]
        if shape < 0.5:
            return {chance.choice(words): value(kind, depth + 1) for _ in range(chance.randrange(5))}
        if shape < 0.55 and kind in ("pickle", "yaml"):
            # YAML writes the elements of a set in another order.
            return {chance.choice(words) for _ in range(chance.randrange(4 if kind == "pickle" else 2))}
        if shape < 0.6 and kind == "pickle":
            return (value(kind, depth + 1), frozenset([1]), {2: {3.5: None}, False: b"\xfe"})
        if shape < 0.65:
            shared = value(kind, depth + 1)
            return [shared, shared]
        return scalar(kind)

    def meant(value):
        """As the contract says that it arrives."""
        if isinstance(value, dict):
            return {(key.decode() if isinstance(key, bytes) else key): meant(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [meant(item) for item in value]
        if isinstance(value, datetime.timedelta):
            return value.total_seconds()
        if isinstance(value, bytearray):
            return bytes(value)
        return value

    made = []
    for _ in range(int(number)):
        for kind in SERIALIZERS:
            sent = value(kind)
            if kind == "json":
                bodies = [kombu_json.dumps([[sent], {}, {}]).encode()]
            elif kind == "msgpack":
                bodies = [msgpack.packb([[sent], {}, {}], use_bin_type=True)]
            elif kind == "pickle":
                # UUIDs in the oldest protocols name `object`, which is not read.
                protocols = range(2 if "UUID(" in repr(sent) else 0, 6)
                bodies = [pickle.dumps(([sent], {}, {}), protocol) for protocol in protocols]
                bodies.append(pickle._dumps(([sent], {}, {}), chance.choice(protocols)))
            else:
                styles = [{}, {"default_flow_style": True}, {"default_style": '"'}, {"default_style": "'", "width": 20}]
                styles += [{"default_style": "|"}, {"canonical": True}, {"indent": 7, "explicit_start": True}]
                bodies = [yaml.safe_dump([[sent], {}, {}], **style).encode() for style in styles]
                # What PyYAML reads decides.
                sent = yaml.safe_load(bodies[0])[0][0]
            content_type, _, _ = registry._encoders[kind][:3]
            for body in bodies:
                text = kombu_json.dumps(meant(sent))
                made.append([content_type, base64.b64encode(body).decode(), text])
    # What a plain scalar is, is the larger part of YAML 1.1.
    for _ in range(int(number) * 20):
        length = chance.randrange(1, 9)
        plain = "".join(chance.choice("0123456789-+._:eExobTZ ~infa") for _ in range(length)).strip()
        plain = chance.choice([plain, f"2026-1{plain}", f"2026-11-21 10:{plain}", f"{plain}:30", f"0x{plain}"])
        try:
            sent = yaml.safe_load(f"[{plain}]")
            text = kombu_json.dumps(sent)
        except (yaml.YAMLError, ValueError, OverflowError):
            continue
        is_scalar = len(sent) == 1 and not isinstance(sent[0], (list, dict))
        # The parser of YAML 1.2 does not take a `-` before the bracket.
        if is_scalar and not plain.endswith("-") and "Infinity" not in text and "NaN" not in text:
            body = f"[[{plain}], {{}}, {{}}]".encode()
            made.append(["application/x-yaml", base64.b64encode(body).decode(), text[1:-1]])
    print(kombu_json.dumps(made))


def hostile(folder):
    """Bodies that would fill the memory, overflow the stack or call something; the worker goes on with the next."""
    import bz2
    import lzma
    import pickle
    import zlib

    import brotli
    from backports import zstd

    class Touch:
        def __reduce__(self):
            return os.mkdir, (f"{folder}/called",)

    zeros = bytes(30_000_000)
    aliases = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl"))
    deep = 100_000
    memo = b"\x80\x04]\x94" + (b"](" + b"h\x00" * 10 + b"eq\x00") * 40 + b"."
    bodies = [
        (zlib.compress(zeros), "application/json", "application/x-gzip"),
        (bz2.compress(zeros), "application/json", "application/x-bz2"),
        (lzma.compress(zeros, preset=0), "application/json", "application/x-lzma"),
        (brotli.compress(zeros, quality=1), "application/json", "application/x-brotli"),
        (zstd.compress(zeros), "application/json", "application/zstd"),
        (aliases.encode(), "application/x-yaml", None),
        (b"\x91" * deep, "application/x-msgpack", None),
        (b"\x80\x04" + b"]" * deep + b"a" * (deep - 1) + b".", "application/x-python-serialize", None),
        (memo, "application/x-python-serialize", None),
        (pickle.dumps(([Touch()], {}, {})), "application/x-python-serialize", None),
        (b"!!python/object/apply:os.mkdir [x]", "application/x-yaml", None),
        (b"[" * deep, "application/x-yaml", None),
        (b"[" * deep, "application/json", None),
    ]
    app = new_app()
    with Connection(os.environ["TEST_BROKER"]) as connection:
        producer = connection.Producer()
        for body, content_type, compression in bodies:
            headers = {"lang": "py", "task": "probe.echo", "id": "hostile", "compression": compression}
            producer.publish(body, routing_key="celery", headers=headers, content_type=content_type, content_encoding="binary")
    same(app.send_task("probe.echo", ["still here"]).get(timeout=LIMIT), "still here")
    assert not os.path.exists(f"{folder}/called")
    assert app.AsyncResult("hostile").state == "PENDING"


def certificates(folder):
    """Keys and certificates: `worker` and `client` trust each other, `stranger` nobody knows, `old` has expired."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(UTC)
    for place in ("trusted", "others"):
        os.makedirs(f"{folder}/{place}")
    for number, name in enumerate(["worker", "client", "stranger", "old"]):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        names = [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "ZZ"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Ünïcode Org"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
        end = now - datetime.timedelta(days=1) if name == "old" else now + datetime.timedelta(days=2)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(names))
            .issuer_name(x509.Name(names))
            .public_key(key.public_key())
            .serial_number(2**150 + number)
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(end)
            .sign(key, hashes.SHA256())
        )
        place = "trusted" if name in ("worker", "client") else "others"
        with open(f"{folder}/{place}/{name}.pem", "wb") as file:
            file.write(certificate.public_bytes(serialization.Encoding.PEM))
        encryption = serialization.NoEncryption()
        if name == "worker":
            encryption = serialization.BestAvailableEncryption(b"secret")
        with open(f"{folder}/{name}.key", "wb") as file:
            format = serialization.PrivateFormat.PKCS8
            file.write(key.private_bytes(serialization.Encoding.PEM, format, encryption))


def auth(folder):
    """Signed messages and signed results, and what is not signed by a friend."""
    app = new_app(task_serializer="auth", result_serializer="auth", accept_content=["auth"])
    client = app.conf

    def sign_as(name, place):
        client.update(
            security_key=f"{folder}/{name}.key",
            security_certificate=f"{folder}/{place}/{name}.pem",
            security_cert_store=f"{folder}/trusted/*.pem",
            security_digest="sha512",
        )
        app.setup_security(digest="sha512")

    refused = []
    for name in ("stranger", "old"):
        sign_as(name, "others")
        refused.append(app.send_task("probe.echo", [name]))
    sign_as("client", "trusted")
    values = PLAIN + DATES + OTHERS
    sent = app.send_task("probe.echo", [values])
    failed = app.send_task("probe.fail", ["no"])
    packed = app.send_task("probe.echo", ["compressed"], compression="zstd")
    same(sent.get(timeout=LIMIT), values)
    same(packed.get(timeout=LIMIT), "compressed")
    assert type(failed.get(timeout=LIMIT, propagate=False)) is ValueError

    # Signed content whose payload somebody changed, and content that is not signed at all.
    _, _, body = registry.dumps([["altered"], {}, {}], "auth")
    altered = base64.b64encode(base64.b64decode(body).replace(b"altered", b"changed"))
    bodies = [(altered, "application/data"), (b"[[1], {}, {}]", "application/json"), (b"[[1], {}, {}]", "application/data")]
    with Connection(os.environ["TEST_BROKER"]) as connection:
        producer = connection.Producer()
        for number, (body, content_type) in enumerate(bodies):
            id = f"forged-{number}"
            headers = {"lang": "py", "task": "probe.echo", "id": id}
            options = {"content_type": content_type, "content_encoding": "utf-8"}
            producer.publish(body, routing_key="celery", headers=headers, **options)
            refused.append(app.AsyncResult(id))
    # One after the other: when this one has its result, the others were looked at.
    last = app.send_task("probe.echo", ["last"])
    same(last.get(timeout=LIMIT), "last")
    for result in refused:
        assert result.state == "PENDING", (result.id, result.state)


if __name__ == "__main__":
    enable_insecure_serializers()
    globals()[sys.argv[1]](*sys.argv[2:])
