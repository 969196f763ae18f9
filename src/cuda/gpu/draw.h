/* SPDX-License-Identifier: Apache-2.0
 *
 * The sample op's host side: rows of sample_row become one block of numbers that one copy brings to the
 * device; results come back in one small copy, handed out by step_wait.
 */
#ifndef CUDA_DRAW_H
#define CUDA_DRAW_H

#include "cuda/gpu/state.h"

nib_status draw_new(cuda_backend *cb, nib_error *err);
void draw_free(cuda_backend *cb);
void draw_set(backend *be);          /* op.sample */
void draw_deliver(cuda_backend *cb); /* after the stream was waited for */

#endif
