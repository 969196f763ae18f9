/* SPDX-License-Identifier: Apache-2.0
 *
 * Recipe: which tensor of a model becomes what. Made once before anything is written; pure decisions, no
 * numbers are read. Caller: convert.
 *
 * Linear layers (q, k, v, o, gate, up, down) get the wanted format, unless a glob keeps them or their rows
 * are no whole number of blocks. Embedding, norms and, unless asked otherwise, the head are carried over.
 * What is already stored in the wanted format is repacked: every value stays.
 *
 * A head to be quantized that is the embedding (tied): in a GGUF file the one tensor is quantized and stays
 * both; a directory gets a head of its own beside the embedding, because readers of directories look rows up
 * in unquantized tensors only.
 */
#ifndef CONVERT_RECIPE_H
#define CONVERT_RECIPE_H

#include "base/arena.h"
#include "convert/convert.h"
#include "quant/encode.h"

typedef struct recipe_item {
    encode_item e;
    const char *name; /* in the output, ending in .weight where the source's does */
    int group;        /* quantized items with the same number share one tensor scale; -1: none */
    bool unit_scale;  /* the output's readers know no tensor scale for this one: it has to be 1 */
    float amax;       /* filled by convert before writing, and e.search */
    struct recipe_item
        *beside; /* half of this one's branch, appended by convert; NULL: a tensor of its own */
} recipe_item;

typedef struct recipe {
    arena arena;
    recipe_item *items;
    size_t n;
    int n_groups;
    bool to_gguf, from_gguf;
    bool unties_head;   /* the output's head is a tensor of its own, the source's was the embedding */
    bool embed_is_head; /* the head to be quantized is the embedding, in the output too */
    int n_misfits, n_skipped;
    int n_rounded;       /* embedding and head that become BF16 */
    int n_split;         /* layers' q, k and v, or gate and up, that differ in quantized format */
    int n_scales_unread; /* repacked with a scale that llama.cpp does not read */
} recipe;

/* Freed with arena_free(&out->arena), also after a failure. */
nib_status recipe_make(recipe *out, const model_file *in, const convert_options *options, nib_error *err);

/* MXFP4 to NVFP4, which has all of its values. */
bool recipe_casts(const recipe_item *item);
/* Is the item quantized to codes that convert_options.choose may choose? */
bool recipe_has_choice(const recipe_item *item);
/* Of the low-rank branch that OPTIONS ask for beside an item; 0: none. */
size_t recipe_rank(const convert_options *o, const recipe_item *item);
/* Elements of a block of DTYPE's scales as this room quantizes: 16, 32, 64; 1 without blocks. */
size_t recipe_block(dtype t);

#endif
