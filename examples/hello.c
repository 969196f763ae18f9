/* SPDX-License-Identifier: Apache-2.0
 *
 * The smallest program over nibble.h: asks a model one question and prints the answer as it comes.
 *
 *   cc examples/hello.c $(pkg-config --cflags --libs nibble) -o hello
 *   ./hello MODEL "What is the capital of France?"
 */
#include <nibble.h>

#include <stdio.h>
#include <string.h>

/* The model's own chat template where nibble knows it; else the bare text. */
static nib_status question_tokens(nib_engine *engine, const char *question, int32_t **ids, size_t *n_ids,
                                  nib_error *err) {
    nib_info info = {.size = sizeof info};
    nib_status status = nib_get_info(engine, &info, err);
    if (status != NIB_OK)
        return status;
    if (!info.has_chat_template)
        return nib_tokenize(engine, question, strlen(question), 0, ids, n_ids, err);
    nib_message message = {"user", question};
    return nib_chat_tokens(engine, &message, 1, ids, n_ids, err);
}

static nib_status answer(nib_engine *engine, const char *question, nib_error *err) {
    int32_t *ids = NULL;
    size_t n_ids = 0;
    nib_request *request = NULL;
    nib_event event = {.size = sizeof event};
    nib_status status = question_tokens(engine, question, &ids, &n_ids, err);
    if (status == NIB_OK) {
        nib_request_options options = {
            .size = sizeof options, .prompt = ids, .n_prompt = n_ids, .max_tokens = 100};
        status = nib_submit(engine, &options, &request, err);
    }
    while (status == NIB_OK && event.kind != NIB_EVENT_END) {
        status = nib_next_event(request, &event, -1, err);
        if (status == NIB_OK) {
            fwrite(event.text, 1, event.text_bytes, stdout);
            fflush(stdout);
        }
    }
    if (status == NIB_OK) {
        printf("\n");
        double tokens_per_s = event.generate_ms > 0 ? (event.n_generated - 1) / event.generate_ms * 1e3 : 0;
        fprintf(stderr, "[%d tokens, %.1f tokens/s]%s%s\n", event.n_generated, tokens_per_s,
                event.reason == NIB_END_FAILED ? " failed: " : "", event.error);
    }
    nib_release(request);
    nib_free(ids);
    return status;
}

int main(int argc, char **argv) {
    nib_engine *engine;
    nib_error err;
    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL QUESTION\n", argv[0]);
        return 2;
    }
    nib_status status = nib_open(&engine, argv[1], NULL, &err);
    if (status == NIB_OK) {
        status = answer(engine, argv[2], &err);
        nib_close(engine);
    }
    if (status != NIB_OK)
        fprintf(stderr, "%s: %s\n", argv[0], err.text);
    return status != NIB_OK;
}
