// SPDX-License-Identifier: Apache-2.0
// The panels beside the conversation: what the server does (GET /metrics, every two seconds while it can be seen), and
// what the model is made of (GET /about, once).
"use strict";

const Facts = (() => {
  const byId = id => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const POINTS = 60, PERIOD_MS = 2000;
  const rates = []; // tokens per second, oldest first
  let before = null, fixed = {};

  function svg(tag, attributes, ...children) {
    const e = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
    e.append(...children);
    return e;
  }

  function bytes(n) {
    if (!Number.isFinite(n)) return "–";
    const units = ["B", "KB", "MB", "GB", "TB"];
    let i = 0;
    for (; n >= 1000 && i < units.length - 1; i++) n /= 1000;
    return `${n.toFixed(n < 10 && i > 0 ? 2 : n < 100 && i > 0 ? 1 : 0)} ${units[i]}`;
  }
  const number = (n, digits = 0) => Number.isFinite(n) ? n.toFixed(digits) : "–";
  const percent = x => Number.isFinite(x) ? `${(100 * x).toFixed(1)} %` : "–";

  function list(target, rows) {
    target.replaceChildren(...rows.filter(r => r[1] != null).flatMap(([name, value]) =>
      [element("dt", {}, name), element("dd", {}, value)]));
  }

  // ---- now ----

  function spark() {
    const top = Math.max(1, ...rates), w = 300, h = 60;
    const points = rates.map((r, i) => `${((i + POINTS - rates.length) * w / (POINTS - 1)).toFixed(1)},${(h - 4 - r * (h - 18) / top).toFixed(1)}`);
    byId("spark").replaceChildren(svg("svg", { viewBox: `0 0 ${w} ${h}`, role: "img",
      "aria-label": `Tokens per second over the last two minutes, at most ${top.toFixed(1)}` },
      svg("line", { class: "axis", x1: 0, x2: w, y1: h - 4, y2: h - 4 }),
      svg("polyline", { class: "line", points: points.join(" ") }),
      svg("text", { x: 0, y: 11, class: "faint" }, `top of the plot: ${top.toFixed(1)} tokens/s`)));
  }

  function show(m, now) {
    const rate = name => before ? Math.max(0, (m[name] - before.m[name]) * 1000 / (now - before.now)) : NaN;
    const written = rate("vllm:generation_tokens_total");
    if (Number.isFinite(written)) rates.push(written);
    if (rates.length > POINTS) rates.shift();
    const used = m["vllm:kv_cache_usage_perc"];
    const meter = element("meter", { min: 0, max: 1, value: used || 0, "aria-label": "KV cache in use" });
    list(byId("live"), [
      ["tokens/s", number(written, 1)],
      ["prompt tokens/s", number(rate("vllm:prompt_tokens_total"), 1)],
      ["running", number(m["vllm:num_requests_running"])],
      ["waiting", number(m["vllm:num_requests_waiting"])],
      ["KV cache in use", percent(used)], ["", used > 0 ? meter : null],
      ["prefix hits", percent(m["vllm:prefix_cache_hits_total"] / m["vllm:prefix_cache_queries_total"])],
      ["memory", bytes(m.process_resident_memory_bytes)],
      ["compute", fixed.compute],
    ]);
    byId("live-words").textContent = "";
    spark();
    before = { m, now };
  }

  async function tick() {
    const seen = document.visibilityState === "visible" && byId("facts").offsetParent !== null;
    if (seen || byId("facts").classList.contains("open")) {
      try { show(await Api.metrics(), performance.now()); }
      catch (problem) { before = null; byId("live-words").textContent = problem.message; }
    }
    setTimeout(tick, PERIOD_MS);
  }

  // ---- the model ----

  // How the bytes are shared among formats: one bar, and its legend.
  function shares(groups) {
    const sums = new Map();
    for (const g of groups) sums.set(g.format, (sums.get(g.format) || 0) + g.bytes);
    const all = [...sums].sort((a, b) => b[1] - a[1]), total = all.reduce((s, x) => s + x[1], 0) || 1;
    let x = 0;
    const bar = svg("svg", { viewBox: `0 0 300 ${24 + 16 * all.length}`, role: "img",
      "aria-label": "Bytes by format: " + all.map(([f, b]) => `${f} ${percent(b / total)}`).join(", ") });
    all.forEach(([format, b], i) => {
      bar.append(svg("rect", { class: `k${i % 5}`, x, y: 0, width: 300 * b / total, height: 14 }),
        svg("rect", { class: `k${i % 5}`, x: 0, y: 22 + 16 * i, width: 10, height: 10 }),
        svg("text", { x: 16, y: 31 + 16 * i }, `${format}: ${bytes(b)}, ${percent(b / total)}`));
      x += 300 * b / total;
    });
    byId("shares").replaceChildren(bar);
  }

  // Bars of one number per group.
  function plot(rows, title, format) {
    const top = Math.max(...rows.map(r => r.value)) || 1, step = 18;
    byId("plot-title").textContent = title;
    byId("plot").replaceChildren(svg("svg", { viewBox: `0 0 300 ${step * rows.length}`, role: "img",
      "aria-label": `${title}: ` + rows.map(r => `${r.name} ${format(r.value)}`).join(", ") },
      ...rows.flatMap((r, i) => [
        svg("text", { x: 0, y: step * i + 13 }, r.name),
        svg("rect", { class: "k0", x: 105, y: step * i + 3, width: Math.max(1, 140 * r.value / top), height: step - 6 }),
        svg("text", { x: 110 + 140 * r.value / top, y: step * i + 13, class: "faint" }, format(r.value))])));
  }

  function table(groups, errors) {
    const head = ["group", "format", "tensors", "bits"].concat(errors.size ? ["error"] : []);
    byId("groups").replaceChildren(
      element("caption", { class: "unseen" }, "Tensors by group"),
      element("tr", {}, ...head.map((h, i) => element("th", { scope: "col", class: i > 1 ? "number" : null }, h))),
      ...groups.map(g => element("tr", {}, element("td", {}, g.group), element("td", {}, g.format),
        element("td", { class: "number" }, String(g.tensors)), element("td", { class: "number" }, g.bits_per_weight.toFixed(2)),
        errors.size ? element("td", { class: "number" }, errors.has(g.group) ? errors.get(g.group).toFixed(4) : "") : null)));
  }

  async function model() {
    const about = await Api.json("about"), m = about.model, n = m.network;
    fixed = { compute: about.compute };
    list(byId("model"), [
      ["family", n ? n.family : null], ["layers", n ? `${n.layers}, dim ${n.dim}` : null],
      ["weights", `${(m.weights / 1e6).toFixed(1)} M in ${bytes(m.file_bytes)}`],
      ["bits per weight", m.bits_per_weight.toFixed(2)],
      ["in quantized tensors", m.bits_per_weight_quantized ? m.bits_per_weight_quantized.toFixed(2) : null],
      ["context", `${about.max_model_len} tokens`],
      ["in memory", `${bytes(about.weight_bytes)}, KV cache ${bytes(about.kv_bytes)}`],
    ]);
    shares(m.groups);
    const errors = new Map((about.quantized?.groups || []).filter(g => g.relative_error > 0).map(g => [g.group, g.relative_error]));
    if (errors.size)
      plot([...errors].map(([name, value]) => ({ name, value })), "Quantization error, ||w − ŵ|| / ||w||", x => x.toFixed(4));
    else
      plot(m.groups.filter(g => g.weights > 0).map(g => ({ name: g.group, value: g.bits_per_weight })), "Bits per weight", x => x.toFixed(2));
    byId("plot-words").textContent = errors.size ? "" : "A file does not hold its quantization errors: nibble serve --quantize-report shows those of nibble quantize --json.";
    byId("model-words").textContent = "";
    table(m.groups, errors);
  }

  return { tick, model: () => model().catch(problem => { byId("model-words").textContent = problem.message; throw problem; }) };
})();
