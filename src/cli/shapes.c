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

static nib_status form_open(shapes *s, nib_engine *engine, int form, const nib_chat_info *reasoning,
                            nib_error *err) {
    nib_shape_options o = {.size = sizeof o, .kind = s->kind, .text = s->text, .bytes = s->bytes};
    if (form != PLAIN)
        nib_chat_shape(reasoning, form == REASONS, &o);
    return s->forms[form] ? NIB_OK : nib_shape_open(engine, &o, &s->forms[form], err);
}

nib_status shapes_check(shapes *s, nib_engine *engine, nib_error *err) {
    return s->text ? form_open(s, engine, PLAIN, NULL, err) : NIB_OK;
}

/* A grammar that writes the marker itself says what reasoning is. */
static bool has_own_reasoning(const shapes *s, const nib_chat_info *reasoning) {
    return s->kind == NIB_SHAPE_GBNF && reasoning->reasoning &&
           memmem(s->text, s->bytes, reasoning->reasoning, strlen(reasoning->reasoning));
}

nib_status shapes_guide(shapes *s, nib_engine *engine, const nib_chat_info *reasoning, bool begun,
                        nib_guide *guide, nib_error *err) {
    const bool none = !reasoning || !reasoning->reasoning_end || has_own_reasoning(s, reasoning);
    const int form = none ? PLAIN : begun ? REASONS : MAY_REASON;
    NIB_TRY(form_open(s, engine, form, reasoning, err));
    return nib_shape_guide(s->forms[form], guide, err);
}

void shapes_close(shapes *s) {
    for (size_t i = 0; i < sizeof s->forms / sizeof *s->forms; i++)
        nib_shape_release(s->forms[i]);
    mem_free(s->text);
    memset(s, 0, sizeof *s);
}
