/* skipstone tokenize: text to token ids and back. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "generate.h"
#include "json.h"

typedef struct tokenize_args {
  engine_options engine;
  const char *prompt, *file, *operand;
  bool ids, json, special, bos, detokenize;
} tokenize_args;

static parse_result parse(tokenize_args *a, int argc, char **argv) {
  const option options[] = {
      MODEL_OPTION(a->engine),
      {.name = "text",
       .letter = 'p',
       .text = &a->prompt,
       .argument = "TEXT",
       .help = "the text (default: standard input)"},
      {.name = "file",
       .letter = 'f',
       .text = &a->file,
       .argument = "FILE",
       .help = "the text from a file; -: standard input"},
      {.name = "special", .flag = &a->special, .help = "text like <|im_start|> becomes its special token"},
      {.name = "bos", .flag = &a->bos, .help = "the BOS token in front, where the model asks for it"},
      {.name = "ids", .flag = &a->ids, .help = "print the ids alone, on one line"},
      {.name = "detokenize",
       .letter = 'd',
       .flag = &a->detokenize,
       .help = "the text is token ids: print what they stand for\n(special tokens only with --special)"},
      {.name = "json", .flag = &a->json, .help = "print one JSON object"},
  };
  const command c = {
      .name = "tokenize",
      .usage = "-m MODEL [TEXT] [options]",
      .about =
          "Prints the token ids of a text and the text of each token. Only the beginning of the model file is\n"
          "read. --json prints {n, tokens, pieces}, with --detokenize {n, tokens, text}.",
      .examples =
          "  skipstone tokenize -m model.gguf 'Hello world'\n"
          "  skipstone tokenize -m model.gguf --ids < book.txt\n"
          "  skipstone tokenize -m model.gguf --special --json '<|im_start|>user'\n"
          "  skipstone tokenize -m model.gguf --detokenize '19556 905'",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = &a->operand,
      .max_operands = 1,
  };
  return options_parse(&c, argc, argv);
}

static int read_text(const tokenize_args *a, buffer *text) {
  ss_error err = {0};
  const int n_given = (a->prompt != NULL) + (a->file != NULL) + (a->operand != NULL);
  if (n_given > 1) {
    say("tokenize: more than one text");
    return CODE_USAGE;
  }
  const char *given = a->prompt ? a->prompt : a->operand;
  const char *path = a->file ? a->file : !given || !strcmp(given, "-") ? "-" : NULL;
  if (path) return read_all(text, path, &err) == SS_OK ? CODE_OK : report_failure(&err);
  buffer_add(text, given, strlen(given));
  return CODE_OK;
}

/* The raw bytes of a token, in piece. */
static ss_text token_text(const ss_tokenizer *tokenizer, int32_t token, buffer *piece) {
  piece->len = 0;
  const size_t n = ss_token_bytes(tokenizer, token, buffer_room(piece, 64), 64);
  if (n > 64) ss_token_bytes(tokenizer, token, buffer_room(piece, n), n);
  piece->len = n;
  return (ss_text){piece->data, n};
}

static void json_tokens(json *j, const token_list *tokens) {
  json_uint(j, "n", tokens->n);
  json_open(j, "tokens", '[');
  for (size_t i = 0; i < tokens->n; i++) json_int(j, NULL, tokens->items[i]);
  json_close(j);
}

static void print_tokens(const tokenize_args *a, const ss_tokenizer *tokenizer, const token_list *tokens) {
  buffer piece = {0};
  if (a->json) {
    json j = {.out = stdout};
    json_open(&j, NULL, '{');
    json_tokens(&j, tokens);
    if (!a->ids) {
      json_open(&j, "pieces", '[');
      for (size_t i = 0; i < tokens->n; i++) json_text(&j, NULL, token_text(tokenizer, tokens->items[i], &piece));
      json_close(&j);
    }
    json_done(&j);
  } else if (a->ids) {
    for (size_t i = 0; i < tokens->n; i++) printf("%s%d", i ? " " : "", tokens->items[i]);
    putchar('\n');
  } else {
    for (size_t i = 0; i < tokens->n; i++) {
      printf("%8d  ", tokens->items[i]);
      json_quote(stdout, token_text(tokenizer, tokens->items[i], &piece));
      putchar('\n');
    }
  }
  buffer_free(&piece);
}

/* Ids between anything that is no digit: "1 2 3", "[1,2,3]". */
static int parse_ids(token_list *out, ss_text text, uint32_t n_vocab) {
  for (size_t i = 0; i < text.len;) {
    const unsigned char c = (unsigned char)text.data[i];
    if (isspace(c) || c == ',' || c == '[' || c == ']') {
      i++;
      continue;
    }
    const size_t start = i;
    uint64_t id = 0;
    for (; i < text.len && isdigit((unsigned char)text.data[i]) && id < n_vocab; i++)
      id = id * 10 + (uint64_t)(text.data[i] - '0');
    if (i == start || id >= n_vocab || (i < text.len && isalpha((unsigned char)text.data[i]))) {
      say("tokenize: %.*s: want token ids from 0 to %u", (int)strcspn(text.data + start, " \t\r\n,]"),
          text.data + start, n_vocab - 1);
      return CODE_USAGE;
    }
    const int32_t token = (int32_t)id;
    token_list_add(out, &token, 1);
  }
  return CODE_OK;
}

static void print_text(const tokenize_args *a, const ss_tokenizer *tokenizer, const token_list *tokens) {
  ss_detokenizer state = {0};
  buffer text = {0}, piece = {0};
  buffer_add(&text, "", 0);
  for (size_t i = 0; i <= tokens->n; i++) {
    const int32_t token = i < tokens->n ? tokens->items[i] : -1;
    if (token >= 0 && ss_token_is_special(tokenizer, token)) {
      if (!a->special) continue;
      const ss_text name = token_text(tokenizer, token, &piece);
      buffer_add(&text, name.data, name.len);
      continue;
    }
    size_t room = 64, n;
    while ((n = ss_detokenize(&state, tokenizer, token, buffer_room(&text, room), room)) > room) room = n;
    text.len += n;
  }
  if (a->json) {
    json j = {.out = stdout};
    json_open(&j, NULL, '{');
    json_tokens(&j, tokens);
    json_text(&j, "text", buffer_text(&text));
    json_done(&j);
  } else {
    fwrite(text.data, 1, text.len, stdout);
    if (text.len == 0 || text.data[text.len - 1] != '\n') putchar('\n');
  }
  buffer_free(&piece);
  buffer_free(&text);
}

static int tokenize(tokenize_args *a, engine *e, buffer *text, token_list *tokens) {
  ss_error err = {0};
  int code = read_text(a, text);
  if (code == CODE_OK) code = engine_open(e, &a->engine);
  if (code == CODE_OK) code = engine_tokenizer(e);
  if (code != CODE_OK) return code;
  if (a->detokenize) {
    code = parse_ids(tokens, buffer_text(text), ss_tokenizer_n_vocab(e->tokenizer));
    if (code == CODE_OK) print_text(a, e->tokenizer, tokens);
    return code;
  }
  const uint32_t flags = (a->special ? SS_TOKENIZE_SPECIAL : 0) | (a->bos ? SS_TOKENIZE_BOS : 0);
  if (tokenize_text(tokens, e->tokenizer, buffer_text(text), flags, &err) != SS_OK) return report_failure(&err);
  print_tokens(a, e->tokenizer, tokens);
  return CODE_OK;
}

int cmd_tokenize(int argc, char **argv) {
  tokenize_args a = {.engine = {.header_only = true}};
  engine e = {0};
  buffer text = {0};
  token_list tokens = {0};
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) code = tokenize(&a, &e, &text, &tokens);
  engine_close(&e);
  token_list_free(&tokens);
  buffer_free(&text);
  return code;
}
