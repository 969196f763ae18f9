/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files behind config.h share: checked fields of config.json. Private to the room. A getter leaves
 * OUT, which holds the default, where the key is missing or null; a value of another type or out of its
 * bounds is NIB_BAD_FILE.
 */
#ifndef STORE_CONFIG_PARTS_H
#define STORE_CONFIG_PARTS_H

#include "nouns/family.h"
#include "store/config.h"

typedef struct config_reader {
    const json_t *object;
    const char *where; /* the file's name, for sentences */
    nib_error *err;
} config_reader;

const json_t *config_field(const config_reader *r, const char *key); /* NULL: missing */
nib_status config_int(const config_reader *r, const char *key, int64_t min, int64_t max, int32_t *out);
nib_status config_float(const config_reader *r, const char *key, double min, double max, float *out);
nib_status config_bool(const config_reader *r, const char *key, bool *out);
nib_status config_text(const config_reader *r, const char *key, const char **out);
nib_status config_object(const config_reader *r, const char *key, const json_t **out);

/* KEY must be false (0) or missing: nibble computes nothing else. Else NIB_UNSUPPORTED. */
nib_status config_need_false(const config_reader *r, const char *key);
nib_status config_need_zero(const config_reader *r, const char *key);

/* hp->rope and hp->rope_local out of rope_theta, rope_scaling and rope_parameters. hp's family, context
 * length and head_dim are there. */
nib_status config_rope(const config_reader *r, hparams *hp);

#endif
