/* SPDX-License-Identifier: Apache-2.0
 *
 * What somebody may have meant: the nearest of some names. For sentences about names that are none.
 */
#ifndef BASE_NEAREST_H
#define BASE_NEAREST_H

enum { NEAREST_MAX = 32 }; /* bytes of a name; longer ones are not compared */

/* The one of NAMES (ends with NULL) that is the fewest edits (insert, delete, change, swap neighbours) from
 * TEXT; NULL: none is near. */
const char *nearest_name(const char *text, const char *const *names);

#endif
