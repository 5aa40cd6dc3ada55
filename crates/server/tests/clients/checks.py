"""What the scripts beside this file share: checks with names, and a server to aim them at.

Each script drives one client, as its package index has it, against a server that runs:

    QUARREL_URL=http://127.0.0.1:8080 QUARREL_KEY=… QUARREL_MODEL=… python with_NAME.py

`cargo xtask clients` starts the server, sets these, and runs all of them.
"""
import json
import os
import sys
import time
import traceback

URL = os.environ.get("QUARREL_URL", "http://127.0.0.1:8080")
KEY = os.environ.get("QUARREL_KEY", "none")
MODEL = os.environ.get("QUARREL_MODEL", "smollm2-135m")
# A model whose template knows tools; the first one where it is absent.
TOOL_MODEL = os.environ.get("QUARREL_TOOL_MODEL", MODEL)

QUESTION = "Name three colours."
CHECKS = []

# The smallest objects that no free text would be: two fields, one of few words.
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Rome", "Oslo"]},
        "people": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["city", "people"],
    "additionalProperties": False,
}

# A function that a model can be made to call.
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def check(function):
    """Adds a check; its name is the function's."""
    CHECKS.append(function)
    return function


def conforms(value):
    """Fails unless `value`, or the JSON it is, fits SCHEMA."""
    value = json.loads(value) if isinstance(value, str) else value
    assert set(value) == {"city", "people"}, value
    assert value["city"] in ("Paris", "Rome", "Oslo"), value
    assert isinstance(value["people"], int) and 1 <= value["people"] <= 99, value


def calls_weather(name, arguments):
    """Fails unless this is a call of WEATHER that fits its parameters."""
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert name == "get_weather", name
    assert set(arguments) == {"city"} and arguments["city"] in ("Paris", "Rome", "Oslo"), arguments


def unit(vector):
    """Fails unless `vector` is an embedding of length 1."""
    assert len(vector) > 16 and all(isinstance(x, float) for x in vector), vector[:4]
    assert abs(sum(x * x for x in vector) - 1) < 1e-3


def nearer(a, b, far):
    """Fails unless embedding `a` is nearer to `b` than to `far`."""
    product = lambda x, y: sum(i * j for i, j in zip(x, y))
    assert product(a, b) > product(a, far), (product(a, b), product(a, far))


def raises(kind, function):
    """The exception of class `kind` that `function` raises."""
    try:
        function()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def main():
    """Runs every check; one line of JSON each, for who counts them."""
    failed = False
    for function in CHECKS:
        begun, trace = time.monotonic(), None
        try:
            function()
        except Exception:
            failed, trace = True, traceback.format_exc()
        print(json.dumps({
            "name": function.__name__,
            "seconds": round(time.monotonic() - begun, 2),
            "failure": trace,
        }), flush=True)
    sys.exit(1 if failed else 0)
