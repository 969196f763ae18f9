/* SPDX-License-Identifier: Apache-2.0
 *
 * A model that is only a shape: the hyper-parameters of a known network and random NVFP4 weights, so that its
 * speed can be measured without its files. It has no words.
 */
#ifndef STORE_SHAPE_FILE_H
#define STORE_SHAPE_FILE_H

#include "store/model_file.h"

#define SHAPE_NAMES "smollm2-135m, llama3-1b, qwen3-8b, llama3-8b, gemma3-27b, qwen3-32b or llama3-70b"
bool shape_file_is(const char *name); /* one of them */

/* NIB_BAD_ARGUMENT, with the names there are, where NAME is none of them. Closed by model_file_close. */
nib_status shape_file_open(model_file **out, const char *name, nib_error *err);

#endif
