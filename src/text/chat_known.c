/* SPDX-License-Identifier: Apache-2.0
 *
 * The chat templates nibble knows, in the one form that chat_recognize.c describes: "{%" opens a statement,
 * "{" an expression, what differs from model to model is cut out. How each is written: chat.c.
 */
#include "text/chat_known.h"

const chat_known chat_known_list[] = {
    /* ChatML */
    {.kind = CHAT_CHATML,
     .bos = CHAT_BOS_EITHER,
     .text = "{%formessageinmessages}{'<|im_start|>'+message['role']+'\n'+message['content']+'<|im_end|>\n'}"
             "{%endfor}{'<|im_start|>assistant\n'}"},
    /* ChatML with a system text of its own */
    {.kind = CHAT_CHATML,
     .bos = CHAT_BOS_EITHER,
     .text = "{%ifmessages[0]['role']!='system'}{'<|im_start|>system\n<|im_end|>\n'}{%endif}"
             "{%formessageinmessages}{'<|im_start|>'+message['role']+'\n'+message['content']+'<|im_end|>\n'}"
             "{%endfor}{'<|im_start|>assistant\n'}"},
    /* SmolLM2 */
    {.kind = CHAT_CHATML,
     .bos = CHAT_BOS_NONE,
     .text = "{%formessageinmessages}{%ifloop.firstandmessages[0]['role']!='system'}"
             "{'<|im_start|>system\n<|im_end|>\n'}{%endif}"
             "{'<|im_start|>'+message['role']+'\n'+message['content']+'<|im_end|>\n'}{%endfor}"
             "{'<|im_start|>assistant\n'}"},
    /* Qwen2.5 */
    {.kind = CHAT_CHATML,
     .bos = CHAT_BOS_NONE,
     .text = "{%ifmessages[0]['role']=='system'}"
             "{'<|im_start|>system\n'+messages[0]['content']+'<|im_end|>\n'}{%else}"
             "{'<|im_start|>system\n<|im_end|>\n'}{%endif}{%formessageinmessages}"
             "{%if(message['role']=='user')or(message['role']=='system'andnotloop.first)or(message['role']=='"
             "assistant'andnotmessage.tool_calls)}"
             "{'<|im_start|>'+message['role']+'\n'+message['content']+'<|im_end|>\n'}"
             "{%elifmessage['role']=='assistant'}{'<|im_start|>'+message['role']}{%ifmessage['content']}"
             "{'\n'+message['content']}{%endif}{%fortool_callinmessage.tool_calls}"
             "{%iftool_call.functionisdefined}{%settool_call=tool_call.function}{%endif}"
             "{'\n<tool_call>\n{\"name\": \"'}{tool_call.name}{'\", \"arguments\": '}"
             "{tool_call.arguments|tojson}{'}\n</tool_call>'}{%endfor}{'<|im_end|>\n'}{%endif}{%endfor}"
             "{'<|im_start|>assistant\n'}"},
    /* Qwen3 */
    {.kind = CHAT_QWEN3,
     .bos = CHAT_BOS_NONE,
     .text = "{%ifmessages[0]['role']=='system'}"
             "{'<|im_start|>system\n'+messages[0]['content']+'<|im_end|>\n'}{%endif}"
             "{%setns=namespace(multi_step_tool=true,last_query_index=messages|length-1)}"
             "{%formessageinmessages[::-1]}{%setindex=(messages|length-1)-loop.index0}"
             "{%ifns.multi_step_toolandmessage['role']=='user'andnot(message['content'].startswith('<tool_"
             "response>')andmessage['content'].endswith('</tool_response>'))}"
             "{%setns.multi_step_tool=false}{%setns.last_query_index=index}{%endif}{%endfor}"
             "{%formessageinmessages}"
             "{%if(message['role']=='user')or(message['role']=='system'andnotloop.first)}"
             "{'<|im_start|>'+message['role']+'\n'+message['content']+'<|im_end|>\n'}"
             "{%elifmessage['role']=='assistant'}{%setcontent=message['content']}{%setreasoning_content=''}"
             "{%if'</think>'inmessage['content']}"
             "{%setcontent=message['content'].split('</think>')[-1].lstrip('\n')}"
             "{%setreasoning_content=message['content'].split('</"
             "think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')}"
             "{%endif}{%ifloop.index0>ns.last_query_index}{%ifloop.lastor(notloop.lastandreasoning_content)}"
             "{'<|im_start|>'+message['role']+'\n<think>\n'+reasoning_content.strip('\n')+'\n</"
             "think>\n\n'+content.lstrip('\n')}"
             "{%else}{'<|im_start|>'+message['role']+'\n'+content}{%endif}{%else}"
             "{'<|im_start|>'+message['role']+'\n'+content}{%endif}{'<|im_end|>\n'}{%endif}{%endfor}"
             "{'<|im_start|>assistant\n'}"},
    /* Qwen3, shorter */
    {.kind = CHAT_QWEN3,
     .bos = CHAT_BOS_NONE,
     .text = "{%ifmessages[0]['role']=='system'}"
             "{'<|im_start|>system\n'+messages[0]['content']+'<|im_end|>\n'}{%endif}"
             "{%setns=namespace(open=true,last_query_index=messages|length-1)}{%formessageinmessages[::-1]}"
             "{%setindex=(messages|length-1)-loop.index0}"
             "{%ifns.openandmessage['role']=='user'andnot(message['content'].startswith('<tool_response>')"
             "andmessage['content'].endswith('</tool_response>'))}"
             "{%setns.open=false}{%setns.last_query_index=index}{%endif}{%endfor}{%formessageinmessages}"
             "{%ifmessage['role']=='user'or(message['role']=='system'andnotloop.first)}"
             "{'<|im_start|>'+message['role']+'\n'+message['content']+'<|im_end|>\n'}"
             "{%elifmessage['role']=='assistant'}{%setcontent=message['content']}{%setreasoning_content=''}"
             "{%if'</think>'inmessage['content']}"
             "{%setcontent=message['content'].split('</think>')[-1].lstrip('\n')}"
             "{%setreasoning_content=message['content'].split('</"
             "think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')}"
             "{%endif}{%ifloop.index0>ns.last_query_indexand(loop.lastorreasoning_content)}"
             "{'<|im_start|>'+message['role']+'\n<think>\n'+reasoning_content.strip('\n')+'\n</"
             "think>\n\n'+content.lstrip('\n')}"
             "{%else}{'<|im_start|>'+message['role']+'\n'+content}{%endif}{'<|im_end|>\n'}{%endif}{%endfor}"
             "{'<|im_start|>assistant\n'}"},
    /* Gemma 2 */
    {.kind = CHAT_GEMMA,
     .bos = CHAT_BOS_IN_FRONT,
     .no_system = true,
     .text = "{%ifmessages[0]['role']=='system'}{raise_exception('')}{%endif}{%formessageinmessages}"
             "{%if(message['role']=='user')!=(loop.index0%2==0)}{raise_exception('')}{%endif}"
             "{%if(message['role']=='assistant')}{%setrole='model'}{%else}{%setrole=message['role']}{%endif}"
             "{'<start_of_turn>'+role+'\n'+message['content']|trim+'<end_of_turn>\n'}{%endfor}"
             "{'<start_of_turn>model\n'}"},
    /* Gemma 2, shorter */
    {.kind = CHAT_GEMMA,
     .bos = CHAT_BOS_IN_FRONT,
     .no_system = true,
     .text = "{%ifmessages[0]['role']=='system'}{raise_exception('')}{%endif}{%formessageinmessages}"
             "{%if(message['role']=='user')!=(loop.index0%2==0)}{raise_exception('')}{%endif}"
             "{%setrole='model'ifmessage['role']=='assistant'elsemessage['role']}"
             "{'<start_of_turn>'+role+'\n'+message['content']|trim+'<end_of_turn>\n'}{%endfor}"
             "{'<start_of_turn>model\n'}"},
    /* Gemma 3 */
    {.kind = CHAT_GEMMA,
     .bos = CHAT_BOS_IN_FRONT,
     .text = "{%ifmessages[0]['role']=='system'}{%setfirst_user_prefix=messages[0]['content']+'\n\n'}"
             "{%setloop_messages=messages[1:]}{%else}{%setfirst_user_prefix=''}{%setloop_messages=messages}"
             "{%endif}{%formessageinloop_messages}{%if(message['role']=='user')!=(loop.index0%2==0)}"
             "{raise_exception('')}{%endif}{%if(message['role']=='assistant')}{%setrole='model'}{%else}"
             "{%setrole=message['role']}{%endif}"
             "{'<start_of_turn>'+role+'\n'+(first_user_prefixifloop.firstelse'')}{message['content']|trim}"
             "{'<end_of_turn>\n'}{%endfor}{'<start_of_turn>model\n'}"},
    /* Gemma 3, shorter */
    {.kind = CHAT_GEMMA,
     .bos = CHAT_BOS_IN_FRONT,
     .text = "{%setfirst_user_prefix=''}{%setturns=messages}{%ifmessages[0]['role']=='system'}"
             "{%setfirst_user_prefix=messages[0]['content']+'\n\n'}{%setturns=messages[1:]}{%endif}"
             "{%formessageinturns}{%if(message['role']=='user')!=(loop.index0%2==0)}{raise_exception('')}"
             "{%endif}{%setrole='model'ifmessage['role']=='assistant'elsemessage['role']}"
             "{'<start_of_turn>'+role+'\n'+(first_user_prefixifloop.firstelse'')}{message['content']|trim}"
             "{'<end_of_turn>\n'}{%endfor}{'<start_of_turn>model\n'}"},
    /* Llama 2 */
    {.kind = CHAT_LLAMA2,
     .bos = CHAT_BOS_NONE,
     .text = "{%ifmessages[0]['role']=='system'}{%setloop_messages=messages[1:]}"
             "{%setsystem_message=messages[0]['content']}{%else}{%setloop_messages=messages}"
             "{%setsystem_message=false}{%endif}{%formessageinloop_messages}"
             "{%if(message['role']=='user')!=(loop.index0%2==0)}{raise_exception('')}{%endif}"
             "{%ifloop.index0==0andsystem_message!=false}"
             "{%setcontent='<<SYS>>\n'+system_message+'\n<</SYS>>\n\n'+message['content']}{%else}"
             "{%setcontent=message['content']}{%endif}{%ifmessage['role']=='user'}"
             "{bos_token+'[INST] '+content.strip()+' [/INST]'}{%elifmessage['role']=='assistant'}"
             "{' '+content.strip()+' '+eos_token}{%endif}{%endfor}"},
    /* Llama 2, shorter */
    {.kind = CHAT_LLAMA2,
     .bos = CHAT_BOS_NONE,
     .text = "{%setturns=messages}{%setsystem_message=false}{%ifmessages[0]['role']=='system'}"
             "{%setturns=messages[1:]}{%setsystem_message=messages[0]['content']}{%endif}"
             "{%formessageinturns}{%if(message['role']=='user')!=(loop.index0%2==0)}{raise_exception('')}"
             "{%endif}{%setcontent=message['content']}{%ifloop.firstandsystem_message!=false}"
             "{%setcontent='<<SYS>>\n'+system_message+'\n<</SYS>>\n\n'+message['content']}{%endif}"
             "{%ifmessage['role']=='user'}{bos_token+'[INST] '+content.strip()+' [/INST]'}{%else}"
             "{' '+content.strip()+' '+eos_token}{%endif}{%endfor}"},
    /* Llama 3 */
    {.kind = CHAT_LLAMA3,
     .bos = CHAT_BOS_IN_TEXT,
     .text = "{%setloop_messages=messages}{%formessageinloop_messages}"
             "{%setcontent='<|start_header_id|>'+message['role']+'<|end_header_id|>\n\n'+message['content']|"
             "trim+'<|eot_id|>'}"
             "{%ifloop.index0==0}{%setcontent=bos_token+content}{%endif}{content}{%endfor}"
             "{'<|start_header_id|>assistant<|end_header_id|>\n\n'}"},
    /* Llama 3, shorter */
    {.kind = CHAT_LLAMA3,
     .bos = CHAT_BOS_IN_FRONT,
     .text = "{%formessageinmessages}"
             "{'<|start_header_id|>'+message['role']+'<|end_header_id|>\n\n'+message['content']|trim+'<|eot_"
             "id|>'}"
             "{%endfor}{'<|start_header_id|>assistant<|end_header_id|>\n\n'}"},
    /* Llama 3.1 to 3.3 */
    {.kind = CHAT_LLAMA3,
     .bos = CHAT_BOS_IN_FRONT,
     .dated_system = true,
     .text = "{%ifnottools_in_user_messageisdefined}{%settools_in_user_message=true}{%endif}"
             "{%ifnotdate_stringisdefined}{%setdate_string=''}{%endif}{%ifnottoolsisdefined}{%settools=none}"
             "{%endif}{%ifmessages[0]['role']=='system'}{%setsystem_message=messages[0]['content']|trim}"
             "{%setmessages=messages[1:]}{%else}{%setsystem_message=''}{%endif}"
             "{'<|start_header_id|>system<|end_header_id|>\n\n'}{'Cutting Knowledge Date: December 2023\n'}"
             "{'Today Date: '+date_string+'\n\n'}{system_message}{'<|eot_id|>'}{%formessageinmessages}"
             "{%ifnot(message['role']=='ipython'ormessage['role']=='tool'or'tool_calls'inmessage)}"
             "{'<|start_header_id|>'+message['role']+'<|end_header_id|>\n\n'+message['content']|trim+'<|eot_"
             "id|>'}"
             "{%endif}{%endfor}{'<|start_header_id|>assistant<|end_header_id|>\n\n'}"},
    /* Llama 3.1, shorter */
    {.kind = CHAT_LLAMA3,
     .bos = CHAT_BOS_IN_FRONT,
     .dated_system = true,
     .text = "{%ifnotdate_stringisdefined}{%setdate_string=''}{%endif}{%setsystem_message=''}"
             "{%ifmessages[0]['role']=='system'}{%setsystem_message=messages[0]['content']|trim}"
             "{%setmessages=messages[1:]}{%endif}{'<|start_header_id|>system<|end_header_id|>\n\n'}"
             "{'Cutting Knowledge Date: December 2023\n'}{'Today Date: '+date_string+'\n\n'}{system_message}"
             "{'<|eot_id|>'}{%formessageinmessages}"
             "{'<|start_header_id|>'+message['role']+'<|end_header_id|>\n\n'+message['content']|trim+'<|eot_"
             "id|>'}"
             "{%endfor}{'<|start_header_id|>assistant<|end_header_id|>\n\n'}"},
    {0}};
