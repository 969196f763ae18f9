/* SPDX-License-Identifier: Apache-2.0
 *
 * GET /: a page to talk with the model, and GET /about, what it shows of the model.
 *
 * The page loads nothing and asks nobody but this server, and its policy tells the browser to see to that.
 * Its style and scripts run by a word that is new in every answer, so that nothing a model writes can run.
 */
#include <stdio.h>
#include <string.h>

#include "serve/page.h"
#include "serve/routes.h"

void route_page(exchange *x) {
    static const char mark[] = "@NONCE@";
    const char *at = (const char *)page_bytes, *end = at + page_size, *found;
    char nonce[25];
    buf text = {0};
    http_new_id(nonce, sizeof nonce, "");
    while ((found = memmem(at, (size_t)(end - at), mark, sizeof mark - 1))) {
        buf_add(&text, at, (size_t)(found - at));
        buf_text(&text, nonce);
        at = found + sizeof mark - 1;
    }
    buf_add(&text, at, (size_t)(end - at));
    snprintf(
        x->policy, sizeof x->policy,
        "default-src 'none'; script-src 'nonce-%s'; style-src 'nonce-%s'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        nonce, nonce);
    http_reply(x, 200, "text/html; charset=utf-8", &text);
}

void route_about(exchange *x) {
    const server *s = x->server;
    http_reply_json(x, 200,
                    json_pack("{s:s, s:s, s:i, s:I, s:I, s:O?, s:O?}", "name", s->model_id, "compute",
                              s->info.compute_path, "max_model_len", s->info.max_model_len, "weight_bytes",
                              (json_int_t)s->info.weight_bytes, "kv_bytes", (json_int_t)s->info.kv_bytes,
                              "model", s->options.about, "quantized", s->options.quantize_report));
}
