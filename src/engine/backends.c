/* SPDX-License-Identifier: Apache-2.0
 *
 * See backends.h. GPUs are reached through a shared object that is loaded here, once, and stays.
 */
#include "engine/backends.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/cpu.h"

/* ---- the GPUs' shared object ---- */

/* Loads the object at PATH, or says in WHY (unless something stands there) why one that is there cannot be.
 */
static void *load_from(const char *path, nib_error *why) {
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!object && !why->text[0] && access(path, F_OK) == 0)
        snprintf(why->text, sizeof why->text, "%s", dlerror());
    return object;
}

/* Where it may lie, seen from the folder of this program or library: beside it (a build), or where it is
 * installed, in lib/nibble under the prefix; else where the system looks. */
static void *load_object(char *tried, size_t size, nib_error *why) {
    static const char *const folders[] = {"", "../lib/nibble/", "nibble/", "../nibble/"};
    char own[PATH_MAX] = "";
    void *object = NULL;
    Dl_info here;
    why->text[0] = 0;
    if (dladdr((void *)&load_object, &here) && here.dli_fname && realpath(here.dli_fname, own)) {
        char *slash = strrchr(own, '/');
        *slash = 0;
        for (size_t i = 0; i < sizeof folders / sizeof *folders && !object; i++) {
            snprintf(tried, size, "%s/%s%s", own, folders[i], NIBBLE_CUDA_LIBRARY);
            object = load_from(tried, why);
        }
    }
    if (!object) {
        snprintf(tried, size, "%s", NIBBLE_CUDA_LIBRARY);
        object = dlopen(tried, RTLD_NOW | RTLD_LOCAL);
    }
    if (!object && !why->text[0])
        snprintf(why->text, sizeof why->text, "%s", dlerror());
    return object;
}

static nib_status load_plugin(const backend_plugin **out, nib_error *err) {
    static const backend_plugin *_Atomic loaded; /* the same for every thread that loads it */
    char tried[PATH_MAX + 64] = "";
    *out = loaded;
    if (*out)
        return NIB_OK;
    nib_error why;
    void *object = load_object(tried, sizeof tried, &why);
    if (!object)
        return nib_fail(err, NIB_UNSUPPORTED, "no GPU backend: %.400s (make cuda builds one)", why.text);
    const backend_plugin *plugin = dlsym(object, NIBBLE_PLUGIN_SYMBOL);
    if (!plugin || plugin->abi != BACKEND_PLUGIN_ABI)
        return nib_fail(err, NIB_UNSUPPORTED, "%.200s is of another version of nibble", tried);
    loaded = *out = plugin;
    return NIB_OK;
}

nib_status backends_gpus(device_info list[BACKEND_MAX_DEVICES], size_t *n, bool measure, nib_error *err) {
    const backend_plugin *plugin;
    *n = 0;
    NIB_TRY(load_plugin(&plugin, err));
    return plugin->devices(list, n, measure, err);
}

static nib_status open_gpu(backend **out, int device, const nib_options *options, nib_error *err) {
    static const compute_mode modes[] = {
        [NIB_ACTIVATIONS_AUTO] = COMPUTE_EXACT,     [NIB_ACTIVATIONS_F32] = COMPUTE_EXACT,
        [NIB_ACTIVATIONS_INT8] = COMPUTE_W4A8_INT8, [NIB_ACTIVATIONS_BF16] = COMPUTE_W4A16,
        [NIB_ACTIVATIONS_FP8] = COMPUTE_W4A8_FP8,   [NIB_ACTIVATIONS_FP4] = COMPUTE_W4A4};
    const backend_plugin *plugin;
    NIB_TRY(load_plugin(&plugin, err));
    device_options o = {.device = device,
                        .mode = modes[options->activations],
                        .mode_auto = options->activations == NIB_ACTIVATIONS_AUTO,
                        .eager = options->enforce_eager};
    return plugin->open(out, &o, err);
}

/* ---- by name ---- */

/* "cuda:N" or "cuda:N,M,...": numbers below 1024. */
static bool is_cuda(const char *device) {
    const char *p = device + 5;
    if (strncmp(device, "cuda:", 5) != 0)
        return false;
    for (;; p++) {
        size_t digits = strspn(p, "0123456789");
        if (digits < 1 || digits > 3)
            return false;
        p += digits;
        if (*p != ',')
            return *p == 0;
    }
}

static nib_status open_cpu(backend **out, const nib_options *o, int *threads, nib_error *err) {
    if (o->activations > NIB_ACTIVATIONS_INT8)
        return nib_fail(err, NIB_UNSUPPORTED,
                        "activations in bf16, fp8 and fp4 are a GPU's; a CPU has f32 and int8");
    cpu_options cpu = {.threads = o->threads, .features = o->cpu_features, .activations = o->activations};
    NIB_TRY(cpu_open(out, &cpu, err));
    *threads = cpu_threads(*out);
    return NIB_OK;
}

nib_status backends_open(backend **out, const nib_options *o, int *threads, nib_error *err) {
    const char *device = o->device ? o->device : "auto";
    device_info list[BACKEND_MAX_DEVICES];
    size_t n;
    *out = NULL;
    *threads = 1;
    if (strcmp(device, "cuda") == 0)
        return open_gpu(out, 0, o, err);
    if (is_cuda(device) && strchr(device, ','))
        return nib_fail(err, NIB_UNSUPPORTED, "device %s: one GPU is all that nibble takes yet", device);
    if (is_cuda(device))
        return open_gpu(out, atoi(device + 5), o, err);
    if (strcmp(device, "auto") != 0 && strcmp(device, "cpu") != 0)
        return nib_fail(err, NIB_BAD_ARGUMENT, "device '%.40s'; expected auto, cpu, cuda or cuda:0", device);
    bool for_cpu =
        device[0] == 'c' || o->activations == NIB_ACTIVATIONS_INT8 || o->cpu_features || o->threads;
    if (!for_cpu && backends_gpus(list, &n, false, NULL) == NIB_OK && list[0].run_here)
        return open_gpu(out, 0, o, err);
    return open_cpu(out, o, threads, err);
}

nib_activations backends_activations(const backend *be) {
    static const nib_activations of[] = {[COMPUTE_EXACT] = NIB_ACTIVATIONS_F32,
                                         [COMPUTE_W4A16] = NIB_ACTIVATIONS_BF16,
                                         [COMPUTE_W4A8_INT8] = NIB_ACTIVATIONS_INT8,
                                         [COMPUTE_W4A8_FP8] = NIB_ACTIVATIONS_FP8,
                                         [COMPUTE_W4A4] = NIB_ACTIVATIONS_FP4};
    return of[be->mode];
}
