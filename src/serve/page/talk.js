// SPDX-License-Identifier: Apache-2.0
// The conversation that is shown, and the one answer that may be being written.
"use strict";

const Talk = (() => {
  const log = document.getElementById("log");
  let shown = null;   // a conversation
  let running = null; // {chat, message, abort, drawn}
  let model = "";
  let changed = () => {};

  const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "repetition_penalty",
    "presence_penalty", "frequency_penalty"];

  function request(chat) {
    const s = Store.settings;
    const messages = chat.system ? [{ role: "system", content: chat.system }] : [];
    for (const m of chat.messages) {
      if (m.wrong && !m.content && !m.tool_calls) continue;
      const one = { role: m.role, content: m.content || (m.tool_calls ? null : "") };
      if (m.tool_calls) one.tool_calls = m.tool_calls;
      if (m.tool_call_id) one.tool_call_id = m.tool_call_id;
      messages.push(one);
    }
    const body = { messages, stream: true, stream_options: { include_usage: true } };
    if (model) body.model = model;
    for (const name of NUMBERS) if (typeof s[name] === "number") body[name] = s[name];
    if (s.stop && s.stop.length) body.stop = s.stop;
    if (s.reasoning_effort) body.reasoning_effort = s.reasoning_effort;
    if (chat.tools) body.tools = JSON.parse(chat.tools);
    return body;
  }

  function take(message, chunk) {
    const choice = chunk.choices[0], timings = chunk.timings, usage = chunk.usage;
    if (timings) message.about = { ...message.about, speed: timings.predicted_per_second };
    if (usage) message.about = { ...message.about, tokens: usage.completion_tokens, prompt: usage.prompt_tokens,
      cached: (usage.prompt_tokens_details || {}).cached_tokens };
    if (!choice) return;
    const delta = choice.delta || {};
    message.content += delta.content || "";
    message.reasoning += delta.reasoning_content || delta.reasoning || "";
    for (const part of delta.tool_calls || []) {
      message.tool_calls ||= [];
      const call = message.tool_calls[part.index] ||= { id: part.id, type: "function", function: { name: "", arguments: "" } };
      call.function.name += part.function?.name || "";
      call.function.arguments += part.function?.arguments || "";
    }
    if (choice.finish_reason) message.finish = choice.finish_reason;
  }

  const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;

  function drawRunning() {
    const stay = atEnd();
    const old = log.lastElementChild;
    const open = running.message.reasoning && !running.message.content ? true : !!old?.querySelector("details")?.open;
    const fresh = Message.build(running.message, running.chat.messages.length - 1, { writing: true, open });
    if (old) old.replaceWith(fresh);
    if (stay) log.scrollTop = log.scrollHeight;
  }

  function drawSoon() {
    if (running.drawn) return;
    running.drawn = true;
    requestAnimationFrame(() => {
      if (!running) return;
      running.drawn = false;
      if (running.chat === shown) drawRunning();
    });
  }

  function draw() {
    const on = running ? null : { edit, again, results };
    const last = shown.messages.length - 1;
    log.replaceChildren(...shown.messages.map((m, i) =>
      Message.build(m, i, { writing: running?.message === m, on, isLast: i === last })));
    if (!shown.messages.length) log.append(element("p", { class: "quiet" }, "Write a message to begin."));
    log.scrollTop = log.scrollHeight;
  }

  async function answer() {
    const chat = shown;
    const message = { role: "assistant", content: "", reasoning: "" };
    let body;
    try { body = request(chat); } catch (problem) { message.wrong = `The tools are no JSON: ${problem.message}`; }
    chat.messages.push(message);
    if (!body) { finish(chat); return; }
    running = { chat, message, abort: new AbortController() };
    changed();
    draw();
    try {
      await Api.stream(body, running.abort.signal, chunk => { take(message, chunk); drawSoon(); });
    } catch (problem) {
      if (problem.name === "AbortError") message.finish = "stopped";
      else { message.wrong = problem.message; changed(problem); }
    }
    running = null;
    finish(chat);
    Message.say(message.wrong || (message.finish === "stopped" ? "Stopped." : "The answer is complete."));
  }

  function finish(chat) {
    Store.save();
    changed();
    if (chat === shown) draw();
  }

  function send(text) {
    shown.messages.push({ role: "user", content: text });
    if (!shown.named && shown.messages.length === 1) shown.title = text.replace(/\s+/g, " ").slice(0, 60);
    Store.save();
    answer();
  }

  // TEXT null: nothing is changed. A message of the user's is sent again, and what followed it goes.
  function edit(index, text) {
    if (text !== null) {
      shown.messages[index].content = text;
      if (shown.messages[index].role === "user") {
        shown.messages.length = index + 1;
        answer();
        return;
      }
    }
    finish(shown);
  }

  function again(index) {
    shown.messages.length = index;
    answer();
  }

  function results(article) {
    for (const box of article.querySelectorAll("textarea[data-call]"))
      shown.messages.push({ role: "tool", content: box.value, tool_call_id: box.dataset.call });
    answer();
  }

  return {
    NUMBERS, send,
    get shown() { return shown; },
    get busy() { return running !== null; },
    show(chat) { shown = chat; draw(); changed(); },
    stop() { running?.abort.abort(); },
    whenChanged(tell) { changed = tell; },
    useModel(name) { model = name; },
  };
})();
