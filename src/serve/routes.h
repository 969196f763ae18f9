/* SPDX-License-Identifier: Apache-2.0
 *
 * Routes: a row each in one table. Who may ask, whether the model must be there, and which function answers.
 */
#ifndef SERVE_ROUTES_H
#define SERVE_ROUTES_H

#include "serve/ask.h"
#include "serve/http.h"

#define ROUTE_PUBLIC    1u /* needs no key */
#define ROUTE_EARLY     2u /* answers while the model is loaded, and while the server goes down */
#define ROUTE_ANTHROPIC 4u /* errors in Anthropic's form */

typedef struct route {
    const char *method, *path; /* a path that ends with a star takes the rest: exchange.rest */
    unsigned flags;
    void (*answer)(exchange *x);
    const char *summary;
    const field *const *body; /* fields of a POST's JSON; NULL: none is read */
} route;

extern const route routes_table[]; /* ends with a NULL path */

/* Before the body: finds X's route; what is wrong already goes to x->error. */
void routes_find(exchange *x);
/* The body is there. */
void routes_answer(exchange *x);

/* NAME is one that the model goes by, or none was given. */
bool routes_check_model(exchange *x, const char *name, api_error *e);

extern const field *const route_words_tables[], *const route_abort_tables[];

void route_chat(exchange *x);
void route_completions(exchange *x);
void route_embeddings(exchange *x);
void route_llama_embedding(exchange *x);
void route_health(exchange *x);
void route_models(exchange *x);
void route_model(exchange *x);
void route_version(exchange *x);
void route_load(exchange *x);
void route_page(exchange *x);
void route_about(exchange *x);
void route_responses(exchange *x);
void route_messages(exchange *x);
void route_count_messages(exchange *x);
void route_count(exchange *x);
void route_tokenize(exchange *x);
void route_detokenize(exchange *x);
void route_template(exchange *x);
void route_metrics(exchange *x);
void route_slots(exchange *x);
void route_props(exchange *x);
void route_abort(exchange *x);
void route_forget(exchange *x);
void route_pause(exchange *x);
void route_resume(exchange *x);
void route_is_paused(exchange *x);
void route_sleep(exchange *x);
void route_wake_up(exchange *x);
void route_is_sleeping(exchange *x);
void route_openapi(exchange *x);

#endif
