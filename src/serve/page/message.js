// SPDX-License-Identifier: Apache-2.0
// Messages on the screen. What they hold goes in as text, or through Markdown, which escapes.
"use strict";

// element("p", {class: "x", onclick: f}, child or text, ...)
function element(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else if (value === true) e.setAttribute(name, "");
    else if (value !== false && value != null) e.setAttribute(name, value);
  }
  e.append(...children.filter(c => c != null));
  return e;
}
const small = (words, onclick, label) =>
  element("button", { type: "button", class: "small", onclick, "aria-label": label }, words);

const Message = (() => {
  const WHO = { user: "You", assistant: "Model", tool: "Tool" };

  const pretty = text => { try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; } };

  function body(message) {
    const box = element("div", { class: "body" });
    if (message.role === "assistant") box.innerHTML = Markdown.render(message.content || "");
    else box.textContent = message.content;
    return box;
  }

  function reasoning(message, open) {
    if (!message.reasoning) return null;
    const box = element("div", { class: "body" });
    box.innerHTML = Markdown.render(message.reasoning);
    return element("details", { open }, element("summary", {}, message.content || message.finish ? "Reasoning" : "Reasoning …"), box);
  }

  function call(one, answer) {
    const box = element("div", { class: "call" }, element("strong", {}, `Calls ${one.function.name}`),
      element("pre", { tabindex: "0" }, pretty(one.function.arguments)));
    if (answer) {
      const id = `result-${one.id}`;
      box.append(element("label", { for: id }, "What the tool answers"),
        element("textarea", { id, rows: 2, "data-call": one.id }));
    }
    return box;
  }

  function about(message) {
    const a = message.about || {}, words = [];
    if (a.tokens) words.push(`${a.tokens} tokens`);
    if (a.speed) words.push(`${a.speed.toFixed(1)} tokens/s`);
    if (a.cached) words.push(`${a.cached} of ${a.prompt} prompt tokens remembered`);
    if (message.finish === "length") words.push("cut off at the limit");
    if (message.finish === "stopped") words.push("stopped");
    return words.join(" · ");
  }

  // on: {edit, again, results}; absent while an answer is written
  function build(message, index, { writing, on, isLast, open }) {
    const article = element("article", { class: `message ${message.role}${writing ? " writing" : ""}`, "data-index": index,
      "aria-busy": writing ? "true" : null }, element("p", { class: "who" }, WHO[message.role] || message.role));
    article.append(...[reasoning(message, open)].filter(Boolean));
    if (message.content || !message.tool_calls) article.append(body(message));
    const wants = isLast && on && message.tool_calls;
    for (const one of message.tool_calls || []) article.append(call(one, wants));
    if (wants) article.append(element("button", { type: "button", onclick: () => on.results(article) }, "Send the answers"));
    if (message.wrong) article.append(element("p", { class: "wrong" }, message.wrong));
    const line = element("div", { class: "about" }, about(message));
    if (on) {
      line.append(small("Edit", () => edit(article, message, on), `Edit message ${index + 1}`),
        small("Copy", () => copy(message.content), `Copy message ${index + 1}`));
      if (message.role === "assistant") line.append(small("Again", () => on.again(index), `Write message ${index + 1} again`));
    }
    article.append(line);
    return article;
  }

  function edit(article, message, on) {
    const index = Number(article.dataset.index), id = `edit-${index}`;
    const text = element("textarea", { id, rows: 4 });
    const isMine = message.role === "user";
    const done = () => on.edit(index, text.value);
    text.value = message.content || "";
    text.addEventListener("keydown", e => {
      if (e.key === "Escape") { e.stopPropagation(); on.edit(index, null); }
      if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) done();
    });
    article.replaceChildren(element("label", { for: id }, `Edit message ${index + 1}`), text, element("div", { class: "row" },
      element("button", { type: "button", class: "strong", onclick: done }, isMine ? "Send again" : "Save"),
      element("button", { type: "button", onclick: () => on.edit(index, null) }, "Cancel")));
    text.focus();
  }

  async function copy(text) {
    try { await navigator.clipboard.writeText(text || ""); say("Copied."); }
    catch { say("This browser does not let the page copy."); }
  }
  const say = words => { document.getElementById("status").textContent = words; };

  return { build, copy, say };
})();
