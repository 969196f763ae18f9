/* SPDX-License-Identifier: Apache-2.0
 *
 * Sources: nothing that is read may be replaced by the output. Caller: convert.
 */
#ifndef CONVERT_SOURCES_H
#define CONVERT_SOURCES_H

#include "convert/convert.h"

/* Is OUT the source IN, one of its files, or what OPTIONS also read, or a directory above one? Then
 * NIB_BAD_ARGUMENT. */
nib_status sources_check(const model_file *in, const char *out, const convert_options *options,
                         nib_error *err);

#endif
