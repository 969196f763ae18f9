/* SPDX-License-Identifier: Apache-2.0
 *
 * A server over a tiny model in this process, asked by several threads at once: every route that generates,
 * whole and as a stream, clients that leave, requests that are ended, and its end. For the sanitizers above
 * all: what is answered is judged by tests/e2e.
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "serve/serve.h"

static serve *running;

static char *read_template(void) {
    FILE *f = fopen(TESTS_DIR "/golden/text/families/qwen3-coder.jinja", "rb");
    static char text[1 << 16];
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    return text;
}

static int open_server(void **state) {
    nib_error err = {""};
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    const serve_options o = {.model = TESTS_DIR "/golden/models/llama-words",
                             .chat_template = read_template(),
                             .ping_seconds = 1,
                             .compute = {.size = sizeof o.compute,
                                         .threads = 1,
                                         .max_num_seqs = 4,
                                         .cpu_features = NIB_CPU_AVX2}}; /* which valgrind knows */
    assert_int_equal(sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0}), 0);
    if (serve_open(&running, &o, &err) != NIB_OK)
        fail_msg("%s", err.text);
    assert_int_equal(sched_getscheduler(0), SCHED_BATCH); /* what the user chose stays */
    return 0;
}

static int close_server(void **state) {
    (void)state;
    serve_close(running);
    return 0;
}

static int ask(const char *path, const char *body) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)serve_port(running))};
    char head[256];
    const int s = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(s, (struct sockaddr *)&to, sizeof to), 0);
    const int n =
        snprintf(head, sizeof head, "POST %s HTTP/1.0\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n",
                 path, strlen(body));
    assert_int_equal(write(s, head, (size_t)n), n);
    assert_int_equal(write(s, body, strlen(body)), strlen(body));
    return s;
}

/* The whole answer, with its head; freed by the caller. */
static char *answer_of(const char *path, const char *body) {
    const int s = ask(path, body);
    size_t n = 0, room = 1 << 20;
    char *text = malloc(room);
    for (ssize_t got; (got = read(s, text + n, room - n - 1)) > 0;)
        n += (size_t)got;
    text[n] = 0;
    close(s);
    return text;
}

#define USER "\"messages\": [{\"role\": \"user\", \"content\": \"the cat\"}], "
#define TOOL                                                                                                 \
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": "       \
    "\"object\", \"properties\": {\"a\": {\"enum\": [\"x\", \"y\"]}}, \"required\": [\"a\"]}}}], "

static const struct {
    const char *path, *body, *end; /* what the answer, or its last event, ends or begins with */
} cases[] = {
    {"/v1/chat/completions", "{" USER "\"max_tokens\": 8, \"n\": 2, \"logprobs\": true}", "}"},
    {"/v1/chat/completions", "{" USER "\"max_tokens\": 8, \"n\": 2, \"stream\": true}", "data: [DONE]\n\n"},
    {"/v1/chat/completions",
     "{" USER "\"max_tokens\": 30, \"ignore_eos\": true, \"thinking_token_budget\": 3, \"stream\": true}",
     "data: [DONE]\n\n"},
    {"/v1/chat/completions",
     "{" USER TOOL "\"tool_choice\": \"required\", \"thinking_token_budget\": 2, \"stream\": true, "
     "\"max_tokens\": 99}",
     "data: [DONE]\n\n"},
    {"/v1/completions",
     "{\"prompt\": [\"a\", \"b\"], \"max_tokens\": 8, \"echo\": true, \"logprobs\": 1, \"stop\": [\"ab\", "
     "\"e\"]}",
     "}"},
    {"/v1/completions",
     "{\"prompt\": \"a\", \"max_tokens\": 60, \"stream\": true, \"json_schema\": {\"type\": \"object\"}}",
     "data: [DONE]\n\n"},
    {"/v1/responses", "{\"input\": \"the cat\", \"max_output_tokens\": 8}", "}"},
    {"/v1/responses",
     "{\"input\": \"the cat\", \"temperature\": 0, \"max_output_tokens\": 8, \"stream\": true}",
     "event: response.incomplete\n"},
    {"/v1/messages", "{" USER "\"max_tokens\": 8}", "}"},
    {"/v1/messages", "{" USER "\"max_tokens\": 8, \"stream\": true}", "event: message_stop\n"},
    {"/v1/embeddings", "{\"input\": [\"a\", \"b\", \"c\"]}", "}"},
    {"/tokenize", "{\"prompt\": \"the cat\"}", "}"},
};

static bool is_good(const char *text, const char *end) {
    const char *last = NULL;
    const size_t n = strlen(text), n_end = strlen(end);
    if (strncmp(text + 8, " 200 ", 5) != 0 || strstr(text, "\"error\":{") || strstr(text, "event: error") ||
        strstr(text, "response.failed"))
        return false;
    if (strncmp(end, "event: ", 7) != 0)
        return n >= n_end && strcmp(text + n - n_end, end) == 0;
    for (const char *p = text; (p = strstr(p, "event: ")); p++)
        last = p;
    return last && strncmp(last, end, n_end) == 0;
}

static void *ask_all(void *first) {
    static const size_t n = sizeof cases / sizeof *cases;
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t k = (i + (size_t)(uintptr_t)first) % n;
        char *text = answer_of(cases[k].path, cases[k].body);
        const bool good = is_good(text, cases[k].end);
        if (!good)
            fprintf(stderr, "%s %s: %s\n", cases[k].path, cases[k].body, text);
        bad += !good;
        free(text);
    }
    return (void *)(uintptr_t)bad;
}

static void test_all_at_once(void **state) {
    enum { N = 4 };
    pthread_t threads[N];
    (void)state;
    for (size_t i = 0; i < N; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_all, (void *)(uintptr_t)(i * 3)), 0);
    for (size_t i = 0; i < N; i++) {
        void *bad;
        pthread_join(threads[i], &bad);
        assert_null(bad);
    }
}

/* In the queue, in the prompt, while it is written. */
static void test_clients_that_leave(void **state) {
    (void)state;
    int sockets[24];
    char some[64], many[2048] = "{\"input\": [\"a\"";
    for (int i = 0; i < 200; i++) /* more than are begun at a time */
        strcat(many, ", \"a b\"");
    strcat(many, "]}");
    for (int i = 0; i < 24; i++)
        sockets[i] = ask(
            i % 3 ? "/v1/chat/completions" : "/v1/embeddings",
            i % 3 == 0   ? many
            : i % 3 == 1 ? "{" USER "\"stream\": true, \"ignore_eos\": true, \"thinking_token_budget\": 5}"
                         : "{" USER "\"ignore_eos\": true, \"n\": 3}");
    assert_true(read(sockets[1], some, sizeof some) > 0);
    for (int i = 0; i < 24; i++)
        close(sockets[i]);
    char *text = answer_of("/v1/completions", "{\"prompt\": \"a\", \"max_tokens\": 2}");
    assert_true(is_good(text, "}"));
    free(text);
}

static void test_what_runs_at_the_end(void **state) {
    (void)state;
    char some[4096] = "";
    const int s =
        ask("/v1/completions", "{\"prompt\": \"a\", \"stream\": true, \"ignore_eos\": true, \"n\": 100}");
    assert_true(read(s, some, 12) > 0);
    assert_false(serve_drain(running, 0));
    serve_close(running); /* the client is told */
    running = NULL;
    size_t n = 0;
    for (ssize_t got; (got = read(s, some + n, sizeof some / 2 - n)) > 0;) { /* the last that comes stays */
        n += (size_t)got;
        if (n > sizeof some / 4) {
            memmove(some, some + n - sizeof some / 4, sizeof some / 4);
            n = sizeof some / 4;
        }
    }
    some[n] = 0;
    assert_non_null(strstr(some, "going down"));
    assert_non_null(strstr(some, "[DONE]"));
    close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all_at_once),
                                       cmocka_unit_test(test_clients_that_leave),
                                       cmocka_unit_test(test_what_runs_at_the_end)};
    return cmocka_run_group_tests(tests, open_server, close_server);
}
