"""The library and command `llm`, told of this server by its own file of models."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from checks import (KEY, MODEL, QUESTION, SCHEMA, TOOL_MODEL, URL, check, conforms, main, nearer,
                    raises, unit)

HOME = pathlib.Path(tempfile.mkdtemp(prefix="quarrel-llm-"))
os.environ["LLM_USER_PATH"] = str(HOME)
# Its models of embeddings have fixed names, under one of which the server has ours.
os.environ["OPENAI_BASE_URL"] = f"{URL}/v1"
(HOME / "keys.json").write_text(json.dumps({"quarrel": KEY}))
(HOME / "extra-openai-models.yaml").write_text("".join(f"""
- model_id: {alias}
  model_name: {name}
  api_base: {URL}/v1
  api_key_name: quarrel
  supports_schema: true
  supports_tools: true
""" for alias, name in [("quarrel", MODEL), ("quarrel-tools", TOOL_MODEL), ("quarrel-none", "gpt-9")]))

import llm  # reads the file above


def model(name="quarrel"):
    return llm.get_model(name)


OPTIONS = {"temperature": 0, "max_tokens": 16}


@check
def prompt():
    reply = model().prompt(QUESTION, system="Be brief.", stream=False, **OPTIONS)
    assert reply.text() and reply.usage().output <= 16


@check
def prompt_stream_is_the_same():
    whole = model().prompt(QUESTION, stream=False, **OPTIONS).text()
    assert "".join(model().prompt(QUESTION, stream=True, **OPTIONS)) == whole


@check
def conversation():
    talk = model().conversation()
    assert talk.prompt("My name is Ada.", **OPTIONS).text()
    assert talk.prompt("What is my name?", **OPTIONS).text()


@check
def command():
    ran = subprocess.run([sys.executable, "-m", "llm", "--no-log", "--model", "quarrel", "--no-stream",
                          "--option", "max_tokens", "8", QUESTION], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.strip(), ran


@check
def json_schema():
    conforms(model().prompt(QUESTION, schema=SCHEMA, stream=False, temperature=0, max_tokens=60).text())


@check
def tools():
    def get_weather(city: str) -> str:
        """Tells the weather in a city."""
        return f"Snow in {city}."

    # It has no way to demand a call: the model decides; what it calls must be the tool.
    reply = model("quarrel-tools").prompt("What is the weather in Oslo?", tools=[get_weather], stream=False,
                                          temperature=0, max_tokens=80)
    for call in reply.tool_calls():
        assert call.name == "get_weather" and set(call.arguments) == {"city"}, call
    assert reply.text() or reply.tool_calls()


@check
def embeddings():
    embedder = llm.get_embedding_model("text-embedding-3-small")
    embedder.key = KEY
    vectors = [embedder.embed(text) for text in ("A cat sleeps on the sofa.", "A kitten naps on the couch.",
                                                 "Interest rates rose by a quarter point.")]
    for vector in vectors:
        unit(vector)
    nearer(*vectors)


@check
def errors():
    error = raises(Exception, lambda: model("quarrel-none").prompt(QUESTION).text())
    assert "gpt-9" in str(error), error
    error = raises(Exception, lambda: model().prompt(QUESTION, temperature=0, max_tokens=100_000_000).text())
    assert "400" in str(error), error


main()
