"""LiteLLM, through each of the three APIs it can speak to this server."""
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it fetches a list of prices at import

import litellm

from checks import (KEY, MODEL, QUESTION, SCHEMA, TOOL_MODEL, URL, WEATHER, calls_weather, check, conforms, main,
                    nearer, raises, unit)

litellm.telemetry = False
litellm.suppress_debug_info = True
MESSAGES = [{"role": "user", "content": QUESTION}]
TOOLS = [{"type": "function", "function": WEATHER}]


def openai(model=MODEL, **more):
    ask = {"messages": MESSAGES, "max_tokens": 16, "temperature": 0, "num_retries": 0, **more}
    return litellm.completion(model=f"openai/{model}", api_base=f"{URL}/v1", api_key=KEY, **ask)


@check
def chat():
    reply = openai()
    assert reply.choices[0].message.content and reply.usage.total_tokens > 0


@check
def chat_stream_is_the_same():
    text = "".join(chunk.choices[0].delta.content or "" for chunk in openai(stream=True))
    assert text == openai().choices[0].message.content


@check
def through_anthropics_api():
    ask = dict(model=f"anthropic/{MODEL}", api_base=URL, api_key=KEY, messages=MESSAGES, max_tokens=16, temperature=0)
    whole = litellm.completion(**ask).choices[0].message.content
    assert whole
    assert "".join(c.choices[0].delta.content or "" for c in litellm.completion(**ask, stream=True)) == whole


@check
def through_ollamas_api():
    ask = dict(model=f"ollama_chat/{MODEL}", api_base=URL, api_key=KEY, messages=MESSAGES, max_tokens=16, temperature=0)
    whole = litellm.completion(**ask).choices[0].message.content
    assert whole
    assert "".join(c.choices[0].delta.content or "" for c in litellm.completion(**ask, stream=True)) == whole


@check
def json_schema():
    form = {"type": "json_schema", "json_schema": {"name": "visit", "strict": True, "schema": SCHEMA}}
    conforms(openai(response_format=form, max_tokens=60).choices[0].message.content)


@check
def tools():
    ask = [{"role": "user", "content": "What is the weather in Oslo?"}]
    reply = openai(TOOL_MODEL, messages=ask, tools=TOOLS, tool_choice="required", max_tokens=80)
    call = reply.choices[0].message.tool_calls[0]
    calls_weather(call.function.name, call.function.arguments)


@check
def embeddings():
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose by a quarter point."]
    reply = litellm.embedding(model=f"openai/{MODEL}", api_base=f"{URL}/v1", api_key=KEY, input=texts,
                              encoding_format="float")
    vectors = [item["embedding"] for item in reply.data]
    for vector in vectors:
        unit(vector)
    nearer(*vectors)


@check
def errors():
    raises(litellm.NotFoundError, lambda: openai("gpt-9"))
    raises(litellm.BadRequestError, lambda: openai(temperature=-3))
    long = [{"role": "user", "content": "word " * 20_000}]
    raises(litellm.BadRequestError, lambda: openai(messages=long))
    ask = dict(model=f"openai/{MODEL}", api_base=f"{URL}/v1", api_key="wrong-wrong-wrong", messages=MESSAGES)
    raises(litellm.AuthenticationError, lambda: litellm.completion(**ask, num_retries=0))


main()
