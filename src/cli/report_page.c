/* SPDX-License-Identifier: Apache-2.0
 *
 * The document, from top to bottom. Names come from strangers' files: every one goes through
 * report_page_text. Colours are variables of the style sheet, so that plots follow light, dark and paper.
 */
#include "cli/report_page.h"

#include <math.h>
#include <string.h>

#include "cli/report_plots.h"
#include "cli/ui.h"
#include "nouns/family.h"

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
    "'unsafe-inline'\">\n"
    "<style>\n"
    ":root { --back: #fbfbf9; --text: #1c1e1d; --quiet: #5a605d; --line: #d5d8d4; --bar: #156b5b; "
    "--heat: #b2451a; color-scheme: light dark; }\n"
    "@media (prefers-color-scheme: dark) { :root { --back: #161918; --text: #e6e9e7; --quiet: #a2aaa6; "
    "--line: #363d3a; --bar: #5cc2a9; --heat: #ff9b6b; } }\n"
    "@media print { :root { --back: #fff; --text: #000; --quiet: #444; --line: #bbb; --bar: #156b5b; "
    "--heat: #b2451a; } body { font-size: 10pt; } .scroll { overflow: visible; } section, svg, tr "
    "{ break-inside: avoid; } section.long { break-inside: auto; } thead { display: table-header-group; } }\n"
    "* { box-sizing: border-box; }\n"
    "body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--back); color: var(--text); "
    "font: 16px/1.5 system-ui, 'DejaVu Sans', sans-serif; print-color-adjust: exact; "
    "-webkit-print-color-adjust: exact; }\n"
    "h1 { font-size: 1.4rem; overflow-wrap: anywhere; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 "
    ".3rem; }\n"
    "p { margin: .3rem 0 .8rem; color: var(--quiet); max-width: 46rem; }\n"
    ".scroll { overflow-x: auto; }\n"
    "table { border-collapse: collapse; font-size: .85rem; width: 100%; font-variant-numeric: tabular-nums; "
    "}\n"
    "th, td { padding: .15rem .6rem; border-bottom: 1px solid var(--line); text-align: right; "
    "white-space: nowrap; }\n"
    "th:first-child, td:first-child, .words { text-align: left; }\n"
    "#kld th, #kld td:first-child, #speed th, #speed td:first-child { white-space: normal; }\n"
    "dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 1rem 0; } "
    "dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }\n"
    "svg { display: block; width: 100%; height: auto; margin-bottom: .5rem; } .wide svg { min-width: 34rem; "
    "} svg text { fill: var(--quiet); "
    "font: 12px system-ui, 'DejaVu Sans', sans-serif; } .bar { fill: var(--bar); } .heat { fill: "
    "var(--heat); } "
    ".axis { stroke: var(--line); } .lost { fill: none; stroke: var(--heat); stroke-dasharray: 3 2; } "
    ".strong { fill: var(--text) !important; }\n"
    ".small { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1rem; }\n"
    "</style>\n<title>";

void report_page_text(FILE *out, const char *text) {
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '<')
            fputs("&lt;", out);
        else if (c == '>')
            fputs("&gt;", out);
        else if (c == '&')
            fputs("&amp;", out);
        else if (c == '"')
            fputs("&quot;", out);
        else if (c == '\'')
            fputs("&#39;", out);
        else if (c < 0x20 || c == 0x7f)
            fputc('?', out);
        else
            fputc(c, out);
    }
}

static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

/* ---- errors ---- */

/* NAN: nothing was compared; INFINITY: what was is no number. */
static double relative(double error, double norm) {
    if (!isfinite(error) || !isfinite(norm))
        return INFINITY;
    return norm > 0 ? sqrt(error / norm) : NAN;
}

static double weights_error(const report_page *p, size_t i) {
    const survey_matrix *m = &p->survey->matrices[i];
    return m->of ? relative(m->error, m->norm) : NAN;
}

static double outputs_error(const report_page *p, size_t i) {
    return p->outputs ? relative(p->outputs[i].error, p->outputs[i].norm) : NAN;
}

static double bits_of(const report_page *p, size_t i) {
    const survey_matrix *m = &p->survey->matrices[i];
    return 8.0 * (double)m->bytes / (double)m->elements;
}

static double cost_of(const report_page *p, size_t i) {
    return p->costs[i];
}

size_t report_page_lost(const report_page *p) {
    size_t n = 0;
    for (size_t i = 0; i < p->survey->n; i++)
        n += isinf(outputs_error(p, i)) != 0;
    return n;
}

/* Geometric mean over the matrices in layers. */
static double mean_error(const report_page *p, double (*error_of)(const report_page *, size_t)) {
    double logs = 0;
    size_t n = 0;
    for (size_t i = 0; i < p->survey->n; i++) {
        const double e = error_of(p, i);
        if (p->survey->matrices[i].t->place.layer < 0 || !(e > 0) || isinf(e))
            continue;
        logs += log(e);
        n++;
    }
    return n ? 100 * exp(logs / (double)n) : NAN;
}

/* ---- what it is ---- */

static void fact(FILE *out, const char *name, const char *value) {
    fprintf(out, "<dt>%s</dt><dd>", name);
    report_page_text(out, value);
    fputs("</dd>\n", out);
}

static void fact_error(FILE *out, const char *name, double percent) {
    char text[64];
    if (!isfinite(percent))
        return;
    snprintf(text, sizeof text, "%.2f %% (geometric mean of the layers' matrices)", percent);
    fact(out, name, text);
}

static void write_facts(FILE *out, const report_page *p) {
    static const char *const conventions[] = {[QUANT_NONE] = "none",
                                              [QUANT_GGUF] = "GGUF",
                                              [QUANT_MODELOPT] = "ModelOpt",
                                              [QUANT_COMPRESSED_TENSORS] = "compressed-tensors"};
    const hparams *hp = &p->file->hp;
    const findings *r = p->counted;
    char text[256];
    fputs("<dl>\n", out);
    if (hp->family != FAMILY_NONE) {
        snprintf(text, sizeof text, "%s, %d layers, dim %d, vocabulary %d", family_name(hp->family),
                 hp->n_layers, hp->dim, hp->vocab);
        fact(out, "network", text);
    }
    fact(out, "file", ui_bytes(text, sizeof text, p->file->file_bytes));
    fact(out, "scales as in", conventions[p->file->convention]);
    const int n = snprintf(text, sizeof text, "%.2f in all tensors", findings_bits(r->bytes, r->elements));
    if (r->linear_elements)
        snprintf(text + n, sizeof text - (size_t)n, ", %.2f in the linear layers",
                 findings_bits(r->linear_bytes, r->linear_elements));
    fact(out, "bits per weight", text);
    if (p->source) {
        fact(out, "compared with", last_part(p->source->path));
        snprintf(text, sizeof text, "%s, %.2f of it", ui_bytes((char[32]){0}, 32, p->source->file_bytes),
                 (double)p->file->file_bytes / (double)p->source->file_bytes);
        fact(out, "its file", text);
        fact_error(out, "error of outputs", mean_error(p, outputs_error));
        if (report_page_lost(p)) {
            snprintf(text, sizeof text,
                     "of %zu of %zu matrices, in one of the two networks; means are of the others",
                     report_page_lost(p), p->survey->n);
            fact(out, "outputs are no numbers", text);
        }
        fact_error(out, "error of weights", mean_error(p, weights_error));
    }
    fputs("</dl>\n", out);
}

/* ---- what it costs ---- */

static void write_number(FILE *out, double value, const char *format) {
    fputs("<td>", out);
    if (isinf(value))
        fputs("no number", out);
    else if (!isnan(value))
        fprintf(out, format, value);
    fputs("</td>", out);
}

static void write_evals(FILE *out, const report_page *p) {
    if (!p->n_evals)
        return;
    fputs("<section id=\"kld\"><h2>What it costs</h2>\n<p>KL divergence (KLD) of the predictions from the "
          "base's, the mean over the scored tokens, as nibble eval measured it; less is better.</p>\n",
          out);
    fputs("<div class=\"scroll wide\">", out);
    report_plots_bars(out, p->evals, p->n_evals);
    fputs("</div>\n", out);
    fputs("<div class=\"scroll\"><table><thead><tr><th>measured</th><th>mean KLD</th><th>±</th>"
          "<th>perplexity</th><th>±</th><th>base's perplexity</th><th>same top token, "
          "%</th></tr></thead><tbody>\n",
          out);
    for (size_t i = 0; i < p->n_evals; i++) {
        const report_eval *e = &p->evals[i];
        fputs("<tr><td>", out);
        report_page_text(out, e->name);
        fputs("</td>", out);
        write_number(out, e->kld, "%.4f");
        write_number(out, e->kld_error, "%.4f");
        write_number(out, e->ppl, "%.3f");
        write_number(out, e->ppl_error, "%.3f");
        write_number(out, e->ppl_base, "%.3f");
        write_number(out, e->same_top * 100, "%.1f");
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div></section>\n", out);
}

static void write_speeds(FILE *out, const report_page *p) {
    if (!p->n_speeds)
        return;
    fputs("<section id=\"speed\"><h2>How fast it is</h2>\n<p>As nibble bench measured it: ppN reads N "
          "tokens, tgN "
          "writes N; tokens per second, and how much of the memory's read bandwidth that takes.</p>\n"
          "<div class=\"scroll\"><table><thead><tr><th>measured</th><th>test</th><th>threads</th>"
          "<th>tokens/s</th><th>±</th><th>GB/s</th><th>of the bandwidth, %</th></tr></thead><tbody>\n",
          out);
    for (size_t i = 0; i < p->n_speeds; i++) {
        const report_speed *s = &p->speeds[i];
        fputs("<tr><td>", out);
        report_page_text(out, s->name);
        fputs("</td><td>", out);
        report_page_text(out, s->test);
        fprintf(out, "</td><td>%d</td>", s->threads);
        write_number(out, s->tokens_per_s, "%.1f");
        write_number(out, s->deviation, "%.1f");
        write_number(out, s->gb_per_s, "%.2f");
        write_number(out, s->percent, "%.1f");
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div></section>\n", out);
}

/* ---- every tensor ---- */

static void write_tensors(FILE *out, const report_page *p) {
    fputs("<section id=\"tensors\" class=\"long\"><h2>Every matrix</h2>\n<div class=\"scroll\"><table><thead>"
          "<tr><th>tensor</th><th class=\"words\">format</th><th>rows</th><th>columns</th><th>bits per "
          "weight</th>"
          "<th>tensor scale</th>",
          out);
    if (p->source)
        fputs(p->outputs ? "<th class=\"words\">source</th><th>error of outputs, %</th><th>of weights, %</th>"
                         : "<th class=\"words\">source</th><th>error of weights, %</th>",
              out);
    fputs("</tr></thead><tbody>\n", out);
    for (size_t i = 0; i < p->survey->n; i++) {
        const survey_matrix *m = &p->survey->matrices[i];
        fputs("<tr><td>", out);
        report_page_text(out, m->t->name);
        fprintf(out, "</td><td class=\"words\">%s", model_file_format_name(p->file, m->t));
        if (m->t->branch.rank)
            fprintf(out, ", rank %zu", m->t->branch.rank);
        fprintf(out, "</td><td>%zu</td><td>%zu</td><td>%.2f</td>", m->t->rows, m->t->cols,
                8.0 * (double)m->bytes / (double)m->elements);
        if (m->t->tensor_scale != 1.0f)
            fprintf(out, "<td>%.3g</td>", (double)m->t->tensor_scale);
        else
            fputs("<td></td>", out);
        if (p->source) {
            fprintf(out, "<td class=\"words\">%s</td>",
                    m->of ? model_file_format_name(p->source, m->of) : "");
            if (p->outputs)
                write_number(out, 100 * outputs_error(p, i), "%.3f");
            write_number(out, 100 * weights_error(p, i), "%.3f");
        }
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div></section>\n", out);
}

static void write_map(FILE *out, const report_page *p) {
    static const report_map outputs_map = {"Relative error of outputs", outputs_error, 100, 3, 2, " %", " %"},
                            weights_map = {"Relative error", weights_error, 100, 3, 2, " %", " %"},
                            bits_map = {"Bits per weight", bits_of, 1, 2, 2, " bits", ""};
    static const char outputs[] =
        "Relative error ‖W x − Ŵ x̂‖ / ‖W x‖ of what each matrix gives, on a text that passes through "
        "both networks: x is what it reads in the source's, x̂ in this one. The stronger the colour, the "
        "more. "
        "The error of weights stands in the table below.";
    static const char weights[] =
        "Relative error ‖w − ŵ‖ / ‖w‖ of each matrix's weights against its source; the stronger the colour, "
        "the more. It is no measure of methods that look at inputs (weighted, local, gptq, best): these give "
        "up "
        "some of it so that outputs lose less, which --text FILE shows.";
    fputs("<section id=\"map\"><h2>Layer by layer</h2>\n<p>", out);
    fputs(p->outputs  ? outputs
          : p->source ? weights
                      : "Bits per weight of each matrix; the stronger the colour, the more.",
          out);
    fputs("</p>\n", out);
    fputs("<div class=\"scroll wide\">", out);
    report_plots_map(out, p, p->outputs ? &outputs_map : p->source ? &weights_map : &bits_map);
    fputs("</div>\n", out);
    fputs("</section>\n", out);
}

static void write_costs(FILE *out, const report_page *p) {
    static const report_map map = {"KLD", cost_of, 1, 5, 5, "", ""};
    if (!p->costs)
        return;
    fputs(
        "<section id=\"costs\"><h2>What each part costs alone</h2>\n<p>Mean KLD of the predictions with one "
        "part of the network stored as it is here and all else as it was, as the plan has it (nibble "
        "quantize "
        "--save-plan). Matrices of a part share their number.</p>\n<div class=\"scroll wide\">",
        out);
    report_plots_map(out, p, &map);
    fputs("</div></section>\n", out);
}

static void write_counts(FILE *out, const report_page *p) {
    bool any = false;
    for (size_t i = 0; i < p->survey->n; i++)
        any |= p->survey->matrices[i].fp4;
    if (!any)
        return;
    fputs("<section id=\"codes\"><h2>Codes</h2>\n<p>How often each 4-bit value stands in the file's FP4 "
          "matrices.</p>\n",
          out);
    fputs("<div class=\"scroll wide\">", out);
    report_plots_codes(out, p->survey);
    fputs("</div>\n", out);
    fputs("</section>\n<section id=\"scales\"><h2>Block scales</h2>\n<p>How often each scale is taken, by "
          "the kind of "
          "matrix. A tensor scale multiplies all of a matrix's; the largest block's is near the right "
          "end.</p>\n",
          out);
    report_plots_scales(out, p->survey);
    fputs("</section>\n", out);
}

void report_page_write(FILE *out, const report_page *p) {
    fputs(head, out);
    report_page_text(out, last_part(p->file->path));
    fputs("</title></head>\n<body>\n<h1>", out);
    report_page_text(out, last_part(p->file->path));
    fputs("</h1>\n", out);
    write_facts(out, p);
    write_evals(out, p);
    write_speeds(out, p);
    write_map(out, p);
    write_costs(out, p);
    write_counts(out, p);
    write_tensors(out, p);
    fputs("<p>Made by nibble " NIB_VERSION ".</p>\n</body></html>\n", out);
}
