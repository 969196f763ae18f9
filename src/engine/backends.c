/* SPDX-License-Identifier: Apache-2.0
 *
 * See backends.h.
 */
#include "engine/backends.h"

#include <string.h>

#include "cpu/cpu.h"

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

nib_status backends_open(backend **out, const nib_options *o, int *threads, nib_error *err) {
    const char *device = o->device ? o->device : "auto";
    *out = NULL;
    if (is_cuda(device))
        return nib_fail(err, NIB_UNSUPPORTED,
                        "device %s: this nibble computes on CPUs only; expected auto or cpu", device);
    if (strcmp(device, "auto") != 0 && strcmp(device, "cpu") != 0)
        return nib_fail(err, NIB_BAD_ARGUMENT, "device '%.40s'; expected auto, cpu, cuda:0 or cuda:0,1",
                        device);
    cpu_options cpu = {.threads = o->threads, .features = o->cpu_features, .activations = o->activations};
    NIB_TRY(cpu_open(out, &cpu, err));
    *threads = cpu_threads(*out);
    return NIB_OK;
}
