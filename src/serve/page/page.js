// SPDX-License-Identifier: Apache-2.0
// Ties the page together: the list of conversations, the settings, the composer, the keys.
"use strict";

(() => {
  const byId = id => document.getElementById(id);
  const input = byId("input"), settings = byId("settings");

  function notice(words) {
    byId("notice").hidden = !words;
    byId("notice").textContent = words || "";
  }

  function theme() {
    const dark = Store.settings.theme ? Store.settings.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.classList.toggle("dark", dark);
  }

  // ---- conversations ----

  function listChats() {
    byId("chats").replaceChildren(...Store.chats.map(chat => element("li", {},
      element("button", { type: "button", class: "pick", "aria-current": chat === Talk.shown ? "true" : null,
        onclick: () => { close("history"); Talk.show(chat); input.focus(); } }, chat.title),
      small("✕", () => remove(chat), `Delete the chat ${chat.title}`))));
  }

  function remove(chat) {
    if (Talk.busy) { Message.say("An answer is being written: stop it first."); return; }
    if (chat.messages.length && !confirm(`Delete "${chat.title}"?`)) return;
    Store.remove(chat);
    Talk.show(Store.chats[0] || Store.add());
  }

  function fresh() {
    close("history");
    Talk.show(Store.add());
    input.focus();
  }

  // ---- side panels on narrow screens ----

  function toggle(id) {
    const open = byId(id).classList.toggle("open");
    byId(`open-${id}`).setAttribute("aria-expanded", String(open));
    if (open) byId(id).querySelector("button, a, input")?.focus();
  }
  function close(id) {
    if (byId(id).classList.contains("open")) toggle(id);
  }

  // ---- settings ----

  const LABELS = { temperature: [0, 5, "any"], top_p: [0, 1, "any"], top_k: [0, 100000, 1], min_p: [0, 1, "any"],
    max_tokens: [1, 1000000, 1], seed: [0, Number.MAX_SAFE_INTEGER, 1], repetition_penalty: [0.01, 100, "any"],
    presence_penalty: [-2, 2, "any"], frequency_penalty: [-2, 2, "any"] };

  byId("sampling").append(...Talk.NUMBERS.map(name => {
    const [min, max, step] = LABELS[name];
    return element("div", {}, element("label", { for: name }, name.replaceAll("_", " ")),
      element("input", { id: name, type: "number", min, max, step, inputmode: "decimal" }));
  }));

  function openSettings() {
    const s = Store.settings, chat = Talk.shown;
    byId("title").value = chat.title;
    byId("system").value = chat.system;
    byId("tools").value = chat.tools;
    for (const name of Talk.NUMBERS) byId(name).value = s[name] ?? "";
    byId("stop-texts").value = (s.stop || []).join("\n");
    byId("reasoning_effort").value = s.reasoning_effort || "";
    byId("theme").value = s.theme || "";
    byId("api-key").value = Store.key;
    byId("settings-wrong").hidden = true;
    settings.showModal();
  }

  function wrongTools(text) {
    if (!text.trim()) return "";
    try { return Array.isArray(JSON.parse(text)) ? "" : "The tools must be a JSON list."; }
    catch (problem) { return `The tools are no JSON: ${problem.message}`; }
  }

  function saveSettings(event) {
    const wrong = wrongTools(byId("tools").value);
    byId("settings-wrong").hidden = !wrong;
    byId("settings-wrong").textContent = wrong;
    if (wrong || !settings.querySelector("form").reportValidity()) { event.preventDefault(); return; }
    const chat = Talk.shown, s = {};
    for (const name of Talk.NUMBERS) if (byId(name).value !== "") s[name] = Number(byId(name).value);
    s.stop = byId("stop-texts").value.split("\n").filter(Boolean);
    s.reasoning_effort = byId("reasoning_effort").value;
    s.theme = byId("theme").value;
    const title = byId("title").value.trim() || "New chat";
    chat.named ||= title !== chat.title;
    Object.assign(chat, { title, system: byId("system").value, tools: byId("tools").value.trim() });
    const key = byId("api-key").value.trim(), isNew = key !== Store.key;
    Store.key = key;
    Store.saveSettings(s);
    Store.save();
    theme();
    listChats();
    if (isNew) connect();
  }

  // ---- the composer ----

  function grow() {
    input.style.height = "auto";
    input.style.height = `${input.scrollHeight + 2}px`;
  }

  function send() {
    const text = input.value.trim();
    if (!text || Talk.busy) return;
    input.value = "";
    grow();
    notice("");
    Talk.send(text);
  }

  function changed(problem) {
    byId("send").hidden = Talk.busy;
    byId("stop").hidden = !Talk.busy;
    byId("log").setAttribute("aria-busy", String(Talk.busy));
    listChats();
    if (problem?.status === 401) askKey();
  }

  function askKey() {
    notice("This server wants an API key: Settings.");
    if (!settings.open) openSettings();
    byId("api-key").focus();
  }

  // ---- the server ----

  async function connect() {
    try {
      const name = (await Api.json("v1/models")).data[0].id;
      byId("model-name").textContent = name;
      Talk.useModel(name);
      notice("");
      await Facts.model();
    } catch (problem) {
      if (problem.status === 401) askKey();
      else {
        notice(problem.message);
        if (problem.status === 0 || problem.status === 503) setTimeout(connect, 3000);
      }
    }
  }

  byId("composer").addEventListener("submit", event => { event.preventDefault(); send(); });
  input.addEventListener("input", grow);
  input.addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  });
  byId("stop").addEventListener("click", () => { Talk.stop(); input.focus(); });
  byId("new-chat").addEventListener("click", fresh);
  byId("open-settings").addEventListener("click", openSettings);
  byId("open-history").addEventListener("click", () => { close("facts"); toggle("history"); });
  byId("open-facts").addEventListener("click", () => { close("history"); toggle("facts"); });
  byId("save-settings").addEventListener("click", saveSettings);
  byId("log").addEventListener("click", event => {
    const button = event.target.closest(".copy");
    if (button) Message.copy(button.parentElement.querySelector("code").textContent);
  });
  document.addEventListener("keydown", event => {
    if (event.key !== "Escape" || settings.open) return;
    for (const id of ["history", "facts"])
      if (byId(id).classList.contains("open")) { close(id); byId(`open-${id}`).focus(); return; }
    Talk.stop();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
  matchMedia("(max-width: 760px)").addEventListener("change", () => { close("history"); close("facts"); });

  Store.whenFull(notice);
  Talk.whenChanged(changed);
  theme();
  Talk.show(Store.chats[0] || Store.add());
  connect();
  Facts.tick();
})();
