"""Anthropic's own client."""
import anthropic

from checks import (KEY, MODEL, QUESTION, SCHEMA, TOOL_MODEL, URL, WEATHER, calls_weather, check, conforms, main,
                    raises)

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
TOOL = {"name": WEATHER["name"], "description": WEATHER["description"], "input_schema": WEATHER["parameters"]}
ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]


def fields(**more):
    messages = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    # The temperature is a field of the API that this client has no name for any more.
    more = {"extra_body": {"temperature": 0}, **more}
    return {"model": MODEL, "max_tokens": 16, "system": "Be brief.", "messages": messages, **more}


@check
def message():
    reply = client.messages.create(**fields())
    assert reply.role == "assistant" and reply.content[0].type == "text" and reply.content[0].text
    assert reply.stop_reason in ("end_turn", "max_tokens")
    assert 0 < reply.usage.output_tokens <= 16


@check
def message_stream_is_the_same():
    whole = client.messages.create(**fields())
    with client.messages.stream(**fields()) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


@check
def stop_sequences():
    text = client.messages.create(**fields(max_tokens=24)).content[0].text
    stop = text[5:8]
    reply = client.messages.create(**fields(max_tokens=24, stop_sequences=[stop]))
    assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", stop)
    assert reply.content[0].text == text[: text.index(stop)]


@check
def count_tokens():
    ask = {name: value for name, value in fields().items() if name in ("model", "system", "messages")}
    counted = client.messages.count_tokens(**ask).input_tokens
    usage = client.messages.create(**fields(max_tokens=1)).usage
    assert counted == usage.input_tokens + usage.cache_read_input_tokens


@check
def models():
    assert MODEL in [model.id for model in client.models.list()]


@check
def json_schema():
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    conforms(client.messages.create(**fields(output_config=form, max_tokens=60)).content[0].text)


@check
def tools():
    ask = fields(model=TOOL_MODEL, messages=ASK, tools=[TOOL], tool_choice={"type": "any"}, max_tokens=80)
    reply = client.messages.create(**ask)
    assert reply.stop_reason == "tool_use"
    use = next(block for block in reply.content if block.type == "tool_use")
    calls_weather(use.name, use.input)
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "Snow, -4 degrees."}
    turns = ASK + [{"role": "assistant", "content": reply.content}, {"role": "user", "content": [result]}]
    last = client.messages.create(**fields(model=TOOL_MODEL, messages=turns, tools=[TOOL],
                                           tool_choice={"type": "none"}))
    assert last.content[0].text


@check
def tools_stream():
    ask = fields(model=TOOL_MODEL, messages=ASK, tools=[TOOL], max_tokens=80,
                 tool_choice={"type": "tool", "name": "get_weather"})
    with client.messages.stream(**ask) as stream:
        final = stream.get_final_message()
    use = next(block for block in final.content if block.type == "tool_use")
    calls_weather(use.name, use.input)


@check
def errors():
    raises(anthropic.NotFoundError, lambda: client.messages.create(**fields(model="claude-9")))
    for wrong in [{"extra_body": {"temperature": -1}}, {"extra_body": {"nope": 1}}, {"messages": []},
                  {"max_tokens": 0}]:
        error = raises(anthropic.BadRequestError, lambda: client.messages.create(**fields(**wrong)))
        assert error.body["error"]["type"] == "invalid_request_error", error.body
    stranger = anthropic.Anthropic(base_url=URL, api_key="wrong-wrong-wrong", max_retries=0)
    raises(anthropic.AuthenticationError, lambda: stranger.messages.create(**fields()))


main()
