/* SPDX-License-Identifier: Apache-2.0
 *
 * The vocabulary's table. Callers: the two openers (tokenizer_gguf.c, tokenizer_json.c) fill it, merging and
 * matching look spellings up.
 */
#include "text/vocab.h"

#include "base/mem.h"

static uint64_t mix(uint64_t a, uint64_t b) {
    const unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t vocab_hash(const char *p, size_t n) {
    const uint64_t k0 = UINT64_C(0x9E3779B97F4A7C15), k1 = UINT64_C(0xD6E8FEB86659FD93);
    uint64_t h = k0 ^ n, a, b;
    for (; n > 16; p += 16, n -= 16) {
        memcpy(&a, p, 8);
        memcpy(&b, p + 8, 8);
        h = mix(h ^ a ^ k1, b ^ k0);
    }
    a = b = 0;
    if (n >= 8) {
        memcpy(&a, p, 8);
        memcpy(&b, p + n - 8, 8);
    } else if (n >= 4) {
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + n - 4, 4);
        a = low;
        b = high;
    } else if (n > 0) {
        a = (uint64_t)(unsigned char)p[0] << 16 | (uint64_t)(unsigned char)p[n >> 1] << 8 |
            (unsigned char)p[n - 1];
    }
    return mix(mix(h ^ a, b ^ k1), k0);
}

nib_status vocab_open(vocab *v, size_t n, size_t bytes, nib_error *err) {
    memset(v, 0, sizeof *v);
    size_t slots = 64;
    while (slots < 2 * n)
        slots *= 2;
    v->n = n;
    v->slot_mask = slots - 1;
    v->bytes_capacity = bytes + 64;
    v->pieces = mem_array(n ? n : 1, sizeof *v->pieces);
    v->slots = mem_array(slots, sizeof *v->slots);
    v->bytes = mem_alloc(v->bytes_capacity);
    if (!v->pieces || !v->slots || !v->bytes)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a vocabulary of %zu pieces", n);
    return NIB_OK;
}

void vocab_close(vocab *v) {
    mem_free(v->pieces);
    mem_free(v->slots);
    mem_free(v->bytes);
    memset(v, 0, sizeof *v);
}

static nib_status append(vocab *v, strview bytes, uint32_t *offset, nib_error *err) {
    if (bytes.n > v->bytes_capacity - v->n_bytes) {
        const size_t capacity = v->bytes_capacity * 2 + bytes.n;
        char *grown = capacity <= UINT32_MAX ? mem_resize(v->bytes, capacity, 1) : NULL;
        if (!grown)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for the spellings of a vocabulary");
        v->bytes = grown;
        v->bytes_capacity = capacity;
    }
    if (bytes.n)
        memcpy(v->bytes + v->n_bytes, bytes.p, bytes.n);
    *offset = (uint32_t)v->n_bytes;
    v->n_bytes += bytes.n;
    return NIB_OK;
}

/* The slot that holds SPELLING, or the empty one where it belongs. */
static size_t find_slot(const vocab *v, const char *spelling, size_t n, uint64_t hash) {
    const uint64_t tag = hash & ~UINT64_C(0xFFFFFFFF);
    for (size_t i = (size_t)hash & v->slot_mask;; i = (i + 1) & v->slot_mask) {
        const uint64_t slot = v->slots[i];
        if (slot == 0)
            return i;
        if ((slot & ~UINT64_C(0xFFFFFFFF)) != tag)
            continue;
        const piece *p = &v->pieces[(uint32_t)slot - 1];
        if (p->spelling_bytes == n && memcmp(v->bytes + p->spelling, spelling, n) == 0)
            return i;
    }
}

nib_status vocab_set(vocab *v, int32_t id, strview spelling, piece_kind kind, const char *where,
                     nib_error *err) {
    piece *p = &v->pieces[id];
    if (p->kind != PIECE_ABSENT)
        return nib_fail(err, NIB_BAD_FILE, "%s: two pieces of the vocabulary have the id %d", where, (int)id);
    if (spelling.n > VOCAB_MAX_PIECE_BYTES)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: piece %d of the vocabulary has %zu bytes, expected at most %d", where, (int)id,
                        spelling.n, VOCAB_MAX_PIECE_BYTES);
    if (spelling.n == 0)
        return NIB_OK;
    const uint64_t hash = vocab_hash(spelling.p, spelling.n);
    const size_t slot = find_slot(v, spelling.p, spelling.n, hash);
    if (v->slots[slot] != 0)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: pieces %d and %d of the vocabulary are spelled alike, expected each once", where,
                        (int)(uint32_t)v->slots[slot] - 1, (int)id);
    NIB_TRY(append(v, spelling, &p->spelling, err));
    p->spelling_bytes = (uint32_t)spelling.n;
    p->text = p->spelling;
    p->text_bytes = p->spelling_bytes;
    p->kind = kind;
    v->slots[slot] = (hash & ~UINT64_C(0xFFFFFFFF)) | (uint32_t)(id + 1);
    return NIB_OK;
}

nib_status vocab_set_text(vocab *v, int32_t id, strview text, nib_error *err) {
    uint32_t offset = 0;
    NIB_TRY(append(v, text, &offset, err));
    v->pieces[id].text = offset;
    v->pieces[id].text_bytes = (uint32_t)text.n;
    return NIB_OK;
}

int32_t vocab_find(const vocab *v, const char *spelling, size_t n) {
    if (n == 0 || n > VOCAB_MAX_PIECE_BYTES)
        return -1;
    return (int32_t)(uint32_t)v->slots[find_slot(v, spelling, n, vocab_hash(spelling, n))] - 1;
}
