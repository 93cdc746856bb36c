"""Makes calls.jsonl: what Python 3.11 says to calls of these functions. Run as `python3.11 make.py > calls.jsonl`.

A line is [function, args, kwargs, "value" or "TypeError", the function's list or the message].
../binding.rs has the same functions as tasks.
"""

import itertools
import json
import sys

assert sys.version_info[:2] == (3, 11), "the messages are those of Python 3.11"


def none():
    return []


def one(x):
    return [x]


def two(x, y):
    return [x, y]


def three(x, y, z):
    return [x, y, z]


def four(x, y, z, w):
    return [x, y, z, w]


def default(x, y=20):
    return [x, y]


def defaults(x=10, y=20):
    return [x, y]


def keyword(x, *, k):
    return [x, k]


def only_keyword(*, k):
    return [k]


def keywords(x=10, *, k, d=40, e):
    return [x, k, d, e]


def rest(x, *rest):
    return [x, list(rest)]


def extra(x, **extra):
    return [x, extra]


def everything(x, y=20, *rest, k, d=40, **extra):
    return [x, y, list(rest), k, d, extra]


class Bound:
    """Celery calls the function of a bound task as a method."""

    def bound(self, x, y=20):
        return [x, y]

    def bound_one(self, x):
        return [x]

    def bound_none(self):
        return []


methods = [Bound.bound, Bound.bound_one, Bound.bound_none]
for method in methods:
    method.__qualname__ = method.__name__

functions = [
    none, one, two, three, four, default, defaults, keyword, only_keyword, keywords, rest, extra, everything,
    *(getattr(Bound(), method.__name__) for method in methods),
]
given = [
    {}, {"x": -1}, {"y": -2}, {"k": -3}, {"d": -4}, {"k": -3, "e": -5}, {"k": -3, "d": -4, "e": -5}, {"nope": -6},
    {"nope": -6, "k": -3}, {"y": -2, "x": -1}, {"x": -1, "nope": -6}, {"self": -7},
]
for function, count, kwargs in itertools.product(functions, range(6), given):
    if "self" in kwargs and function.__name__.startswith("bound"):
        continue
    args = list(range(1, count + 1))
    try:
        answer = ["value", function(*args, **kwargs)]
    except TypeError as error:
        answer = ["TypeError", str(error)]
    print(json.dumps([function.__name__, args, kwargs, *answer]))
