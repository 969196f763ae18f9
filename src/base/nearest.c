/* SPDX-License-Identifier: Apache-2.0
 *
 * See nearest.h.
 */
#include "base/nearest.h"

#include <string.h>

static int least(int a, int b) {
    return a < b ? a : b;
}

/* Edits from A to B, each at most NEAREST_MAX long (optimal string alignment). */
static int distance(const char *a, const char *b) {
    int rows[3][NEAREST_MAX + 1];
    const int n = (int)strlen(a), m = (int)strlen(b);
    for (int j = 0; j <= m; j++)
        rows[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *row = rows[i % 3];
        const int *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            row[j] = least(least(above[j], row[j - 1]) + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = least(row[j], above2[j - 2] + 1);
        }
    }
    return rows[n % 3][m];
}

const char *nearest_name(const char *text, const char *const *names) {
    const int n = (int)strlen(text);
    const char *best = NULL;
    int least_edits = n > 5 ? n / 3 : 1; /* more would be another word */
    for (; n <= NEAREST_MAX && *names; names++)
        if (strlen(*names) <= NEAREST_MAX) {
            const int edits = distance(text, *names);
            if (edits < least_edits || (edits == least_edits && !best)) {
                least_edits = edits;
                best = *names;
            }
        }
    return best;
}
