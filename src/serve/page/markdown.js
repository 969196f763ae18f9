// SPDX-License-Identifier: Apache-2.0
// Markdown to HTML, of text that a model wrote: everything is escaped before anything becomes a tag, and the only
// attributes with text of it are addresses that begin with http:, https: or mailto:. Unfinished input is fine.
"use strict";

const Markdown = (() => {
  const MAX_DEPTH = 12; // of quotes and lists inside each other
  const MARKS = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  const escape = text => text.replace(/[&<>"']/g, c => MARKS[c]);

  // Spans. What is code or a link is put aside as \u0000N\u0000, so that no rule reads into it.
  function inline(text) {
    const aside = [];
    const put = html => `\u0000${aside.push(html) - 1}\u0000`;
    const link = (href, label) =>
      put(`<a href="${href}" target="_blank" rel="noopener noreferrer">${label}</a>`);
    let t = escape(text.replace(/\u0000/g, ""));
    t = t.replace(/(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/g, (_, ticks, code) => put(`<code>${code.trim()}</code>`));
    t = t.replace(/\\([\\`*_{}[\]()#+\-.!~|])/g, (_, c) => put(c));
    t = t.replace(/!?\[([^\]\u0000]{1,500})\]\(((?:https?:\/\/|mailto:)[^\s()\u0000]{1,2000})\)/g,
      (_, label, href) => link(href, label));
    t = t.replace(/(^|[\s(])(https?:\/\/[^\s<>()\u0000]{1,2000}?)(?=(?:&gt;|&quot;|[.,;:!?])*(?:[\s)]|$))/g,
      (_, before, href) => before + link(href, href));
    t = t.replace(/\*\*(?=\S)([\s\S]{0,2000}?\S)\*\*/g, "<strong>$1</strong>");
    t = t.replace(/(^|[^\w*])\*(?=[^\s*])([^*]{0,2000}?[^\s*])\*(?!\*)/g, "$1<em>$2</em>");
    t = t.replace(/(^|\W)_(?=[^\s_])([^_]{0,2000}?[^\s_])_(?!\w)/g, "$1<em>$2</em>");
    t = t.replace(/~~(?=\S)([^~]{0,2000})~~/g, "<del>$1</del>");
    t = t.replace(/ {2,}\n/g, "<br>");
    for (let i = 0; i < 3 && t.includes("\u0000"); i++) // a code span may stand in a link
      t = t.replace(/\u0000(\d+)\u0000/g, (_, n) => aside[n]);
    return t;
  }

  const LIST = /^(\s*)([-*+]|\d{1,9}[.)])(\s+|$)(.*)$/;
  const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
  const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)/;
  const isTable = (lines, i) => lines[i].includes("|") && i + 1 < lines.length &&
    /^ *\|? *:?-+:? *(\| *:?-+:? *)*\|? *$/.test(lines[i + 1]) && lines[i + 1].includes("-");

  function code(lines, i, out) {
    const [, mark, language] = FENCE.exec(lines[i]);
    const text = [];
    for (i++; i < lines.length && !(lines[i].trim().startsWith(mark) && !lines[i].trim().replaceAll(mark[0], "")); i++)
      text.push(lines[i]);
    out.push(`<div class="block"><button type="button" class="small copy" aria-label="Copy this code">Copy</button>` +
      `<pre tabindex="0"><code${language ? ` data-language="${escape(language)}"` : ""}>${escape(text.join("\n"))}</code></pre></div>`);
    return i + 1;
  }

  function table(lines, i, out) {
    const cells = line => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map(c => inline(c.trim()));
    out.push("<table><thead><tr>", ...cells(lines[i]).map(c => `<th>${c}</th>`), "</tr></thead><tbody>");
    for (i += 2; i < lines.length && lines[i].includes("|"); i++)
      out.push("<tr>", ...cells(lines[i]).map(c => `<td>${c}</td>`), "</tr>");
    out.push("</tbody></table>");
    return i;
  }

  // The items of one list: a line of the same indentation begins the next, deeper ones belong to the last.
  function list(lines, i, out, depth) {
    const first = LIST.exec(lines[i]);
    const ordered = /\d/.test(first[2]), tag = ordered ? "ol" : "ul", indent = first[1].length;
    out.push(ordered && parseInt(first[2]) !== 1 ? `<ol start="${parseInt(first[2])}">` : `<${tag}>`);
    while (i < lines.length) {
      const m = LIST.exec(lines[i]);
      if (!m || m[1].length > indent + 1 || m[1].length < indent || /\d/.test(m[2]) !== ordered || RULE.test(lines[i])) break;
      const item = [m[4]], inner = m[1].length + m[2].length + 1;
      for (i++; i < lines.length; i++) {
        const line = lines[i], margin = line.length - line.trimStart().length;
        const next = LIST.exec(line);
        if (next && margin <= indent + 1) break;
        if (line.trim() && margin <= indent && (!lines[i - 1].trim() || FENCE.test(line))) break;
        item.push(line.slice(Math.min(margin, inner)));
      }
      const html = blocks(item, depth + 1);
      const one = /^<p>((?:(?!<p>)[\s\S])*)<\/p>((?:<[ou]l)[\s\S]*)?$/.exec(html);
      out.push(`<li>${one ? one[1] + (one[2] || "") : html}</li>`);
    }
    out.push(`</${tag}>`);
    return i;
  }

  function quote(lines, i, out, depth) {
    const inner = [];
    for (; i < lines.length && /^ {0,3}>/.test(lines[i]); i++) inner.push(lines[i].replace(/^ {0,3}> ?/, ""));
    out.push(`<blockquote>${blocks(inner, depth + 1)}</blockquote>`);
    return i;
  }

  function blocks(lines, depth) {
    const out = [];
    if (depth > MAX_DEPTH) return `<p>${inline(lines.join("\n"))}</p>`;
    for (let i = 0; i < lines.length;) {
      const line = lines[i], heading = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/.exec(line);
      if (!line.trim()) i++;
      else if (FENCE.test(line)) i = code(lines, i, out);
      else if (heading) { out.push(`<h${heading[1].length}>${inline(heading[2])}</h${heading[1].length}>`); i++; }
      else if (RULE.test(line)) { out.push("<hr>"); i++; }
      else if (/^ {0,3}>/.test(line)) i = quote(lines, i, out, depth);
      else if (LIST.test(line)) i = list(lines, i, out, depth);
      else if (isTable(lines, i)) i = table(lines, i, out);
      else {
        const text = [line];
        for (i++; i < lines.length && lines[i].trim() && !FENCE.test(lines[i]) && !/^ {0,3}(#{1,6}\s|>)/.test(lines[i]) &&
            !LIST.test(lines[i]) && !isTable(lines, i); i++) text.push(lines[i]);
        out.push(`<p>${inline(text.join("\n"))}</p>`);
      }
    }
    return out.join("");
  }

  return { escape, render: text => blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0) };
})();
