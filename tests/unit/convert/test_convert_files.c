/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversion of whole models, by the files it leaves: nothing of the user's is replaced, and nothing
 * half-written is ever seen under the final name, whatever ends the run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/mem.h"
#include "convert/recipe.h"
#include "convert_models.h"

static int count_entries(void) {
    int n = 0;
    DIR *dir = opendir(tiny_root);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(dir);
    return n;
}

static void test_refusals(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    const char *out = tiny_path("out");
    assert_int_equal(
        try_convert(hf, tiny_path("x.gguf"), (convert_options){.format = QF_FP8, .out = OUT_GGUF}, NULL),
        NIB_BAD_ARGUMENT);
    assert_int_equal(try_convert(hf, out, (convert_options){.method = QM_WEIGHTED}, NULL), NIB_BAD_ARGUMENT);
    assert_int_equal(
        try_convert(hf, out, (convert_options){.format = QF_MXFP4, .method = QM_FOUR_OVER_SIX}, NULL),
        NIB_BAD_ARGUMENT);
    assert_int_equal(try_convert(hf, hf, (convert_options){0}, NULL), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "is the source"));
    assert_int_equal(mkdir(tiny_path("mine"), 0777), 0);
    tiny_text(tiny_path("mine"), "letter", "dear");
    assert_int_equal(try_convert(hf, tiny_path("mine"), (convert_options){0}, NULL), NIB_BAD_ARGUMENT);
    const char *nan = tiny_model("nan", FAMILY_LLAMA, true, 0x7fc0);
    assert_int_equal(try_convert(nan, out, (convert_options){0}, NULL), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "model.layers.1.mlp.up_proj.weight holds a NaN"));
    assert_int_equal(count_entries(), 3); /* hf, mine, nan */
}

/* What is read is never replaced, nor is what nibble did not write. */
static void test_nothing_of_the_user_goes(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    assert_int_equal(mkdir(tiny_path("d"), 0777), 0);
    const char *gguf = make(hf, "d/model.gguf", (convert_options){.format = QF_BF16, .out = OUT_GGUF}, NULL);
    tiny_text(tiny_path("d"), "config.json", "{}");
    assert_int_equal(try_convert(gguf, tiny_path("d"), (convert_options){0}, NULL), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "holds the source"));
    assert_int_equal(try_convert(gguf, tiny_path("d/"), (convert_options){0}, NULL), NIB_BAD_ARGUMENT);
    assert_int_equal(try_convert(gguf, tiny_root, (convert_options){0}, NULL), NIB_BAD_ARGUMENT);
    assert_int_equal(symlink(gguf, tiny_path("link.gguf")), 0);
    assert_int_equal(try_convert(tiny_path("link.gguf"), tiny_path("d"), (convert_options){0}, NULL),
                     NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "holds the source"));
    assert_int_equal(try_convert(hf, tiny_path("d"), (convert_options){0}, NULL), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "holds \"model.gguf\", which nibble does not write"));
    convert_options o = {.out = OUT_GGUF};
    assert_int_equal(try_convert(hf, tiny_path("hf/model.safetensors"), o, NULL), NIB_BAD_ARGUMENT);
    assert_int_equal(try_convert(hf, tiny_path("hf/tokenizer.json"), o, NULL), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "is the source"));

    const char *out = make(hf, "out", (convert_options){0}, NULL); /* the text of a calibration */
    char text[512];
    snprintf(text, sizeof text, "%s/LICENSE", out);
    tiny_text(out, "LICENSE", "text");
    o = (convert_options){.also_read = {text}};
    assert_int_equal(try_convert(hf, out, o, NULL), NIB_BAD_ARGUMENT);
    o.out = OUT_GGUF;
    assert_int_equal(try_convert(hf, text, o, NULL), NIB_BAD_ARGUMENT);
    make(hf, "out", (convert_options){0}, NULL); /* all of it is nibble's */
}

/* Every directory that nibble writes has the mark, whatever the convention and the format. */
static void test_what_nibble_wrote_is_replaced(void **state) {
    (void)state;
    static const quant_format formats[] = {QF_NVFP4, QF_MXFP4, QF_FP8, QF_BF16};
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    for (int i = 0; i < 8; i++) {
        char name[16];
        snprintf(name, sizeof name, "o%d", i);
        convert_options o = {.format = formats[i / 2], .out = i & 1 ? OUT_COMPRESSED_TENSORS : OUT_MODELOPT};
        make(hf, name, o, NULL);
        make(hf, name, o, NULL);
    }
    assert_int_equal(unlink(tiny_path("o0/nibble.json")), 0);
    assert_int_equal(try_convert(hf, tiny_path("o0"), (convert_options){0}, NULL), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "has no nibble.json"));
}

static void test_interrupted(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    volatile sig_atomic_t stop = 1;
    model_file *f = open_model(hf);
    recipe r;
    assert_int_equal(recipe_make(&r, f, &(convert_options){.interrupted = &stop}, &err), NIB_CANCELLED);
    arena_free(&r.arena);
    model_file_close(f);
    assert_int_equal(try_convert(hf, tiny_path("o"), (convert_options){.interrupted = &stop}, NULL),
                     NIB_CANCELLED);
    assert_int_equal(
        try_convert(hf, tiny_path("o.gguf"), (convert_options){.interrupted = &stop, .out = OUT_GGUF}, NULL),
        NIB_CANCELLED);
    assert_int_equal(count_entries(), 1);
}

static void kill_me(void *context, const char *what, uint64_t done, uint64_t total) {
    (void)context;
    (void)what;
    if (done > total * 8 / 10) /* while the tensors are written */
        kill(getpid(), SIGKILL);
}

/* Nothing under the final name after a kill; what the dead left goes with the next run. */
static void test_killed(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    for (int gguf = 0; gguf < 2; gguf++) {
        const char *out = tiny_path(gguf ? "o.gguf" : "o");
        convert_options o = {
            .threads = 1, .out = gguf ? OUT_GGUF : OUT_MODELOPT, .progress = {.report = kill_me}};
        pid_t child = fork();
        if (child == 0) {
            model_file *f;
            convert_report r;
            if (model_file_open(&f, hf, NULL) == NIB_OK)
                convert(f, out, &o, &r, NULL);
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_int_equal(access(out, F_OK), -1);
        assert_int_equal(count_entries(), 2 + gguf); /* hf, what is left; the finished "o" */
        o.progress.report = NULL;
        assert_int_equal(try_convert(hf, out, o, NULL), NIB_OK);
        assert_int_equal(count_entries(), 2 + gguf);
    }
}

static void test_full_disk(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 30000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    nib_status directory = try_convert(hf, tiny_path("o"), (convert_options){0}, NULL);
    nib_status file = try_convert(hf, tiny_path("o.gguf"), (convert_options){.out = OUT_GGUF}, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(directory, NIB_IO);
    assert_int_equal(file, NIB_IO);
    assert_non_null(strstr(err.text, "cannot be written"));
    assert_int_equal(count_entries(), 1);
}

static void check_failing_memory(const char *in, const char *out, convert_options o) {
    model_file *f = open_model(in);
    convert_report r;
    nib_status status = NIB_NO_MEMORY;
    long n = 0;
    for (; status != NIB_OK; n += n < 30 ? 1 : 11) {
        mem_fail_after(n);
        status = convert(f, out, &o, &r, &err);
        mem_fail_after(-1);
        if (status != NIB_OK && status != NIB_NO_MEMORY)
            fail_msg("allocation %ld: %s", n, err.text);
        if (status != NIB_OK)
            assert_int_equal(access(out, F_OK), -1);
        assert_true(n < 100000);
    }
    model_file_close(f);
}

static void test_failing_memory(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_GEMMA3, true, 0);
    check_failing_memory(hf, tiny_path("mo"), (convert_options){.threads = 1});
    check_failing_memory(hf, tiny_path("ct"), (convert_options){.threads = 1, .out = OUT_COMPRESSED_TENSORS});
    check_failing_memory(hf, tiny_path("g.gguf"), (convert_options){.threads = 1, .out = OUT_GGUF});
    check_failing_memory(tiny_path("g.gguf"), tiny_path("back"), (convert_options){.threads = 1});
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, tiny_setup, tiny_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_refusals),
        TEST(test_nothing_of_the_user_goes),
        TEST(test_what_nibble_wrote_is_replaced),
        TEST(test_interrupted),
        TEST(test_killed),
        TEST(test_full_disk),
        TEST(test_failing_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
