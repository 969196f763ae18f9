/* SPDX-License-Identifier: Apache-2.0
 *
 * What must be known of a program before it runs: the depth that each instruction needs, and that no rule
 * begins with itself. Private to grammar_compile.c.
 */
#ifndef TEXT_GRAMMAR_ANALYSIS_H
#define TEXT_GRAMMAR_ANALYSIS_H

#include "text/grammar.h"

/* Fills g->needs, and g->least where there are LIMITS. Refuses (NIB_UNSUPPORTED) left recursion, giving in
 * *RECURSIVE the entry of a rule that begins with itself, and counted repeats of what may be empty. */
nib_status grammar_analyze(grammar *g, bool limits, uint32_t *recursive, nib_error *err);

#endif
