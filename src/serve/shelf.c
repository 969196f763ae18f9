/* SPDX-License-Identifier: Apache-2.0
 *
 * See shelf.h. A guide outlives its shape, so a shape may leave the shelf at any time.
 */
#include "serve/shelf.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "serve/buf.h"

#define SHELF_SHAPES    32
#define SHELF_MAX_BYTES (64u << 10) /* of a text that is kept */

typedef struct kept {
    buf key;
    nib_shape *shape; /* NULL: free */
    uint64_t used;
} kept;

struct shelf {
    pthread_mutex_t lock;
    uint64_t clock;
    kept places[SHELF_SHAPES];
};

nib_status shelf_open(shelf **out, nib_error *err) {
    shelf *s = *out = mem_array(1, sizeof *s);
    if (!s)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for the server");
    pthread_mutex_init(&s->lock, NULL);
    return NIB_OK;
}

static void empty(kept *k) {
    nib_shape_release(k->shape);
    buf_free(&k->key);
    *k = (kept){0};
}

void shelf_close(shelf *s) {
    if (!s)
        return;
    for (size_t i = 0; i < SHELF_SHAPES; i++)
        empty(&s->places[i]);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

static void add_part(buf *key, const char *text, size_t n) {
    buf_print(key, "%zu:", n);
    buf_add(key, text ? text : "", n);
}

static void make_key(buf *key, const nib_shape_options *o) {
    buf_print(key, "%d:", (int)o->kind);
    add_part(key, o->reasoning_begin, o->reasoning_begin ? strlen(o->reasoning_begin) : 0);
    add_part(key, o->reasoning_end, o->reasoning_end ? strlen(o->reasoning_end) : 0);
    add_part(key, o->text, o->bytes);
}

/* With the lock held: the place of KEY, or NULL. */
static kept *find(shelf *s, const buf *key) {
    for (size_t i = 0; i < SHELF_SHAPES; i++)
        if (s->places[i].shape && s->places[i].key.n == key->n &&
            memcmp(s->places[i].key.bytes, key->bytes, key->n) == 0)
            return &s->places[i];
    return NULL;
}

/* With the lock held: SHAPE and KEY take the place that was not used for longest. */
static void keep(shelf *s, buf *key, nib_shape *shape) {
    kept *oldest = &s->places[0];
    for (size_t i = 0; i < SHELF_SHAPES; i++)
        if (s->places[i].used < oldest->used)
            oldest = &s->places[i];
    empty(oldest);
    *oldest = (kept){.key = *key, .shape = shape, .used = ++s->clock};
    *key = (buf){0};
}

/* False: KEY is not here. */
static bool guide_of_known(shelf *s, const buf *key, nib_guide *guide, nib_status *status, nib_error *err) {
    pthread_mutex_lock(&s->lock);
    kept *known = find(s, key);
    if (known) {
        known->used = ++s->clock;
        *status = nib_shape_guide(known->shape, guide, err);
    }
    pthread_mutex_unlock(&s->lock);
    return known != NULL;
}

/* Not under the lock: it takes a while. */
static nib_status compile(shelf *s, nib_engine *engine, const nib_shape_options *options, buf *key,
                          nib_guide *guide, nib_error *err) {
    nib_shape *shape;
    NIB_TRY(nib_shape_open(engine, options, &shape, err));
    const nib_status status = nib_shape_guide(shape, guide, err);
    pthread_mutex_lock(&s->lock);
    if (!find(s, key)) {
        keep(s, key, shape);
        shape = NULL;
    }
    pthread_mutex_unlock(&s->lock);
    nib_shape_release(shape);
    return status;
}

nib_status shelf_guide(shelf *s, nib_engine *engine, const nib_shape_options *options, nib_shape **own,
                       nib_guide *guide, nib_error *err) {
    buf key = {0};
    nib_status status = NIB_OK;
    *guide = (nib_guide){.size = sizeof *guide};
    if (options->bytes > SHELF_MAX_BYTES) {
        if (!*own)
            NIB_TRY(nib_shape_open(engine, options, own, err));
        return nib_shape_guide(*own, guide, err);
    }
    make_key(&key, options);
    if (key.failed)
        status = nib_fail(err, NIB_NO_MEMORY, "out of memory for the shape of an answer");
    else if (!guide_of_known(s, &key, guide, &status, err))
        status = compile(s, engine, options, &key, guide, err);
    buf_free(&key);
    return status;
}
