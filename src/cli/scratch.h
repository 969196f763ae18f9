/* SPDX-License-Identifier: Apache-2.0
 *
 * Scratch: a temporary directory beside an output, for what is kept while that is made; an interrupt removes
 * it, and what a killed run left of it goes first. Callers: cmd_quantize, plan_measure.
 */
#ifndef CLI_SCRATCH_H
#define CLI_SCRATCH_H

#include "base/status.h"

typedef struct scratch {
    char *directory; /* NULL: none */
    int lock;        /* holds it */
} scratch;

nib_status scratch_open(scratch *s, const char *out, nib_error *err);
/* Of a file in it, freed with mem_free; NULL: no memory. */
char *scratch_path(const scratch *s, const char *name);
void scratch_close(scratch *s); /* safe on a zeroed scratch */

#endif
