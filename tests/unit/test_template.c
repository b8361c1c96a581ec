/* Chat templates: what jinja2 renders for real templates, and what is refused. The expected texts were rendered by
 * jinja2 3.1 with trim_blocks and lstrip_blocks, as transformers does; Qwen's and Llama's templates are shortened by
 * their tool parts. */
#include <stdio.h>
#include <string.h>

#include "host.h"
#include "model/template.h"
#include "test.h"

#define MESSAGE(role, content) {{role, sizeof role - 1}, {content, sizeof content - 1}}

static const ss_chat_message plain[] = {MESSAGE("user", " Hi there \n"), MESSAGE("assistant", "Hello!"),
                                        MESSAGE("user", "Why?")};
static const ss_chat_message with_system[] = {MESSAGE("system", " Be brief. "), MESSAGE("user", "Hi")};

static const struct {
  const char *name, *source, *plain, *with_system; /* NULL: the template raises an error */
} known[] = {
    {"smollm2",
     "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_sta"
     "rt|>system\n"
     "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
     "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n"
     "' + message['content'] + '<|im_end|>' + '\n"
     "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
     "' }}{% endif %}",
     "<|im_start|>system\n"
     "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
     "<|im_start|>user\n"
     " Hi there \n"
     "<|im_end|>\n"
     "<|im_start|>assistant\n"
     "Hello!<|im_end|>\n"
     "<|im_start|>user\n"
     "Why?<|im_end|>\n"
     "<|im_start|>assistant\n",
     "<|im_start|>system\n"
     " Be brief. <|im_end|>\n"
     "<|im_start|>user\n"
     "Hi<|im_end|>\n"
     "<|im_start|>assistant\n"},
    {"chatml",
     "{% for message in messages %}{{\"<|im_start|>\" + message[\"role\"] + \"\\n\" + message[\"content\"] + \"<"
     "|im_end|>\" + \"\\n\"}}{% endfor %}{% if add_generation_prompt %}{{ \"<|im_start|>assistant\\n\" }}{% e"
     "ndif %}",
     "<|im_start|>user\n"
     " Hi there \n"
     "<|im_end|>\n"
     "<|im_start|>assistant\n"
     "Hello!<|im_end|>\n"
     "<|im_start|>user\n"
     "Why?<|im_end|>\n"
     "<|im_start|>assistant\n",
     "<|im_start|>system\n"
     " Be brief. <|im_end|>\n"
     "<|im_start|>user\n"
     "Hi<|im_end|>\n"
     "<|im_start|>assistant\n"},
    {"chatml_bos",
     "{{ bos_token }}{% for message in messages %}\n"
     "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}{% if a"
     "dd_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
     "<BOS><|im_start|>user\n"
     " Hi there \n"
     "<|im_end|>\n"
     "<|im_start|>assistant\n"
     "Hello!<|im_end|>\n"
     "<|im_start|>user\n"
     "Why?<|im_end|>\n"
     "<|im_start|>assistant\n",
     "<BOS><|im_start|>system\n"
     " Be brief. <|im_end|>\n"
     "<|im_start|>user\n"
     "Hi<|im_end|>\n"
     "<|im_start|>assistant\n"},
    {"qwen25",
     "{%- if tools %}\n"
     "    {{- '<|im_start|>system\\n' }}\n"
     "    {%- if messages[0]['role'] == 'system' %}\n"
     "        {{- messages[0]['content'] }}\n"
     "    {%- else %}\n"
     "        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}\n"
     "    {%- endif %}\n"
     "    {{- \"\\n\\n# Tools\\n\\n<tools>\" }}\n"
     "    {{- \"\\n</tools>\\n\\nreturn {\\\"name\\\": <function-name>}<|im_end|>\\n\" }}\n"
     "{%- else %}\n"
     "    {%- if messages[0]['role'] == 'system' %}\n"
     "        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
     "    {%- else %}\n"
     "        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assis"
     "tant.<|im_end|>\\n' }}\n"
     "    {%- endif %}\n"
     "{%- endif %}\n"
     "{%- for message in messages %}\n"
     "    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or (message"
     ".role == \"assistant\" and not message.tool_calls) %}\n"
     "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
     "    {%- elif message.role == \"assistant\" %}\n"
     "        {{- '<|im_start|>' + message.role }}\n"
     "    {%- endif %}\n"
     "{%- endfor %}\n"
     "{%- if add_generation_prompt %}\n"
     "    {{- '<|im_start|>assistant\\n' }}\n"
     "{%- endif %}\n",
     "<|im_start|>system\n"
     "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
     "<|im_start|>user\n"
     " Hi there \n"
     "<|im_end|>\n"
     "<|im_start|>assistant\n"
     "Hello!<|im_end|>\n"
     "<|im_start|>user\n"
     "Why?<|im_end|>\n"
     "<|im_start|>assistant\n",
     "<|im_start|>system\n"
     " Be brief. <|im_end|>\n"
     "<|im_start|>user\n"
     "Hi<|im_end|>\n"
     "<|im_start|>assistant\n"},
    {"llama3",
     "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_he"
     "ader_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>'"
     " %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% en"
     "dfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%"
     " endif %}",
     "<BOS><|start_header_id|>user<|end_header_id|>\n"
     "\n"
     "Hi there<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
     "\n"
     "Hello!<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
     "\n"
     "Why?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
     "\n",
     "<BOS><|start_header_id|>system<|end_header_id|>\n"
     "\n"
     "Be brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
     "\n"
     "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
     "\n"},
    {"llama31",
     "{{- bos_token }}\n"
     "{%- if not date_string is defined %}\n"
     "    {%- set date_string = \"26 Jul 2024\" %}\n"
     "{%- endif %}\n"
     "{%- if messages[0]['role'] == 'system' %}\n"
     "    {%- set system_message = messages[0]['content']|trim %}\n"
     "    {%- set messages = messages[1:] %}\n"
     "{%- else %}\n"
     "    {%- set system_message = \"\" %}\n"
     "{%- endif %}\n"
     "{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}\n"
     "{{- \"Cutting Knowledge Date: December 2023\\n\" }}\n"
     "{{- \"Today Date: \" + date_string + \"\\n\\n\" }}\n"
     "{{- system_message }}\n"
     "{{- \"<|eot_id|>\" }}\n"
     "{%- for message in messages %}\n"
     "    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) "
     "%}\n"
     "        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'"
     "] | trim + '<|eot_id|>' }}\n"
     "    {%- endif %}\n"
     "{%- endfor %}\n"
     "{%- if add_generation_prompt %}\n"
     "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n"
     "{%- endif %}\n",
     "<BOS><|start_header_id|>system<|end_header_id|>\n"
     "\n"
     "Cutting Knowledge Date: December 2023\n"
     "Today Date: 26 Jul 2024\n"
     "\n"
     "<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
     "\n"
     "Hi there<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
     "\n"
     "Hello!<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
     "\n"
     "Why?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
     "\n",
     "<BOS><|start_header_id|>system<|end_header_id|>\n"
     "\n"
     "Cutting Knowledge Date: December 2023\n"
     "Today Date: 26 Jul 2024\n"
     "\n"
     "Be brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
     "\n"
     "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
     "\n"},
    {"gemma2",
     "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not suppo"
     "rted') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.inde"
     "x0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assista"
     "nt/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %"
     "}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['conten"
     "t'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>mod"
     "el\\n'}}{% endif %}",
     "<BOS><start_of_turn>user\n"
     "Hi there<end_of_turn>\n"
     "<start_of_turn>model\n"
     "Hello!<end_of_turn>\n"
     "<start_of_turn>user\n"
     "Why?<end_of_turn>\n"
     "<start_of_turn>model\n",
     NULL},
    {"gemma3",
     "{{ bos_token }}\n"
     "{%- if messages[0]['role'] == 'system' -%}\n"
     "    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}\n"
     "    {%- set loop_messages = messages[1:] -%}\n"
     "{%- else -%}\n"
     "    {%- set first_user_prefix = \"\" -%}\n"
     "    {%- set loop_messages = messages -%}\n"
     "{%- endif -%}\n"
     "{%- for message in loop_messages -%}\n"
     "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n"
     "        {{ raise_exception(\"Conversation roles must alternate user/assistant/user/assistant/...\""
     ") }}\n"
     "    {%- endif -%}\n"
     "    {%- if (message['role'] == 'assistant') -%}\n"
     "        {%- set role = \"model\" -%}\n"
     "    {%- else -%}\n"
     "        {%- set role = message['role'] -%}\n"
     "    {%- endif -%}\n"
     "    {{ '<start_of_turn>' + role + '\n"
     "' + (first_user_prefix if loop.first else \"\") }}\n"
     "    {%- if message['content'] is string -%}\n"
     "        {{ message['content'] | trim }}\n"
     "    {%- endif -%}\n"
     "    {{ '<end_of_turn>\n"
     "' }}\n"
     "{%- endfor -%}\n"
     "{%- if add_generation_prompt -%}\n"
     "    {{'<start_of_turn>model\n"
     "'}}\n"
     "{%- endif -%}\n",
     "<BOS><start_of_turn>user\n"
     "Hi there<end_of_turn>\n"
     "<start_of_turn>model\n"
     "Hello!<end_of_turn>\n"
     "<start_of_turn>user\n"
     "Why?<end_of_turn>\n"
     "<start_of_turn>model\n",
     "<BOS><start_of_turn>user\n"
     " Be brief. \n"
     "\n"
     "Hi<end_of_turn>\n"
     "<start_of_turn>model\n"},
};

static ss_text text_of(const char *s) { return (ss_text){s, strlen(s)}; }

static ss_status render(const char *source, const ss_chat_message *messages, size_t n, bool prompt, char *out,
                        size_t capacity, size_t *len, ss_error *err) {
  return ss_template_format(text_of(source), text_of("<BOS>"), messages, n, prompt, &test_host, out, capacity, len,
                            err);
}

static void assert_renders(const char *name, const char *source, const ss_chat_message *messages, size_t n,
                           const char *want) {
  char out[4096];
  size_t len = 0;
  ss_error err = {0};
  const ss_status status = render(source, messages, n, true, out, sizeof out - 1, &len, &err);
  if (!want) {
    assert_int_equal(status, SS_E_ARGUMENT);
    return;
  }
  if (status) fail_msg("%s: %s", name, err.message);
  assert_true(len < sizeof out);
  out[len] = 0;
  if (strcmp(out, want)) fail_msg("%s: got\n%s\nwant\n%s", name, out, want);
}

static void test_known_templates_render_as_jinja_does(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    assert_renders(known[i].name, known[i].source, plain, 3, known[i].plain);
    assert_renders(known[i].name, known[i].source, with_system, 2, known[i].with_system);
  }
}

static void test_the_answer_is_opened_only_when_asked(void **state) {
  (void)state;
  char out[256];
  size_t len;
  ss_error err = {0};
  assert_int_equal(render(known[1].source, with_system, 2, false, out, sizeof out, &len, &err), SS_OK);
  assert_int_equal(len, strlen(known[1].with_system) - strlen("<|im_start|>assistant\n"));
  assert_memory_equal(out, known[1].with_system, len);
}

static void test_capacity_limits_what_is_written_not_what_is_counted(void **state) {
  (void)state;
  char out[8] = "........";
  size_t len;
  ss_error err = {0};
  assert_int_equal(render(known[1].source, with_system, 2, true, out, 4, &len, &err), SS_OK);
  assert_int_equal(len, strlen(known[1].with_system));
  assert_memory_equal(out, "<|im....", 8);
  assert_int_equal(render(known[1].source, with_system, 2, true, NULL, 0, &len, &err), SS_OK);
  assert_int_equal(len, strlen(known[1].with_system));
}

static void test_what_is_not_known_is_refused_by_name(void **state) {
  (void)state;
  static const struct {
    const char *source, *part;
  } cases[] = {
      {"", "of no known form"},
      {"{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}",
       "of no known form (\"{%forminmessages%}[INST]"},
      {"{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% if enable_thinking %}",
       "enable_thinking"},
      {"{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}",
       "without an opening of the answer"},
      {"{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{{ '<|im_start|>assistant\\n' }}"
       "{% if x %}{{ '<|im_start|>system\\nBe good.<|im_end|>\\n' }}",
       "under an unknown condition"},
      {"{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{{ '<|im_start|>assistant\\n' + bos_token }}",
       "BOS in an unknown place"},
      {"{{ '<|im_start|>", "of no known form"}, /* ends inside a string */
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char out[64];
    size_t len;
    ss_error err = {0};
    assert_int_equal(render(cases[i].source, plain, 3, true, out, sizeof out, &len, &err), SS_E_UNSUPPORTED);
    if (!strstr(err.message, cases[i].part)) fail_msg("case %zu: %s", i, err.message);
  }
}

static void test_messages_are_checked(void **state) {
  (void)state;
  static const ss_chat_message tool[] = {MESSAGE("user", "Hi"), MESSAGE("tool", "42")};
  size_t len;
  ss_error err = {0};
  assert_int_equal(render(known[1].source, tool, 2, true, NULL, 0, &len, &err), SS_E_ARGUMENT);
  assert_string_equal(err.message, "message 1: role \"tool\", want system, user or assistant");
  assert_int_equal(render(known[1].source, NULL, 0, true, NULL, 0, &len, &err), SS_E_ARGUMENT);
}

static void test_refused_memory_is_a_status(void **state) {
  (void)state;
  counting_memory memory = {.fail_at = 1};
  const ss_host host = counting_host(&memory);
  size_t len;
  ss_error err = {0};
  assert_int_equal(
      ss_template_format(text_of(known[0].source), text_of(""), plain, 3, true, &host, NULL, 0, &len, &err),
      SS_E_MEMORY);
  assert_int_equal(memory.n_live, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_known_templates_render_as_jinja_does),
      cmocka_unit_test(test_the_answer_is_opened_only_when_asked),
      cmocka_unit_test(test_capacity_limits_what_is_written_not_what_is_counted),
      cmocka_unit_test(test_what_is_not_known_is_refused_by_name),
      cmocka_unit_test(test_messages_are_checked),
      cmocka_unit_test(test_refused_memory_is_a_status),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
