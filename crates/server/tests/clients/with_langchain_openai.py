"""LangChain's client for OpenAI's API."""
import openai
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from checks import (KEY, MODEL, QUESTION, SCHEMA, TOOL_MODEL, URL, WEATHER, calls_weather, check, conforms, main,
                    nearer, raises, unit)

TOOL = {"type": "function", "function": WEATHER}


def model(name=MODEL, **more):
    return ChatOpenAI(model=name, base_url=f"{URL}/v1", api_key=KEY, max_retries=0,
                      **{"max_tokens": 16, "temperature": 0, **more})


MESSAGES = [SystemMessage("Be brief."), HumanMessage(QUESTION)]


@check
def chat():
    reply = model().invoke(MESSAGES)
    assert reply.content and reply.usage_metadata["total_tokens"] > 0
    assert reply.response_metadata["finish_reason"] in ("stop", "length")


@check
def chat_stream_is_the_same():
    assert "".join(chunk.content for chunk in model().stream(MESSAGES)) == model().invoke(MESSAGES).content


@check
def batch():
    replies = model().batch([[HumanMessage(f"Say the word {word}.")] for word in ("red", "blue", "green")])
    assert all(reply.content for reply in replies)


@check
def through_responses():
    reply = model(use_responses_api=True).invoke(MESSAGES)
    assert reply.text


@check
def json_schema():
    schema = {"title": "visit", "description": "A visit.", **SCHEMA}
    conforms(model(max_tokens=60).with_structured_output(schema, method="json_schema").invoke(QUESTION))


@check
def tools():
    ask = [HumanMessage("What is the weather in Oslo?")]
    bound = model(TOOL_MODEL, max_tokens=80).bind_tools([TOOL], tool_choice="required")
    reply = bound.invoke(ask)
    call = reply.tool_calls[0]
    calls_weather(call["name"], call["args"])
    turns = ask + [reply, ToolMessage("Snow, -4 degrees.", tool_call_id=call["id"])]
    assert model(TOOL_MODEL).bind_tools([TOOL], tool_choice="none").invoke(turns).content
    whole = None
    for chunk in bound.stream(ask):
        whole = chunk if whole is None else whole + chunk
    calls_weather(whole.tool_calls[0]["name"], whole.tool_calls[0]["args"])


@check
def json_schema_by_tools():
    schema = {"title": "visit", "description": "A visit.", **SCHEMA}
    asked = model(TOOL_MODEL, max_tokens=80).with_structured_output(schema, method="function_calling")
    conforms(asked.invoke(QUESTION))


@check
def embeddings():
    # Without this it counts tokens with a vocabulary that it would fetch.
    embedder = OpenAIEmbeddings(model=MODEL, base_url=f"{URL}/v1", api_key=KEY, check_embedding_ctx_length=False)
    vectors = embedder.embed_documents(["A cat sleeps on the sofa.", "A kitten naps on the couch.",
                                        "Interest rates rose by a quarter point."])
    for vector in vectors:
        unit(vector)
    nearer(*vectors)
    unit(embedder.embed_query("Where does the cat sleep?"))


@check
def errors():
    raises(openai.NotFoundError, lambda: model("gpt-9").invoke(MESSAGES))
    raises(openai.BadRequestError, lambda: model(temperature=-3).invoke(MESSAGES))
    stranger = ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key="wrong-wrong-wrong", max_retries=0)
    raises(openai.AuthenticationError, lambda: stranger.invoke(MESSAGES))


main()
