/* SPDX-License-Identifier: Apache-2.0
 *
 * Eval: perplexity and KL divergence by llama-perplexity's convention, calibration, and speed.
 */
#ifndef EVAL_EVAL_H
#define EVAL_EVAL_H

#include "base/progress.h"
#include "model/model.h"
#include "quant/convert.h"

#endif
