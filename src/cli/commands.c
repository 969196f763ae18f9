/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands that exist. `nibble --help` is printed from here.
 */
#include "cli/cli.h"

const cli_command cli_commands[] = {
    {"run", cmd_run, "answer a prompt, or chat", "nibble run model.gguf \"What is the capital of France?\""},
    {"eval", cmd_eval, "perplexity of a text, KL divergence from a base model",
     "nibble eval kld model-nvfp4 --base model.gguf --text wiki.test.txt --chunks 60"},
    {NULL, NULL, NULL, NULL},
};
