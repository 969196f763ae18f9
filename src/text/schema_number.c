/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers: bounds and multiples as digits. A number between two bounds is read digit by digit beside the
 * bounds' digits; once it has left a bound, that bound says nothing more.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "text/schema_parts.h"

#define MAX_DIGITS    (2 * SCHEMA_DIGITS + 2)
#define MAX_REMAINDER 4096 /* rules for a multiple */

/* A bound that is not negative: its digits without a sign. */
typedef struct bound {
    bool given, inclusive;
    char whole[SCHEMA_DIGITS + 2];
    int n_whole, n_fraction; /* n_whole > SCHEMA_DIGITS: above all numbers */
    char fraction[MAX_DIGITS];
} bound;

typedef struct range {
    schema_compiler *c;
    bound low, high;
    bool integer;
    int n;             /* whole digits of the numbers that are written */
    uint32_t multiple; /* 0: none */
    uint32_t *rests;   /* [n + 1, multiple]: rules for digits still to come and the remainder so far */
} range;

static grammar_node digits_from(range *r, int first, int last) {
    return first > last ? GRAMMAR_NEVER
                        : grammar_byte(r->c->b, (unsigned char)('0' + first), (unsigned char)('0' + last));
}

static grammar_node digit(range *r, int d) {
    return digits_from(r, d, d);
}

/* ---- after the point ---- */

/* K digits have been read, as the bounds' own where LOW and HIGH say so. */
static grammar_node fraction(range *r, int k, bool low, bool high) {
    grammar_builder *b = r->c->b;
    const grammar_node any = digits_from(r, 0, 9);
    if (!low && !high)
        return grammar_repeat(b, any, k ? 0 : 1, (uint32_t)(SCHEMA_DIGITS - k));
    grammar_node ways[5] = {GRAMMAR_NEVER};
    const bool may_stop = k > 0 && (!low || (k >= r->low.n_fraction && r->low.inclusive)) &&
                          (!high || k < r->high.n_fraction || r->high.inclusive);
    if (may_stop)
        ways[0] = GRAMMAR_EMPTY;
    if (k == SCHEMA_DIGITS)
        return ways[0];
    const int from = low && k < r->low.n_fraction ? r->low.fraction[k] - '0' : 0;
    const int to = !high ? 9 : k < r->high.n_fraction ? r->high.fraction[k] - '0' : 0;
    if (low && high && from == to)
        return GRAMMAR_ALT(b, ways[0], GRAMMAR_SEQ(b, digit(r, from), fraction(r, k + 1, true, true)));
    if (from > to)
        return ways[0];
    if (low)
        ways[1] = GRAMMAR_SEQ(b, digit(r, from), fraction(r, k + 1, true, false));
    if (high)
        ways[2] = GRAMMAR_SEQ(b, digit(r, to), fraction(r, k + 1, false, true));
    const grammar_node between = digits_from(r, low ? from + 1 : from, high ? to - 1 : to);
    ways[3] = GRAMMAR_SEQ(b, between, grammar_repeat(b, any, 0, (uint32_t)(SCHEMA_DIGITS - k - 1)));
    return grammar_alt(b, ways, 4);
}

/* Past the whole digits: nothing, or a point and more. */
static grammar_node after_whole(range *r, bool low, bool high) {
    if (r->integer)
        return GRAMMAR_EMPTY;
    const bool may_stop = (!low || (r->low.n_fraction == 0 && r->low.inclusive)) &&
                          (!high || r->high.n_fraction > 0 || r->high.inclusive);
    const grammar_node point =
        GRAMMAR_SEQ(r->c->b, grammar_byte(r->c->b, '.', '.'), fraction(r, 0, low, high));
    return GRAMMAR_ALT(r->c->b, may_stop ? GRAMMAR_EMPTY : GRAMMAR_NEVER, point);
}

/* ---- before the point ---- */

/* LEFT digits, so that the whole is a multiple; REMAINDER is that of the digits so far. */
static grammar_node free_multiple(range *r, int left, uint32_t remainder) {
    grammar_builder *b = r->c->b;
    if (left == 0)
        return remainder == 0 ? GRAMMAR_EMPTY : GRAMMAR_NEVER;
    uint32_t *rule = &r->rests[(size_t)left * r->multiple + remainder];
    if (*rule == UINT32_MAX) {
        *rule = grammar_rule(b, (strview){"", 0});
        grammar_node ways[10];
        const uint32_t mine = *rule;
        for (int d = 0; d <= 9; d++)
            ways[d] = GRAMMAR_SEQ(b, digit(r, d),
                                  free_multiple(r, left - 1, (remainder * 10 + (uint32_t)d) % r->multiple));
        grammar_define(b, mine, grammar_alt(b, ways, 10));
    }
    return grammar_use(b, *rule);
}

static grammar_node free_whole(range *r, int left, uint32_t remainder) {
    if (r->multiple > 1)
        return free_multiple(r, left, remainder);
    grammar_node rest = grammar_repeat(r->c->b, digits_from(r, 0, 9), (uint32_t)left, (uint32_t)left);
    return GRAMMAR_SEQ(r->c->b, rest, after_whole(r, false, false));
}

static grammar_node whole(range *r, int at, bool low, bool high, uint32_t remainder) {
    grammar_builder *b = r->c->b;
    if (!low && !high && at > 0)
        return free_whole(r, r->n - at, remainder);
    if (at == r->n)
        return r->multiple > 1 && remainder ? GRAMMAR_NEVER : after_whole(r, low, high);
    const int least = at == 0 && r->n > 1 ? 1 : 0;
    int from = low ? r->low.whole[at] - '0' : 0;
    const int to = high ? r->high.whole[at] - '0' : 9;
    from = from < least ? least : from;
    grammar_node ways[10];
    size_t n = 0;
    for (int d = from; d <= to; d++) {
        const bool on_low = low && d == r->low.whole[at] - '0', on_high = high && d == to;
        int last = d;
        if (!on_low && !on_high && r->multiple <= 1) /* all alike up to the upper bound's digit */
            last = high ? to - 1 : 9;
        const uint32_t next = r->multiple ? (remainder * 10 + (uint32_t)d) % r->multiple : 0;
        ways[n++] = GRAMMAR_SEQ(b, digits_from(r, d, last), whole(r, at + 1, on_low, on_high, next));
        d = last;
    }
    return grammar_alt(b, ways, n);
}

/* Numbers that are not negative from r->low to r->high. */
static grammar_node positive(range *r) {
    grammar_node ways[SCHEMA_DIGITS];
    const int least = r->low.given ? r->low.n_whole : 1;
    const int most = r->high.given && r->high.n_whole < SCHEMA_DIGITS ? r->high.n_whole : SCHEMA_DIGITS;
    size_t n = 0;
    for (r->n = least; r->n <= most; r->n++)
        ways[n++] =
            whole(r, 0, r->low.given && r->n == r->low.n_whole, r->high.given && r->n == r->high.n_whole, 0);
    return grammar_alt(r->c->b, ways, n);
}

/* ---- bounds out of a schema ---- */

typedef struct limit {
    double value;
    json_int_t integer;
    bool given, inclusive, is_integer;
} limit;

static limit limit_of(const json_t *value, bool inclusive) {
    return (limit){json_number_value(value), json_integer_value(value), value != NULL, inclusive,
                   json_is_integer(value)};
}

static int compare_limits(const limit *x, const limit *y) {
    if (x->is_integer && y->is_integer)
        return (x->integer > y->integer) - (x->integer < y->integer);
    return (x->value > y->value) - (x->value < y->value);
}

/* The tighter of a bound and its exclusive sister, which in draft 4 is a boolean; false when refused. */
static bool read_limit(schema_compiler *c, const json_t *schema, const char *name, const char *exclusive_name,
                       int sign, limit *out) {
    const json_t *plain = json_object_get(schema, name), *exclusive = json_object_get(schema, exclusive_name);
    if (plain && !json_is_number(plain))
        return schema_refuse(c, name, "expected a number") != GRAMMAR_NEVER;
    if (exclusive && !json_is_number(exclusive) && !json_is_boolean(exclusive))
        return schema_refuse(c, exclusive_name, "expected a number") != GRAMMAR_NEVER;
    *out = limit_of(plain, !json_is_true(exclusive));
    if (json_is_number(exclusive)) {
        const limit other = limit_of(exclusive, false);
        if (!out->given || sign * compare_limits(&other, out) >= 0)
            *out = other;
    }
    return true;
}

/* The bound's digits; |value|. Integers' bounds are whole and inclusive by now. */
static bound bound_of(const limit *l) {
    bound out = {.given = l->given, .inclusive = l->inclusive};
    char text[400];
    if (!l->given)
        return out;
    if (l->is_integer) {
        snprintf(text, sizeof text, "%llu",
                 l->integer < 0 ? 0ULL - (unsigned long long)l->integer : (unsigned long long)l->integer);
    } else {
        const double v = fabs(l->value);
        int precision = 0; /* as few digits as say the same */
        do
            snprintf(text, sizeof text, "%.*f", precision, v);
        while (strtod(text, NULL) != v && ++precision <= MAX_DIGITS - 2);
    }
    const size_t n = strcspn(text, ".,"); /* the host's locale may have a comma */
    out.n_whole = n > SCHEMA_DIGITS ? SCHEMA_DIGITS + 1 : (int)n;
    memcpy(out.whole, text, (size_t)out.n_whole);
    const char *rest = text[n] ? text + n + 1 : "";
    for (; *rest && out.n_fraction < MAX_DIGITS - 1; rest++)
        out.fraction[out.n_fraction++] = *rest;
    while (out.n_fraction > 0 && out.fraction[out.n_fraction - 1] == '0')
        out.n_fraction--;
    return out;
}

/* An integer's bound becomes whole and inclusive; SIGN 1 for the lower one. */
static void round_limit(limit *l, int sign) {
    if (!l->given)
        return;
    if (!l->is_integer) {
        const double r = sign > 0 ? ceil(l->value) : floor(l->value);
        l->inclusive |= r != l->value;
        l->value = r;
        const double most = 1e18;
        l->integer = (json_int_t)(r > most ? most : r < -most ? -most : r);
        l->is_integer = true;
    }
    if (!l->inclusive && l->integer < INT64_C(1000000000000000000) &&
        l->integer > INT64_C(-1000000000000000000))
        l->integer += sign;
    l->inclusive = true;
    l->value = (double)l->integer;
}

static limit negated(const limit *l) {
    limit out = *l;
    out.value = -l->value;
    out.integer = l->integer == INT64_MIN ? INT64_MAX : -l->integer;
    return out;
}

/* ---- numbers ---- */

grammar_node schema_free_number(schema_compiler *c, bool integer) {
    grammar_builder *b = c->b;
    const grammar_node any = grammar_byte(b, '0', '9');
    const grammar_node whole_part = GRAMMAR_SEQ(
        b, grammar_option(b, grammar_byte(b, '-', '-')),
        GRAMMAR_ALT(b, grammar_byte(b, '0', '0'),
                    GRAMMAR_SEQ(b, grammar_byte(b, '1', '9'), grammar_repeat(b, any, 0, SCHEMA_DIGITS - 1))));
    if (integer)
        return whole_part;
    const grammar_node point =
        GRAMMAR_SEQ(b, grammar_byte(b, '.', '.'), grammar_repeat(b, any, 1, SCHEMA_DIGITS));
    const grammar_node e = GRAMMAR_ALT(b, grammar_byte(b, 'e', 'e'), grammar_byte(b, 'E', 'E'));
    const grammar_node sign = GRAMMAR_ALT(b, grammar_byte(b, '+', '+'), grammar_byte(b, '-', '-'));
    return GRAMMAR_SEQ(
        b, whole_part, grammar_option(b, point),
        grammar_option(b, GRAMMAR_SEQ(b, e, grammar_option(b, sign), grammar_repeat(b, any, 1, 2))));
}

/* False when refused. 0: there is none. */
static bool read_multiple(schema_compiler *c, const json_t *schema, uint32_t *multiple) {
    const json_t *given = json_object_get(schema, "multipleOf");
    *multiple = 0;
    if (!given)
        return true;
    const double v = json_number_value(given);
    if (!json_is_number(given) || !(v > 0))
        return schema_refuse(c, "multipleOf", "expected a number above 0") != GRAMMAR_NEVER;
    if (v != floor(v) || v * (SCHEMA_DIGITS + 1) > MAX_REMAINDER)
        return schema_refuse(c, "multipleOf", "only small whole numbers are supported") != GRAMMAR_NEVER;
    *multiple = (uint32_t)v;
    return true;
}

/* From LOW to HIGH, both halves of the line of numbers. */
static grammar_node between(range *r, const limit *low, const limit *high) {
    const limit zero = {.given = true, .inclusive = true, .is_integer = true};
    const limit above_zero = {.given = true,
                              .inclusive = r->integer,
                              .is_integer = true,
                              .integer = r->integer,
                              .value = r->integer};
    grammar_node plus = GRAMMAR_NEVER, minus = GRAMMAR_NEVER;
    if (!high->given || compare_limits(high, &zero) > 0 ||
        (compare_limits(high, &zero) == 0 && high->inclusive)) {
        r->low = bound_of(low->given && compare_limits(low, &zero) >= 0 ? low : &zero);
        r->high = bound_of(high);
        plus = positive(r);
    }
    if (!low->given || compare_limits(low, &zero) < 0) {
        const limit mirrored_low = negated(high), mirrored_high = negated(low);
        const bool below = high->given && compare_limits(high, &zero) < 0;
        r->low = bound_of(below ? &mirrored_low : &above_zero);
        r->high = bound_of(&mirrored_high);
        minus = GRAMMAR_SEQ(r->c->b, grammar_byte(r->c->b, '-', '-'), positive(r));
    }
    return GRAMMAR_ALT(r->c->b, plus, minus);
}

grammar_node schema_number(schema_compiler *c, const json_t *schema, bool integer) {
    range r = {.c = c, .integer = integer};
    limit low, high;
    if (!read_limit(c, schema, "minimum", "exclusiveMinimum", 1, &low) ||
        !read_limit(c, schema, "maximum", "exclusiveMaximum", -1, &high) ||
        !read_multiple(c, schema, &r.multiple))
        return GRAMMAR_NEVER;
    if (!low.given && !high.given && r.multiple <= (integer ? 1 : 0))
        return grammar_use(c->b, integer ? c->integer : c->number);
    r.integer |= r.multiple > 0;
    if (r.integer) {
        round_limit(&low, 1);
        round_limit(&high, -1);
    }
    if (low.given && high.given && compare_limits(&low, &high) > 0)
        return GRAMMAR_NEVER;
    if (r.multiple > 1) {
        const size_t n = (SCHEMA_DIGITS + 1) * (size_t)r.multiple;
        r.rests = arena_alloc(&c->a, n, sizeof *r.rests);
        if (!r.rests)
            return grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema");
        memset(r.rests, 0xFF, n * sizeof *r.rests);
    }
    return between(&r, &low, &high);
}
