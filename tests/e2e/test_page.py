# SPDX-License-Identifier: Apache-2.0
"""The server's page in a real browser. With NIBBLE_SCREENSHOTS=FOLDER it leaves pictures there."""
import json
import os
import pathlib
import re
import time
import urllib.parse

import pytest

from browser import open_browser, screen
from serving import Server, user

ERRORS = {"attn_q": 0.0856, "ffn_up": 0.0814}
REPORT = {"groups": [{"group": name, "relative_error": error} for name, error in ERRORS.items()]}

# What a model may write, and what must come of it.
MARKDOWN = [
    ("# A *b*\n\ntext", "<h1>A <em>b</em></h1><p>text</p>"),
    ("**a** ~~b~~ `<i>`", "<p><strong>a</strong> <del>b</del> <code>&lt;i&gt;</code></p>"),
    ("- a\n  - b\n- c", "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>"),
    ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    ("> a\n> b", "<blockquote><p>a\nb</p></blockquote>"),
    ("|a|b|\n|-|-|\n|1|`x`|", "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td>"
                              "<td><code>x</code></td></tr></tbody></table>"),
    ("[a](https://b.c/d_e_f)", '<p><a href="https://b.c/d_e_f" target="_blank" rel="noopener noreferrer">a</a></p>'),
    ("snake_case_name 2*3*4", "<p>snake_case_name 2*3*4</p>"),
    ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
]
HOSTILE = [
    "<script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 1'>", "`<img src=x onerror=1>`",
    "[a](javascript:window.hacked=1)", "[a](data:text/html,<script>1</script>)", "[x](https://a.b\" onclick=\"1)",
    "[x](https://a.b'onmouseover='1)", "```\"><script>window.hacked=1</script>\n</code><script>1</script>\n```",
    "https://a.b/\"onclick=1", "|<b onclick=1>|b|\n|-|-|\n|<svg/onload=1>|x|", "\u00000\u0000 `a` \u00001\u0000",
    "![x](https://a.b/c.png)", "> <iframe srcdoc=1>", "- <a href=javascript:1>", "[`<b>`](https://a.b/`<i>`)",
    "a\u0000b<b>", "**" * 5000, "[" * 5000, "> " * 5000, "`" * 5001 + "a", "* " * 3000, "_a" * 5000, "|" * 3000 + "\n|-|-|",
    "(https://a" * 2000, "~~a" * 3000, "  - a\n" * 2000,
]


@pytest.fixture(scope="module")
def browser():
    opened = open_browser()
    screen(opened, 1280, 800, False)
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def server(nibble_path, smollm2, tmp_path_factory):
    report = tmp_path_factory.mktemp("page") / "report.json"
    report.write_text(json.dumps(REPORT))
    with Server(nibble_path, smollm2, "--max-tokens", 8, "--quantize-report", report) as s:
        yield s


@pytest.fixture
def page(browser, server):
    """The page as at a first visit."""
    screen(browser, 1280, 800, False)
    return Page(browser, server.url)


class Page:
    def __init__(self, browser, url):
        self.browser = browser
        browser.get(url + "/health")
        browser.execute_script("localStorage.clear(); sessionStorage.clear()")
        browser.get_log("performance")
        browser.get(url + "/")

    def id(self, name):
        return self.browser.find_element("id", name)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def js(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def until(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while not (got := condition()):
            assert time.monotonic() < end, self.js("return document.body.innerText")
            time.sleep(0.05)
        return got

    def send(self, text, wait=True):
        self.id("input").send_keys(text + "\n")
        if wait:
            self.done()

    def done(self):
        self.until(lambda: not self.js("return Talk.busy"))

    def messages(self):
        return self.js("return Talk.shown.messages")

    def pretend(self, *chunks):
        """From now on answers are these deltas; what is asked stands in window.asked."""
        self.js("""const chunks = arguments[0];
            Api.stream = async (body, signal, take) => {
                window.asked = body;
                for (const delta of chunks) take({choices: [{delta}]});
                take({choices: [{delta: {}, finish_reason: 'stop'}]});
            };""", list(chunks))

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains
        ActionChains(self.browser).send_keys(*keys).perform()

    def focus(self):
        return self.js("return document.activeElement.id")

    def picture(self, name):
        if folder := os.environ.get("NIBBLE_SCREENSHOTS"):
            self.browser.save_screenshot(str(pathlib.Path(folder) / f"{name}.png"))


def test_it_asks_nobody_else(page, server):
    status, headers, text = server.ask("GET", "/")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    nonces = set(re.findall(rb'nonce="([^"]*)"', text))
    assert len(nonces) == 1 and f"script-src 'nonce-{nonces.pop().decode()}'" in policy and "default-src 'none'" in policy
    assert "unsafe" not in policy and policy != server.ask("GET", "/")[1]["Content-Security-Policy"]
    assert server.ask("HEAD", "/")[0] == 200
    page.until(lambda: page.id("model-name").text)
    page.send("Hello")
    log = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    asked = {urllib.parse.urlsplit(entry["params"]["request"]["url"]) for entry in log
             if entry["method"] == "Network.requestWillBeSent"}
    assert {f"{a.scheme}://{a.netloc}" for a in asked if a.scheme != "data"} == {server.url}
    assert {"/", "/about", "/v1/models", "/v1/chat/completions", "/metrics"} == {a.path for a in asked if a.scheme != "data"}
    assert not [e for e in page.browser.get_log("browser") if "Content Security" in e["message"]]


def test_talk(page, server):
    greedy = {"temperature": 0, "max_tokens": 10}
    page.js("Store.saveSettings(arguments[0])", greedy)
    page.js("window.seen = 0; new MutationObserver(() => seen++).observe(log, {childList: true})")
    page.send("Name three fruits.")
    first = page.messages()[1]
    assert first["content"] == server.post("/v1/chat/completions", {"messages": user("Name three fruits."), **greedy})[
        "choices"][0]["message"]["content"]
    assert page.js("return seen") >= 5  # it came in pieces
    page.until(lambda: re.fullmatch(r"\d+ tokens · [\d.]+ tokens/s.*", page.all(".assistant .about")[0].text.split("\n")[0]))
    page.send("And three more.")
    assert page.messages()[3]["about"]["prompt"] > page.messages()[1]["about"]["prompt"]
    page.browser.refresh()
    assert [m["content"] for m in page.messages()][:2] == ["Name three fruits.", first["content"]]
    page.id("new-chat").click()
    page.send("Hello")
    assert len(page.all("#chats li")) == 2 and page.messages()[0]["content"] == "Hello"
    page.all("#chats .pick")[1].click()
    assert len(page.messages()) == 4
    page.picture("talk")
    page.all("#chats .small")[1].click()
    page.browser.switch_to.alert.accept()
    assert len(page.all("#chats li")) == 1


def test_stop_again_edit(page, server):
    page.js("Store.saveSettings({max_tokens: 3000, temperature: 0})")
    page.send("Count to a thousand.", wait=False)
    page.until(lambda: page.js("return Talk.busy && Talk.shown.messages[1].content.length > 3"))
    assert not page.id("send").is_displayed() and page.all(".writing")
    page.press("\ue00c")  # Escape
    page.done()
    page.until(lambda: server.get("/load")["running"] == 0, 5)
    text = page.messages()[1]["content"]
    assert page.messages()[1]["finish"] == "stopped" and "stopped" in page.all(".about")[1].text
    page.js("Store.saveSettings({max_tokens: 4, temperature: 0})")
    page.all("[aria-label='Write message 2 again']")[0].click()
    page.done()
    again = page.messages()[1]["content"]
    assert len(page.messages()) == 2 and again and (text.startswith(again) or again.startswith(text))
    page.all("[aria-label='Edit message 1']")[0].click()
    page.js("document.activeElement.value = ''")
    page.press("Say hi.")
    page.all(".message .strong")[0].click()
    page.done()
    assert [m["content"] for m in page.messages()][0] == "Say hi." and len(page.messages()) == 2
    page.all("[aria-label='Edit message 2']")[0].click()
    page.press(" Indeed.")
    page.all(".message .strong")[0].click()
    assert page.messages()[1]["content"].endswith(" Indeed.") and not page.js("return Talk.busy")


def test_settings_go_with_the_request(page):
    page.pretend({"content": "yes"})
    page.id("open-settings").click()
    for name, text in {"system": "Be brief.", "temperature": "0.5", "top_k": "7", "seed": "3", "stop-texts": "END\nSTOP"}.items():
        page.id(name).send_keys(text)
    page.id("tools").send_keys("{")
    page.id("save-settings").click()
    assert "no JSON" in page.id("settings-wrong").text and page.id("settings").is_displayed()
    page.id("tools").clear()
    page.id("save-settings").click()
    page.send("Hello")
    asked = page.js("return asked")
    assert asked["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert (asked["temperature"], asked["top_k"], asked["seed"], asked["stop"]) == (0.5, 7, 3, ["END", "STOP"])
    assert "top_p" not in asked and "tools" not in asked


def test_reasoning_and_calls(page):
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    page.pretend({"reasoning_content": "Let me *see*."}, {"tool_calls": [call]},
                 {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
                 {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]})
    page.send("Weather?")
    folded = page.all("details")[0]
    assert folded.get_attribute("open") is None and not folded.find_element("tag name", "em").is_displayed()
    folded.find_element("tag name", "summary").click()
    assert folded.find_element("tag name", "em").text == "see"
    assert "Calls weather" in page.all(".call")[0].text and '"city": "Oslo"' in page.all(".call")[0].text
    page.all(".call textarea")[0].send_keys("rain")
    page.picture("calls")
    page.pretend({"content": "It rains."})
    page.all("article > button")[0].click()
    page.until(lambda: len(page.messages()) == 4)
    assert page.js("return asked.messages") == [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}]},
        {"role": "tool", "content": "rain", "tool_call_id": "c1"}]
    assert page.all(".assistant")[1].text.split("\n")[1] == "It rains."


def test_markdown(page):
    for text, html in MARKDOWN:
        assert page.js("return Markdown.render(arguments[0])", text) == html
    code = page.js("return Markdown.render(arguments[0])", "```c\nint a<b;\n")  # not ended yet
    assert '<code data-language="c">int a&lt;b;' in code
    began = time.monotonic()
    for text in HOSTILE:
        html = page.js("""const box = document.createElement('div'); log.append(box);
            box.innerHTML = Markdown.render(arguments[0]);
            return [...box.querySelectorAll('*')].map(e => [e.tagName, [...e.attributes].map(a => [a.name, a.value])])""", text)
        for tag, attributes in html:
            assert tag.lower() not in ("script", "img", "iframe", "svg", "object", "style", "form"), text
            for name, value in attributes:
                assert name in ("href", "target", "rel", "class", "type", "tabindex", "aria-label", "start",
                                "data-language"), (text, name)
                assert name != "href" or re.match("https?://|mailto:", value), text
    assert time.monotonic() - began < 20
    assert page.js("return window.hacked") is None


def test_what_the_model_is(page, nibble, smollm2):
    facts = json.loads(nibble("inspect", "--json", smollm2).stdout)
    page.until(lambda: page.all("#groups tr"))
    rows = [[cell.text for cell in row.find_elements("css selector", "td")] for row in page.all("#groups tr")[1:]]
    assert [row[:4] for row in rows] == [[g["group"], g["format"], str(g["tensors"]), f"{g['bits_per_weight']:.2f}"]
                                         for g in facts["groups"]]
    assert {row[0]: float(row[4]) for row in rows if row[4]} == ERRORS
    label = page.all("#plot svg")[0].get_attribute("aria-label")
    assert label.startswith("Quantization error") and "attn_q 0.0856, ffn_up 0.0814" in label
    assert str(smollm2.parent) not in json.dumps(page.js("return Api.json('about')"))


def test_what_the_server_does(page, server):
    """The numbers are those of /metrics."""
    text = 'vllm:num_requests_running{model_name="a b",engine="0"} 2.0\nvllm:num_requests_running{model_name="{}"} 1e0\n' \
           "# HELP x\nvllm:generation_tokens_total 1e3\nnan NaN\n"
    assert page.js("return Api.parseMetrics(arguments[0])", text) == {
        "vllm:num_requests_running": 3, "vllm:generation_tokens_total": 1000}
    connection, _ = server.open_stream("/v1/completions", {"prompt": "one two three", "max_tokens": 3000, "ignore_eos": True})

    def rows():
        return page.js("""return Object.fromEntries([...document.querySelectorAll('#live dt')].map(t =>
            [t.textContent, t.nextElementSibling.textContent]))""")

    def busy():
        now = rows()
        return now.get("running") == "1" and float(now["tokens/s"].replace("–", "0")) > 0 and now
    now = page.until(busy)
    assert now["compute"] and re.fullmatch(r"[\d.]+ [MG]B", now["memory"]) and "%" in now["KV cache in use"]
    page.picture("live")
    connection.close()


def test_by_keyboard_and_by_name(page):
    names = page.js("""return [...document.querySelectorAll('button, input, textarea, select, summary, a')].map(e =>
        e.getAttribute('aria-label') || (e.labels && e.labels[0] && e.labels[0].textContent) || e.textContent)""")
    assert len(names) > 20 and all(name.strip() for name in names)
    seen = []
    for _ in range(14):
        page.press("\ue004")  # Tab
        seen.append(page.focus())
    assert seen[:3] == ["", "open-settings", "new-chat"] and "input" in seen and "send" in seen
    assert page.js("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.js("document.getElementById('open-settings').focus()")
    page.press("\ue007")  # Enter
    assert page.id("settings").is_displayed() and page.focus() == "title"
    page.press("\ue00c")
    assert not page.id("settings").is_displayed() and page.focus() == "open-settings"


CONTRAST = """const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(x => { x /= 255;
        return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const back = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (!c.startsWith('rgba(0, 0, 0, 0')) return c; } };
    return [...document.querySelectorAll('body, .quiet, .who, .about, button, .body, dt, a, td')].filter(e => e.offsetParent)
        .map(e => { const a = light(getComputedStyle(e).color), b = light(back(e));
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)]; }).sort((x, y) => x[0] - y[0])[0]"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_on_screens(page, width, dark):
    screen(page.browser, width, 800, dark)
    page.pretend({"content": "# Fruit\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\n" + "print(1) " * 30 +
                  "\n```\n- one\n- two\n\n" + "averylongword" * 30})
    page.send("x" * 300)
    page.until(lambda: page.all("#groups tr"))
    assert page.js("return document.documentElement.scrollWidth") <= width
    assert ("dark" in page.js("return document.documentElement.className")) == dark
    ratio, where = page.js(CONTRAST)
    assert ratio >= 4.5, where
    name = f"{width}-{'dark' if dark else 'light'}"
    page.picture(name)
    assert page.id("facts").is_displayed() == (width > 1150)
    for panel in ("history", "facts") if width < 760 else ():
        button = page.id(f"open-{panel}")
        button.click()
        assert page.id(panel).is_displayed() and button.get_attribute("aria-expanded") == "true"
        assert page.js("return document.documentElement.scrollWidth") <= width
        page.picture(f"{name}-{panel}")
        page.press("\ue00c")
        assert not page.id(panel).is_displayed() and page.focus() == f"open-{panel}"
    page.id("open-settings").click()
    page.picture(f"{name}-settings")
    assert page.js("return document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth + 1")


def test_a_server_with_a_key(browser, nibble_path, tree):
    with Server(nibble_path, tree / "tests/golden/models/llama-words", "--api-key", "sesame") as s:
        assert s.ask("GET", "/about")[0] == 401
        page = Page(browser, s.url)
        page.until(lambda: page.id("settings").is_displayed() and page.focus() == "api-key")
        assert "API key" in page.id("notice").get_attribute("textContent")
        page.press("wrong", "\ue007")
        page.until(lambda: page.js("return Store.key") == "wrong" and page.id("settings").is_displayed() and page.focus() == "api-key")
        page.id("api-key").clear()
        page.id("api-key").send_keys("sesame\n")
        page.until(lambda: page.id("model-name").text and page.all("#groups tr"))
        assert not page.id("notice").is_displayed() and "sesame" not in page.js("return JSON.stringify(localStorage)")
        page.send("a")
        assert page.messages()[1]["finish"] in ("stop", "length") and "wrong" not in page.messages()[1]


def test_a_server_that_goes_away(browser, nibble_path, tree):
    s = Server(nibble_path, tree / "tests/golden/models/llama-words")
    page = Page(browser, s.url)
    page.until(lambda: page.id("model-name").text)
    s.stop()
    page.send("a")
    assert page.all(".wrong")[0].text == "The server is not reached."


def test_a_bad_report(nibble, smollm2, tmp_path):
    for text, words in ("{", "report.json"), ('{"groups": 3}', "no list 'groups'"):
        (tmp_path / "report.json").write_text(text)
        done = nibble("serve", smollm2, "--port", 0, "--quantize-report", tmp_path / "report.json", check=False)
        assert done.returncode == 1 and words in done.stderr
