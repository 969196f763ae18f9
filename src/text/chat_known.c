/* SPDX-License-Identifier: Apache-2.0
 *
 * The chat templates nibble knows, each by the hash of the one form that chat_recognize.c brings it to, so
 * that nobody's template is copied here. "Shorter" says the same in fewer statements. How each is written:
 * chat.c. The row of a new one: build/release/test_chat TEMPLATE.jinja prints its hash.
 */
#include "text/chat_known.h"

const chat_known chat_known_list[] = {
    {"ChatML", 0xb6ef01094fd81795, CHAT_CHATML, CHAT_BOS_EITHER, false, false},
    {"ChatML with a system text of its own", 0x3a375505717bdfaf, CHAT_CHATML, CHAT_BOS_EITHER, false, false},
    {"SmolLM2", 0x41bf8384cd275158, CHAT_CHATML, CHAT_BOS_NONE, false, false},
    {"Qwen2.5", 0xf334482d5036b85c, CHAT_CHATML, CHAT_BOS_NONE, false, false},
    {"Qwen3", 0xab6f04a0e4b6c2ba, CHAT_QWEN3, CHAT_BOS_NONE, false, false},
    {"Qwen3, later", 0x8f768c653fd950bc, CHAT_QWEN3, CHAT_BOS_NONE, false, false},
    {"Qwen3 2507", 0xdba0e639fdcfd9fc, CHAT_CHATML, CHAT_BOS_NONE, false, false},
    {"Qwen3, shorter", 0x89b203c5a6466c7e, CHAT_QWEN3, CHAT_BOS_NONE, false, false},
    {"Gemma 2", 0x88dc557942cfc8a7, CHAT_GEMMA, CHAT_BOS_IN_FRONT, true, false},
    {"Gemma 2, shorter", 0x1504a80fbf893d63, CHAT_GEMMA, CHAT_BOS_IN_FRONT, true, false},
    {"Gemma 3", 0xcf3dc030bb211d81, CHAT_GEMMA, CHAT_BOS_IN_FRONT, false, false},
    {"Gemma 3, shorter", 0x7c53f5b3e9e6610c, CHAT_GEMMA, CHAT_BOS_IN_FRONT, false, false},
    {"Llama 2", 0xe7b9e971edee83c3, CHAT_LLAMA2, CHAT_BOS_NONE, false, false},
    {"Llama 2, shorter", 0xd2b4ab8125fbe1b8, CHAT_LLAMA2, CHAT_BOS_NONE, false, false},
    {"Llama 3", 0xda9882aa7215db15, CHAT_LLAMA3, CHAT_BOS_IN_TEXT, false, false},
    {"Llama 3, shorter", 0x709909bade9d1cd5, CHAT_LLAMA3, CHAT_BOS_IN_FRONT, false, false},
    {"Llama 3.1 to 3.3", 0x54417176503936e2, CHAT_LLAMA3, CHAT_BOS_IN_FRONT, false, true},
    {"Llama 3.1, shorter", 0xb0de1db86737114c, CHAT_LLAMA3, CHAT_BOS_IN_FRONT, false, true},
    {.name = NULL}};
