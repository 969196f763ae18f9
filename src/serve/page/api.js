// SPDX-License-Identifier: Apache-2.0
// The server's routes. A failure is an Error with .status (0: it was not reached).
"use strict";

const Api = (() => {
  const failure = (status, words) => Object.assign(new Error(words), { status });

  async function ask(path, options = {}) {
    const headers = { ...options.headers };
    if (Store.key) headers.Authorization = `Bearer ${Store.key}`;
    let response;
    try { response = await fetch(path, { ...options, headers, cache: "no-store" }); }
    catch (problem) {
      if (problem.name === "AbortError") throw problem;
      throw failure(0, "The server is not reached.");
    }
    if (response.ok) return response;
    let words = `The server answered ${response.status}.`;
    try { words = (await response.json()).error.message || words; } catch { /* no JSON: the number says it */ }
    throw failure(response.status, words);
  }

  // Calls onChunk with every frame's JSON; ends with the stream. A frame that tells an error throws it.
  async function stream(body, signal, onChunk) {
    const response = await ask("v1/chat/completions", {
      method: "POST", signal, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
    const reader = response.body.getReader(), decoder = new TextDecoder();
    let text = "", over = false;
    for (;;) {
      const { done, value } = await reader.read();
      text += decoder.decode(value || new Uint8Array(), { stream: !done });
      const frames = text.split("\n\n");
      text = frames.pop();
      for (const frame of frames) {
        if (!frame.startsWith("data: ")) continue; // a comment: the server lives
        if (frame === "data: [DONE]") { over = true; continue; }
        const chunk = JSON.parse(frame.slice(6));
        if (chunk.error) throw failure(response.status, chunk.error.message);
        onChunk(chunk);
      }
      if (done) break;
    }
    if (!over) throw failure(0, "The answer broke off.");
  }

  return {
    stream,
    json: async path => (await ask(path)).json(),
    // Prometheus text -> {name: value}, summed over labels.
    metrics: async () => parseMetrics(await (await ask("metrics")).text()),
    parseMetrics,
  };

  function parseMetrics(text) {
    const found = {};
    for (const line of text.split("\n")) {
      const m = /^([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)/.exec(line);
      if (m && Number.isFinite(Number(m[2]))) found[m[1]] = (found[m[1]] || 0) + Number(m[2]);
    }
    return found;
  }
})();
