# SPDX-License-Identifier: Apache-2.0
"""nibble serve as its clients see it: openai-python and anthropic, typed, streamed, with tools; the Responses and
Messages API; a conversation of many turns."""
import json

import pytest

from serving import Server, long_words, user

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")

SCHEMA = {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "now", "description": "Time.", "parameters": SCHEMA}}
FLAT = {"type": "function", "name": "now", "parameters": SCHEMA}
CALL = '<tool_call>\n{"name": "now", "arguments": {"zone": "UTC"}}\n</tool_call>'
SAYS = {"grammar": "root ::= " + json.dumps("I look.\n" + CALL), "thinking_token_budget": 0}


@pytest.fixture(scope="module")
def server(nibble_path, tree, tmp_path_factory):
    template = tree / "tests/golden/text/families/hermes.jinja"
    with Server(nibble_path, long_words(tree, tmp_path_factory.mktemp("words")), "--chat-template", template,
                "--served-model-name", "words", "--api-key", "key") as s:
        yield s


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.base, api_key="key", max_retries=0, timeout=60) as c:
        yield c


@pytest.fixture(scope="module")
def claude(server):
    with anthropic.Anthropic(base_url=server.url, api_key="key", max_retries=0, timeout=60) as c:
        yield c


def options(**more):
    return {"model": "words", "temperature": 0, "messages": user("the cat"), "max_tokens": 200, **more}


# ---- openai ----

def test_openai_chat(client):
    assert [m.id for m in client.models.list()] == ["words"]
    whole = client.chat.completions.create(**options(max_tokens=12))
    assert whole.usage.completion_tokens == 12 and whole.usage.prompt_tokens_details.cached_tokens == 0
    text, last = "", None
    for chunk in client.chat.completions.create(**options(max_tokens=12, stream=True, stream_options={"include_usage": True})):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        last = chunk
    assert text == whole.choices[0].message.content and last.usage == whole.usage


def test_openai_calls(client):
    with client.chat.completions.stream(**options(tools=[TOOL], extra_body=SAYS)) as stream:
        names = [event.type for event in stream]
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls" and final.message.content == "I look."
    assert final.message.tool_calls[0].function.arguments == '{"zone": "UTC"}'
    assert "tool_calls.function.arguments.done" in names


def test_openai_parses_an_answer_into_a_class(client):
    from pydantic import BaseModel

    class Answer(BaseModel):
        yes: bool
        n: int
    parsed = client.chat.completions.parse(**options(response_format=Answer, temperature=1, seed=4,
                                                     extra_body={"thinking_token_budget": 0}))
    assert isinstance(parsed.choices[0].message.parsed, Answer)


def test_openai_errors(server, client):
    for raised, call in [
            (openai.BadRequestError, lambda: client.chat.completions.create(**options(extra_body={"strange": 1}))),
            (openai.NotFoundError, lambda: client.chat.completions.create(**options(model="none"))),
            (openai.AuthenticationError, lambda: openai.OpenAI(base_url=server.base, api_key="wrong").models.list())]:
        with pytest.raises(raised) as told:
            call()
        assert told.value.body["message"]


def test_openai_completions(client):
    done = client.completions.create(model="words", prompt=["a", "b"], max_tokens=3, echo=True, logprobs=1, temperature=0)
    assert [c.text[0] for c in done.choices] == ["a", "b"] and len(done.choices[0].logprobs.tokens) == 4


# ---- responses ----

def test_openai_responses(client):
    ask = {"model": "words", "input": "the cat", "temperature": 0, "max_output_tokens": 12}
    whole = client.responses.create(**ask)
    assert whole.status == "incomplete" and whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage.output_tokens == 12 and whole.output_text
    again = client.responses.create(**ask, top_p=0, extra_body={"tool_choice": None, "text": None})  # null: not given
    assert again.top_p == 0 and again.tool_choice == "auto" and again.text.format.type == "text"
    events = list(client.responses.create(**ask, stream=True))
    assert [e.type for e in events[:3]] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[-1].type == "response.incomplete"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text and events[-1].response.usage == whole.usage


def test_responses_with_calls(client):
    ask = {"model": "words", "temperature": 0, "tools": [FLAT], "instructions": "Be brief.", "extra_body": SAYS}
    with client.responses.stream(input="when?", **ask) as stream:
        for event in stream:
            pass
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["message", "function_call"] and final.status == "completed"
    call = final.output[1]
    assert (call.name, call.arguments) == ("now", '{"zone": "UTC"}')
    history = [{"role": "user", "content": "when?"}, *[item.model_dump() for item in final.output],
               {"type": "function_call_output", "call_id": call.call_id, "output": "noon"}]
    again = client.responses.create(input=history, **{**ask, "extra_body": {**SAYS, "grammar": 'root ::= "Noon."'}})
    assert again.output_text == "Noon."
    forced = client.responses.create(model="words", input="x", tools=[FLAT], tool_choice={"type": "function", "name": "now"},
                                     extra_body={"seed": 1, "thinking_token_budget": 0})
    assert forced.output[-1].type == "function_call" and json.loads(forced.output[-1].arguments)["zone"] in ("UTC", "CET")


def test_responses_shapes_and_refusals(client, server):
    schema = {"type": "json_schema", "name": "n", "schema": SCHEMA}
    done = client.responses.create(model="words", input="x", text={"format": schema}, temperature=0, extra_body={"thinking_token_budget": 0})
    assert json.loads(done.output_text)["zone"] in ("UTC", "CET")
    for bad in {"previous_response_id": "resp_1"}, {"truncation": "auto"}, {"input": []}, {"input": [{"type": "image"}]}:
        with pytest.raises(openai.BadRequestError):
            client.responses.create(**{"model": "words", "input": "x", **bad})


# ---- anthropic ----

def message(**more):
    body = {"temperature": 0, **more.pop("extra_body", {})}
    return {"model": "words", "messages": user("the cat"), "max_tokens": 200, "extra_body": body, **more}

def test_anthropic_messages(claude):
    ask = message(max_tokens=12, system="Be brief.")
    whole = claude.messages.create(**ask)
    assert whole.stop_reason == "max_tokens" and whole.usage.output_tokens == 12 and whole.role == "assistant"
    assert claude.messages.count_tokens(**{k: ask[k] for k in ("model", "messages", "system")}).input_tokens == whole.usage.input_tokens
    with claude.messages.stream(**ask) as stream:
        types = [event.type for event in stream]
        final = stream.get_final_message()
    assert types[0] == "message_start" and types[-1] == "message_stop"
    assert [b.model_dump() for b in final.content] == [b.model_dump() for b in whole.content]
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == 12


def test_anthropic_tools(claude):
    tools = [{"name": "now", "description": "Time.", "input_schema": SCHEMA}]
    forced = message(tools=tools, tool_choice={"type": "tool", "name": "now"}, max_tokens=1500,
                     extra_body={"seed": 2, "temperature": 1, "thinking_token_budget": 0})
    with claude.messages.stream(**forced) as stream:
        final = stream.get_final_message()
    whole = claude.messages.create(**forced)
    assert final.stop_reason == "tool_use"
    assert final.content[-1].name == "now" and final.content[-1].input["zone"] in ("UTC", "CET")
    assert [(b.type, getattr(b, "input", None)) for b in final.content] == [(b.type, getattr(b, "input", None)) for b in whole.content]
    turns = [*user("when?"), {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""},
                                                               {"type": "text", "text": "I look."},
                                                               {"type": "tool_use", "id": "c1", "name": "now", "input": {"zone": "UTC"}}]},
             {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "noon"}]},
                                          {"type": "text", "text": "well?"}]}]
    assert claude.messages.create(**message(messages=turns, tools=tools, max_tokens=1)).usage.input_tokens > 100


def test_anthropic_errors(server, claude):
    with pytest.raises(anthropic.BadRequestError) as told:
        claude.messages.create(**message(messages=user([{"type": "image", "source": {"type": "url", "url": "x"}}])))
    assert told.value.body["type"] == "error" and told.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0).messages.create(**message())
    status, _, body = server.ask("POST", "/v1/messages", {"messages": user("x")}, {"x-api-key": "key"})
    assert status == 400 and "max_tokens" in body["error"]["message"]


def test_what_agents_send(claude):
    """A line that differs in each request, and system messages in the middle."""
    billing = "x-anthropic-billing-header: cc_version=1; cch={};\nYou are an agent. " + "Be careful. " * 30
    used = [claude.messages.create(**message(system=[{"type": "text", "text": billing.format(i)}], max_tokens=1)).usage for i in range(2)]
    assert used[0].cache_read_input_tokens == 0 and used[1].cache_read_input_tokens > 200
    assert used[1].input_tokens + used[1].cache_read_input_tokens == used[0].input_tokens


# ---- a conversation ----

def test_turns_compute_what_is_new(nibble_path, tree, tmp_path):
    """Of 20 turns each computes its new tokens and less than a page of 64."""
    with Server(nibble_path, long_words(tree, tmp_path), "--chat-template", "chatml") as s:
        messages, before = [], 0
        for turn in range(20):
            messages += user(f"question {turn}")
            answer = s.post("/v1/chat/completions", {"messages": messages, "max_tokens": 20, "temperature": 0})
            usage = answer["usage"]
            computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
            assert computed < usage["prompt_tokens"] - before + 64, (turn, usage)
            before = usage["prompt_tokens"]
            messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
