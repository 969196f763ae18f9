/* SPDX-License-Identifier: Apache-2.0
 *
 * See origin.h.
 */
#include "serve/origin.h"

#include <string.h>
#include <strings.h>

/* The length of HOST without its port; brackets of IPv6 stay. */
static size_t without_port(const char *host) {
    const char *end = host[0] == '[' ? strchr(host, ']') : NULL;
    return end ? (size_t)(end + 1 - host) : strcspn(host, ":");
}

static bool is(const char *host, size_t n, const char *name) {
    return strlen(name) == n && strncasecmp(host, name, n) == 0;
}

/* A number of the loopback net, or a name that can lead nowhere else (RFC 6761). */
static bool is_here(const server *s, const char *host) {
    static const char suffix[] = ".localhost";
    const size_t n = without_port(host), n_suffix = sizeof suffix - 1;
    const bool number = strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == n;
    return number || is(host, n, "localhost") || is(host, n, "[::1]") || is(host, n, s->options.host) ||
           (n > n_suffix && strncasecmp(host + n - n_suffix, suffix, n_suffix) == 0);
}

bool origin_allowed(const exchange *x) {
    const serve_options *o = &x->server->options;
    const char *host = http_header(x, "Host"), *origin = http_header(x, "Origin");
    if (o->n_api_keys > 0 || o->allow_anonymous)
        return true;
    if (host && !is_here(x->server, host))
        return false;
    if (!origin ||
        (o->cors_origin && (strcmp(o->cors_origin, "*") == 0 || strcmp(o->cors_origin, origin) == 0)))
        return true;
    const char *from = strstr(origin, "://");
    return from && host && strcasecmp(from + 3, host) == 0; /* the server's own page */
}
