/* SPDX-License-Identifier: Apache-2.0
 *
 * Who may ask, and who shares remembered prompts with whom. The headers are the test's own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <microhttpd.h>

#include "serve/keys.h"
#include "serve/origin.h"

static const char *headers[8]; /* name, value, ..., NULL */

const char *__wrap_MHD_lookup_connection_value(struct MHD_Connection *connection, enum MHD_ValueKind kind,
                                               const char *key);

const char *__wrap_MHD_lookup_connection_value(struct MHD_Connection *connection, enum MHD_ValueKind kind,
                                               const char *key) {
    (void)connection;
    assert_int_equal(kind, MHD_HEADER_KIND);
    for (const char *const *h = headers; *h; h += 2)
        if (strcmp(*h, key) == 0)
            return h[1];
    return NULL;
}

static server here = {.salt_seed = 77};

/* An exchange that brings NAME (may be NULL): VALUE. */
static const exchange *bring(const char *name, const char *value) {
    static exchange x = {.server = &here};
    headers[0] = name;
    headers[1] = value;
    headers[2] = NULL;
    return &x;
}

static void test_keys(void **state) {
    (void)state;
    static const char *const keys[] = {"open", "sesame"};
    static const struct {
        const char *name, *value;
        bool allowed;
    } cases[] = {{NULL, NULL, false},
                 {"Authorization", "Bearer open", true},
                 {"Authorization", "bearer sesame", true},
                 {"Authorization", "open", false},
                 {"Authorization", "Bearer ope", false},
                 {"Authorization", "Bearer opens", false},
                 {"Authorization", "Bearer openopen", false}, /* a key that comes round again */
                 {"Authorization", "Bearer ", false},
                 {"x-api-key", "sesame", true},
                 {"x-api-key", "", false}};
    here.options.api_keys = keys;
    here.options.n_api_keys = 2;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(keys_allow(bring(cases[i].name, cases[i].value)), cases[i].allowed);
    here.options.n_api_keys = 0;
    assert_true(keys_allow(bring(NULL, NULL)));
}

static void test_salts(void **state) {
    (void)state;
    static const char *const keys[] = {"a", "b"};
    here.options.n_api_keys = 0;
    assert_true(keys_salt(bring("x-api-key", "a"), NULL) == 0); /* nobody is told apart */
    here.options.api_keys = keys;
    here.options.n_api_keys = 2;
    const uint64_t a = keys_salt(bring("x-api-key", "a"), NULL), b = keys_salt(bring("x-api-key", "b"), NULL);
    assert_true(a != b && a != 0);
    assert_true(keys_salt(bring("Authorization", "Bearer a"), NULL) == a);
    const uint64_t salted = keys_salt(bring("x-api-key", "a"), "s");
    assert_true(salted != a && salted != keys_salt(bring("x-api-key", "b"), "s"));
    assert_true(salted != keys_salt(bring("x-api-key", "a"), "t"));
    here.salt_seed = 78; /* another start of the server */
    assert_true(keys_salt(bring("x-api-key", "a"), NULL) != a);
}

static void test_pages_of_other_sites(void **state) {
    (void)state;
    static const struct {
        const char *host;
        bool allowed;
    } cases[] = {{"127.0.0.1:8000", true},  {"localhost", true},          {"[::1]:8000", true},
                 {"a.localhost", true},     {"evil.example", false},      {"127.0.0.1.evil.example", false},
                 {"localhost.evil", false}, {"notlocalhost:8000", false}, {NULL, true}};
    here.options = (serve_options){.host = "127.0.0.1"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(origin_allowed(bring(cases[i].host ? "Host" : NULL, cases[i].host)),
                         cases[i].allowed);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_keys), cmocka_unit_test(test_salts),
                                       cmocka_unit_test(test_pages_of_other_sites)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
