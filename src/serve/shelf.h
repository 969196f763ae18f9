/* SPDX-License-Identifier: Apache-2.0
 *
 * Shelf: shapes of answers that were asked for lately, compiled once. Any thread may ask.
 */
#ifndef SERVE_SHELF_H
#define SERVE_SHELF_H

#include "nibble.h"

typedef struct shelf shelf;

nib_status shelf_open(shelf **out, nib_error *err);
void shelf_close(shelf *s); /* before the engine; NULL is fine */
/* A guide of the shape OPTIONS, as nib_shape_guide gives one. A shape too large to be kept here is *own's,
 * NULL at first: the same place for the same OPTIONS; nib_shape_release. */
nib_status shelf_guide(shelf *s, nib_engine *engine, const nib_shape_options *options, nib_shape **own,
                       nib_guide *guide, nib_error *err);

#endif
