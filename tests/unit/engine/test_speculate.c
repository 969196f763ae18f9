/* SPDX-License-Identifier: Apache-2.0
 *
 * Guesses: where they come from, when they are worth their rows (on simulated machines), and that an answer
 * with them is the answer without.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/speculate.h"
#include "tiny_engine.h"

#define LENGTH(a) ((int)(sizeof(a) / sizeof *(a)))

static void test_lookup(void **state) {
    (void)state;
    int32_t guesses[SPECULATE_MAX];
    static const int32_t none[] = {1, 2, 3, 4, 5}, one_back[] = {7, 9, 3, 4, 9};
    assert_int_equal(speculate_lookup(none, LENGTH(none), guesses, 8), 0);
    assert_int_equal(speculate_lookup(one_back, LENGTH(one_back), guesses, 8), 0); /* one token is chance */
    assert_int_equal(speculate_lookup(none, 1, guesses, 8), 0);
    assert_int_equal(speculate_lookup(none, 0, guesses, 8), 0);

    static const int32_t twice[] = {1, 2, 3, 10, 11, 5, 2, 3, 20, 21, 6, 2, 3};
    assert_int_equal(speculate_lookup(twice, LENGTH(twice), guesses, 2), 2);
    assert_int_equal(guesses[0], 20); /* the most recent */
    assert_int_equal(guesses[1], 21);

    static const int32_t longer[] = {1, 2, 3, 10, 11, 5, 2, 3, 20, 21, 1, 2, 3};
    assert_int_equal(speculate_lookup(longer, LENGTH(longer), guesses, 8), 8);
    assert_int_equal(guesses[0], 10); /* three that stood before say more than two */
    assert_int_equal(guesses[7], 1);

    static const int32_t again[] = {4, 4, 4, 4};
    assert_int_equal(speculate_lookup(again, LENGTH(again), guesses, 3), 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(guesses[i], 4);
}

/* 0 to 1 */
static double chance_of(uint64_t *random) {
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (double)(*random >> 11) * 0x1p-53;
}

enum { MOST_ROWS = 4 };

/* Answers on a machine where a step of N rows takes BASE + N * ROW, give or take NOISE of it. */
typedef struct machine {
    double base, row, noise, draft_s;
    int rows, steps;
} machine;

/* Times of those without guesses: of all tokens, and of the answer that was slowed most. */
typedef struct slowness {
    double all, worst;
} slowness;

/* One answer's part of a step with K guesses, right with CHANCE: how many tokens it gets. */
static int step_of(speculate_luck *luck, int k, double chance, uint64_t *random) {
    int n = 0;
    luck->guess = 1;
    for (bool right = true; right && n <= k; n++) {
        right = chance_of(random) < chance;
        speculate_saw(luck, right);
        if (n + 1 <= k)
            luck->guess = 1;
    }
    return n;
}

static void sort_by_owed(const speculate_luck *luck, int n, int *order) {
    for (int i = 0; i < n; i++) {
        int at = i;
        for (; at > 0 && speculate_owed(&luck[order[at - 1]].account) < speculate_owed(&luck[i].account);
             at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

/* The first answer's guesses are right with FIRST, the others' with OTHERS. */
static slowness slower_of(const machine *m, double first, double others) {
    speculate_costs costs = {0};
    speculate_luck luck[MOST_ROWS];
    uint64_t random = 3;
    double seconds = 0, tokens = 0, of_one[MOST_ROWS] = {0};
    for (int i = 0; i < m->rows; i++)
        luck[i] = (speculate_luck){.right = SPECULATE_HOPE, .guess = -1};
    for (int step = 0; step < m->steps; step++) {
        int n[MOST_ROWS], n_right = 0, order[MOST_ROWS];
        sort_by_owed(luck, m->rows, order);
        speculate_plan p = speculate_begin(&costs, m->rows, speculate_owed(&luck[order[0]].account));
        for (int j = 0; j < m->rows; j++) {
            const int i = order[j];
            const int k = speculate_worth(&costs, &p, &luck[i], 6, m->draft_s);
            speculate_put(&p, &luck[i], k);
            n[i] = step_of(&luck[i], k, i == 0 ? first : others, &random);
            n_right += n[i] - 1;
            of_one[i] += n[i];
            tokens += n[i];
        }
        const int n_guesses = p.rows - m->rows;
        const double took = (m->base + p.rows * m->row) * (1 + m->noise * (2 * chance_of(&random) - 1)),
                     draft_s = n_guesses > 0 ? m->draft_s * n_guesses : 0;
        const speculate_bill bill = speculate_timed(&costs, m->rows, n_guesses, n_right, took, draft_s);
        for (int i = 0; i < m->rows; i++)
            speculate_charge(&luck[i], bill, n[i] - 1);
        seconds += took + draft_s;
    }
    const double without = m->base + m->rows * m->row;
    slowness s = {.all = seconds / tokens / without * m->rows};
    for (int i = 0; i < m->rows; i++)
        s.worst = fmax(s.worst, seconds / of_one[i] / without);
    return s;
}

static double slower(double base, double row, double chance) {
    return slower_of(&(machine){.base = base, .row = row, .rows = 1, .steps = 4000}, chance, chance).all;
}

static void test_it_pays_or_stops(void **state) {
    (void)state;
    static const double rows[] = {0, 0.02, 0.3, 3}, chances[] = {0, 0.1, 0.5, 0.9, 1};
    for (int r = 0; r < LENGTH(rows); r++)
        for (int c = 0; c < LENGTH(chances); c++) {
            const double ratio = slower(1, rows[r], chances[c]);
            if (ratio > 1.03)
                fail_msg("rows at %g, guesses right %g: %g of the time", rows[r], chances[c], ratio);
        }
    assert_true(slower(1, 0.02, 0.9) < 0.3); /* 5 tokens a step for 1.12 of its time */
    assert_true(slower(1, 0.02, 0.5) < 0.7);
    assert_true(slower(1, 0.3, 0.9) < 0.65);
}

/* Four answers at a time, where a row costs nearly what it brings, on a machine whose steps vary by a third:
 * many short runs, as each is too short to tell. */
static void test_it_is_bounded(void **state) {
    (void)state;
    static const double rows[] = {0.15, 0.25, 0.5, 1}, chances[] = {0.2, 0.5, 0.7, 0.8};
    for (int r = 0; r < LENGTH(rows); r++)
        for (int c = 0; c < LENGTH(chances); c++) {
            const machine noisy = {.base = 1, .row = rows[r], .noise = 0.33, .rows = 4, .steps = 4000},
                          calm = {.base = 1, .row = rows[r], .rows = 4, .steps = 96};
            const double of_noisy = slower_of(&noisy, chances[c], chances[c]).all,
                         of_calm = slower_of(&calm, chances[c], chances[c]).all;
            if (of_noisy > 1.03 || of_calm > 1.03)
                fail_msg("rows at %g, guesses right %g: %g and %g of the time", rows[r], chances[c], of_noisy,
                         of_calm);
        }
}

/* What one answer wins makes the others no slower, however cheap a row: beside one that is copied others are
 * written. */
static void test_nobody_pays_for_another(void **state) {
    (void)state;
    static const double rows[] = {0.02, 0.1, 0.25, 1}, others[] = {0.05, 0.5, 0.9};
    static const int steps[] = {48, 96, 4000};
    for (int r = 0; r < LENGTH(rows) * LENGTH(others); r++)
        for (int s = 0; s < LENGTH(steps); s++) {
            const machine m = {.base = 1, .row = rows[r / 3], .rows = 4, .steps = steps[s]};
            const double worst = slower_of(&m, 0.95, others[r % 3]).worst;
            if (worst > 1.01 + 1.5 / steps[s])
                fail_msg("rows at %g, others right %g, %d steps: %g of the time", rows[r / 3], others[r % 3],
                         steps[s], worst);
        }
    const machine cheap = {.base = 1, .row = 0.02, .rows = 4, .steps = 4000};
    assert_true(slower_of(&cheap, 0.9, 0.9).worst < 0.5); /* all win */
}

/* Guesses of a draft take time before the step. */
static void test_a_draft_is_charged(void **state) {
    (void)state;
    static const double takes[] = {0.05, 0.3, 1}, chances[] = {0.1, 0.6, 0.9};
    for (int t = 0; t < LENGTH(takes); t++)
        for (int c = 0; c < LENGTH(chances); c++) {
            const machine m = {.base = 1, .row = 0.05, .draft_s = takes[t], .rows = 1, .steps = 400};
            const double ratio = slower_of(&m, chances[c], 0).all;
            if (ratio > 1.03)
                fail_msg("a guess at %g, right %g: %g of the time", takes[t], chances[c], ratio);
        }
    speculate_costs costs = {.seconds = {0, 1}, .n = {0, 1}};
    assert_true(speculate_may_invest(&costs.account));
    speculate_invest(&costs.account, 5); /* read, and nothing came of it yet */
    assert_false(speculate_may_invest(&costs.account));
    assert_true(speculate_begin(&costs, 1, 0).most > 1);
    for (int i = 0; i < 3; i++) /* guesses that are wrong */
        speculate_timed(&costs, 1, 2, 0, 1.5, 0);
    assert_true(speculate_begin(&costs, 1, 0).most == 0);
    for (int i = 0; i < 700; i++)
        speculate_timed(&costs, 1, 0, 0, 1, 0);
    assert_true(speculate_may_invest(&costs.account)); /* a hundredth of the time has paid it back */
}

/* What is thought of the next text comes from those before; what is never tried is not given up for ever. */
static void test_it_learns(void **state) {
    (void)state;
    double hope = SPECULATE_HOPE;
    for (int i = 0; i < 40; i++)
        hope = speculate_learn(hope, &(speculate_luck){.right = 0.9, .n_seen = 30});
    assert_true(hope > 0.85 && hope < 0.9);
    for (int i = 0; i < 200; i++)
        hope = speculate_learn(hope, &(speculate_luck){.right = 0.1, .n_seen = 2});
    assert_true(hope > 0.49 && hope < 0.55);
}

/* What rows cost is tried again ever more rarely while it is the same, and soon when it has changed. */
static void test_patience(void **state) {
    (void)state;
    speculate_costs costs = {0};
    speculate_luck luck = {.right = 0.5, .guess = -1};
    int tries[3] = {0};
    for (int phase = 0; phase < 3; phase++)
        for (int step = 0; step < 20000; step++) {
            const speculate_plan p = speculate_begin(&costs, 1, 0);
            const int k = speculate_worth(&costs, &p, &luck, 1, 0);
            tries[phase] += k; /* a second row costs as much as the first */
            speculate_timed(&costs, 1, k, 0, (phase == 2 ? 3 : 1) * (1.0 + k), 0);
        }
    assert_in_range(tries[0], 4, 8);
    assert_in_range(tries[1], 0, 2);
    assert_in_range(tries[2], 1, 20);
}

static void test_options(void **state) {
    (void)state;
    nib_error err = {""};
    nib_engine *e;
    nib_options o = {.size = sizeof o, .speculate = (nib_speculate)7};
    assert_int_equal(nib_open(&e, TINY, &o, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "speculate is 7"));
}

/* A guide that lets anything come for LEFT tokens, then every second token of the vocabulary. */
typedef struct late_guide {
    int left;
} late_guide;

static nib_status mask_late(void *context, uint32_t *bits, size_t n_words, nib_error *err) {
    (void)err;
    assert_true(((late_guide *)context)->left <= 0);
    memset(bits, 0x55, (n_words - 1) * sizeof *bits);
    return NIB_OK;
}

static nib_status accept_late(void *context, int32_t token, nib_error *err) {
    late_guide *g = context;
    (void)err;
    assert_true(g->left > 0 || token % 2 == 0);
    g->left--;
    return NIB_OK;
}

static int free_late(void *context) {
    const late_guide *g = context;
    return g->left > 0 ? g->left : 0;
}

enum { N_PROMPTS = 12 };

/* Answers to N_PROMPTS texts, four at a time, drawn in all the ways that look at what came before. */
static void answer_all(nib_engine *e, answer *answers) {
    nib_request *requests[4];
    for (int i = 0; i < N_PROMPTS; i += 4) {
        late_guide late = {40};
        const nib_guide guide = {.size = sizeof guide,
                                 .context = &late,
                                 .mask = mask_late,
                                 .accept = accept_late,
                                 .n_free = free_late};
        for (int j = 0; j < 4; j++) {
            int32_t prompt[40];
            for (int k = 0; k < LENGTH(prompt); k++)
                prompt[k] = 40 + k % (5 + i + j);
            const nib_sampling sampling = {.size = sizeof sampling,
                                           .temperature = (float)(i / 4) * 0.35f,
                                           .repeat_penalty = j == 1 ? 1.05f : 0,
                                           .presence_penalty = j == 2 ? 0.2f : 0,
                                           .seed = (uint64_t)(i + j)};
            requests[j] = submit_options(e, &(nib_request_options){.prompt = prompt,
                                                                   .n_prompt = LENGTH(prompt),
                                                                   .max_tokens = 60 + 7 * j,
                                                                   .min_tokens = j == 3 ? 30 : 0,
                                                                   .stop_texts = (const char *[]){"qz"},
                                                                   .n_stop_texts = j == 0,
                                                                   .logprobs = j == 1,
                                                                   .guide = j == 2 ? &guide : NULL,
                                                                   .sampling = &sampling});
        }
        for (int j = 0; j < 4; j++)
            read_answer(requests[j], &answers[i + j]);
    }
}

/* OPTIONS with guesses and without: the same answers. Returns the share of guesses that were right. */
static double expect_same_answers(nib_options options, const loaded_needs *needs) {
    static answer plain[N_PROMPTS], guessed[N_PROMPTS];
    nib_options without = options;
    without.speculate = NIB_SPECULATE_OFF;
    without.draft = NULL;
    nib_engine *e = open_tiny(&without, NULL);
    answer_all(e, plain);
    nib_close(e);
    e = open_tiny(&options, needs);
    assert_true(e->l->be->row_bits_fixed); /* the CPU's promise, on which the sameness rests */
    e->costs.rows_are_free = true;         /* nothing was submitted yet */
    answer_all(e, guessed);
    nib_stats stats = {.size = sizeof stats};
    assert_int_equal(nib_get_stats(e, &stats, NULL), NIB_OK);
    assert_true(stats.right_guesses <= stats.guessed_tokens);
    assert_true(stats.drafts <= stats.guessed_tokens && stats.guessed_tokens <= stats.drafts * SPECULATE_MAX);
    for (int i = 0; i < N_PROMPTS; i++) {
        assert_int_equal(guessed[i].n_tokens, plain[i].n_tokens);
        assert_memory_equal(guessed[i].tokens, plain[i].tokens,
                            (size_t)plain[i].n_tokens * sizeof *plain[i].tokens);
        assert_string_equal(guessed[i].text, plain[i].text);
        assert_int_equal(guessed[i].end.reason, plain[i].end.reason);
    }
    nib_close(e);
    return stats.guessed_tokens == 0 ? 0 : (double)stats.right_guesses / (double)stats.guessed_tokens;
}

static void test_answers_stay(void **state) {
    (void)state;
    nib_options o = {.max_model_len = 256, .speculate = NIB_SPECULATE_LOOKUP};
    double right = expect_same_answers(o, NULL);
    assert_true(right > 0.1 && right < 1);
    o.kv_cache = NIB_KV_FP8;
    expect_same_answers(o, NULL);
    expect_same_answers(o, &(loaded_needs){.n_kv_pages = 5}); /* some give way, and come again */
}

/* ---- drafts ---- */

static char folder[] = "/tmp/nibble-draft-XXXXXX";
static const char *const files[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                    "model.safetensors"};

enum change { WEIGHTS, NUMBERS, WORDS };

/* The tiny model with every weight an eighth off, or no number, or another word for one token, in the folder.
 */
static void make_other(enum change change) {
    static char bytes[1 << 20];
    for (int i = 0; i < LENGTH(files); i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", TINY, files[i]);
        FILE *f = fopen(path, "rb");
        assert_non_null(f);
        const size_t n = fread(bytes, 1, sizeof bytes - 1, f);
        bytes[n] = 0;
        fclose(f);
        if (change != WORDS && i == 3) {
            uint64_t header;
            memcpy(&header, bytes, sizeof header);
            size_t from = 0, to = n - 8 - header; /* all, or the embedding, which is the head too */
            if (change == NUMBERS) {
                const char *entry = strstr(bytes + 8, "model.embed_tokens.weight");
                assert_int_equal(sscanf(strstr(entry, "data_offsets"), "data_offsets\":[%zu,%zu", &from, &to),
                                 2);
            }
            for (size_t at = 8 + header + from; at < 8 + header + to; at += 2) {
                bytes[at] ^= 0x10; /* of BF16's 7 bits of mantissa, the third */
                if (change == NUMBERS)
                    memcpy(&bytes[at], &(uint16_t){0x7FC0}, 2);
            }
        }
        if (change == WORDS && i == 1)
            for (char *at = bytes; (at = strstr(at, "<|im_start|>")); at++)
                memcpy(at, "<|im_stART|>", 12);
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(bytes, 1, n, f), n);
        fclose(f);
    }
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : 1;
}

static int remove_folder(void **state) {
    (void)state;
    for (int i = 0; i < LENGTH(files); i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        unlink(path);
    }
    return rmdir(folder);
}

/* A draft that is the model itself is right, also where draws are at random, but beyond an answer's end: it
 * draws alike. */
static void test_draft(void **state) {
    (void)state;
    nib_options o = {.max_model_len = 200, .speculate = NIB_SPECULATE_DRAFT, .draft = TINY};
    assert_true(expect_same_answers(o, NULL) > 0.97);
    expect_same_answers(o, &(loaded_needs){.n_kv_pages = 5});
    make_other(WEIGHTS);
    o.draft = folder;
    const double right = expect_same_answers(o, NULL);
    assert_true(right > 0.01 && right < 0.9);
    make_other(NUMBERS); /* a draft that says nothing is asked no more */
    assert_true(expect_same_answers(o, NULL) == 0);

    nib_error err = {""};
    nib_engine *e;
    nib_options wrong = {.size = sizeof wrong, .speculate = NIB_SPECULATE_DRAFT};
    assert_int_equal(nib_open(&e, TINY, &wrong, &err), NIB_BAD_ARGUMENT);
    make_other(WORDS);
    wrong.draft = folder;
    assert_int_equal(nib_open(&e, TINY, &wrong, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "token 1 is another word"));
    wrong.draft = TINY "/missing";
    assert_int_not_equal(nib_open(&e, TINY, &wrong, &err), NIB_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookup),
        cmocka_unit_test(test_it_pays_or_stops),
        cmocka_unit_test(test_it_is_bounded),
        cmocka_unit_test(test_nobody_pays_for_another),
        cmocka_unit_test(test_a_draft_is_charged),
        cmocka_unit_test(test_it_learns),
        cmocka_unit_test(test_patience),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_answers_stay),
        cmocka_unit_test(test_draft),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
