"""Renders llama.cpp's chat templates with Python's jinja2, set up as
transformers sets it up, on the conversations of templates/conversations.json.

    cargo xtask fixtures
    target/fixtures/venv/bin/python crates/tokenizer/tests/make_template_goldens.py

writes templates/goldens.json: for each template and case the length in bytes
and the start of the sha256 of the text, or the error Python ends with; and
templates/snippet_goldens.json: what Python makes of templates/snippets.json,
one idiom of Jinja or Python each, on the first conversation. With
TEMPLATE CASE as arguments it prints that one text instead.
"""
import hashlib
import json
import pathlib
import sys
from datetime import datetime

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
TEMPLATES = HERE.parents[2] / "target/fixtures/llama.cpp/models/templates"


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the model said; it renders as its body."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def raise_exception(message):
    raise jinja2.TemplateError(message)


def environment(now):
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = now.strftime
    return env


def render(env, source, data, case):
    return env.from_string(source).render(
        messages=case["messages"],
        tools=data["tools"].get(case.get("tools")),
        documents=None,
        add_generation_prompt=case.get("add_generation_prompt", True),
        **data["special_tokens"],
        **case.get("kwargs", {}),
    )


def golden(env, source, data, case):
    try:
        text = render(env, source, data, case).encode()
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"[:100]
    return f"{len(text)} {hashlib.sha256(text).hexdigest()[:32]}"


def snippet_golden(env, source, data, case):
    try:
        return {"text": render(env, source, data, case)}
    except Exception as error:
        return {"raises": f"{type(error).__name__}: {error}"}


def main():
    data = json.loads((HERE / "templates/conversations.json").read_text(encoding="utf-8"))
    env = environment(datetime.fromisoformat(data["now"]))
    sources = {p.stem: p.read_text(encoding="utf-8") for p in sorted(TEMPLATES.glob("*.jinja"))}
    if len(sys.argv) == 3:
        (case,) = [c for c in data["cases"] if c["name"] == sys.argv[2]]
        sys.stdout.write(render(env, sources[sys.argv[1]], data, case))
        return
    goldens = {
        name: {case["name"]: golden(env, source, data, case) for case in data["cases"]}
        for name, source in sources.items()
    }
    snippets = json.loads((HERE / "templates/snippets.json").read_text(encoding="utf-8"))
    first = data["cases"][0]
    texts = [snippet_golden(env, source, data, first) for source in snippets]
    text = json.dumps(texts, indent=1, ensure_ascii=False) + "\n"
    (HERE / "templates/snippet_goldens.json").write_text(text, encoding="utf-8")
    made = {"made with": f"jinja2 {jinja2.__version__}", "templates": goldens}
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    (HERE / "templates/goldens.json").write_text(text, encoding="utf-8")


main()
