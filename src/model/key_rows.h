/* SPDX-License-Identifier: Apache-2.0
 *
 * Key rows: keys and values of a batch on the host, as a cache stores them. Caller: layerwise.
 */
#ifndef MODEL_KEY_ROWS_H
#define MODEL_KEY_ROWS_H

#include "model/network.h"

typedef struct key_rows {
    model *m;
    buf *in, *turned;     /* [max_rows, 3 * width], [max_rows, width] */
    float *rows;          /* [max_rows, the wider of the joined q, k, v and 3 * width] */
    float *keys, *values; /* [max_rows, width], width n_kv_heads * head_dim: filled by key_rows_read */
} key_rows;

nib_status key_rows_open(key_rows *k, model *m, nib_error *err);
/* Of batch B, of which attention of LAYER, whose matrices are bound, was computed last: keys normed and
 * turned, and values. */
nib_status key_rows_read(key_rows *k, int layer, const batch *b, nib_error *err);
void key_rows_close(key_rows *k); /* safe on zeroed and half-opened key_rows */

#endif
