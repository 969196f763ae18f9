/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble devices: the CPU and the GPUs that there are, the read bandwidth of each, which kernels each format
 * takes there.
 */
#include <stdio.h>
#include <string.h>

#include "base/cores.h"
#include "cli/cli.h"
#include "cli/ui.h"
#include "cpu/cpu.h"
#include "engine/backends.h"

static const struct argp_option options[] = {{"quick", 'q', NULL, 0, "Do not measure the read bandwidth", 0},
                                             {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    bool *quick = state->input;
    switch (key) {
    case 'q':
        *quick = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "no argument is expected; '%s' is one too many", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .doc =
        "Lists what nibble can compute on: name, memory, measured read bandwidth, and which kernels compute "
        "which formats.\v"
        "Examples:\n"
        "  nibble devices --quick",
};

static void print_bandwidth(double bytes_per_second) {
    if (bytes_per_second > 0)
        printf(", reads %.1f GB/s", bytes_per_second / 1e9);
}

static void print_cpu(bool quick) {
    printf("cpu     %d cores", cores_physical());
    print_bandwidth(quick ? 0 : cpu_read_bandwidth(0));
    printf("\n");
}

static void print_gpu(size_t i, const device_info *d) {
    char total[32], left[32];
    printf("cuda:%-2zu %s, compute capability %d.%d, %s, %s free", i, d->name, d->major, d->minor,
           ui_bytes(total, sizeof total, d->memory), ui_bytes(left, sizeof left, d->free));
    print_bandwidth(d->read_bandwidth);
    printf("%s\n", d->run_here ? "" : "; not yet run on this GPU");
    for (const char *line = d->paths; *line;) {
        size_t n = strcspn(line, "\n");
        printf("        %.*s\n", (int)n, line);
        line += n + (line[n] == '\n');
    }
}

int cmd_devices(int argc, char **argv) {
    bool quick = false;
    device_info list[BACKEND_MAX_DEVICES];
    nib_error err = {""};
    size_t n;
    cli_parse(&argp, argc, argv, &quick);
    print_cpu(quick);
    if (backends_gpus(list, &n, !quick, &err) != NIB_OK)
        printf("no GPU: %s\n", err.text);
    for (size_t i = 0; i < n; i++)
        print_gpu(i, &list[i]);
    return cli_finish_output(CLI_OK);
}
