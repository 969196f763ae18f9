/* SPDX-License-Identifier: Apache-2.0
 *
 * A fuzz target without a fuzzer: runs the target over each file named on the command line, and over each
 * file below each folder. So every sanitizer build holds the targets to what was found before.
 * usage: replay_NAME FILE|FOLDER...
 */
#define _XOPEN_SOURCE 700
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SECONDS_EACH = 60, MAX_FOLDERS = 16, MAX_BYTES = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int n_inputs;

static void run(const uint8_t *data, size_t size) {
    alarm(SECONDS_EACH);
    LLVMFuzzerTestOneInput(data, size);
    alarm(0);
    n_inputs++;
}

/* The bytes lie in a block of their own size, so that a read past the end is seen. */
static int run_file(const char *path, const struct stat *info, int kind, struct FTW *where) {
    (void)where;
    if (kind == FTW_D)
        return 0;
    size_t size = kind != FTW_F ? 0 : (size_t)(info->st_size < MAX_BYTES ? info->st_size : MAX_BYTES);
    uint8_t *data = malloc(size ? size : 1);
    FILE *f = kind == FTW_F ? fopen(path, "rb") : NULL;
    int code = data && f && fread(data, 1, size, f) == size ? 0 : -1;
    if (f)
        fclose(f);
    if (code == 0)
        run(data, size);
    free(data);
    return code;
}

int main(int n, char **paths) {
    run((const uint8_t *)"", 0);
    for (int i = 1; i < n; i++)
        if (nftw(paths[i], run_file, MAX_FOLDERS, 0) != 0) {
            fprintf(stderr, "%s: cannot be read\n", paths[i]);
            return 1;
        }
    printf("%d inputs\n", n_inputs);
    return n > 1 ? 0 : 1;
}
