/* SPDX-License-Identifier: Apache-2.0
 *
 * Stop texts against a plain search: random texts of few letters, which overlap in every way, given in
 * pieces.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/stops.h"

static uint64_t random_state = 1;

static unsigned roll(unsigned n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(random_state >> 33) % n;
}

static void make_text(char *out, unsigned n) {
    for (unsigned i = 0; i < n; i++)
        out[i] = (char)('a' + roll(2));
    out[n] = 0;
}

/* The stop that begins first in TEXT, the first of the list where several do; -1: none does. */
static int find_plainly(const char texts[][16], size_t n, const char *text, const char **at) {
    int found = -1;
    for (size_t i = 0; i < n; i++) {
        const char *p = strstr(text, texts[i]);
        if (p && (found < 0 || p < *at)) {
            found = (int)i;
            *at = p;
        }
    }
    return found;
}

static size_t begun_plainly(const char texts[][16], size_t n, const char *text, size_t bytes) {
    size_t longest = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 1; k < strlen(texts[i]) && k <= bytes; k++)
            if (k > longest && memcmp(text + bytes - k, texts[i], k) == 0)
                longest = k;
    return longest;
}

static void check_one(void) {
    enum { MOST = 5, LONGEST = 12, BYTES = 40 };
    char texts[MOST][16], said[BYTES + 1];
    const char *list[MOST], *at = NULL;
    const size_t n = 1 + roll(MOST);
    for (size_t i = 0; i < n; i++) {
        make_text(texts[i], 1 + roll(LONGEST));
        list[i] = texts[i];
    }
    make_text(said, BYTES);
    stop_texts s;
    uint16_t matched[MOST] = {0};
    assert_int_equal(stops_open(&s, list, n, NULL), NIB_OK);
    for (size_t done = 0; done < BYTES;) {
        size_t piece = 1 + roll(7), end = 0;
        piece = piece < BYTES - done ? piece : BYTES - done;
        const int found = stops_feed(&s, matched, said + done, piece, &end);
        const char kept = said[done + piece];
        said[done + piece] = 0; /* what has come so far */
        assert_int_equal(found, find_plainly((const char(*)[16])texts, n, said, &at));
        if (found >= 0) {
            assert_ptr_equal(said + done + end - strlen(texts[found]), at);
            break;
        }
        assert_int_equal(stops_begun(&s, matched),
                         begun_plainly((const char(*)[16])texts, n, said, done + piece));
        said[done + piece] = kept;
        done += piece;
    }
    stops_close(&s);
}

static void test_as_a_plain_search(void **state) {
    (void)state;
    for (int i = 0; i < 20000; i++)
        check_one();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_a_plain_search)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
