/* SPDX-License-Identifier: Apache-2.0
 *
 * Many requests at once, each on a thread of its own, against what each says alone. Included by test
 * programs; everything is static.
 */
#ifndef OVERLAP_H
#define OVERLAP_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nibble.h"

#define OVERLAP_MAX_TOKENS 512

typedef struct overlap_request {
    nib_engine *engine;
    nib_request_options options; /* .sampling is SAMPLING below */
    nib_sampling sampling;
    int delay_ms;     /* before it is submitted */
    int cancel_after; /* tokens; 0: never */

    int32_t tokens[OVERLAP_MAX_TOKENS]; /* what came of it */
    int n_tokens;
    char text[16384];
    size_t text_bytes;
    nib_end_reason reason;
    char error[512];
} overlap_request;

/* Submits R and reads it to its end. Never asserts: it runs on other threads; r->error tells. */
static void *overlap_run(void *argument) {
    overlap_request *r = argument;
    nib_error err = {""};
    nib_request *request;
    nib_event event = {.size = sizeof event};
    r->n_tokens = 0;
    r->text_bytes = 0;
    r->error[0] = 0;
    r->reason = NIB_END_FAILED;
    r->sampling.size = sizeof r->sampling;
    r->options.sampling = &r->sampling;
    r->options.size = sizeof r->options;
    usleep((useconds_t)r->delay_ms * 1000);
    if (nib_submit(r->engine, &r->options, &request, &err) != NIB_OK) {
        memcpy(r->error, err.text, sizeof r->error);
        return NULL;
    }
    while (event.kind != NIB_EVENT_END) {
        if (nib_next_event(request, &event, 50, &err) != NIB_OK) {
            memcpy(r->error, err.text, sizeof r->error);
            break;
        }
        if (r->text_bytes + event.text_bytes < sizeof r->text) {
            memcpy(r->text + r->text_bytes, event.text, event.text_bytes);
            r->text_bytes += event.text_bytes;
        }
        if (event.kind == NIB_EVENT_TOKEN && r->n_tokens < OVERLAP_MAX_TOKENS)
            r->tokens[r->n_tokens++] = event.token;
        if (event.kind == NIB_EVENT_TOKEN && r->cancel_after > 0 && event.n_generated >= r->cancel_after)
            nib_cancel(request);
    }
    r->reason = event.reason;
    if (event.kind == NIB_EVENT_END)
        strcpy(r->error, event.error);
    nib_release(request);
    return NULL;
}

/* All of REQUESTS [n] at the same time, each on its thread. */
static void overlap_run_all(overlap_request *requests, int n) {
    pthread_t threads[64];
    assert_true(n <= 64);
    for (int i = 0; i < n; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, overlap_run, &requests[i]), 0);
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

/* BESIDE must be ALONE; where it was cancelled, a beginning of it. */
static void overlap_expect_equal(const overlap_request *beside, const overlap_request *alone) {
    if (beside->reason == NIB_END_FAILED || alone->reason == NIB_END_FAILED)
        fail_msg("%s%s", beside->error, alone->error);
    if (beside->cancel_after > 0 && beside->reason == NIB_END_CANCELLED) {
        assert_true(beside->n_tokens <= alone->n_tokens);
        assert_true(beside->n_tokens >= beside->cancel_after);
    } else {
        assert_int_equal(beside->reason, alone->reason);
        assert_int_equal(beside->n_tokens, alone->n_tokens);
        assert_int_equal(beside->text_bytes, alone->text_bytes);
        assert_memory_equal(beside->text, alone->text, alone->text_bytes);
    }
    assert_memory_equal(beside->tokens, alone->tokens, (size_t)beside->n_tokens * sizeof(int32_t));
}

#endif
