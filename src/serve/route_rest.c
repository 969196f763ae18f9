/* SPDX-License-Identifier: Apache-2.0
 *
 * A model that does not compute for a while: /pause and /resume, /sleep and /wake_up, as vLLM has them.
 */
#include <string.h>

#include "serve/routes.h"

/* What these routes take stands behind a '?': NAME (NULL: nothing), nothing else and no body. */
static bool takes_only(exchange *x, const char *name) {
    const char *other = http_query_beside(x, name);
    if (other)
        api_error_set(&x->error, API_INVALID, NULL, "'?%.40s' is not known here; expected %s%s", other,
                      name ? "?" : "nothing behind the address", name ? name : "");
    else if (x->body.n > 0)
        api_error_set(&x->error, API_INVALID, NULL, "no body is read here; expected %s%s",
                      name ? "?" : "none", name ? name : "");
    else
        return true;
    http_reply_error(x, &x->error);
    return false;
}

/* Answers X once the engine has followed. */
static void rest(exchange *x, nib_rest how, const char *status) {
    server *s = x->server;
    nib_error words = {""};
    const bool sleeps = how == NIB_REST_SLEEP;
    if (sleeps)
        atomic_store(&s->asleep, true); /* nothing new comes into its queue */
    const nib_status got = nib_set_rest(s->engine, how, &words);
    if (got == NIB_OK && !sleeps)
        atomic_store(&s->asleep, false);
    if (got == NIB_OK)
        http_reply_json(x, 200, json_pack("{s:s}", "status", status));
    else if (!api_error_from(&x->error, got, &words))
        http_reply_error(x, &x->error);
}

/* Refuses a VALUE of the query's NAME; EXPECTED are the ones there are. */
static void refuse(exchange *x, const char *name, const char *value, const char *expected) {
    api_error_set(&x->error, API_INVALID, name, "'%s' is '%.40s'; expected %s", name, value, expected);
    http_reply_error(x, &x->error);
}

static bool refuse_asleep(exchange *x) {
    if (!atomic_load(&x->server->asleep))
        return false;
    api_error_set(&x->error, API_INVALID, NULL, "the model sleeps; POST /wake_up wakes it");
    http_reply_error(x, &x->error);
    return true;
}

void route_pause(exchange *x) {
    static const struct {
        const char *name;
        nib_rest rest;
    } modes[] = {{"abort", NIB_REST_ABORT}, {"wait", NIB_REST_WAIT}, {"keep", NIB_REST_KEEP}};
    const char *mode = http_query(x, "mode");
    if (!takes_only(x, "mode"))
        return;
    if (refuse_asleep(x))
        return;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (strcmp(mode ? mode : "abort", modes[i].name) == 0) {
            rest(x, modes[i].rest, "paused");
            return;
        }
    refuse(x, "mode", mode, "abort, wait or keep");
}

void route_resume(exchange *x) {
    if (takes_only(x, NULL) && !refuse_asleep(x))
        rest(x, NIB_REST_NONE, "resumed");
}

void route_sleep(exchange *x) {
    const char *level = http_query(x, "level");
    if (!takes_only(x, "level"))
        return;
    if (level && strcmp(level, "1") != 0 && strcmp(level, "2") != 0)
        refuse(x, "level", level, "1 or 2 (both give all memory back)");
    else
        rest(x, NIB_REST_SLEEP, "asleep");
}

void route_wake_up(exchange *x) {
    if (takes_only(x, NULL))
        rest(x, NIB_REST_NONE, "awake");
}

static void tell(exchange *x, const char *name, bool (*is)(nib_rest rest)) {
    nib_stats stats = {.size = sizeof stats};
    nib_error words = {""};
    const nib_status status = nib_get_stats(x->server->engine, &stats, &words);
    if (status == NIB_OK)
        http_reply_json(x, 200, json_pack("{s:b}", name, is(stats.rest)));
    else if (!api_error_from(&x->error, status, &words))
        http_reply_error(x, &x->error);
}

static bool is_paused(nib_rest rest) {
    return rest != NIB_REST_NONE;
}

static bool is_asleep(nib_rest rest) {
    return rest == NIB_REST_SLEEP;
}

void route_is_paused(exchange *x) {
    tell(x, "is_paused", is_paused);
}

void route_is_sleeping(exchange *x) {
    tell(x, "is_sleeping", is_asleep);
}
