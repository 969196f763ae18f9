/* SPDX-License-Identifier: Apache-2.0
 *
 * The packed form of a tensor: chosen by its format, filled row by row. Caller: pack.c.
 */
#ifndef CPU_PACK_FORM_H
#define CPU_PACK_FORM_H

#include "cpu/pack.h"

#define PACK_FORM_BAD_SCALE 0x100u /* an entry of the scale table that E5M3 does not hold */
#define PACK_FORM_E5M3      0x1p-104f

/* What a row packer needs to know beside the row. */
typedef struct pack_source {
    const pack_part *part;
    const unsigned char *data; /* of row 0, though only a stripe's rows are there */
    const uint8_t *block_scales;
    size_t row_bytes, row_scales; /* bytes of a row of each */
    uint16_t scale_table[256];    /* stored scale byte -> E5M3, or PACK_FORM_BAD_SCALE */
} pack_source;

/* Packs row ROW into lane ROW % 16 of its group GROUP (zeroed); returns the or of its scale table entries. */
typedef uint32_t (*pack_row_fn)(const pack_source *s, size_t row, uint8_t *group);

/* Chooses the packed form of P and fills S; *fn NULL: the tensor stays where it is. INT8: for activations of
 * 8 bits, which more forms have kernels for. */
nib_status pack_form_choose(pack_row_fn *fn, pack_source *s, pack_part *p, bool int8, nib_error *err);

#endif
