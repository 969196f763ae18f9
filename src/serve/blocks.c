/* SPDX-License-Identifier: Apache-2.0
 *
 * See blocks.h.
 */
#include "serve/blocks.h"

#include "base/mem.h"

static void finish(blocks *l) {
    if (l->open && l->end)
        l->end(l->context, &l->list[l->n - 1], l->n - 1);
    l->open = false;
}

static bool start(blocks *l, nib_piece_kind kind, int call) {
    static const char *const prefixes[] = {
        [NIB_PIECE_TEXT] = "msg_", [NIB_PIECE_REASONING] = "rs_", [NIB_PIECE_CALL] = "fc_"};
    finish(l);
    block *grown = mem_resize(l->list, l->n + 1, sizeof *grown);
    if (!grown) {
        l->failed = true;
        return false;
    }
    l->list = grown;
    block *b = &l->list[l->n++];
    *b = (block){.kind = kind, .call = call};
    http_new_id(b->id, sizeof b->id, prefixes[kind]);
    l->open = true;
    if (l->begin)
        l->begin(l->context, b, l->n - 1);
    return true;
}

static void take(blocks *l, const answer_piece *p, const char *text) {
    const nib_piece_kind kind = p->kind == NIB_PIECE_ARGUMENTS ? NIB_PIECE_CALL : p->kind;
    const block *last = l->open ? &l->list[l->n - 1] : NULL;
    const bool goes_on = last && last->kind == kind && p->kind != NIB_PIECE_CALL;
    if (!goes_on && !start(l, kind, p->call))
        return;
    if (p->kind == NIB_PIECE_CALL)
        return;
    block *b = &l->list[l->n - 1];
    buf_add(&b->text, text, p->n);
    l->failed |= b->text.failed;
    if (l->more)
        l->more(l->context, b, l->n - 1, text, p->n);
}

void blocks_take(blocks *l, choice *c) {
    const char *text = c->fresh.bytes;
    for (size_t i = 0; i < c->n_pieces && !l->failed; i++) {
        take(l, &c->pieces[i], text);
        text += c->pieces[i].n;
    }
    answer_told(c);
}

void blocks_end(blocks *l) {
    finish(l);
}

void blocks_free(blocks *l) {
    for (size_t i = 0; i < l->n; i++)
        buf_free(&l->list[i].text);
    mem_free(l->list);
    l->list = NULL;
    l->n = 0;
}
