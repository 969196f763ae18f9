/* SPDX-License-Identifier: Apache-2.0
 *
 * A Split pattern as Oniguruma shall read it: categories (\p{L}, \P{Lu}, \d, \p{Han}) are spelled out with
 * the characters of our own tables, because those of the installed library may be older than those of the
 * program that the model's ids were made with. What would change its meaning thereby, or means a place that a
 * match does not begin at, is refused in words. Private to the text room; the caller is split_pattern.c.
 */
#ifndef TEXT_SPLIT_DIALECT_H
#define TEXT_SPLIT_DIALECT_H

#include "base/strview.h"
#include "text/char_class.h"
#include "text/text_buffer.h"

/* Appends PATTERN to OUT. WHERE names the file in sentences. */
nib_status split_dialect_spell(text_buffer *out, strview pattern, class_source source, const char *where,
                               nib_error *err);

#endif
