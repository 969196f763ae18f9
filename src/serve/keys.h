/* SPDX-License-Identifier: Apache-2.0
 *
 * API keys: who may ask, and who shares remembered prompts with whom.
 */
#ifndef SERVE_KEYS_H
#define SERVE_KEYS_H

#include "serve/http.h"

/* Whether X brings one of the server's keys (Authorization: Bearer KEY, or x-api-key: KEY). All are compared,
 * in a time that depends on the length of what was brought alone. True where the server has none. */
bool keys_allow(const exchange *x);

/* The prefix cache's salt for a request of X: clients with another key, or another cache_salt (may be NULL),
 * cannot tell what was asked before. */
uint64_t keys_salt(const exchange *x, const char *cache_salt);

#endif
