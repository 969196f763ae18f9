/* SPDX-License-Identifier: Apache-2.0
 *
 * Texts of shapes from flags and files, and when reasoning comes before them.
 */
#include "cli/shapes.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "cli/files.h"

enum { PLAIN, MAY_REASON, REASONS };

nib_status shapes_read(shapes *s, const char *schema, const char *grammar, nib_error *err) {
    const char *path = schema ? schema : grammar;
    s->kind = schema ? NIB_SHAPE_JSON_SCHEMA : NIB_SHAPE_GBNF;
    if (!path)
        return NIB_OK;
    if (schema && schema[strspn(schema, " \t\r\n")] == '{') {
        s->bytes = strlen(schema);
        s->text = mem_copy_text(schema, s->bytes);
        return s->text ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "no memory for a schema");
    }
    FILE *file = fopen(path, "rb");
    if (!file)
        return nib_fail(err, NIB_IO, "%s: cannot be opened: %s", path, strerror(errno));
    nib_status status = files_read_stream(file, path, &s->text, &s->bytes, err);
    fclose(file);
    return status;
}

static nib_status form_open(shapes *s, nib_engine *engine, int form, nib_error *err) {
    const nib_shape_options o = {.size = sizeof o,
                                 .kind = s->kind,
                                 .text = s->text,
                                 .bytes = s->bytes,
                                 .reasoning_begin = form == MAY_REASON ? "<think>" : NULL,
                                 .reasoning_end = form != PLAIN ? "</think>" : NULL};
    return s->forms[form] ? NIB_OK : nib_shape_open(engine, &o, &s->forms[form], err);
}

nib_status shapes_check(shapes *s, nib_engine *engine, nib_error *err) {
    return s->text ? form_open(s, engine, PLAIN, err) : NIB_OK;
}

/* The one token that TEXT is, -1: it is none. */
static nib_status find_token(nib_engine *engine, const char *text, int32_t *token, nib_error *err) {
    int32_t *ids;
    size_t n;
    NIB_TRY(nib_tokenize(engine, text, strlen(text), NIB_TOKENIZE_NO_BOS, &ids, &n, err));
    *token = n == 1 ? ids[0] : -1;
    nib_free(ids);
    return NIB_OK;
}

nib_status shapes_guide(shapes *s, nib_engine *engine, const int32_t *prompt, size_t n, nib_guide *guide,
                        nib_error *err) {
    int32_t begin, end;
    NIB_TRY(find_token(engine, "<think>", &begin, err));
    NIB_TRY(find_token(engine, "</think>", &end, err));
    int form = begin >= 0 && end >= 0 ? MAY_REASON : PLAIN;
    for (size_t i = n; form == MAY_REASON && i > 0 && prompt[i - 1] != end; i--)
        if (prompt[i - 1] == begin)
            form = REASONS;
    NIB_TRY(form_open(s, engine, form, err));
    return nib_shape_guide(s->forms[form], guide, err);
}

void shapes_close(shapes *s) {
    for (size_t i = 0; i < sizeof s->forms / sizeof *s->forms; i++)
        nib_shape_release(s->forms[i]);
    mem_free(s->text);
    memset(s, 0, sizeof *s);
}
