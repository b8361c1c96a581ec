/* Parts of the native command that need no model: the thread pool, the JSON writer, names and numbers. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "../../tools/host.h" /* this folder has another host.h */
#include "json.h"
#include "json_read.h"
#include "options.h"
#include "support.h"
#include "test.h"
#include "text_measures.h"

/* ---- the pool ---- */

#define MAX_PARTS 67

typedef struct tally {
  _Atomic uint32_t calls[MAX_PARTS]; /* per part */
  uint32_t n_parts;
  uint64_t written; /* by the caller before each loop, without synchronisation of its own */
  _Atomic uint32_t wrong;
} tally;

static void count_part(void *arg, uint32_t part, uint32_t n_parts) {
  tally *t = arg;
  if (n_parts != t->n_parts || part >= n_parts || t->written != 1000 + n_parts) t->wrong++;
  else t->calls[part]++;
}

static void test_parallel_for_runs_every_part_once(void **state) {
  (void)state;
  for (uint32_t n_threads = 1; n_threads <= 8; n_threads++) {
    host *pool = host_create(n_threads);
    assert_non_null(pool);
    const ss_host *h = host_face(pool);
    assert_int_equal(h->n_threads, n_threads);
    assert_int_equal(h->parallel_for == NULL, n_threads == 1);
    for (uint32_t round = 0; round < 400 && h->parallel_for; round++) {
      tally t = {.n_parts = round % MAX_PARTS + 1};
      t.written = 1000 + t.n_parts;
      h->parallel_for(h->ctx, t.n_parts, count_part, &t);
      assert_int_equal(t.wrong, 0);
      for (uint32_t part = 0; part < MAX_PARTS; part++) assert_int_equal(t.calls[part], part < t.n_parts);
    }
    host_free(pool);
  }
}

static void add_part(void *arg, uint32_t part, uint32_t n_parts) {
  uint64_t *sums = arg;
  (void)n_parts;
  sums[part * 8]++; /* plain memory: what a part wrote must be seen by the next one and by the caller */
}

static void test_parallel_for_publishes_what_the_parts_wrote(void **state) {
  (void)state;
  uint64_t sums[4 * 8] = {0};
  host *pool = host_create(4);
  assert_non_null(pool);
  const ss_host *h = host_face(pool);
  for (int round = 0; round < 3000; round++) h->parallel_for(h->ctx, 4, add_part, sums);
  for (int part = 0; part < 4; part++) assert_int_equal(sums[part * 8], 3000);
  host_free(pool);
}

static void test_host_limits(void **state) {
  (void)state;
  assert_null(host_create(SS_MAX_THREADS + 1));
  assert_in_range(host_cores(), 1, SS_MAX_THREADS);
  host *pool = host_create(0);
  assert_non_null(pool);
  const ss_host *h = host_face(pool);
  assert_int_equal(h->n_threads, host_cores());
  for (size_t bytes = 0; bytes < 200; bytes += 33) {
    void *p = h->alloc(h->ctx, bytes);
    assert_int_equal((uintptr_t)p % 64, 0);
    h->free(h->ctx, p, bytes);
  }
  assert_null(h->alloc(h->ctx, SIZE_MAX));
  h->free(h->ctx, NULL, 5);
  host_free(pool);
  host_free(NULL);
}

/* ---- JSON ---- */

static void assert_quoted(ss_text text, const char *want) {
  char *out = NULL;
  size_t n = 0;
  FILE *f = open_memstream(&out, &n);
  json_quote(f, text);
  fclose(f);
  assert_string_equal(out, want);
  free(out);
}

static void test_json_quote_escapes_and_repairs(void **state) {
  (void)state;
  assert_quoted(text_of(""), "\"\"");
  assert_quoted(text_of("a \"b\" \\ / \n\r\t\b\f \x01\x7f"), "\"a \\\"b\\\" \\\\ / \\n\\r\\t\\b\\f \\u0001\\u007f\"");
  assert_quoted((ss_text){"\0x", 2}, "\"\\u0000x\"");
  assert_quoted(text_of("\xc3\xa9\xe2\x82\xac\xf0\x9f\x91\x8b"), "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x91\x8b\"");
#define BAD "\xef\xbf\xbd"
  assert_quoted(text_of("\xff"), "\"" BAD "\"");
  assert_quoted(text_of("\xc3"), "\"" BAD "\"");                       /* cut off */
  assert_quoted(text_of("\xc0\xaf"), "\"" BAD BAD "\"");               /* overlong */
  assert_quoted(text_of("\xed\xa0\x80"), "\"" BAD BAD BAD "\"");       /* a surrogate */
  assert_quoted(text_of("\xf4\x90\x80\x80"), "\"" BAD BAD BAD BAD "\""); /* past U+10FFFF */
}

static void test_json_places_commas_and_shortens_numbers(void **state) {
  (void)state;
  char *out = NULL;
  size_t n = 0;
  json j = {.out = open_memstream(&out, &n)};
  json_open(&j, NULL, '{');
  json_open(&j, "empty", '[');
  json_close(&j);
  json_open(&j, "list", '[');
  json_int(&j, NULL, -3);
  json_uint(&j, NULL, UINT64_MAX);
  json_open(&j, NULL, '{');
  json_close(&j);
  json_close(&j);
  json_real(&j, "eps", (double)1e-5f, true);
  json_real(&j, "third", 1.0 / 3, false);
  json_real(&j, "nan", strtod("nan", NULL), false);
  json_fixed(&j, "fixed", 1.005, 2);
  json_bool(&j, "yes", true);
  json_done(&j);
  fclose(j.out);
  assert_string_equal(out,
                      "{\"empty\":[],\"list\":[-3,18446744073709551615,{}],\"eps\":1e-05,\"third\":0.3333333333333333,"
                      "\"nan\":null,\"fixed\":1.00,\"yes\":true}\n");
  free(out);
}

/* ---- options ---- */

static void test_parse_number_takes_whole_numbers_in_range_only(void **state) {
  (void)state;
  uint64_t n = 0;
  assert_true(parse_number("0", 0, 9, &n) && n == 0);
  assert_true(parse_number("18446744073709551615", 0, UINT64_MAX, &n) && n == UINT64_MAX);
  static const char *const wrong[] = {"", " 1", "+1", "-1", "1 ", "1x", "0x1", "1.0", "18446744073709551616"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_false(parse_number(wrong[i], 0, UINT64_MAX, &n));
  assert_false(parse_number("3", 4, 9, &n));
  assert_false(parse_number("10", 4, 9, &n));
}

static void test_nearest_name_is_near_or_null(void **state) {
  (void)state;
  static const char *const names[] = {"threads", "temp", "top-k", "top-p", "context", NULL};
  assert_string_equal(nearest_name("thread", names), "threads");
  assert_string_equal(nearest_name("tmep", names), "temp");
  assert_string_equal(nearest_name("cont", names), "context");
  assert_null(nearest_name("unrelated", names));
  assert_null(nearest_name("x", (const char *const[]){NULL}));
  char longest[200];
  memset(longest, 'a', sizeof longest - 1);
  longest[sizeof longest - 1] = 0;
  assert_null(nearest_name(longest, names));
}

static void test_options_read_every_form(void **state) {
  (void)state;
  bool flag = false;
  const char *text = NULL, *operand = NULL;
  option_list list = {0};
  uint32_t count = 0;
  uint64_t seed = 0;
  float real = 0;
  const option options[] = {
      {.name = "flag", .letter = 'f', .flag = &flag, .help = ""},
      {.name = "text", .text = &text, .argument = "T", .help = ""},
      {.name = "stop", .list = &list, .argument = "T", .help = ""},
      {.name = "count", .letter = 'n', .u32 = &count, .argument = "N", .help = "", .min = 1, .max = 64},
      {.name = "seed", .u64 = &seed, .argument = "N", .help = ""},
      {.name = "real", .real = &real, .argument = "X", .help = ""},
  };
  const command c = {.name = "test",
                     .usage = "",
                     .about = "",
                     .examples = "",
                     .options = options,
                     .n_options = sizeof options / sizeof *options,
                     .operands = &operand,
                     .max_operands = 1};
  char words[][24] = {
      "test",   "-f",   "--text=a=b", "--stop", "-x", "--stop=", "-n7", "--seed", "18446744073709551615",
      "--real", "-1.5", "--",         "--help"};
  char *argv[sizeof words / sizeof *words];
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) argv[i] = words[i];
  assert_int_equal(options_parse(&c, (int)(sizeof words / sizeof *words), argv), PARSE_OK);
  assert_true(flag);
  assert_string_equal(text, "a=b");
  assert_int_equal(list.n, 2);
  assert_string_equal(list.items[0], "-x");
  assert_string_equal(list.items[1], "");
  assert_int_equal(count, 7);
  assert_true(seed == UINT64_MAX);
  assert_true(real == -1.5f);
  assert_string_equal(operand, "--help");
  option_list_free(&list);
}

/* ---- reading JSON ---- */

static void assert_reads(const char *text, bool want, const char *wrong, size_t at) {
  char copy[512];
  json_document d = {0};
  snprintf(copy, sizeof copy, "%s", text);
  assert_int_equal(json_read(&d, copy), want);
  if (!want) {
    assert_string_equal(d.wrong, wrong);
    assert_int_equal(d.at, at);
  }
  json_document_free(&d);
}

static void test_json_read_gives_values_in_their_order(void **state) {
  (void)state;
  char text[] =
      " {\"a\": [1, -2.5e1, true, null, {}], \"b\": {\"c\": \"x\\n\\u00e9\\ud83d\\ude00\"}, \"d\": [], \"a\": 7} ";
  json_document d = {0};
  assert_true(json_read(&d, text));
  assert_int_equal(d.values[0].kind, JSON_OBJECT);
  assert_int_equal(d.values[0].n, 4);
  assert_int_equal(d.values[0].size, d.n);
  const json_value *a = json_member_of(d.values, "a", JSON_ARRAY), *v = json_first(a);
  assert_int_equal(a->n, 5);
  assert_true(v->number == 1.0 && json_next(v)->number == -25.0);
  v = json_next(json_next(v));
  assert_int_equal(v->kind, JSON_BOOL);
  assert_true(v->number == 1.0);
  assert_int_equal(json_next(v)->kind, JSON_NULL);
  assert_int_equal(json_next(json_next(v))->kind, JSON_OBJECT);
  const json_value *c = json_member(json_member(d.values, "b"), "c");
  assert_int_equal(c->text.len, 8);
  assert_memory_equal(c->text.data, "x\n\xc3\xa9\xf0\x9f\x98\x80", 8);
  assert_int_equal(json_member_of(d.values, "d", JSON_ARRAY)->n, 0);
  assert_null(json_member(d.values, "e"));
  assert_null(json_member_of(d.values, "d", JSON_STRING));
  assert_null(json_member(a, "a"));
  char next[] = "3";
  assert_true(json_read(&d, next));
  assert_int_equal(d.n, 1);
  json_document_free(&d);
}

static void test_json_read_says_what_it_wanted_and_where(void **state) {
  (void)state;
  assert_reads("[1, 2", false, "',' or ']'", 5);
  assert_reads("{\"a\" 1}", false, "':'", 5);
  assert_reads("{a: 1}", false, "a string", 1);
  assert_reads("{\"a\": 1 \"b\"", false, "',' or '}'", 8);
  assert_reads("[1,]", false, "a value", 3);
  assert_reads("", false, "a value", 0);
  assert_reads("nul", false, "a value", 0);
  assert_reads("1 2", false, "the end", 2);
  assert_reads("\"\\x\"", false, "a valid escape", 1);
  assert_reads("\"abc", false, "the end of a string", 4);
  char deep[300];
  memset(deep, '[', sizeof deep - 1);
  deep[sizeof deep - 1] = 0;
  assert_reads(deep, false, "at most 64 brackets in each other", 64);
}

/* ---- measures of answers ---- */

static void test_the_share_of_repeated_runs(void **state) {
  (void)state;
  static const int32_t none[] = {1, 2, 3, 4, 5, 6, 7}, loop[] = {1, 2, 1, 2, 1, 2, 1, 2}, one[] = {9, 9, 9, 9, 9};
  assert_true(repeated_share(none, 7, 4) == 0);
  assert_true(repeated_share(loop, 8, 4) == 3.0 / 5); /* 1212 and 2121 are new, three are not */
  assert_true(repeated_share(one, 5, 4) == 0.5);
  assert_true(repeated_share(one, 3, 4) == 0 && repeated_share(one, 0, 4) == 0);
  assert_true(repeated_share(one, 4, 1) == 0.75);
}

static void test_first_sentences(void **state) {
  (void)state;
  static const char *const cases[][2] = {{"One. Two.", "One."},
                                         {" \n Is it? Yes", "Is it?"},
                                         {"A 3.5 percent rise! So", "A 3.5 percent rise!"},
                                         {"A title\nand more.", "A title"},
                                         {"no end ", "no end"},
                                         {"Wait... what? No.", "Wait..."},
                                         {"", ""}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_true(same_text(first_sentence(text_of(cases[i][0])), text_of(cases[i][1])));
  assert_false(same_text(text_of("One."), text_of("One")));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_parallel_for_runs_every_part_once),
      cmocka_unit_test(test_parallel_for_publishes_what_the_parts_wrote),
      cmocka_unit_test(test_host_limits),
      cmocka_unit_test(test_json_quote_escapes_and_repairs),
      cmocka_unit_test(test_json_places_commas_and_shortens_numbers),
      cmocka_unit_test(test_parse_number_takes_whole_numbers_in_range_only),
      cmocka_unit_test(test_nearest_name_is_near_or_null),
      cmocka_unit_test(test_options_read_every_form),
      cmocka_unit_test(test_json_read_gives_values_in_their_order),
      cmocka_unit_test(test_json_read_says_what_it_wanted_and_where),
      cmocka_unit_test(test_the_share_of_repeated_runs),
      cmocka_unit_test(test_first_sentences),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
