/* SPDX-License-Identifier: Apache-2.0
 *
 * What the golden tests of numbers share with the scripts that made the truth: one generator, one checksum,
 * one file form (lines of words: a name, then its values).
 */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Word I of the stream SEED: splitmix64's finalizer of a counter. */
static inline uint64_t golden_word(uint64_t seed, uint64_t i) {
    uint64_t z = seed * UINT64_C(0xD1342543DE82EF95) + (i + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* CRC-32 (zlib's). */
static inline uint32_t golden_crc(const void *bytes, size_t n) {
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int k = 0; k < 8; k++)
                c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
            table[i] = c;
        }
    uint32_t crc = 0xffffffffu;
    for (const unsigned char *p = bytes; n--; p++)
        crc = table[(crc ^ *p) & 255] ^ crc >> 8;
    return ~crc;
}

/* The line of NAME in the file: what follows the name, or NULL. Valid until the next call. */
static inline const char *golden_line(const char *path, const char *name) {
    static char line[1 << 16];
    size_t n = strlen(name);
    FILE *file = fopen(path, "r");
    if (!file)
        return NULL;
    const char *found = NULL;
    while (!found && fgets(line, sizeof line, file))
        if (strncmp(line, name, n) == 0 && line[n] == ' ')
            found = line + n + 1;
    fclose(file);
    return found;
}

/* The next hexadecimal number of a line; advances *P. */
static inline uint64_t golden_hex(const char **p) {
    char *end;
    uint64_t v = strtoull(*p, &end, 16);
    *p = end;
    return v;
}

#endif
