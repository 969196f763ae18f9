/* SPDX-License-Identifier: Apache-2.0
 *
 * How long a chat template takes: to open (with its probe for calls), to render a conversation, and how fast
 * an answer is taken apart. CPU time of one thread, the best of several rounds.
 *
 * usage: bench_template TEMPLATE.jinja [MESSAGES] [ROUNDS]
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/mapfile.h"
#include "text/chat_reader.h"

static double cpu_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static json_t *tools_json(void) {
    json_error_t problem;
    return json_loads(
        "[{\"type\": \"function\", \"function\": {\"name\": \"get_weather\", \"description\": \"Weather of a "
        "city.\", "
        "\"parameters\": {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}}}}}]",
        0, &problem);
}

/* N messages by turns, some hundred bytes each. */
static json_t *talk(int n) {
    char text[512];
    json_t *messages = json_array();
    for (int i = 0; i < n; i++) {
        int at = snprintf(text, sizeof text, "Message %d: ", i);
        while (at < 400)
            at += snprintf(text + at, sizeof text - (size_t)at, "the quick brown fox %d ", at);
        json_array_append_new(messages,
                              json_pack("{s:s, s:s}", "role", i % 2 ? "assistant" : "user", "content", text));
    }
    return messages;
}

static double better(double best, double took) {
    return took < best ? took : best;
}

static nib_status measure(strview source, int n, int rounds, nib_error *err) {
    const strview bos = {"<s>", 3}, eos = {"</s>", 4};
    static const char piece[] = "The quick brown fox < jumps > over {the} lazy dog. ";
    double open_ms = 1e30, render_ms = 1e30, read_ms = 1e30;
    json_t *messages = talk(n), *tools = tools_json();
    size_t bytes = 0;
    for (int i = 0; i < rounds; i++) {
        chat *c;
        chat_prompt prompt;
        double start = cpu_ms();
        NIB_TRY(chat_open(&c, source, bos, eos, err));
        open_ms = better(open_ms, cpu_ms() - start);
        start = cpu_ms();
        NIB_TRY(chat_render(c, &(chat_request){.messages = messages, .tools = tools}, &prompt, err));
        render_ms = better(render_ms, cpu_ms() - start);
        bytes = prompt.n;
        start = cpu_ms();
        chat_answer a;
        char *answer = malloc(1000 * sizeof piece);
        for (size_t k = 0; k < 1000; k++)
            memcpy(answer + k * (sizeof piece - 1), piece, sizeof piece);
        NIB_TRY(chat_read(c, tools, NULL, answer, 1000 * (sizeof piece - 1), &a, err));
        read_ms = better(read_ms, cpu_ms() - start);
        free(answer);
        chat_answer_free(&a);
        chat_prompt_free(&prompt);
        chat_close(c);
    }
    json_decref(messages);
    json_decref(tools);
    printf("{\"messages\": %d, \"prompt_bytes\": %zu, \"open_ms\": %.2f, \"render_ms\": %.2f, "
           "\"read_mb_per_s\": %.0f}\n",
           n, bytes, open_ms, render_ms, 1000.0 * (sizeof piece - 1) / read_ms / 1e3);
    return NIB_OK;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: bench_template TEMPLATE.jinja [MESSAGES] [ROUNDS]\n");
        return 2;
    }
    mapfile source;
    nib_error err = {""};
    nib_status status = mapfile_open(&source, argv[1], &err);
    if (status == NIB_OK) {
        status = measure((strview){(const char *)source.bytes, source.size}, argc > 2 ? atoi(argv[2]) : 100,
                         argc > 3 ? atoi(argv[3]) : 20, &err);
        mapfile_close(&source);
    }
    if (status != NIB_OK)
        fprintf(stderr, "bench_template: %s\n", err.text);
    return status == NIB_OK ? 0 : 1;
}
