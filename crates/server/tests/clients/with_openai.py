"""OpenAI's own client."""
import openai
from pydantic import BaseModel

from checks import (KEY, MODEL, QUESTION, SCHEMA, TOOL_MODEL, URL, WEATHER, calls_weather, check, conforms, main,
                    nearer, raises, unit)

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
TOOLS = [{"type": "function", "function": WEATHER}]
FORMAT = {"type": "json_schema", "json_schema": {"name": "visit", "strict": True, "schema": SCHEMA}}


def chat(**fields):
    fields = {"model": MODEL, "messages": MESSAGES, "max_tokens": 16, "temperature": 0, **fields}
    return client.chat.completions.create(**fields)


@check
def models():
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


@check
def chat_whole():
    reply = chat()
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].message.content
    assert reply.choices[0].finish_reason in ("stop", "length")
    usage = reply.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens <= 16


@check
def chat_stream_is_the_same():
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == chat().choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")
    assert chunks[-1].usage.completion_tokens == chat().usage.completion_tokens


@check
def chat_several_and_seeds():
    ask = lambda seed: [c.message.content for c in chat(n=2, temperature=1, seed=seed, max_tokens=24).choices]
    assert ask(3) == ask(3)
    assert len(set(ask(3) + ask(4))) > 1


@check
def chat_stop_and_logprobs():
    text = chat(max_tokens=24).choices[0].message.content
    stop = text[5:8]
    reply = chat(max_tokens=24, stop=[stop], logprobs=True, top_logprobs=2).choices[0]
    assert reply.message.content == text[: text.index(stop)] and reply.finish_reason == "stop"
    first = reply.logprobs.content[0]
    assert first.logprob <= 0 and len(first.top_logprobs) == 2
    assert first.top_logprobs[0].token == first.token


@check
def chat_parts_and_turns():
    parts = [{"type": "text", "text": "My name is Ada."}, {"type": "text", "text": "What is my name?"}]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"},
             {"role": "user", "content": parts}]
    assert chat(messages=turns).choices[0].message.content


@check
def json_schema():
    conforms(chat(response_format=FORMAT, max_tokens=60).choices[0].message.content)
    conforms("".join(c.choices[0].delta.content or ""
                     for c in chat(response_format=FORMAT, max_tokens=60, stream=True) if c.choices))


@check
def json_schema_parsed():
    class Visit(BaseModel):
        people: int
        by_train: bool

    reply = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Visit, temperature=0,
                                          max_tokens=60)
    assert isinstance(reply.choices[0].message.parsed, Visit)


@check
def tools():
    ask = [{"role": "user", "content": "What is the weather in Oslo?"}]
    message = chat(model=TOOL_MODEL, messages=ask, tools=TOOLS, tool_choice="required", max_tokens=80).choices[0]
    assert message.finish_reason == "tool_calls"
    call = message.message.tool_calls[0]
    assert call.id and call.type == "function"
    calls_weather(call.function.name, call.function.arguments)
    answer = {"role": "tool", "tool_call_id": call.id, "content": "Snow, -4 degrees."}
    turns = ask + [message.message.model_dump(exclude_none=True), answer]
    assert chat(model=TOOL_MODEL, messages=turns, tools=TOOLS, tool_choice="none").choices[0].message.content


@check
def tools_stream():
    named = {"type": "function", "function": {"name": "get_weather"}}
    ask = [{"role": "user", "content": "What is the weather in Rome?"}]
    chunks = chat(model=TOOL_MODEL, messages=ask, tools=TOOLS, tool_choice=named, max_tokens=80, stream=True)
    pieces = [piece for c in chunks if c.choices for piece in c.choices[0].delta.tool_calls or []]
    assert pieces[0].id and pieces[0].index == 0
    calls_weather("".join(p.function.name or "" for p in pieces),
                  "".join(p.function.arguments or "" for p in pieces))


@check
def completions():
    ask = dict(model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0)
    reply = client.completions.create(**ask, logprobs=1)
    text = reply.choices[0].text
    assert "Paris" in text and len(reply.choices[0].logprobs.tokens) == 4
    assert "".join(c.choices[0].text for c in client.completions.create(**ask, stream=True)) == text
    assert client.completions.create(**ask, echo=True).choices[0].text == ask["prompt"] + text


@check
def responses():
    ask = dict(model=MODEL, input=QUESTION, instructions="Be brief.", max_output_tokens=16, temperature=0)
    reply = client.responses.create(**ask)
    assert reply.output_text and reply.usage.output_tokens <= 16
    with client.responses.stream(**ask) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert text == reply.output_text == stream.get_final_response().output_text


@check
def responses_json_schema():
    form = {"format": {"type": "json_schema", "name": "visit", "strict": True, "schema": SCHEMA}}
    reply = client.responses.create(model=MODEL, input=QUESTION, text=form, max_output_tokens=60, temperature=0)
    conforms(reply.output_text)


@check
def responses_tools():
    tool = {"type": "function", **WEATHER, "strict": True}
    reply = client.responses.create(model=TOOL_MODEL, input="What is the weather in Oslo?", tools=[tool],
                                    tool_choice="required", max_output_tokens=80, temperature=0)
    call = next(item for item in reply.output if item.type == "function_call")
    calls_weather(call.name, call.arguments)


@check
def embeddings():
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose by a quarter point."]
    reply = client.embeddings.create(model=MODEL, input=texts)
    assert [item.index for item in reply.data] == [0, 1, 2] and reply.usage.prompt_tokens > 10
    vectors = [item.embedding for item in reply.data]
    for vector in vectors:
        unit(vector)
    nearer(*vectors)
    plain = client.embeddings.create(model=MODEL, input=texts[0], encoding_format="float").data[0].embedding
    assert all(abs(a - b) < 1e-5 for a, b in zip(plain, vectors[0]))


@check
def errors():
    assert raises(openai.NotFoundError, lambda: chat(model="gpt-9")).code == "model_not_found"
    for fields, param in [
        ({"temperature": -3}, "temperature"),
        ({"extra_body": {"nope": 1}}, "nope"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
    ]:
        error = raises(openai.BadRequestError, lambda: chat(**fields))
        assert error.param == param and error.body["message"], (fields, error.body)
    long = [{"role": "user", "content": "word " * 20_000}]
    assert raises(openai.BadRequestError, lambda: chat(messages=long)).code == "context_length_exceeded"
    schema = {"type": "object", "properties": {"a": {"type": "string", "contentEncoding": 3, "unheardOf": 1}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert raises(openai.BadRequestError, lambda: chat(response_format=form)).param == "response_format"
    stranger = openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong-wrong-wrong", max_retries=0)
    raises(openai.AuthenticationError, lambda: list(stranger.models.list()))


@check
def leaving_a_stream():
    stream = chat(messages=[{"role": "user", "content": "Write a long story."}], max_tokens=2000, stream=True)
    for _, _ in zip(range(5), stream):
        pass
    stream.close()
    assert chat(max_tokens=2).choices[0].message.content


main()
