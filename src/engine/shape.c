/* SPDX-License-Identifier: Apache-2.0
 *
 * The API's shapes: plans of the text room over the model's words, and their guides as requests take them. A
 * plan is made on the caller's thread; the engine's asks its guides.
 */
#include "base/mem.h"
#include "engine/engine.h"
#include "engine/sized.h"
#include "text/guide.h"

struct nib_shape {
    guide_plan *plan;
};

/* The trie of the words, made by whoever is first; not under the lock, which the step loop takes too. */
static nib_status find_trie(nib_engine *e, trie **out, nib_error *err) {
    pthread_mutex_lock(&e->lock);
    *out = e->trie;
    pthread_mutex_unlock(&e->lock);
    if (*out)
        return NIB_OK;
    trie *made;
    NIB_TRY(trie_open(&made, e->l->words, 0, err));
    pthread_mutex_lock(&e->lock);
    if (!e->trie) {
        e->trie = made;
        made = NULL;
    }
    *out = e->trie;
    pthread_mutex_unlock(&e->lock);
    trie_release(made);
    return NIB_OK;
}

nib_status nib_shape_open(nib_engine *e, const nib_shape_options *options, nib_shape **out, nib_error *err) {
    static const guide_kind kinds[] = {[NIB_SHAPE_JSON_OBJECT] = GUIDE_JSON_OBJECT,
                                       [NIB_SHAPE_JSON_SCHEMA] = GUIDE_JSON_SCHEMA,
                                       [NIB_SHAPE_REGEX] = GUIDE_REGEX,
                                       [NIB_SHAPE_CHOICE] = GUIDE_CHOICE,
                                       [NIB_SHAPE_GBNF] = GUIDE_GBNF,
                                       [NIB_SHAPE_CALL] = GUIDE_CALL};
    nib_shape_options o;
    trie *words;
    if (out)
        *out = NULL;
    if (!e || !options || !out)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_shape_open: the engine, the options or the place for the shape is NULL");
    NIB_TRY(sized_read(&o, sizeof o, options, "nib_shape_options", err));
    if ((unsigned)o.kind >= sizeof kinds / sizeof *kinds || (!o.text && o.bytes > 0))
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_shape_options: kind is %d, or text is NULL", (int)o.kind);
    NIB_TRY(find_trie(e, &words, err));
    nib_shape *s = mem_array(1, sizeof *s);
    if (!s)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a shape");
    const guide_preamble before = {strview_of(o.reasoning_begin ? o.reasoning_begin : ""),
                                   strview_of(o.reasoning_end ? o.reasoning_end : "")};
    const nib_status status = guide_plan_open(
        &s->plan, kinds[o.kind], (strview){o.text ? o.text : "", o.bytes}, before, words, e->l->words, err);
    if (status == NIB_OK)
        *out = s;
    else
        mem_free(s);
    return status;
}

void nib_shape_release(nib_shape *s) {
    if (!s)
        return;
    guide_plan_release(s->plan);
    mem_free(s);
}

static nib_status shape_mask(void *context, uint32_t *bits, size_t n_words, nib_error *err) {
    return guide_fill(context, bits, n_words, err);
}

static nib_status shape_accept(void *context, int32_t token, nib_error *err) {
    if (guide_accept(context, token))
        return NIB_OK;
    NIB_TRY(guide_failure(context, err));
    return nib_fail(err, NIB_BAD_ARGUMENT, "token %d does not go on with the shape", (int)token);
}

nib_status nib_shape_guide(nib_shape *s, nib_guide *out, nib_error *err) {
    guide *g;
    if (!s)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_shape_guide: the shape is NULL");
    NIB_TRY(sized_check(out, "nib_guide", err));
    NIB_TRY(guide_open(&g, s->plan, err));
    return sized_write(out, &(nib_guide){.context = g, .mask = shape_mask, .accept = shape_accept},
                       sizeof *out, "nib_guide", err);
}

void nib_shape_free_guide(nib_guide *g) {
    if (!g || g->size == 0)
        return;
    guide_close(g->context);
    sized_write(g, &(nib_guide){.size = 0}, sizeof *g, "nib_guide", NULL);
}
