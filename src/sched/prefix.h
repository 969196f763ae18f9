/* SPDX-License-Identifier: Apache-2.0
 *
 * Prefix: which pages hold the beginnings of texts seen before. A block is KV_PAGE_TOKENS tokens behind a
 * chain of blocks (its parent); pages of every cache group that hold it are named after it. Tokens are
 * compared, not only their hash: no collision lets a sequence read another text's keys.
 *
 * A chain begins with a salt: texts of different salts share nothing. A block lives while any group has a
 * page of it; one whose parent went is found no more, and goes when its pages are taken.
 *
 * Caller: sched.c. Invariant (prefix_check): page and block name each other.
 */
#ifndef SCHED_PREFIX_H
#define SCHED_PREFIX_H

#include "nouns/batch.h"
#include "sched/pages.h"

/* What a block follows: the salt at DEPTH 0, else its parent's serial number, which no other block gets. */
typedef struct prefix_end {
    uint64_t serial;
    int32_t depth; /* blocks up to here */
} prefix_end;

typedef struct prefix_block {
    prefix_end parent;
    uint64_t serial, hash;
    int32_t pages[CACHE_MAX_GROUPS]; /* or PAGES_NONE; of a CACHE_STATE group: the state after the block */
    int32_t n_pages;                 /* how many there are; 0: the block is free */
    int32_t next;                    /* in its bucket, or among the free */
} prefix_block;

typedef struct prefix {
    pages *pools; /* [n_groups] */
    int n_groups;
    prefix_block *blocks; /* [n_blocks] as many as there are pages in all */
    int32_t *tokens;      /* [n_blocks, KV_PAGE_TOKENS] */
    int32_t *buckets;     /* [n_buckets] first block, or PAGES_NONE; a power of two */
    size_t n_buckets;
    int32_t n_blocks, n_used, first_free;
    uint64_t n_serials;
} prefix;

nib_status prefix_open(prefix *x, pages *pools, int n_groups, nib_error *err);
void prefix_close(prefix *x); /* safe on a zeroed struct */

/* The block of TOKENS [KV_PAGE_TOKENS] behind PARENT, or PAGES_NONE. */
int32_t prefix_find(const prefix *x, prefix_end parent, const int32_t *tokens);
prefix_end prefix_after(const prefix *x, int32_t block);

/* The pages HELD [n_groups] (PAGES_NONE: no page) hold TOKENS behind PARENT: they are named, where the block
 * has no page of that group yet. Returns what follows the block. */
prefix_end prefix_keep(prefix *x, prefix_end parent, const int32_t *tokens, const int32_t *held);

/* The page of GROUP that was named BLOCK was taken for something else. */
void prefix_lose(prefix *x, int group, int32_t block);
/* PAGE of GROUP will be written: it holds its block no more. */
void prefix_unname(prefix *x, int group, int32_t page);
void prefix_clear(prefix *x); /* nothing was seen before */

void prefix_check(const prefix *x); /* asserts the invariant */

#endif
