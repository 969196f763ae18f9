/* SPDX-License-Identifier: Apache-2.0
 *
 * Fields of a JSON object, one checked getter per type. A null counts as missing.
 */
#include <inttypes.h>

#include "store/config_parts.h"

const json_t *config_field(const config_reader *r, const char *key) {
    const json_t *value = json_object_get(r->object, key);
    return json_is_null(value) ? NULL : value;
}

nib_status config_int(const config_reader *r, const char *key, int64_t min, int64_t max, int32_t *out) {
    const json_t *value = config_field(r, key);
    if (!value)
        return NIB_OK; /* OUT holds the default */
    if (!json_is_integer(value) || json_integer_value(value) < min || json_integer_value(value) > max)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: %s is no integer from %" PRId64 " to %" PRId64, r->where,
                        key, min, max);
    *out = (int32_t)json_integer_value(value);
    return NIB_OK;
}

nib_status config_float(const config_reader *r, const char *key, double min, double max, float *out) {
    const json_t *value = config_field(r, key);
    if (!value)
        return NIB_OK;
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= min && number <= max))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: %s is no number from %g to %g", r->where, key, min, max);
    *out = (float)number;
    return NIB_OK;
}

nib_status config_bool(const config_reader *r, const char *key, bool *out) {
    const json_t *value = config_field(r, key);
    if (!value)
        return NIB_OK;
    if (!json_is_boolean(value))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: %s is neither true nor false", r->where, key);
    *out = json_is_true(value);
    return NIB_OK;
}

nib_status config_text(const config_reader *r, const char *key, const char **out) {
    const json_t *value = config_field(r, key);
    if (!value)
        return NIB_OK;
    if (!json_is_string(value))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: %s is no string", r->where, key);
    *out = json_string_value(value);
    return NIB_OK;
}

nib_status config_object(const config_reader *r, const char *key, const json_t **out) {
    *out = config_field(r, key);
    if (*out && !json_is_object(*out))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: %s is no object", r->where, key);
    return NIB_OK;
}

nib_status config_need_false(const config_reader *r, const char *key) {
    bool value = false;
    NIB_TRY(config_bool(r, key, &value));
    if (value)
        return nib_fail(r->err, NIB_UNSUPPORTED, "%s: %s is set, which nibble does not compute", r->where,
                        key);
    return NIB_OK;
}

nib_status config_need_zero(const config_reader *r, const char *key) {
    float value = 0;
    NIB_TRY(config_float(r, key, -1e30, 1e30, &value));
    if (value != 0)
        return nib_fail(r->err, NIB_UNSUPPORTED, "%s: %s is %g, which nibble does not compute", r->where, key,
                        (double)value);
    return NIB_OK;
}
