# SPDX-License-Identifier: Apache-2.0
"""nibble serve: tool calls, reasoning, answers of a given shape. What the model says is held by a grammar."""
import json
import re

import jsonschema
import pytest

from serving import Server, long_words, user

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ADD = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"$ref": "#/$defs/b"}},
       "required": ["a", "b"], "additionalProperties": False, "$defs": {"b": {"enum": ["x", "y"]}}}
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}},
         {"type": "function", "function": {"name": "add", "parameters": ADD}}]
CALL = '<tool_call>\n{"name": "now", "arguments": {"zone": "UTC"}}\n</tool_call>'
ANSWER = "I look.\n" + CALL + "\n" + CALL.replace("UTC", "CET")


@pytest.fixture(scope="module")
def serve(nibble_path, tree, tmp_path_factory):
    model = long_words(tree, tmp_path_factory.mktemp("words"))

    def start(family, *flags):
        return Server(nibble_path, model, "--chat-template", tree / f"tests/golden/text/families/{family}.jinja", *flags)
    return start


@pytest.fixture(scope="module")
def hermes(serve):
    with serve("hermes") as s:
        yield s


@pytest.fixture(scope="module")
def coder(serve):
    """Its prompt opens the reasoning, and its calls are written as tags."""
    with serve("qwen3-coder", "--reasoning-field", "reasoning") as s:
        yield s


def ask(says=None, **more):
    body = {"messages": user("the cat"), "temperature": 0, **more}
    return {**body, "grammar": "root ::= " + json.dumps(says)} if says else body


def both(server, body):
    """The message and finish reason, whole; checks that the stream adds up to it."""
    choice = server.post(CHAT, body)["choices"][0]
    frames = [f["choices"][0] for f in server.stream(CHAT, body)]
    message, calls = {"content": ""}, []
    for delta in [f["delta"] for f in frames]:
        for call in delta.pop("tool_calls", []):
            if call["index"] == len(calls):
                calls.append({"id": call["id"], "type": call["type"], "function": call["function"]})
            else:
                assert set(call) == {"index", "function"} and set(call["function"]) == {"arguments"}
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        for key, piece in delta.items():
            message[key] = message.get(key, "") + piece if key != "role" else piece
    expected = dict(choice["message"])
    whole_calls = expected.pop("tool_calls", [])
    assert [c["function"] for c in calls] == [c["function"] for c in whole_calls]
    assert message == {**expected, "content": expected["content"] or ""}
    assert frames[-1]["finish_reason"] == choice["finish_reason"]
    return choice["message"], choice["finish_reason"]


def test_calls(hermes):
    message, finish = both(hermes, ask(ANSWER, tools=TOOLS))
    assert finish == "tool_calls" and message["content"] == "I look."
    assert [c["function"] for c in message["tool_calls"]] == [
        {"name": "now", "arguments": '{"zone": "UTC"}'}, {"name": "now", "arguments": '{"zone": "CET"}'}]
    assert len({c["id"] for c in message["tool_calls"]}) == 2


def test_a_call_alone_has_no_content(hermes):
    message, finish = both(hermes, ask(CALL, tools=TOOLS))
    assert message["content"] is None and finish == "tool_calls"


def test_calls_that_are_none(hermes):
    message, finish = both(hermes, ask(CALL, tools=TOOLS, tool_choice="none"))
    assert message["content"] == CALL and finish == "stop" and "tool_calls" not in message
    cut = hermes.post(CHAT, ask(CALL, tools=TOOLS, max_tokens=20))["choices"][0]
    assert cut["finish_reason"] == "length" and CALL.startswith(cut["message"]["content"]) and "tool_calls" not in cut["message"]
    broken = CALL.replace("{", "[", 1)
    message, finish = both(hermes, ask(broken, tools=TOOLS))
    assert message["content"] == broken and finish == "stop"


def call_deltas(server, body):
    """What a stream tells of its one call: the name, the pieces of the arguments; and how it ends."""
    choices = [f["choices"][0] for f in server.stream(CHAT, body)]
    deltas = [call for c in choices for call in c["delta"].get("tool_calls", [])]
    assert deltas[0]["id"] and deltas[0]["function"]["arguments"] == "" and {d["index"] for d in deltas} == {0}
    return deltas[0]["function"]["name"], [d["function"]["arguments"] for d in deltas[1:]], choices[-1]["finish_reason"]


def test_calls_are_streamed_while_they_are_written(hermes):
    whole = '{"zone": "%s"}' % ("Central European Time, " * 12)
    says = CALL.replace('{"zone": "UTC"}', whole)
    most = 0
    for _ in range(10):  # what is ready goes out together: all of it, where the machine has other things to do
        name, pieces, finish = call_deltas(hermes, ask(says, tools=TOOLS))
        assert (name, "".join(pieces), finish) == ("now", whole, "tool_calls")
        most = max(most, len(pieces))
    assert most > 1
    name, pieces, finish = call_deltas(hermes, ask(says, tools=TOOLS, max_tokens=80))  # cut: as far as it was told
    assert name == "now" and 0 < len("".join(pieces)) < len(whole) and whole.startswith("".join(pieces)) and finish == "length"
    broken = CALL.replace('"UTC"}', '"UTC",}')  # a broken call before a whole one: not to be acted on
    frames = [f["choices"][0] for f in hermes.stream(CHAT, ask(broken + "\n" + CALL, tools=TOOLS))]
    assert frames[-1]["finish_reason"] == "stop"
    name, pieces, finish = call_deltas(hermes, ask(says[:-len('"}}\n</tool_call>')], tools=TOOLS))  # it breaks off by itself
    assert name == "now" and finish == "stop" and whole.startswith("".join(pieces))


def test_a_conversation_with_calls_goes_on(hermes):
    message, _ = both(hermes, ask(CALL, tools=TOOLS))
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "noon"}
    plain, finish = both(hermes, ask("It is noon.", tools=TOOLS, messages=[*user("x"), {**message, "role": "assistant"}, result]))
    assert plain["content"] == "It is noon." and finish == "stop"


def test_a_last_message_is_gone_on_with(hermes):
    """Of the prompt everything behind the message is cut; the beginning is what the template always writes."""
    messages = [*user("the cat"), {"role": "assistant", "content": "It is the"}]
    begun, plain = (hermes.post("/apply-template", {"messages": m, "continue_final_message": m is messages})["prompt"]
                    for m in (messages, messages[:1]))
    assert begun == plain + "It is the"
    answer = hermes.post(CHAT, ask(messages=messages, continue_final_message=True, max_tokens=8, return_token_ids=True))
    text = hermes.post(TEXT, {"prompt": answer["prompt_token_ids"], "temperature": 0, "max_tokens": 8})["choices"][0]["text"]
    assert answer["choices"][0]["message"]["content"] == text
    for said, user_says in (">", "the cat"), (" Yes", 'Answer " Yes" or " No".'), ("Yes \n", "Yes"):  # found nowhere else
        messages = [*user(user_says), {"role": "assistant", "content": said}]
        begun = hermes.post("/apply-template", {"messages": messages, "continue_final_message": True})["prompt"]
        plain = hermes.post("/apply-template", {"messages": messages[:1]})["prompt"]
        assert begun.startswith(plain) and begun[len(plain):].strip() == said.strip()
    messages = [*user("the cat"), {"role": "assistant", "content": "It is the"}]
    claude = hermes.post("/v1/messages", {"messages": messages, "temperature": 0, "max_tokens": 8})
    assert claude["content"][0]["text"] == text and claude["usage"]["input_tokens"] <= len(answer["prompt_token_ids"])


def arguments_of(message, name):
    assert len(message["tool_calls"]) == 1 and message["tool_calls"][0]["function"]["name"] == name
    return json.loads(message["tool_calls"][0]["function"]["arguments"])


@pytest.mark.parametrize("seed", range(3))
def test_a_call_is_made_when_it_is_asked_for(hermes, coder, seed):
    named = {"type": "function", "function": {"name": "add"}}
    hot = {"temperature": 1, "seed": seed, "tools": TOOLS, "max_tokens": 300}
    for server in hermes, coder:  # in the model's own words, and where these cannot be held to
        message, finish = both(server, ask(tool_choice=named, thinking_token_budget=5, **hot))
        assert finish == "tool_calls" and message["content"] is None
        jsonschema.validate(arguments_of(message, "add"), ADD)
    only = [TOOLS[1]]
    message, finish = both(hermes, ask(tool_choice="required", parallel_tool_calls=False, thinking_token_budget=0, **{**hot, "tools": only}))
    jsonschema.validate(arguments_of(message, "add"), ADD)


def test_what_cannot_be_called(hermes):
    named = {"type": "function", "function": {"name": "none"}}
    assert hermes.post(CHAT, ask(tools=TOOLS, tool_choice=named), status=400)["error"]["param"] == "tool_choice"
    bad = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}}]
    assert "not at" in hermes.post(CHAT, ask(tools=bad, tool_choice="required"), status=400)["error"]["message"]
    assert hermes.post(CHAT, ask(tools=bad, max_tokens=1))["usage"]["completion_tokens"] == 1
    bad[0]["function"]["strict"] = True  # to be held to when it comes
    assert "not at" in hermes.post(CHAT, ask(tools=bad), status=400)["error"]["message"]
    strict = [{**TOOLS[1], "function": {**TOOLS[1]["function"], "strict": True}}]
    held = hermes.post(CHAT, ask(tools=strict, max_tokens=10))  # text stays free; what a call is held to: test_call_shape
    assert held["choices"][0]["message"]["content"] and held["usage"]["completion_tokens"] == 10


def test_roles(serve, hermes):
    """A template writes a role as it is given, or passes its message over: then it is refused."""
    for role in "critic", "user1":
        messages = [*user("ask the critic"), {"role": role, "content": "the dog"}]
        assert role + "\nthe dog" in hermes.post("/apply-template", {"messages": messages})["prompt"]
    crowd = [{"role": f"voice {i}", "content": "x"} for i in range(17)]
    assert "more than 16 roles" in hermes.post(CHAT, ask(messages=crowd), status=400)["error"]["message"]
    with serve("glm") as s:
        for role in "critic", "a", "":
            body = ask(messages=[*user("ask the critic"), {"role": role, "content": "the dog"}])
            assert s.post(CHAT, body, status=400)["error"]["param"] == "messages[1].role"


def test_reasoning_has_a_budget(coder):
    for budget in 0, 4:
        body = ask(max_tokens=30, ignore_eos=True, reasoning_budget_tokens=budget, return_token_ids=True)
        answer = coder.post(CHAT, body)
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == budget
        assert answer["choices"][0]["finish_reason"] == "length" and answer["usage"]["completion_tokens"] == 30
        both(coder, {key: value for key, value in body.items() if key != "return_token_ids"})
    endless = coder.post(CHAT, ask(max_tokens=30, ignore_eos=True))
    assert endless["usage"]["completion_tokens_details"]["reasoning_tokens"] == 30
    assert endless["choices"][0]["message"]["reasoning"] and endless["choices"][0]["message"]["content"] == ""


def test_a_shape_comes_after_reasoning(coder):
    body = ask(max_tokens=400, temperature=1, seed=1, thinking_budget_tokens=3,
               response_format={"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": ADD}})
    message, finish = both(coder, body)
    assert finish == "stop" and message["reasoning"]
    jsonschema.validate(json.loads(message["content"]), ADD)


def test_shapes(hermes):
    hot = {"temperature": 1, "max_tokens": 400, "prompt": "the cat"}

    def text(**shape):
        choice = hermes.post(TEXT, {**hot, "seed": 3, **shape})["choices"][0]
        assert choice["finish_reason"] == "stop"
        return choice["text"]
    for shape in {"response_format": {"type": "json_schema", "json_schema": {"schema": ADD}}}, \
            {"structured_outputs": {"json": ADD}}, {"structured_outputs": {"json": json.dumps(ADD)}}, {"json_schema": ADD}:
        jsonschema.validate(json.loads(text(**shape)), ADD)
    assert re.fullmatch("[ab]{3}-[0-9]+", text(structured_outputs={"regex": "[ab]{3}-[0-9]{1,4}"}))
    assert text(structured_outputs={"choice": ["yes", "no"]}) in ("yes", "no")
    assert text(structured_outputs={"grammar": 'root ::= "a" "b"?'}) in ("a", "ab")
    assert text(response_format={"type": "text"}, max_tokens=400, logit_bias={"2": 1000}) == ""
    two = hermes.ask("POST", TEXT, {**hot, "grammar": 'root ::= "a"', "json_schema": {}})
    assert two[0] == 400 and "second shape" in two[2]["error"]["message"]
    cut = hermes.post(TEXT, {**hot, "seed": 3, "max_tokens": 3, "response_format": {"type": "json_object"}})["choices"][0]
    assert cut["finish_reason"] == "length" and cut["text"].startswith("{")


def test_tools_need_a_template_that_knows_them(nibble_path, tree, tmp_path):
    with Server(nibble_path, tree / "tests/golden/models/llama-words", "--chat-template", "chatml") as s:
        error = s.post(CHAT, ask(tools=TOOLS), status=400)["error"]
        assert error["param"] == "tools" and "--chat-template FILE gives another" in error["message"]
    with Server(nibble_path, long_words(tree, tmp_path, template=False)) as s:
        assert "chat template" in s.post(CHAT, ask(), status=400)["error"]["message"]
        assert s.post(TEXT, {"prompt": "a", "max_tokens": 1})["usage"]["completion_tokens"] == 1
