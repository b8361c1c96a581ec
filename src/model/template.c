/* Chat templates that are known by what they contain. A GGUF carries its template as a Jinja program; instead of
 * running it, we recognise the expression at its heart and do what such templates do. What is not recognised for sure
 * is refused.
 *
 * Templates differ in spelling: quotes, blanks, m['role'] or m.role, "\n" or a real line break in a string. So the
 * source is first brought into one spelling (`squeeze`), and the patterns below are written in it. The forms:
 *
 *   ChatML, Qwen 2  <|im_start|>ROLE\nTEXT<|im_end|>\n
 *                   some put a system prompt of their own in front where the chat has none
 *   Llama 3         BOS, then <|start_header_id|>ROLE<|end_header_id|>\n\nTEXT<|eot_id|>
 *                   from 3.1 on with a system turn that tells dates
 *   Gemma           BOS, then <start_of_turn>user|model\nTEXT<end_of_turn>\n
 *                   a system text goes into the first user turn (Gemma 3) or is an error (Gemma 1 and 2)
 *
 * Like the templates, the text names BOS itself: tokenize it without SS_TOKENIZE_BOS. */
#include "model/template.h"

#include "model/model.h"

#define NAME(literal) {literal, sizeof literal - 1}
#define TEXT(literal) ((ss_text)NAME(literal))

typedef enum form { CHATML, LLAMA3, GEMMA } form;

static const struct {
  ss_text heart; /* in squeezed spelling */
  form form;
} hearts[] = {
    {NAME("'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>'+'\n'"), CHATML},
    {NAME("'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>\n'"), CHATML},
    {NAME("'<|start_header_id|>'+message.role+'<|end_header_id|>\n\n'+message.content|trim+'<|eot_id|>'"), LLAMA3},
    {NAME("'<start_of_turn>'+role+'\n'+message.content|trim+'<end_of_turn>\n'"), GEMMA},
    {NAME("'<start_of_turn>'+role+'\n'+(first_user_prefixifloop.firstelse'')"), GEMMA},
};

/* What a known heart does not speak for: reasoning that is cut from earlier answers. */
static const ss_text strange[] = {NAME("<think>"), NAME("enable_thinking"), NAME("reasoning_content")};

static bool find(ss_text text, ss_text pattern, size_t *at) {
  for (size_t i = 0; pattern.len <= text.len && i <= text.len - pattern.len; i++)
    if (!memcmp(text.data + i, pattern.data, pattern.len)) {
      *at = i;
      return true;
    }
  return false;
}

static bool has_text(ss_text text, ss_text pattern) {
  size_t at;
  return find(text, pattern, &at);
}
#define has(text, literal) has_text(text, TEXT(literal))

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* Brings Jinja source into one spelling: no blanks outside strings, strings in single quotes with their escapes
 * resolved, x['y'] as x.y. Writes at most source.len bytes. */
static ss_text squeeze(ss_text source, char *out) {
  size_t n = 0;
  char quote = 0; /* that opened the string we are in */
  bool in_tag = false;
  for (size_t i = 0; i < source.len; i++) {
    const char c = source.data[i], next = i + 1 < source.len ? source.data[i + 1] : 0;
    if (quote) {
      if (c == quote) {
        out[n++] = '\'';
        quote = 0;
      } else if (c == '\\' && next) {
        out[n++] = next == 'n' ? '\n' : next == 't' ? '\t' : next;
        i++;
      } else {
        out[n++] = c;
      }
    } else if (in_tag && c == '[' && (next == '\'' || next == '"')) { /* x['name'] */
      size_t end = i + 2;
      while (end < source.len && source.data[end] != next && !is_space(source.data[end])) end++;
      if (end + 1 < source.len && source.data[end] == next && source.data[end + 1] == ']') {
        out[n++] = '.';
        memcpy(out + n, source.data + i + 2, end - i - 2);
        n += end - i - 2;
        i = end + 1;
      } else {
        out[n++] = c;
      }
    } else if (in_tag && (c == '\'' || c == '"')) {
      out[n++] = '\'';
      quote = c;
    } else if (!is_space(c)) {
      if (c == '{' && (next == '{' || next == '%')) in_tag = true;
      if (c == '}') in_tag = false;
      out[n++] = c;
    }
  }
  return (ss_text){out, n};
}

/* The system prompt that a ChatML template brings along: a string '<|im_start|>system\nPROMPT<|im_end|>\n'. */
static bool find_default_system(ss_text squeezed, ss_text *prompt) {
  const ss_text opening = TEXT("'<|im_start|>system\n"), closing = TEXT("<|im_end|>\n'");
  ss_text rest = squeezed;
  size_t at, end;
  while (find(rest, opening, &at)) {
    rest = (ss_text){rest.data + at + opening.len, rest.len - at - opening.len};
    if (rest.len && rest.data[0] != '\'' && find(rest, closing, &end)) {
      *prompt = (ss_text){rest.data, end};
      return true;
    }
  }
  return false;
}

/* ---- writing ---- */

typedef struct writer {
  char *text;
  size_t capacity, len;
} writer;

static void put(writer *w, ss_text text) {
  for (size_t i = 0; i < text.len; i++, w->len++)
    if (w->len < w->capacity) w->text[w->len] = text.data[i];
}

static ss_text trim(ss_text text) {
  while (text.len && is_space(text.data[0])) text = (ss_text){text.data + 1, text.len - 1};
  while (text.len && is_space(text.data[text.len - 1])) text.len--;
  return text;
}

static bool is_role_text(const ss_chat_message *m, ss_text role) {
  return m->role.len == role.len && !memcmp(m->role.data, role.data, role.len);
}
#define is_role(message, literal) is_role_text(message, TEXT(literal))

static void chatml_turn(writer *w, ss_text role, ss_text content) {
  put(w, TEXT("<|im_start|>"));
  put(w, role);
  put(w, TEXT("\n"));
  put(w, content);
  put(w, TEXT("<|im_end|>\n"));
}

static ss_status write_chatml(writer *w, ss_text squeezed, ss_text bos, const ss_chat_message *messages, size_t n,
                              bool prompt, ss_error *err) {
  ss_text system;
  if (has(squeezed, "strftime_now") || !has(squeezed, "'<|im_start|>assistant\n'"))
    return ss_fail(err, SS_E_UNSUPPORTED, "chat template: ChatML with a date or without an opening of the answer");
  if (has(squeezed, "{{bos_token}}") || has(squeezed, "{{-bos_token}}")) put(w, bos);
  else if (has(squeezed, "bos_token"))
    return ss_fail(err, SS_E_UNSUPPORTED, "chat template: ChatML with BOS in an unknown place");
  if (find_default_system(squeezed, &system) && !is_role(&messages[0], "system")) {
    if (!has(squeezed, "messages[0].role!='system'") && !has(squeezed, "messages[0].role=='system'"))
      return ss_fail(err, SS_E_UNSUPPORTED, "chat template: ChatML with a system prompt under an unknown condition");
    chatml_turn(w, TEXT("system"), system);
  }
  for (size_t i = 0; i < n; i++) chatml_turn(w, messages[i].role, messages[i].content);
  if (prompt) put(w, TEXT("<|im_start|>assistant\n"));
  return SS_OK;
}

static void llama3_open(writer *w, ss_text role) {
  put(w, TEXT("<|start_header_id|>"));
  put(w, role);
  put(w, TEXT("<|end_header_id|>\n\n"));
}

static void write_llama3(writer *w, ss_text squeezed, ss_text bos, const ss_chat_message *messages, size_t n,
                         bool prompt) {
  size_t i = 0;
  put(w, bos);
  if (has(squeezed, "Cutting Knowledge Date: December 2023\n")) {
    /* the template's own date for renderers without a clock, which the core is */
    llama3_open(w, TEXT("system"));
    put(w, TEXT("Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"));
    if (is_role(&messages[0], "system")) put(w, trim(messages[i++].content));
    put(w, TEXT("<|eot_id|>"));
  }
  for (; i < n; i++) {
    llama3_open(w, messages[i].role);
    put(w, trim(messages[i].content));
    put(w, TEXT("<|eot_id|>"));
  }
  if (prompt) llama3_open(w, TEXT("assistant"));
}

static ss_status write_gemma(writer *w, ss_text squeezed, ss_text bos, const ss_chat_message *messages, size_t n,
                             bool prompt, ss_error *err) {
  ss_text system = {0};
  size_t first = 0;
  put(w, bos);
  if (is_role(&messages[0], "system")) {
    if (!has(squeezed, "first_user_prefix"))
      return ss_fail(err, SS_E_ARGUMENT, "chat template: this Gemma has no system role, message 0 is one");
    system = messages[0].content;
    first = 1;
  }
  for (size_t i = first; i < n; i++) {
    const bool user = is_role(&messages[i], "user");
    if (user != ((i - first) % 2 == 0))
      return ss_fail(err, SS_E_ARGUMENT, "chat template: Gemma wants user and assistant in turn, message %zu is %.*s",
                     i, (int)ss_min(messages[i].role.len, 40), messages[i].role.data);
    put(w, TEXT("<start_of_turn>"));
    put(w, user ? TEXT("user") : TEXT("model"));
    put(w, TEXT("\n"));
    if (i == first && first) {
      put(w, system);
      put(w, TEXT("\n\n"));
    }
    put(w, trim(messages[i].content));
    put(w, TEXT("<end_of_turn>\n"));
  }
  if (prompt) put(w, TEXT("<start_of_turn>model\n"));
  return SS_OK;
}

/* ---- the whole ---- */

static ss_status find_form(ss_text squeezed, form *out, ss_error *err) {
  for (size_t i = 0; i < sizeof strange / sizeof strange[0]; i++)
    if (has_text(squeezed, strange[i]))
      return ss_fail(err, SS_E_UNSUPPORTED, "chat template: uses %s, want ChatML, Llama 3, Gemma or Qwen 2",
                     strange[i].data);
  size_t at;
  for (size_t i = 0; i < sizeof hearts / sizeof hearts[0]; i++)
    if (find(squeezed, hearts[i].heart, &at)) {
      *out = hearts[i].form;
      return SS_OK;
    }
  return ss_fail(err, SS_E_UNSUPPORTED,
                 "chat template: of no known form (\"%.*s...\"), want ChatML, Llama 3, Gemma or Qwen 2",
                 (int)ss_min(squeezed.len, 60), squeezed.data);
}

ss_status ss_template_format(ss_text source, ss_text bos, const ss_chat_message *messages, size_t n_messages,
                             bool add_generation_prompt, const ss_host *host, char *text, size_t capacity, size_t *len,
                             ss_error *err) {
  *len = 0;
  if (!n_messages) return ss_fail(err, SS_E_ARGUMENT, "chat template: no messages");
  for (size_t i = 0; i < n_messages; i++)
    if (!is_role(&messages[i], "system") && !is_role(&messages[i], "user") && !is_role(&messages[i], "assistant"))
      return ss_fail(err, SS_E_ARGUMENT, "message %zu: role \"%.*s\", want system, user or assistant", i,
                     (int)ss_min(messages[i].role.len, 40), messages[i].role.data);
  char *memory = ss_host_alloc(host, source.len + 1);
  if (!memory) return ss_fail(err, SS_E_MEMORY, "chat template: no memory for %zu bytes", source.len + 1);
  const ss_text squeezed = squeeze(source, memory);
  form found = CHATML;
  writer w = {text, text ? capacity : 0, 0};
  ss_status status = find_form(squeezed, &found, err);
  if (!status) {
    switch (found) {
      case CHATML: status = write_chatml(&w, squeezed, bos, messages, n_messages, add_generation_prompt, err); break;
      case LLAMA3: write_llama3(&w, squeezed, bos, messages, n_messages, add_generation_prompt); break;
      case GEMMA: status = write_gemma(&w, squeezed, bos, messages, n_messages, add_generation_prompt, err); break;
    }
  }
  ss_host_free(host, memory, source.len + 1);
  if (!status) *len = w.len;
  return status;
}

ss_status ss_chat_format(const ss_model *model, const ss_chat_message *messages, size_t n_messages,
                         bool add_generation_prompt, char *text, size_t capacity, size_t *len, ss_error *err) {
  *len = 0;
  ss_meta source, id, bos = {0};
  if (!ss_model_header_done(model))
    return ss_fail(err, SS_E_STATE, "chat template: the model's header is not complete yet");
  if (!ss_model_meta(model, "tokenizer.chat_template", &source) || source.type != SS_META_STRING)
    return ss_fail(err, SS_E_UNSUPPORTED, "tokenizer.chat_template: missing, the model is no chat model");
  if (ss_model_meta(model, "tokenizer.ggml.bos_token_id", &id) &&
      (!ss_model_meta_element(model, "tokenizer.ggml.tokens", id.u, &bos) || bos.type != SS_META_STRING))
    bos = (ss_meta){0};
  return ss_template_format(source.text, bos.text, messages, n_messages, add_generation_prompt, &model->host, text,
                            capacity, len, err);
}
