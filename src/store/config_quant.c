/* SPDX-License-Identifier: Apache-2.0
 *
 * How a checkpoint says that it is quantized. What it says is a hint: the tensors decide (model_fold.c).
 */
#include <string.h>

#include "base/quote.h"
#include "store/config_parts.h"

static bool among(const char *text, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(text, list[i]) == 0)
            return true;
    return false;
}

static nib_status check_compressed(const config_reader *r) {
    static const char *const formats[] = {"nvfp4-pack-quantized", "mxfp4-pack-quantized", "float-quantized",
                                          "mixed-precision", "dense"};
    const char *format = "dense";
    const json_t *transform;
    NIB_TRY(config_text(r, "format", &format));
    if (!among(format, formats, sizeof formats / sizeof formats[0]))
        return nib_fail(r->err, NIB_UNSUPPORTED,
                        "%s: compressed-tensors format \"%s\", nibble reads "
                        "nvfp4-pack-quantized, mxfp4-pack-quantized, float-quantized and mixed-precision",
                        r->where, QUOTEZ(format));
    NIB_TRY(config_object(r, "transform_config", &transform));
    if (json_object_size(transform))
        return nib_fail(r->err, NIB_UNSUPPORTED,
                        "%s: transform_config asks for rotations, which nibble does not "
                        "compute",
                        r->where);
    return NIB_OK;
}

nib_status config_quantization(config_quant *out, const json_t *config, const json_t *hf_quant_config,
                               const char *where, nib_error *err) {
    *out = hf_quant_config ? CONFIG_QUANT_MODELOPT : CONFIG_QUANT_NONE;
    config_reader root = {config, where, err};
    const json_t *quantization = NULL, *nested = NULL;
    NIB_TRY(config_object(&root, "quantization_config", &quantization));
    if (!quantization) { /* beside the text network's values in older multimodal files */
        NIB_TRY(config_object(&root, "text_config", &nested));
        NIB_TRY(config_object(&(config_reader){nested, where, err}, "quantization_config", &quantization));
    }
    if (!quantization)
        NIB_TRY(config_object(&root, "compression_config", &quantization));
    if (!quantization)
        return NIB_OK;
    config_reader r = {quantization, where, err};
    const char *method = "";
    NIB_TRY(config_text(&r, "quant_method", &method));
    if (strcmp(method, "modelopt") == 0 || strcmp(method, "modelopt_fp4") == 0) {
        *out = CONFIG_QUANT_MODELOPT;
        return NIB_OK;
    }
    if (strcmp(method, "fp8") == 0) /* of transformers and vLLM: weights in tiles; the tensors say the rest */
        return NIB_OK;
    if (strcmp(method, "compressed-tensors") != 0)
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s: quant_method is \"%s\", nibble reads modelopt, fp8 and "
                        "compressed-tensors",
                        where, QUOTEZ(method));
    *out = CONFIG_QUANT_COMPRESSED;
    return check_compressed(&r);
}
