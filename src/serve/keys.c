/* SPDX-License-Identifier: Apache-2.0
 *
 * See keys.h.
 */
#include "serve/keys.h"

#include <string.h>
#include <strings.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static const char *brought(const exchange *x) {
    static const char scheme[] = "Bearer ";
    const char *header = http_header(x, "Authorization");
    if (header && strncasecmp(header, scheme, sizeof scheme - 1) == 0)
        return header + sizeof scheme - 1;
    return http_header(x, "x-api-key");
}

static bool equal(const char *given, const char *key) {
    const size_t n = strlen(given), n_key = strlen(key);
    unsigned char differ = (unsigned char)(n != n_key);
    for (size_t i = 0; i < n; i++)
        differ |= (unsigned char)(given[i] ^ key[n_key ? i % n_key : 0]);
    return differ == 0;
}

bool keys_allow(const exchange *x) {
    const serve_options *o = &x->server->options;
    const char *given = brought(x);
    bool allowed = o->n_api_keys == 0;
    for (size_t i = 0; given && i < o->n_api_keys; i++)
        allowed |= equal(given, o->api_keys[i]);
    return allowed;
}

uint64_t keys_salt(const exchange *x, const char *cache_salt) {
    const server *s = x->server;
    const char *key = s->options.n_api_keys > 0 ? brought(x) : NULL;
    uint64_t salt = 0;
    if (key)
        salt = XXH3_64bits_withSeed(key, strlen(key), s->salt_seed);
    if (cache_salt)
        salt = XXH3_64bits_withSeed(cache_salt, strlen(cache_salt), salt ^ s->salt_seed);
    return salt;
}
