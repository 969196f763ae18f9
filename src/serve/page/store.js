// SPDX-License-Identifier: Apache-2.0
// What the browser keeps: conversations and settings. A conversation is {id, title, named, system, tools, messages};
// a message is {role, content, reasoning, tool_calls, tool_call_id, about, wrong}.
"use strict";

const Store = (() => {
  const CHATS = "nibble.chats", SETTINGS = "nibble.settings", KEY = "nibble.key";
  let onFull = () => {};

  function read(name, fallback) {
    try { return JSON.parse(localStorage.getItem(name)) ?? fallback; } catch { return fallback; }
  }
  function write(name, value) {
    try { localStorage.setItem(name, JSON.stringify(value)); }
    catch (problem) { onFull(`This browser keeps no more: ${problem.message}`); }
  }
  const isChat = c => c && typeof c.id === "string" && Array.isArray(c.messages);
  const stored = read(CHATS, []);
  let chats = Array.isArray(stored) ? stored.filter(isChat) : [];
  let settings = Object(read(SETTINGS, {}));

  return {
    get chats() { return chats; },
    get settings() { return settings; },
    whenFull(tell) { onFull = tell; },
    save() { write(CHATS, chats.filter(c => c.messages.length || c.system || c.tools)); },
    saveSettings(value) { settings = value; write(SETTINGS, settings); },
    add() {
      const empty = chats.find(c => !c.messages.length);
      if (empty) return empty;
      const id = Date.now().toString(36) + Math.random().toString(36).slice(2, 8);
      const chat = { id, title: "New chat", named: false, system: "", tools: "", messages: [] };
      chats.unshift(chat);
      return chat;
    },
    remove(chat) { chats = chats.filter(c => c !== chat); this.save(); },
    get key() { try { return sessionStorage.getItem(KEY) || ""; } catch { return ""; } },
    set key(value) { try { sessionStorage.setItem(KEY, value); } catch { onFull("This browser keeps no key."); } },
  };
})();
