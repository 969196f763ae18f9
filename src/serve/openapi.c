/* SPDX-License-Identifier: Apache-2.0
 *
 * GET /openapi.json: the routes and the fields of their bodies, written from the tables that read them.
 */
#include <string.h>

#include "serve/parts.h"
#include "serve/routes.h"

static json_t *field_schema(const field *f) {
    switch (f->kind) {
    case FIELD_BOOL:
        return json_pack("{s:[s,s]}", "type", "boolean", "null");
    case FIELD_INT:
    case FIELD_INT64:
        return json_pack("{s:[s,s], s:f, s:f}", "type", "integer", "null", "minimum", f->min, "maximum",
                         f->max);
    case FIELD_REAL:
        return json_pack("{s:[s,s], s:f, s:f}", "type", "number", "null", "minimum", f->min, "maximum",
                         f->max);
    case FIELD_TEXT:
        return json_pack("{s:[s,s]}", "type", "string", "null");
    case FIELD_OBJECT:
        return json_pack("{s:[s,s]}", "type", "object", "null");
    case FIELD_LIST:
        return json_pack("{s:[s,s]}", "type", "array", "null");
    case FIELD_JSON:
    case FIELD_READ:
    case FIELD_PASS:
        return json_object();
    case FIELD_REFUSED:
        break;
    }
    return json_pack("{s:s}", "type", "null");
}

static json_t *body_schema(const field *const *tables) {
    json_t *properties = json_object();
    for (; *tables; tables++)
        for (const field *f = *tables; f->name; f++)
            if (!json_object_get(properties, f->name))
                json_object_set_new(properties, f->name, field_schema(f));
    return json_pack("{s:s, s:o, s:b}", "type", "object", "properties", properties, "additionalProperties",
                     0);
}

static json_t *json_content(json_t *schema) {
    return json_pack("{s:{s:o}}", "application/json", "schema", schema);
}

/* A star is a name here. */
static void path_of(const route *r, char *out, size_t size) {
    const size_t n = strlen(r->path);
    if (r->path[n - 1] == '*')
        snprintf(out, size, "%.*s{name}", (int)n - 1, r->path);
    else
        snprintf(out, size, "%s", r->path);
}

static json_t *operation(const route *r) {
    json_t *error =
        json_pack("{s:s, s:o}", "description", "what is wrong", "content", json_content(json_object()));
    json_t *o = json_pack("{s:s, s:{s:{s:s}, s:o}}", "summary", r->summary, "responses", "200", "description",
                          "an answer", "default", error);
    if (o && r->body)
        parts_set(o, "requestBody",
                  json_pack("{s:b, s:o}", "required", 1, "content", json_content(body_schema(r->body))));
    if (o && strchr(r->path, '*'))
        parts_set(o, "parameters",
                  json_pack("[{s:s, s:s, s:b, s:{s:s}}]", "name", "name", "in", "path", "required", 1,
                            "schema", "type", "string"));
    if (o && !(r->flags & ROUTE_PUBLIC))
        parts_set(o, "security", json_pack("[{s:[]}]", "key"));
    return o;
}

void route_openapi(exchange *x) {
    json_t *paths = json_object();
    for (const route *r = routes_table; r->path; r++) {
        char path[96];
        path_of(r, path, sizeof path);
        json_t *methods = json_object_get(paths, path);
        if (!methods)
            json_object_set_new(paths, path, methods = json_object());
        json_object_set_new(methods, strcmp(r->method, "GET") == 0 ? "get" : "post", operation(r));
    }
    http_reply_json(x, 200,
                    json_pack("{s:s, s:{s:s, s:s}, s:o, s:{s:{s:{s:s, s:s}}}}", "openapi", "3.1.0", "info",
                              "title", "nibble", "version", nib_version(), "paths", paths, "components",
                              "securitySchemes", "key", "type", "http", "scheme", "bearer"));
}
