/* SPDX-License-Identifier: Apache-2.0
 *
 * A model directory: u16 n, n bytes of config.json, then model.safetensors. Companions, shapes and names of
 * a whole network are reached only so. Allocations fail on every eighth input.
 */
#include "store_target.h"

static char directory[64];

static void remove_directory(void) {
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", directory);
    remove(path);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    remove(path);
    rmdir(directory);
}

static void put(const char *name, const uint8_t *data, size_t size) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!directory[0]) {
        snprintf(directory, sizeof directory, "%s",
                 access("/dev/shm", W_OK) == 0 ? "/dev/shm/fuzzXXXXXX" : "/tmp/fuzzXXXXXX");
        if (!mkdtemp(directory))
            abort();
        atexit(remove_directory);
    }
    if (size < 2)
        return 0;
    size_t n = (size_t)data[0] | (size_t)data[1] << 8;
    if (n > size - 2)
        return 0;
    put("config.json", data + 2, n);
    put("model.safetensors", data + 2 + n, size - 2 - n);
    if (size % 8 == 0)
        store_target_open_nomem(directory);
    else
        store_target_open(directory);
    return 0;
}
