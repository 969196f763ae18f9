/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversations as clients send them: {"messages": ..., "tools": ..., "kwargs": ...} through a template that
 * looks at everything. What came from the user is marked, whatever was done to it.
 */
#include "text_target.h"

static const char source[] =
    "{%- macro show(v) %}{% if v is mapping %}{% for k, x in v | items %}{{ k ~ show(x) }}{% endfor %}{% "
    "elif v is string %}"
    "{{ v | trim }}{% elif v is iterable %}{% for x in v %}{{ show(x) }}{% endfor %}{% else %}{{ v }}{% "
    "endif %}{% endmacro %}"
    "{%- for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' }}{{ show(m.content) }}{{ m.content | string "
    "| upper }}"
    "{% for call in m.tool_calls or [] %}{{ call | tojson }}{{ (call.function or call).arguments }}{% endfor "
    "%}"
    "{{ m.reasoning_content if m.reasoning_content is defined }}{{ m }}<|im_end|>\n{% endfor %}"
    "{{ tools | tojson(indent=1) if tools }}{{ x }}{{ x | default([]) | string | replace('a', 'bb') | length "
    "}}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *root;
    chat *c;
    chat_prompt prompt;
    nib_error err = {""};
    const strview none = {0};
    if (json_read(&root, data, size, "fuzz", &err) != NIB_OK)
        return 0;
    text_target_check(chat_open(&c, strview_of(source), none, none, &err) == NIB_OK);
    const chat_request q = {.messages = json_object_get(root, "messages"),
                            .tools = json_object_get(root, "tools"),
                            .kwargs = json_object_get(root, "kwargs"),
                            .max_steps = 100000,
                            .max_bytes = (size_t)64 << 20};
    const nib_status status = chat_render(c, &q, &prompt, &err);
    text_target_check(status == NIB_OK || err.text[0]);
    if (status == NIB_OK) {
        text_target_check(utf8_valid_prefix(prompt.text, prompt.n) == prompt.n);
        for (size_t i = 0; i < prompt.n; i++)
            text_target_check(prompt.marks[i] <= 1);
    }
    chat_prompt_free(&prompt);
    chat_close(c);
    json_decref(root);
    return 0;
}
