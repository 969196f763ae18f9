/* SPDX-License-Identifier: Apache-2.0
 *
 * One engine over a tiny model for all tests of a program, and what it says to a request. Included by test
 * programs; everything is static.
 */
#ifndef ONE_ENGINE_H
#define ONE_ENGINE_H

#include <stdio.h>
#include <string.h>

#include "tiny_engine.h"

static nib_engine *e;

static inline int open_engine(void **state) {
    (void)state;
    e = open_tiny(&(nib_options){.max_model_len = 400, .max_num_seqs = 4}, NULL);
    return 0;
}

static inline int close_engine(void **state) {
    (void)state;
    nib_close(e);
    return 0;
}

static inline answer ask(const nib_request_options *o) {
    static answer a;
    read_answer(submit_options(e, o), &a);
    return a;
}

static inline nib_status refusal(const nib_request_options *options, const char *words) {
    nib_request *r;
    nib_error err = {""};
    nib_request_options o = *options;
    o.size = sizeof o;
    nib_status status = nib_submit(e, &o, &r, &err);
    if (status == NIB_OK || !strstr(err.text, words))
        fail_msg("'%s' does not say '%s'", err.text, words);
    assert_null(r);
    return status;
}

#define PROMPT .prompt = tiny_prompt, .n_prompt = 3

#endif
