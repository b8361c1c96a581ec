/* The tokenizer: against Hugging Face (tests/golden/make_tokens.py) with the real vocabulary, and on a small one. */
#include <stdio.h>
#include <string.h>

#include "host.h"
#include "model/pretokenize.h"
#include "model/tokenizer.h"
#include "model/unicode.h"
#include "test.h"

#define MODEL "models/SmolLM2-135M-Instruct.Q4_1.gguf"

static ss_text text_of(const char *s) { return (ss_text){s, strlen(s)}; }

/* ---- a small vocabulary ---- */

/* GGUF's encoding of an array of strings. */
typedef struct strings {
  uint8_t data[16384];
  size_t len;
  uint64_t n;
} strings;

static void add_string(strings *s, const char *text) {
  const uint64_t n = strlen(text);
  memcpy(s->data + s->len, &n, 8);
  memcpy(s->data + s->len + 8, text, n);
  s->len += 8 + n;
  s->n++;
}
static ss_gguf_iter iter_of(const strings *s) {
  return (ss_gguf_iter){.at = s->data, .left = s->n, .element = SS_META_STRING};
}

typedef struct small {
  strings tokens, merges;
  int32_t types[512];
  ss_vocab vocab;
} small;

static int32_t add_typed(small *s, const char *text, int32_t type) {
  s->types[s->tokens.n] = type;
  add_string(&s->tokens, text);
  return (int32_t)s->tokens.n - 1;
}

enum { ID_EOT = 256, ID_TOOL, ID_LONGER, ID_FIRST_MERGED }; /* ids 0..255 are the bytes */

static small *small_vocab(const char *pre) {
  small *s = calloc(1, sizeof *s);
  assert_non_null(s);
  for (int b = 0; b < 256; b++) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const int code = printable ? b : b < 33 ? 256 + b : b < 161 ? 289 + b - 127 : 323;
    char text[5] = {0};
    ss_utf8_put((uint8_t *)text, (uint32_t)code);
    add_typed(s, text, 1);
  }
  add_typed(s, "<|im_end|>", 3);
  add_typed(s, "<tool>", 4);
  add_typed(s, "<|im_end|>>", 3);
  static const char *const merges[][2] = {{"a", "a"}, {"aa", "aa"}, {"Ġ", "a"}, {"b", "c"}, {"a", "bc"}};
  for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
    char joined[32];
    snprintf(joined, sizeof joined, "%s%s", merges[i][0], merges[i][1]);
    add_typed(s, joined, 1);
    snprintf(joined, sizeof joined, "%s %s", merges[i][0], merges[i][1]);
    add_string(&s->merges, joined);
  }
  add_typed(s, "xyz", 1); /* no merge leads here */
  s->vocab = (ss_vocab){.pre = text_of(pre),
                        .tokens = iter_of(&s->tokens),
                        .merges = iter_of(&s->merges),
                        .types = {.at = (const uint8_t *)s->types, .left = s->tokens.n, .element = SS_META_I32},
                        .special = {.bos = 'B', .eos = -1, .eot = -1, .unknown = -1, .pad = -1, .add_bos = true}};
  return s;
}

static ss_tokenizer *small_tokenizer(const char *pre) {
  small *s = small_vocab(pre);
  ss_tokenizer *t = NULL;
  ss_error err = {0};
  if (ss_tokenizer_build(&t, &s->vocab, &test_host, &err)) fail_msg("%s", err.message);
  free(s);
  return t;
}

static size_t ids_of(const ss_tokenizer *t, ss_text text, uint32_t flags, int32_t *ids, size_t capacity) {
  size_t n = 0;
  ss_error err = {0};
  if (ss_tokenize(t, text, flags, ids, capacity, &n, &err)) fail_msg("%s", err.message);
  return n;
}

#define ASSERT_IDS(t, text, flags, ...)                                                        \
  do {                                                                                         \
    const int32_t want_[] = {__VA_ARGS__};                                                     \
    int32_t got_[64] = {0};                                                                    \
    assert_int_equal(ids_of(t, text_of(text), flags, got_, 64), sizeof want_ / sizeof *want_); \
    assert_memory_equal(got_, want_, sizeof want_);                                            \
  } while (0)

static void test_merges_go_by_rank_then_from_the_left(void **state) {
  (void)state;
  ss_tokenizer *t = small_tokenizer("gpt-2");
  enum { AA = ID_FIRST_MERGED, AAAA, SPACE_A, BC, ABC };
  ASSERT_IDS(t, "aaa", 0, AA, 'a');
  ASSERT_IDS(t, "aaaaa", 0, AAAA, 'a');
  ASSERT_IDS(t, " aa", 0, ' ', AA); /* "a a" ranks before "Ġ a" */
  ASSERT_IDS(t, " abc", 0, SPACE_A, BC);
  ASSERT_IDS(t, "abc", 0, ABC);
  ASSERT_IDS(t, "xyz", 0, 'x', 'y', 'z');
  ss_tokenizer_free(t);
}

static void test_llama_takes_a_whole_word_of_the_vocabulary(void **state) {
  (void)state;
  ss_tokenizer *t = small_tokenizer("llama-bpe");
  ASSERT_IDS(t, "xyz", 0, ID_FIRST_MERGED + 5);
  ss_tokenizer_free(t);
}

static void test_special_tokens_are_matched_longest_first_and_only_when_asked(void **state) {
  (void)state;
  ss_tokenizer *t = small_tokenizer("gpt-2");
  ASSERT_IDS(t, "b<|im_end|>>c", SS_TOKENIZE_SPECIAL, 'b', ID_LONGER, 'c');
  ASSERT_IDS(t, "<|im_end|><|im_end|", SS_TOKENIZE_SPECIAL, ID_EOT, '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|');
  ASSERT_IDS(t, "<<|im_end|>", SS_TOKENIZE_SPECIAL, '<', ID_EOT);
  ASSERT_IDS(t, "<|im_end|>", SS_TOKENIZE_PLAIN, '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>');
  ASSERT_IDS(t, "<tool>", SS_TOKENIZE_PLAIN, ID_TOOL); /* user defined: always */
  ss_tokenizer_free(t);
}

static void test_bos_comes_first_where_the_model_wants_it(void **state) {
  (void)state;
  ss_tokenizer *t = small_tokenizer("gpt-2");
  ASSERT_IDS(t, "c", SS_TOKENIZE_BOS, 'B', 'c');
  ASSERT_IDS(t, "", SS_TOKENIZE_BOS, 'B');
  assert_int_equal(ids_of(t, (ss_text){NULL, 0}, 0, NULL, 0), 0);
  ss_tokenizer_free(t);
}

static void test_special_ids_are_found_by_name(void **state) {
  (void)state;
  ss_tokenizer *t = small_tokenizer("smollm");
  assert_int_equal(ss_tokenizer_special(t).eot, ID_EOT);
  assert_true(ss_token_is_end(t, ID_EOT) && ss_token_is_special(t, ID_EOT));
  assert_false(ss_token_is_end(t, ID_TOOL) || ss_token_is_special(t, ID_TOOL));
  assert_false(ss_token_is_end(t, -1) || ss_token_is_end(t, 100000) || ss_token_is_special(t, 100000));
  ss_tokenizer_free(t);
}

static void test_capacity_limits_what_is_written_not_what_is_counted(void **state) {
  (void)state;
  ss_tokenizer *t = small_tokenizer("gpt-2");
  int32_t ids[3] = {-7, -7, -7};
  assert_int_equal(ids_of(t, text_of("b!c?d"), 0, ids, 2), 5);
  assert_int_equal(ids[1], '!');
  assert_int_equal(ids[2], -7);
  char bytes[2] = {0};
  assert_int_equal(ss_token_bytes(t, ID_EOT, bytes, 2), 10);
  assert_memory_equal(bytes, "<|", 2);
  assert_int_equal(ss_token_bytes(t, -1, bytes, 2), 0);
  assert_int_equal(ss_token_bytes(t, 100000, bytes, 2), 0);
  ss_tokenizer_free(t);
}

static void test_detokenizer_hands_out_whole_characters_only(void **state) {
  (void)state;
  ss_tokenizer *t = small_tokenizer("gpt-2");
  ss_detokenizer d = {0};
  char out[16];
  assert_int_equal(ss_detokenize(&d, t, 0xe2, out, sizeof out), 0);
  assert_int_equal(ss_detokenize(&d, t, 0x82, out, sizeof out), 0);
  assert_int_equal(ss_detokenize(&d, t, ID_EOT, out, sizeof out), 0); /* special: no text, and the tail stays */
  assert_int_equal(ss_detokenize(&d, t, 0xac, out, 2), 3); /* too little room: nothing was consumed */
  assert_int_equal(ss_detokenize(&d, t, 0xac, out, sizeof out), 3);
  assert_memory_equal(out, "€", 3);
  assert_int_equal(ss_detokenize(&d, t, 0xf0, out, sizeof out), 0);
  assert_int_equal(ss_detokenize(&d, t, ID_FIRST_MERGED, out, sizeof out), 5);
  assert_memory_equal(out,
                      "\xef\xbf\xbd"
                      "aa",
                      5);
  assert_int_equal(ss_detokenize(&d, t, 0xf0, out, sizeof out), 0);
  assert_int_equal(ss_detokenize(&d, t, -1, out, sizeof out), 3);
  assert_int_equal(ss_detokenize(&d, t, -1, out, sizeof out), 0);
  ss_tokenizer_free(t);
}

static void test_create_fails_cleanly_on_each_refused_allocation(void **state) {
  (void)state;
  small *s = small_vocab("qwen2");
  for (size_t fail_at = 1;; fail_at++) {
    counting_memory memory = {.fail_at = fail_at};
    const ss_host host = counting_host(&memory);
    ss_tokenizer *t = NULL;
    ss_error err = {0};
    ss_status status = ss_tokenizer_build(&t, &s->vocab, &host, &err);
    if (!status) { /* text that needs every kind of working memory: repaired, normalised, a long word */
      size_t n;
      const char *text = "e\xcc\x81\xff aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
      status = ss_tokenize(t, text_of(text), 0, NULL, 0, &n, &err);
      ss_tokenizer_free(t);
    } else {
      assert_null(t);
    }
    assert_int_equal(memory.n_live, 0);
    assert_int_equal(memory.bytes_live, 0);
    if (memory.n_allocs < fail_at) {
      assert_int_equal(status, SS_OK);
      break;
    }
    assert_int_equal(status, SS_E_MEMORY);
    assert_true(strlen(err.message) > 0);
  }
  free(s);
}

static void test_create_names_what_is_wrong(void **state) {
  (void)state;
  static const struct {
    const char *what, *part;
    ss_status status;
  } cases[] = {{"pre", "\"deepseek\", want smollm, gpt-2, llama-bpe or qwen2", SS_E_UNSUPPORTED},
               {"half", "element 5 is \"alone\", want two tokens", SS_E_FORMAT},
               {"left", "element 5 is \"qq a\", and its left part is no token", SS_E_FORMAT},
               {"result", "element 5 is \"q a\", and the result is no token", SS_E_FORMAT},
               {"types", "token_type: 3 elements, want one for each", SS_E_FORMAT},
               {"bos", "bos_token_id: 100000, want less than", SS_E_FORMAT},
               {"empty", "0 tokens", SS_E_FORMAT}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *what = cases[i].what;
    small *s = small_vocab("gpt-2");
    if (!strcmp(what, "pre")) s->vocab.pre = text_of("deepseek");
    if (!strcmp(what, "half")) add_string(&s->merges, "alone");
    if (!strcmp(what, "left")) add_string(&s->merges, "qq a");
    if (!strcmp(what, "result")) add_string(&s->merges, "q a");
    if (!strcmp(what, "types")) s->vocab.types.left = 3;
    if (!strcmp(what, "bos")) s->vocab.special.bos = 100000;
    s->vocab.merges = iter_of(&s->merges);
    if (!strcmp(what, "empty")) s->vocab.tokens.left = 0;
    ss_tokenizer *t = NULL;
    ss_error err = {0};
    assert_int_equal(ss_tokenizer_build(&t, &s->vocab, &test_host, &err), cases[i].status);
    assert_null(t);
    if (!strstr(err.message, cases[i].part)) fail_msg("%s: %s", what, err.message);
    free(s);
  }
}

static void test_a_megabyte_of_one_letter_is_one_long_word(void **state) {
  (void)state;
  const size_t n = 1 << 20;
  char *text = malloc(n);
  assert_non_null(text);
  memset(text, 'a', n);
  for (size_t i = 0; i < 4; i++) {
    ss_tokenizer *t = small_tokenizer((const char *[]){"smollm", "gpt-2", "llama-bpe", "qwen2"}[i]);
    assert_int_equal(ids_of(t, (ss_text){text, n}, 0, NULL, 0), n / 4);
    assert_int_equal(ids_of(t, (ss_text){text, n - 1}, 0, NULL, 0), n / 4 - 1 + 2); /* ... aa a */
    ss_tokenizer_free(t);
  }
  free(text);
}

static void test_words_cover_the_text_without_gaps(void **state) {
  (void)state;
  static const char text[] = "It's 1234\r\n\r\n  caf\xc3\xa9 \xe3\x80\x80\xd9\xa3\xd9\xa4 'LL \t x";
  for (ss_pretokenizer form = SS_PRE_GPT2; form <= SS_PRE_QWEN2; form++)
    for (size_t at = 0, n = sizeof text - 1; at < n;) {
      const size_t end = ss_pretoken_end(form, (const uint8_t *)text, n, at);
      assert_true(end > at && end <= n);
      at = end;
    }
}

/* ---- the real vocabulary ---- */

static char *read_file(const char *path, size_t *n) {
  FILE *f = fopen(path, "rb");
  if (!f) return NULL;
  fseek(f, 0, SEEK_END);
  *n = (size_t)ftell(f);
  rewind(f);
  char *data = malloc(*n + 1);
  if (data && fread(data, 1, *n, f) != *n) *n = 0;
  if (data) data[*n] = 0;
  fclose(f);
  return data;
}

/* Reads the model's header alone; false: there is no model. */
static bool open_header(ss_gguf *gguf) {
  FILE *f = fopen(MODEL, "rb");
  if (!f) return false;
  static char piece[1 << 16];
  ss_gguf_open(gguf, &test_host);
  ss_error err = {0};
  ss_status status = SS_MORE;
  size_t n, used;
  while (status == SS_MORE && (n = fread(piece, 1, sizeof piece, f)) > 0)
    status = ss_gguf_feed(gguf, piece, n, &used, &err);
  fclose(f);
  if (status) fail_msg("%s", err.message);
  return true;
}

static ss_tokenizer *tokenizer_of(const ss_gguf *gguf, const char *pre) {
  ss_vocab vocab = {.pre = text_of(pre), .special = {.bos = 1, .eos = 2, .eot = -1, .unknown = 0, .pad = 2}};
  assert_true(ss_gguf_array(gguf, "tokenizer.ggml.tokens", &vocab.tokens));
  assert_true(ss_gguf_array(gguf, "tokenizer.ggml.merges", &vocab.merges));
  assert_true(ss_gguf_array(gguf, "tokenizer.ggml.token_type", &vocab.types));
  ss_tokenizer *t = NULL;
  ss_error err = {0};
  if (ss_tokenizer_build(&t, &vocab, &test_host, &err)) fail_msg("%s", err.message);
  return t;
}

/* Undoes make_tokens.py's escape(), in place. */
static size_t unescape(char *line) {
  static const char hex[] = "0123456789abcdef";
  size_t n = 0;
  for (const char *p = line; *p; p++) {
    if (*p != '\\') line[n++] = *p;
    else if (*++p == 'x') {
      line[n++] = (char)((strchr(hex, p[1]) - hex) << 4 | (strchr(hex, p[2]) - hex));
      p += 2;
    } else line[n++] = *p == 'n' ? '\n' : *p == 'r' ? '\r' : *p == 't' ? '\t' : '\\';
  }
  return n;
}

typedef struct field {
  size_t n;
  uint64_t hash;
} field;

static field next_field(char **p) {
  field f;
  f.n = strtoull(*p, p, 10);
  f.hash = strtoull(*p + 1, p, 16);
  return f;
}

/* The test below also plants an error for it to see. */
static bool ids_agree(const int32_t *ids, size_t n, field expected) {
  return n == expected.n && ss_fnv1a(SS_FNV_START, ids, n * sizeof *ids) == expected.hash;
}

static void test_ids_and_text_are_those_of_hugging_face(void **state) {
  (void)state;
  ss_gguf gguf;
  if (!open_header(&gguf)) skip();
  static const char *const pres[] = {"smollm", "gpt-2", "llama-bpe", "qwen2"};
  ss_tokenizer *tokenizers[4];
  for (size_t i = 0; i < 4; i++) tokenizers[i] = tokenizer_of(&gguf, pres[i]);
  ss_gguf_close(&gguf); /* a tokenizer made by ss_tokenizer_build borrows nothing */
  size_t n_corpus, n_golden;
  char *corpus = read_file("tests/golden/tokens.txt", &n_corpus),
       *golden = read_file("tests/golden/tokens.ids", &n_golden);
  assert_non_null(corpus);
  assert_non_null(golden);

  enum { CAPACITY = 1 << 16 };
  static int32_t ids[CAPACITY];
  static char decoded[CAPACITY];
  size_t n_lines = 0, n_bad = 0;
  char *line = corpus, *g = golden;
  while (*line) {
    char *end = strchr(line, '\n');
    *end = 0;
    const ss_text text = {line, unescape(line)};
    line = end + 1;
    n_lines++;
    size_t n;
    for (size_t i = 0; i < 5; i++) { /* the fifth: smollm without special tokens */
      const field expected = next_field(&g);
      n = ids_of(tokenizers[i % 4], text, i < 4 ? SS_TOKENIZE_SPECIAL : SS_TOKENIZE_PLAIN, ids, CAPACITY);
      assert_true(n <= CAPACITY);
      if (!ids_agree(ids, n, expected)) {
        print_error("line %zu, %s%s: %zu ids, want %zu\n", n_lines, pres[i % 4], i < 4 ? "" : " plain", n, expected.n);
        n_bad++;
      }
      assert_false(ids_agree(ids, n, (field){expected.n, expected.hash ^ 1}));
    }
    const field expected = next_field(&g);
    n = ids_of(tokenizers[0], text, SS_TOKENIZE_SPECIAL, ids, CAPACITY);
    ss_detokenizer d = {0};
    size_t len = 0;
    for (size_t i = 0; i <= n; i++)
      len += ss_detokenize(&d, tokenizers[0], i < n ? ids[i] : -1, decoded + len, CAPACITY - len);
    if (len != expected.n || ss_fnv1a(SS_FNV_START, decoded, len) != expected.hash) {
      print_error("line %zu: %zu bytes of text, want %zu\n", n_lines, len, expected.n);
      n_bad++;
    }
    for (size_t i = 0; *g == ' '; i++) { /* the first lines list the ids themselves */
      const long want = strtol(g, &g, 10);
      if (i < n && ids[i] == want) continue;
      print_error("line %zu: id %zu is %d, want %ld\n", n_lines, i, i < n ? (int)ids[i] : -1, want);
      n_bad++;
    }
    if (*g == '\n') g++;
  }
  assert_true(n_lines >= 5000);
  assert_int_equal(n_bad, 0);
  free(corpus);
  free(golden);
  for (size_t i = 0; i < 4; i++) ss_tokenizer_free(tokenizers[i]);
}

static void test_create_and_chat_format_read_the_model_s_metadata(void **state) {
  (void)state;
  FILE *f = fopen(MODEL, "rb");
  if (!f) skip();
  ss_model *model = NULL;
  ss_tokenizer *t = NULL;
  ss_error err = {0};
  static char piece[1 << 16];
  assert_int_equal(ss_model_create(&model, &test_host, NULL, &err), SS_OK);
  assert_int_equal(ss_tokenizer_create(&t, model, &test_host, &err), SS_E_STATE);
  size_t n, len;
  uint64_t offset = 0;
  while (!ss_model_header_done(model) && (n = fread(piece, 1, sizeof piece, f)) > 0) {
    if (ss_model_feed(model, offset, piece, n, &err) < 0) fail_msg("%s", err.message);
    offset += n;
  }
  fclose(f);
  if (ss_tokenizer_create(&t, model, &test_host, &err)) fail_msg("%s", err.message);
  assert_int_equal(ss_tokenizer_n_vocab(t), 49152);
  const ss_special_tokens special = ss_tokenizer_special(t);
  assert_true(special.bos == 1 && special.eos == 2 && special.eot == 2 && special.unknown == 0 && special.pad == 2);
  assert_false(special.add_bos);
  assert_true(ss_token_is_end(t, 2) && ss_token_is_end(t, 0) && !ss_token_is_end(t, 1));

  char chat[512];
  const ss_chat_message message = {{"user", 4}, {"Hi", 2}};
  assert_int_equal(ss_chat_format(model, &message, 1, true, chat, sizeof chat, &len, &err), SS_OK);
  static const char want[] =
      "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
      "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
  assert_int_equal(len, sizeof want - 1);
  assert_memory_equal(chat, want, len);
  int32_t ids[64];
  assert_true(ids_of(t, (ss_text){chat, len}, SS_TOKENIZE_SPECIAL, ids, 64) < 64);
  assert_int_equal(ids[0], 1);
  ss_tokenizer_free(t);
  ss_model_free(model);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_merges_go_by_rank_then_from_the_left),
      cmocka_unit_test(test_llama_takes_a_whole_word_of_the_vocabulary),
      cmocka_unit_test(test_special_tokens_are_matched_longest_first_and_only_when_asked),
      cmocka_unit_test(test_bos_comes_first_where_the_model_wants_it),
      cmocka_unit_test(test_special_ids_are_found_by_name),
      cmocka_unit_test(test_capacity_limits_what_is_written_not_what_is_counted),
      cmocka_unit_test(test_detokenizer_hands_out_whole_characters_only),
      cmocka_unit_test(test_create_fails_cleanly_on_each_refused_allocation),
      cmocka_unit_test(test_create_names_what_is_wrong),
      cmocka_unit_test(test_a_megabyte_of_one_letter_is_one_long_word),
      cmocka_unit_test(test_words_cover_the_text_without_gaps),
      cmocka_unit_test(test_ids_and_text_are_those_of_hugging_face),
      cmocka_unit_test(test_create_and_chat_format_read_the_model_s_metadata),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
