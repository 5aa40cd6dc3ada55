"""Ollama's own client."""
import ollama

from checks import (KEY, MODEL, QUESTION, SCHEMA, TOOL_MODEL, URL, WEATHER, calls_weather, check, conforms, main,
                    nearer, raises, unit)

client = ollama.Client(host=URL, headers={"Authorization": f"Bearer {KEY}"})
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
OPTIONS = {"num_predict": 16, "temperature": 0}


@check
def models():
    assert MODEL in [model.model for model in client.list().models]
    assert MODEL in [model.model for model in client.ps().models]
    shown = client.show(MODEL)
    assert shown.details.format == "gguf" and shown.modelinfo["general.architecture"] == shown.details.family


@check
def chat():
    reply = client.chat(MODEL, messages=MESSAGES, options=OPTIONS)
    assert reply.message.role == "assistant" and reply.message.content and reply.done
    assert reply.done_reason in ("stop", "length") and reply.eval_count <= 16
    parts = list(client.chat(MODEL, messages=MESSAGES, options=OPTIONS, stream=True))
    assert "".join(part.message.content for part in parts) == reply.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


@check
def generate():
    reply = client.generate(MODEL, QUESTION, system="Be brief.", options=OPTIONS)
    assert reply.response and reply.prompt_eval_count > 0
    parts = client.generate(MODEL, QUESTION, system="Be brief.", options=OPTIONS, stream=True)
    assert "".join(part.response for part in parts) == reply.response
    raw = client.generate(MODEL, "The capital of France is", raw=True, options={**OPTIONS, "num_predict": 4})
    assert "Paris" in raw.response


@check
def generate_loads():
    assert client.generate(MODEL).done_reason == "load"


@check
def json_schema():
    ask = dict(messages=MESSAGES, format=SCHEMA, options={**OPTIONS, "num_predict": 60})
    conforms(client.chat(MODEL, **ask).message.content)
    conforms("".join(part.message.content for part in client.chat(MODEL, **ask, stream=True)))
    conforms(client.generate(MODEL, QUESTION, format=SCHEMA, options={**OPTIONS, "num_predict": 60}).response)


@check
def tools():
    ask = [{"role": "user", "content": "What is the weather in Oslo?"}]
    tools = [{"type": "function", "function": WEATHER}]
    reply = client.chat(TOOL_MODEL, messages=ask, tools=tools, options={**OPTIONS, "num_predict": 80})
    # Ollama has no way to demand a call: the model decides.
    for call in reply.message.tool_calls or []:
        calls_weather(call.function.name, call.function.arguments)
    called = {"role": "assistant", "content": "",
              "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}]}
    turns = ask + [called, {"role": "tool", "tool_name": "get_weather", "content": "Snow, -4 degrees."}]
    assert client.chat(TOOL_MODEL, messages=turns, tools=tools, options=OPTIONS).message.content


@check
def embed():
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose by a quarter point."]
    vectors = client.embed(MODEL, texts).embeddings
    for vector in vectors:
        unit(list(vector))
    nearer(*vectors)


@check
def errors():
    assert raises(ollama.ResponseError, lambda: client.chat("nope", messages=MESSAGES)).status_code == 404
    for wrong in [{"options": {"temperature": -1}}, {"options": {"nope": 1}},
                  {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}]:
        error = raises(ollama.ResponseError, lambda: client.chat(MODEL, **{"messages": MESSAGES, **wrong}))
        assert error.status_code == 400 and error.error, error
    stranger = ollama.Client(host=URL, headers={"Authorization": "Bearer wrong-wrong-wrong"})
    assert raises(ollama.ResponseError, stranger.list).status_code == 401


main()
