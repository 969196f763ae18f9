/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands that exist. `nibble --help` is printed from here.
 */
#include "cli/cli.h"

const cli_command cli_commands[] = {
    {"run", cmd_run, "answer a prompt, or chat", "nibble run model.gguf \"What is the capital of France?\""},
    {"serve", cmd_serve, "answer over HTTP, as OpenAI's API does", "nibble serve model.gguf --port 8000"},
    {"quantize", cmd_quantize, "make a 4-bit floating-point file of a model",
     "nibble quantize model.gguf model-nvfp4.gguf"},
    {"eval", cmd_eval, "perplexity of a text, KL divergence from a base model",
     "nibble eval kld model-nvfp4.gguf --base model.gguf --text wiki.test.txt --chunks 60"},
    {"calibrate", cmd_calibrate, "what inputs look like, for quantizing, from a text",
     "nibble calibrate model.gguf --text mine.txt -o model.imatrix.gguf"},
    {"report", cmd_report, "a page about a quantized file: formats, errors, scales",
     "nibble report model-nvfp4.gguf --source model.gguf -o report.html"},
    {"tokenize", cmd_tokenize, "text to token ids and back", "nibble tokenize model.gguf \"Hello\""},
    {"template", cmd_template, "the prompt that a chat template makes of a conversation",
     "nibble template model.gguf --messages talk.json"},
    {"inspect", cmd_inspect, "what a model file holds, and what it takes to run",
     "nibble inspect model.gguf --tensors"},
    {"bench", cmd_bench, "tokens per second, and the share of the memory bandwidth",
     "nibble bench model-nvfp4.gguf -p 512 -n 128"},
    {"devices", cmd_devices, "what there is to compute on, and how fast it reads memory",
     "nibble devices --quick"},
    {"gemm", cmd_gemm, "FP4 matrix products on a GPU: which kernel runs, and how fast",
     "nibble gemm --explain 64 24576 4096 --arch 90"},
    {NULL, NULL, NULL, NULL},
};
