/* SPDX-License-Identifier: Apache-2.0
 *
 * What a test of speed says that it read and computed, against counting it token by token.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "eval/speed.h"

enum { LAYERS = 5, WINDOW = 16 };

static void test_attention(void **state) {
    (void)state;
    const bool local[LAYERS] = {true, true, false, true, false};
    hparams hp = {.n_layers = LAYERS, .n_heads = 6, .head_dim = 32, .sliding_window = WINDOW};
    for (int i = 0; i < LAYERS; i++)
        hp.local[i] = local[i];
    const int positions[] = {0, 1, WINDOW - 2, WINDOW - 1, WINDOW, 100}, lengths[] = {1, 2, WINDOW, 50};
    for (size_t p = 0; p < sizeof positions / sizeof *positions; p++)
        for (size_t n = 0; n < sizeof lengths / sizeof *lengths; n++) {
            double products = 0, one = 0;
            for (int i = 0; i < lengths[n]; i++)
                for (int layer = 0; layer < LAYERS; layer++)
                    for (int key = 0; key <= positions[p] + i; key++)
                        if (!local[layer] || key > positions[p] + i - WINDOW) {
                            products += 2.0 * 6 * 32; /* a score's and a sum's */
                            one += i == 0;
                        }
            assert_true(speed_attention_flops(&hp, positions[p], lengths[n]) == 2 * products);
            assert_true(speed_kv_bytes(&hp, 10.0 * LAYERS, positions[p]) == 10 * one);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_attention)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
