/* SPDX-License-Identifier: Apache-2.0
 *
 * Which writer writes what, and whether it could.
 */
#include "export/export.h"

#include "base/outdir.h"
#include "base/outfile.h"
#include "export/export_parts.h"

nib_status export_write(export_plan *plan, nib_error *err) {
    return plan->out == OUT_GGUF ? export_gguf(plan, err) : export_hf(plan, err);
}

nib_status export_try(const export_plan *plan, nib_error *err) {
    outfile *file = NULL;
    outdir *directory = NULL;
    if (plan->out == OUT_GGUF) {
        NIB_TRY(outfile_open(&file, plan->out_path, err));
        outfile_abandon(file);
        return NIB_OK;
    }
    if (!plan->in->gguf) {
        json_t *config;
        NIB_TRY(hf_config_read(plan->in, &config, err));
        json_decref(config);
    }
    NIB_TRY(outdir_open(&directory, plan->out_path, hf_side_is_ours, HF_SIDE_MARK, err));
    outdir_abandon(directory);
    return NIB_OK;
}
