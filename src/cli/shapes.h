/* SPDX-License-Identifier: Apache-2.0
 *
 * The shape that --json-schema or --grammar asks of answers.
 */
#ifndef CLI_SHAPES_H
#define CLI_SHAPES_H

#include "nibble.h"

typedef struct shapes {
    nib_shape_kind kind;
    char *text; /* NULL: none is asked for */
    size_t bytes;
    nib_shape
        *forms[3]; /* without reasoning, with it if the model likes, and where it has begun; NULL: not yet */
} shapes;          /* zero-initialize */

/* Reads the text of one of the two: a schema may stand in the flag itself. Both NULL: nothing. */
nib_status shapes_read(shapes *s, const char *schema, const char *grammar, nib_error *err);
/* Compiles it for a model that has no reasoning before it, so that what cannot be held to is said early. */
nib_status shapes_check(shapes *s, nib_engine *engine, nib_error *err);
/* Fills GUIDE for an answer; see nib_shape_guide. REASONING: what opens and closes the model's reasoning,
 * which may come before the shape, and must end where the prompt has BEGUN it; NULL, or without an end: it
 * has none. The same in every call. */
nib_status shapes_guide(shapes *s, nib_engine *engine, const nib_chat_info *reasoning, bool begun,
                        nib_guide *guide, nib_error *err);
void shapes_close(shapes *s); /* before the engine */

#endif
