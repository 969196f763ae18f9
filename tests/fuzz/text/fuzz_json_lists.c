/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.json's long lists, read in place, against jansson on the whole file: whatever the walk accepts is
 * JSON, with the same pieces, ids and merges.
 */
#include "base/json.h"
#include "text/json_lists.h"
#include "text_target.h"

static bool same(strview a, const json_t *b) {
    return json_is_string(b) && strview_equal(a, (strview){json_string_value(b), json_string_length(b)});
}

static void check_vocab(const json_lists *lists, const json_t *model) {
    json_lists_walk w = {.rest = lists->vocab, .where = "fuzz", .field = "vocab"};
    const json_t *object = model ? json_object_get(model, "vocab") : NULL;
    strview piece = {"", 0};
    int32_t id = 0;
    bool found = true, sound = true;
    while (found && sound) {
        sound = json_lists_next_piece(&w, &piece, &id, &found, NULL) == NIB_OK;
        if (sound && found && object) {
            const json_t *value = json_object_getn(object, piece.p, piece.n);
            text_target_check(json_is_integer(value) && json_integer_value(value) == id);
        }
    }
    /* a list alone must be JSON if the walk took it all, but for a key that comes twice */
    if (sound) {
        json_t *alone;
        nib_error err = {""};
        const nib_status status = json_read(&alone, lists->vocab.p, lists->vocab.n, "fuzz", &err);
        text_target_check(status == NIB_OK || strstr(err.text, "duplicate"));
        if (status == NIB_OK)
            text_target_check(json_object_size(alone) == w.n);
        json_decref(alone);
    }
    json_lists_walk_free(&w);
}

static void check_merges(const json_lists *lists, const json_t *model) {
    json_lists_walk w = {.rest = lists->merges, .where = "fuzz", .field = "merges"};
    const json_t *list = model ? json_object_get(model, "merges") : NULL;
    strview left = {"", 0}, right = {"", 0};
    bool found = true, sound = true;
    while (found && sound) {
        sound = json_lists_next_merge(&w, &left, &right, &found, NULL) == NIB_OK;
        const json_t *merge = json_array_get(list, w.n - 1);
        if (sound && found && list && json_is_array(merge))
            text_target_check(same(left, json_array_get(merge, 0)) && same(right, json_array_get(merge, 1)));
        if (sound && found && list && json_is_string(merge))
            text_target_check(json_string_length(merge) == left.n + right.n + 1);
    }
    text_target_check(w.n <= json_lists_merges_bound(lists->merges));
    if (sound) {
        json_t *alone;
        text_target_check(json_read(&alone, lists->merges.p, lists->merges.n, "fuzz", NULL) == NIB_OK);
        text_target_check(json_array_size(alone) == w.n);
        json_decref(alone);
    }
    json_lists_walk_free(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_lists lists;
    json_t *root = NULL;
    const strview text = {(const char *)data, size};
    text_target_check(json_lists_cut(&lists, text, NULL) == NIB_OK);
    const bool whole = size > 0 && json_read(&root, data, size, "fuzz", NULL) == NIB_OK;
    const json_t *model = whole ? json_object_get(root, "model") : NULL;
    if (lists.vocab.n)
        check_vocab(&lists, model);
    if (lists.merges.n)
        check_merges(&lists, model);
    if (whole) { /* what was cut out leaves JSON behind */
        json_t *rest;
        text_target_check(json_read(&rest, lists.rest.bytes, lists.rest.n, "fuzz", NULL) == NIB_OK);
        json_decref(rest);
        text_target_check(!json_is_object(json_object_get(model, "vocab")) || lists.vocab.n > 0);
        text_target_check(!json_is_array(json_object_get(model, "merges")) || lists.merges.n > 0);
    }
    json_decref(root);
    json_lists_free(&lists);
    return 0;
}
