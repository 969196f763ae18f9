/* SPDX-License-Identifier: Apache-2.0
 *
 * See report_plots.h. Sizes are in the SVG's own units, which the style sheet fits to the page.
 */
#include "cli/report_plots.h"

#include <math.h>
#include <string.h>

#include "num/e2m1.h"
#include "num/fp8.h"

/* ---- mean KLD ---- */

void report_plots_bars(FILE *out, const report_eval *evals, size_t n) {
    enum { BARS = 800, LINE = 46 }; /* a name stands above its bar: it may be long */
    double most = 0;
    size_t rows = 0, y = 0;
    for (size_t i = 0; i < n; i++)
        if (isfinite(evals[i].kld)) {
            rows++;
            most = fmax(most, evals[i].kld);
        }
    if (!rows || most <= 0)
        return;
    fprintf(out, "<svg viewBox=\"0 0 %d %zu\" role=\"img\" aria-label=\"Mean KLD\">\n", BARS + 90,
            rows * LINE);
    for (size_t i = 0; i < n; i++) {
        const report_eval *e = &evals[i];
        if (!isfinite(e->kld))
            continue;
        const double width = fmax(1, BARS * fmax(e->kld, 0) / most);
        fprintf(out, "<text class=\"strong\" x=\"0\" y=\"%zu\">", y + 17);
        report_page_text(out, e->name);
        fprintf(out,
                "</text><rect class=\"bar\" x=\"0\" y=\"%zu\" width=\"%.1f\" height=\"16\"/>"
                "<text x=\"%.1f\" y=\"%zu\">%.4f</text>\n",
                y + 24, width, width + 6, y + 36, e->kld);
        y += LINE;
    }
    fputs("</svg>\n", out);
}

/* ---- layer by layer ---- */

static const slot kinds[] = {SLOT_Q,    SLOT_K,  SLOT_V,       SLOT_QKV, SLOT_O,
                             SLOT_GATE, SLOT_UP, SLOT_GATE_UP, SLOT_DOWN};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static bool has_kind(const survey *s, slot kind) {
    for (size_t i = 0; i < s->n; i++)
        if (s->matrices[i].t->place.slot == kind)
            return true;
    return false;
}

static void write_cell(FILE *out, const report_page *p, const report_map *map, size_t i, double least,
                       double most, double x, double y, double w, double h) {
    const double v = map->value(p, i), share = most > least ? (v - least) / (most - least) : 1;
    if (isnan(v))
        return;
    if (isinf(v)) {
        fprintf(out, "<rect class=\"lost\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"><title>",
                x + 0.5, y + 0.5, w - 1, h - 1);
        report_page_text(out, p->survey->matrices[i].t->name);
        fputs(": no number</title></rect>\n", out);
        return;
    }
    fprintf(out,
            "<rect class=\"heat\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" "
            "fill-opacity=\"%.3f\"><title>",
            x, y, w, h, 0.08 + 0.92 * share);
    report_page_text(out, p->survey->matrices[i].t->name);
    fprintf(out, ": %.*f%s</title></rect>\n", map->digits, map->factor * v, map->unit);
}

static void write_legend(FILE *out, const report_map *map, double least, double most, double y) {
    for (int i = 0; i <= 10; i++)
        fprintf(out,
                "<rect class=\"heat\" x=\"%d\" y=\"%.0f\" width=\"14\" height=\"12\" fill-opacity=\"%.3f\"/>",
                150 + 14 * i, y, 0.08 + 0.092 * i);
    fprintf(out,
            "<text x=\"142\" y=\"%.0f\" text-anchor=\"end\">%.*f%s</text><text x=\"312\" y=\"%.0f\">%.*f%s"
            "</text>\n",
            y + 11, map->legend_digits, map->factor * least, map->legend_unit, y + 11, map->legend_digits,
            map->factor * most, map->legend_unit);
}

void report_plots_map(FILE *out, const report_page *p, const report_map *map) {
    enum { NAMES = 90, WIDTH = 790, ROW = 24 };
    const survey *s = p->survey;
    double least = INFINITY, most = 0;
    int layers = 0, rows[SLOT_COUNT], n_rows = 0;
    for (int k = 0; k < N_KINDS; k++)
        rows[kinds[k]] = has_kind(s, kinds[k]) ? n_rows++ : -1;
    for (size_t i = 0; i < s->n; i++) {
        const survey_matrix *m = &s->matrices[i];
        const double v = map->value(p, i);
        if (m->t->place.layer < 0 || isnan(v))
            continue;
        layers = m->t->place.layer >= layers ? m->t->place.layer + 1 : layers;
        if (isinf(v))
            continue;
        least = fmin(least, v);
        most = fmax(most, v);
    }
    if (!layers || !n_rows)
        return;
    const double w = (double)WIDTH / layers;
    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s by layer\">\n", NAMES + WIDTH + 10,
            n_rows * ROW + 60, map->label);
    for (int k = 0; k < N_KINDS; k++)
        if (rows[kinds[k]] >= 0)
            fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", NAMES - 8,
                    rows[kinds[k]] * ROW + 16, slot_name(kinds[k]));
    for (size_t i = 0; i < s->n; i++) {
        const place at = s->matrices[i].t->place;
        bool linear = false;
        for (int k = 0; k < N_KINDS; k++)
            linear |= at.slot == kinds[k];
        if (linear && at.layer >= 0)
            write_cell(out, p, map, i, least, most, NAMES + at.layer * w, rows[at.slot] * ROW, w - 1,
                       ROW - 2);
    }
    for (int l = 0; l<layers; l += layers> 40 ? 10 : 5)
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>\n", NAMES + (l + 0.5) * w,
                n_rows * ROW + 14, l);
    if (isfinite(least))
        write_legend(out, map, least, most, n_rows * ROW + 34);
    fputs("</svg>\n", out);
}

/* ---- codes ---- */

void report_plots_codes(FILE *out, const survey *s) {
    static const int order[] = {15, 14, 13, 12, 11, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7};
    enum { BAR = 48, HEIGHT = 150 };
    uint64_t counts[16] = {0}, most = 1, all = 0;
    for (size_t i = 0; i < s->n; i++)
        for (int k = 0; k < 16 && s->matrices[i].fp4; k++)
            counts[k] += s->matrices[i].codes[k];
    for (int k = 0; k < 16; k++) {
        most = counts[k] > most ? counts[k] : most;
        all += counts[k];
    }
    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"4-bit codes\">\n", 16 * BAR,
            HEIGHT + 40);
    for (int i = 0; i < 16; i++) {
        const int k = order[i];
        const double h = HEIGHT * (double)counts[k] / (double)most,
                     share = 100 * (double)counts[k] / (double)all;
        fprintf(out,
                "<rect class=\"bar\" x=\"%d\" y=\"%.1f\" width=\"%d\" height=\"%.1f\"><title>%g: %.2f "
                "%%</title></rect>"
                "<text x=\"%d\" y=\"%.1f\" text-anchor=\"middle\">%.1f</text>"
                "<text class=\"strong\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s%g</text>\n",
                i * BAR + 4, HEIGHT + 16 - h, BAR - 8, h, (double)e2m1_to_f32((uint8_t)k), share,
                i * BAR + BAR / 2, HEIGHT + 12 - h, share, i * BAR + BAR / 2, HEIGHT + 34, k > 7 ? "−" : "",
                fabs((double)e2m1_to_f32((uint8_t)k)));
    }
    fputs("</svg>\n", out);
}

/* ---- block scales ---- */

/* Powers of two: every second one of E4M3's, every fourth of E8M0's. */
static void write_tick(FILE *out, int code, int first, double w, int y, bool mx) {
    const double value = mx ? code - 127 : (double)e4m3_to_f32((uint8_t)code);
    if (mx ? (code - first) % 4 != 0 : code % 16 != 8)
        return;
    fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">", (code - first + 0.5) * w, y);
    fprintf(out,
            mx            ? "2^%g</text>"
            : value < 0.1 ? "1/%g</text>"
                          : "%g</text>",
            mx || value >= 0.1 ? value : 1 / value);
}

static void write_histogram(FILE *out, const uint64_t counts[256], const char *name, bool mx) {
    enum { WIDTH = 320, HEIGHT = 90 };
    uint64_t most = 1, all = 0;
    int first = 255, last = 0;
    for (int k = 0; k < 256; k++)
        if (counts[k]) {
            first = k < first ? k : first;
            last = k;
            most = counts[k] > most ? counts[k] : most;
            all += counts[k];
        }
    if (!all)
        return;
    if (!mx)
        first = 0, last = 0x7e; /* all of them, so that plots can be laid side by side */
    const double w = (double)WIDTH / (last - first + 1);
    fprintf(
        out,
        "<figure style=\"margin:0\"><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"Block scales of "
        "%s\">"
        "<text class=\"strong\" x=\"0\" y=\"12\">%s</text><line class=\"axis\" x1=\"0\" y1=\"%d\" x2=\"%d\" "
        "y2=\"%d\"/>\n",
        WIDTH, HEIGHT + 40, name, name, HEIGHT + 18, WIDTH, HEIGHT + 18);
    for (int k = first; k <= last; k++)
        if (counts[k]) {
            const double h = HEIGHT * (double)counts[k] / (double)most;
            const float value = mx ? e8m0_to_f32((uint8_t)k) : e4m3_to_f32((uint8_t)k);
            fprintf(
                out,
                "<rect class=\"bar\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"><title>%g: %.3f "
                "%%</title></rect>",
                (k - first) * w, HEIGHT + 18 - h, fmax(w - 0.4, 0.6), h, (double)value,
                100 * (double)counts[k] / (double)all);
        }
    for (int k = first; k <= last; k++)
        write_tick(out, k, first, w, HEIGHT + 34, mx);
    fputs("\n</svg></figure>\n", out);
}

void report_plots_scales(FILE *out, const survey *s) {
    static const slot more[] = {SLOT_HEAD, SLOT_EMBED};
    fputs("<div class=\"small\">\n", out);
    for (int k = 0; k < N_KINDS + 2; k++) {
        const slot kind = k < N_KINDS ? kinds[k] : more[k - N_KINDS];
        for (int mx = 0; mx < 2; mx++) {
            uint64_t counts[256] = {0};
            for (size_t i = 0; i < s->n; i++) {
                const survey_matrix *m = &s->matrices[i];
                for (int c = 0; c < 256 && m->fp4 && m->mx == mx && m->t->place.slot == kind; c++)
                    counts[c] += m->scales[c];
            }
            write_histogram(out, counts, slot_name(kind), mx);
        }
    }
    fputs("</div>\n", out);
}
