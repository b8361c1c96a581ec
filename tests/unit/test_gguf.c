/* The GGUF header: what is read, and how everything that is wrong is refused. */
#include <stdio.h>
#include <stdlib.h>

#include "gguf_writer.h"
#include "host.h"
#include "model/gguf.h"
#include "test.h"

/* ---- helpers ---- */

/* Feeds the image in pieces; the result of the last feed. */
static ss_status read_image(ss_gguf *g, const gguf_image *image, size_t piece, const ss_host *host, ss_error *err) {
  ss_gguf_open(g, host);
  ss_status status = SS_MORE;
  for (size_t at = 0; at < image->len && status == SS_MORE; at += piece) {
    size_t used;
    const size_t n = image->len - at < piece ? image->len - at : piece;
    status = ss_gguf_feed(g, image->data + at, n, &used, err);
    if (status == SS_MORE) assert_int_equal(used, n);
  }
  return status;
}

/* The image must be refused so, fed whole and byte by byte; frees it. */
static void expect_refusal(gguf_image image, ss_status want, const char *message) {
  static const size_t pieces[] = {SIZE_MAX, 1};
  for (size_t i = 0; i < 2; i++) {
    ss_gguf g;
    ss_error err = {0};
    counting_memory memory = {0};
    const ss_host host = counting_host(&memory);
    const ss_status status = read_image(&g, &image, pieces[i], &host, &err);
    if (status != want || err.status != want || !strstr(err.message, message))
      fail_msg("status %d \"%s\", want %d \"%s\"", status, err.message, want, message);
    assert_true(memory.bytes_live < 1 << 20);
    ss_gguf_close(&g);
    assert_int_equal(memory.bytes_live, 0);
  }
  gguf_image_free(&image);
}

static const uint64_t row32[] = {32};
static const float zeros[64] = {0};

static gguf_image one_of_everything(void) {
  static const char *const words[] = {"", "a", "bc", "d\xc3\xa9"};
  static const uint32_t numbers[] = {7, 8, 4000000000};
  gguf_writer w = gguf_start();
  gguf_scalar(&w, "u8", SS_META_U8, 200);
  gguf_scalar(&w, "i8", SS_META_I8, (uint64_t)-100);
  gguf_scalar(&w, "u16", SS_META_U16, 60000);
  gguf_scalar(&w, "i16", SS_META_I16, (uint64_t)-30000);
  gguf_u32(&w, "u32", 4000000000);
  gguf_scalar(&w, "i32", SS_META_I32, (uint64_t)-2000000000);
  gguf_f32(&w, "f32", 1.5f);
  gguf_bool(&w, "bool", true);
  gguf_string(&w, "string", "text");
  gguf_string(&w, "empty", "");
  gguf_scalar(&w, "u64", SS_META_U64, UINT64_MAX);
  gguf_scalar(&w, "i64", SS_META_I64, (uint64_t)INT64_MIN);
  gguf_f64(&w, "f64", -0.1);
  gguf_strings(&w, "words", words, 4);
  gguf_u32s(&w, "numbers", numbers, 3);
  gguf_strings(&w, "nothing", words, 0);
  byte_buffer nested = {0}; /* [["x", "yz"], [], [7, 9] as u16] */
  put_number(&nested, SS_META_ARRAY, 4), put_number(&nested, 3, 8);
  put_number(&nested, SS_META_STRING, 4), put_number(&nested, 2, 8), put_text(&nested, "x", 1),
      put_text(&nested, "yz", 2);
  put_number(&nested, SS_META_ARRAY, 4), put_number(&nested, 0, 8);
  put_number(&nested, SS_META_U16, 4), put_number(&nested, 2, 8), put_number(&nested, 7, 2), put_number(&nested, 9, 2);
  gguf_raw(&w, "nested", SS_META_ARRAY, nested.data, nested.len);
  free(nested.data);
  gguf_string(&w, "after", "nested");
  gguf_tensor(&w, "second", SS_GGUF_F32, 1, row32, zeros, 128);
  gguf_tensor(&w, "first", SS_GGUF_Q4_0, 2, (uint64_t[]){32, 2}, zeros, 36);
  return gguf_finish(&w);
}

static void check_everything(const ss_gguf *g) {
  static const struct {
    const char *key;
    ss_meta_type type;
    uint64_t u;
    double f;
  } scalars[] = {{"u8", SS_META_U8, 200, 200},
                 {"i8", SS_META_I8, (uint64_t)-100, -100},
                 {"u16", SS_META_U16, 60000, 60000},
                 {"i16", SS_META_I16, (uint64_t)-30000, -30000},
                 {"u32", SS_META_U32, 4000000000, 4e9},
                 {"i32", SS_META_I32, (uint64_t)-2000000000, -2e9},
                 {"f32", SS_META_F32, 0, 1.5},
                 {"bool", SS_META_BOOL, 1, 1},
                 {"u64", SS_META_U64, UINT64_MAX, 18446744073709551615.0},
                 {"i64", SS_META_I64, (uint64_t)INT64_MIN, -9223372036854775808.0},
                 {"f64", SS_META_F64, 0, -0.1}};
  ss_meta meta;
  for (size_t i = 0; i < sizeof scalars / sizeof scalars[0]; i++) {
    assert_true(ss_gguf_meta(g, scalars[i].key, &meta));
    assert_int_equal(meta.type, scalars[i].type);
    assert_int_equal(meta.u, scalars[i].u);
    assert_true(meta.f == scalars[i].f);
    assert_int_equal(meta.n, 1);
    assert_int_equal(meta.key.len, strlen(scalars[i].key));
    assert_memory_equal(meta.key.data, scalars[i].key, meta.key.len);
  }
  assert_true(ss_gguf_meta(g, "string", &meta) && meta.text.len == 4 && memcmp(meta.text.data, "text", 4) == 0);
  assert_true(ss_gguf_meta(g, "empty", &meta) && meta.type == SS_META_STRING && meta.text.len == 0);
  assert_true(ss_gguf_meta(g, "words", &meta) && meta.type == SS_META_ARRAY && meta.element == SS_META_STRING);
  assert_int_equal(meta.n, 4);
  assert_true(ss_gguf_meta_element(g, "words", 3, &meta) && meta.text.len == 3);
  assert_false(ss_gguf_meta_element(g, "words", 4, &meta));
  assert_false(ss_gguf_meta_element(g, "u8", 0, &meta));
  assert_true(ss_gguf_meta_element(g, "numbers", 2, &meta) && meta.u == 4000000000);
  assert_true(ss_gguf_meta(g, "nothing", &meta) && meta.n == 0);
  assert_false(ss_gguf_meta_element(g, "nothing", 0, &meta));
  assert_true(ss_gguf_meta(g, "nested", &meta) && meta.n == 3 && meta.element == SS_META_ARRAY);
  assert_true(ss_gguf_meta_element(g, "nested", 2, &meta) && meta.n == 2 && meta.element == SS_META_U16);
  assert_true(ss_gguf_meta(g, "after", &meta) && meta.text.len == 6);
  assert_false(ss_gguf_meta(g, "absent", &meta));
  assert_false(ss_gguf_meta(g, "", &meta));
  assert_false(ss_gguf_meta(g, "u", &meta));
  assert_false(ss_gguf_meta(g, "u8x", &meta));
  assert_int_equal(g->n_entries, 18);
  assert_true(ss_gguf_meta_at(g, 17, &meta) && memcmp(meta.key.data, "after", 5) == 0);
  assert_false(ss_gguf_meta_at(g, 18, &meta));

  assert_int_equal(g->n_tensors, 2);
  assert_int_equal(ss_gguf_find(g, "second"), 0);
  assert_int_equal(ss_gguf_find(g, "first"), 1);
  assert_int_equal(ss_gguf_find(g, "third"), -1);
  const ss_gguf_tensor *t = &g->tensors[1];
  assert_string_equal(t->name, "first");
  assert_int_equal(t->n_dims, 2);
  assert_int_equal(t->dims[1], 2);
  assert_int_equal(t->dims[2], 1);
  assert_int_equal(t->n_elements, 64);
  assert_int_equal(t->bytes, 36);
  assert_int_equal(t->offset, g->data_offset + 128);
  assert_int_equal(g->file_bytes, t->offset + 36);
}

/* ---- reading ---- */

static void test_header_gives_every_kind_of_value_in_pieces_of_any_size(void **state) {
  (void)state;
  static const size_t pieces[] = {1, 2, 3, 7, 64, SIZE_MAX};
  gguf_image image = one_of_everything();
  for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
    ss_gguf g;
    ss_error err;
    assert_int_equal(read_image(&g, &image, pieces[i], &test_host, &err), SS_OK);
    assert_int_equal(g.len, image.header_len);
    assert_int_equal(g.data_offset, image.data_offset);
    assert_memory_equal(g.data, image.data, image.header_len);
    check_everything(&g);
    ss_gguf_close(&g);
  }
  gguf_image_free(&image);
}

static void test_version_2_is_read_like_version_3(void **state) {
  (void)state;
  gguf_image image = one_of_everything();
  image.data[4] = 2;
  ss_gguf g;
  assert_int_equal(read_image(&g, &image, SIZE_MAX, &test_host, NULL), SS_OK);
  assert_int_equal(g.version, 2);
  check_everything(&g);
  ss_gguf_close(&g);
  gguf_image_free(&image);
}

static void test_feed_says_how_many_bytes_the_header_took(void **state) {
  (void)state;
  gguf_image image = one_of_everything();
  ss_gguf g;
  size_t used;
  ss_gguf_open(&g, &test_host);
  assert_int_equal(ss_gguf_feed(&g, image.data, image.len, &used, NULL), SS_OK);
  assert_int_equal(used, image.header_len);
  assert_int_equal(ss_gguf_feed(&g, image.data, image.len, &used, NULL), SS_OK);
  assert_int_equal(used, 0);
  ss_gguf_close(&g);
  gguf_image_free(&image);
}

static void test_header_ends_with_its_last_byte(void **state) {
  (void)state;
  gguf_image image = one_of_everything();
  for (size_t n = 0; n <= image.header_len; n++) { /* every kind of boundary */
    ss_gguf g;
    size_t used;
    ss_gguf_open(&g, &test_host);
    const ss_status status = ss_gguf_feed(&g, image.data, n, &used, NULL);
    assert_int_equal(status, n < image.header_len ? SS_MORE : SS_OK);
    assert_true(g.done == (n == image.header_len));
    ss_gguf_close(&g);
  }
  gguf_image_free(&image);
}

static void test_file_that_ends_anywhere_is_called_truncated(void **state) {
  (void)state;
  gguf_image image = one_of_everything();
  for (size_t n = 1; n < image.len; n++) {
    ss_gguf g;
    ss_error err = {0};
    size_t used;
    ss_gguf_open(&g, &test_host);
    assert_int_equal(ss_gguf_expect(&g, n, &err), SS_OK);
    const ss_status status = ss_gguf_feed(&g, image.data, n, &used, &err);
    if (status != SS_E_FORMAT) fail_msg("status %d for a file of %zu bytes", status, n);
    if (!strstr(err.message, "truncated file") && !strstr(err.message, "past the end of the file"))
      fail_msg("message \"%s\" for a file of %zu bytes", err.message, n);
    if (n >= image.header_len) assert_non_null(strstr(err.message, n < image.data_offset + 128 ? "second" : "first"));
    ss_gguf_close(&g);
  }
  gguf_image_free(&image);
}

static void test_length_told_late_is_checked_too(void **state) {
  (void)state;
  gguf_image image = one_of_everything();
  ss_gguf g;
  ss_error err;
  assert_int_equal(read_image(&g, &image, SIZE_MAX, &test_host, NULL), SS_OK);
  assert_int_equal(ss_gguf_expect(&g, image.len + 5, &err), SS_OK);
  assert_int_equal(ss_gguf_expect(&g, image.len, &err), SS_OK);
  assert_int_equal(ss_gguf_expect(&g, image.len - 1, &err), SS_E_FORMAT);
  assert_non_null(strstr(err.message, "first"));
  assert_int_equal(ss_gguf_expect(&g, image.header_len - 1, &err), SS_E_ARGUMENT);
  assert_int_equal(ss_gguf_expect(&g, 0, &err), SS_E_FORMAT);
  ss_gguf_close(&g);
  gguf_image_free(&image);
}

static void test_arrays_are_walked_and_indexed_alike(void **state) {
  (void)state;
  enum { N = 1000 };
  static char texts[N][8];
  const char *words[N];
  for (int i = 0; i < N; i++) {
    snprintf(texts[i], sizeof texts[i], "%.*s", i % 7, "wordsss");
    words[i] = texts[i];
  }
  gguf_writer w = gguf_start();
  gguf_strings(&w, "earlier", words, 70); /* so that the marks of `words` are not the first */
  gguf_strings(&w, "words", words, N);
  gguf_image image = gguf_finish(&w);
  ss_gguf g;
  ss_gguf_iter it;
  ss_text text;
  ss_meta meta;
  double number;
  assert_int_equal(read_image(&g, &image, 13, &test_host, NULL), SS_OK);
  assert_true(ss_gguf_array(&g, "words", &it));
  assert_false(ss_gguf_next_number(&it, &number));
  for (uint64_t i = 0; i < N; i++) {
    assert_int_equal(it.left, N - i);
    assert_true(ss_gguf_next_text(&it, &text));
    assert_int_equal(text.len, i % 7);
    assert_memory_equal(text.data, words[i], text.len);
    assert_true(ss_gguf_meta_element(&g, "words", i, &meta));
    assert_ptr_equal(meta.text.data, text.data);
    assert_int_equal(meta.text.len, text.len);
  }
  assert_false(ss_gguf_next_text(&it, &text));
  assert_false(ss_gguf_array(&g, "absent", &it));
  ss_gguf_close(&g);
  gguf_image_free(&image);
}

static void test_numbers_of_an_array_are_walked(void **state) {
  (void)state;
  gguf_image image = one_of_everything();
  ss_gguf g;
  ss_gguf_iter it;
  ss_text text;
  double x;
  assert_int_equal(read_image(&g, &image, SIZE_MAX, &test_host, NULL), SS_OK);
  assert_true(ss_gguf_array(&g, "numbers", &it) && it.left == 3 && it.element == SS_META_U32);
  assert_false(ss_gguf_next_text(&it, &text));
  assert_true(ss_gguf_next_number(&it, &x) && x == 7);
  assert_true(ss_gguf_next_number(&it, &x) && x == 8);
  assert_true(ss_gguf_next_number(&it, &x) && x == 4e9);
  assert_false(ss_gguf_next_number(&it, &x));
  assert_false(ss_gguf_array(&g, "u8", &it));
  assert_true(ss_gguf_array(&g, "nested", &it));
  for (uint64_t n = 2; n <= 2; n++) {
    ss_meta meta;
    assert_true(ss_gguf_next(&it, &meta) && meta.n == 2 && meta.element == SS_META_STRING);
    assert_true(ss_gguf_next(&it, &meta) && meta.n == 0);
    assert_true(ss_gguf_next(&it, &meta) && meta.n == 2 && meta.element == SS_META_U16);
    assert_false(ss_gguf_next(&it, &meta));
  }
  ss_gguf_close(&g);
  gguf_image_free(&image);
}

/* A megabyte in single bytes: seconds when it is linear, hours when each byte scans from an array's start. */
static void test_large_header_in_single_bytes_takes_linear_time(void **state) {
  (void)state;
  enum { N = 60000 };
  static const char *words[N];
  for (int i = 0; i < N; i++) words[i] = "ten bytes!";
  gguf_writer w = gguf_start();
  gguf_strings(&w, "words", words, N);
  gguf_image image = gguf_finish(&w);
  ss_gguf g;
  assert_int_equal(read_image(&g, &image, 1, &test_host, NULL), SS_OK);
  ss_gguf_close(&g);
  gguf_image_free(&image);
}

/* ---- refusing ---- */

static void test_open_rejects_other_files_and_versions(void **state) {
  (void)state;
  static const struct {
    size_t at;
    const char *bytes;
    size_t n;
    ss_status status;
    const char *message;
  } cases[] = {
      {0, "ggml", 4, SS_E_FORMAT, "not a GGUF file: it starts with bytes 67 67 6d 6c"},
      {0, "FUGG", 4, SS_E_FORMAT, "not a GGUF file"},
      {4, "\1\0\0\0", 4, SS_E_UNSUPPORTED, "version 1, want 2 or 3"},
      {4, "\4\0\0\0", 4, SS_E_UNSUPPORTED, "version 4, want 2 or 3"},
      {4, "\0\0\0\3", 4, SS_E_UNSUPPORTED, "big-endian"},
      {4, "\0\0\0\2", 4, SS_E_UNSUPPORTED, "big-endian"},
      {8, "\0\0\0\0\0\0\0\x10", 8, SS_E_FORMAT, "1152921504606846976 tensors"},
      {16, "\0\0\0\0\0\0\0\x10", 8, SS_E_FORMAT, "1152921504606846976 metadata entries"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    gguf_image image = one_of_everything();
    memcpy(image.data + cases[i].at, cases[i].bytes, cases[i].n);
    expect_refusal(image, cases[i].status, cases[i].message);
  }
}

/* One metadata entry of raw bytes. */
static void refuse_value(const char *key, uint32_t type, const byte_buffer *value, ss_status status,
                         const char *message) {
  gguf_writer w = gguf_start();
  gguf_raw(&w, key, type, value->data, value->len);
  expect_refusal(gguf_finish(&w), status, message);
}

static void test_open_rejects_lengths_that_no_header_can_have(void **state) {
  (void)state;
  static const uint64_t lengths[] = {(uint64_t)1 << 30, (uint64_t)1 << 32, (uint64_t)1 << 63, UINT64_MAX};
  for (size_t i = 0; i < 4; i++) {
    byte_buffer string = {0}, bytes = {0}, strings = {0}, inner = {0};
    put_number(&string, lengths[i], 8);
    refuse_value("k", SS_META_STRING, &string, SS_E_FORMAT, "k: a string of ");
    put_number(&bytes, SS_META_U8, 4), put_number(&bytes, lengths[i], 8);
    refuse_value("k", SS_META_ARRAY, &bytes, SS_E_FORMAT, "k: an array of ");
    put_number(&strings, SS_META_STRING, 4), put_number(&strings, lengths[i], 8);
    refuse_value("k", SS_META_ARRAY, &strings, SS_E_FORMAT, "k: an array of ");
    put_number(&inner, SS_META_STRING, 4), put_number(&inner, 1, 8), put_number(&inner, lengths[i], 8);
    refuse_value("k", SS_META_ARRAY, &inner, SS_E_FORMAT, "k: a string of ");
    free(string.data), free(bytes.data), free(strings.data), free(inner.data);

    gguf_writer w = gguf_start();
    put_number(&w.meta, lengths[i], 8);
    w.n_entries = 1;
    expect_refusal(gguf_finish(&w), SS_E_FORMAT, "metadata entry 0: a key of ");
  }
}

static void test_open_rejects_values_of_unknown_type(void **state) {
  (void)state;
  byte_buffer none = {0}, array = {0}, two = {0};
  refuse_value("some.key", 13, &none, SS_E_UNSUPPORTED, "some.key: unknown metadata type 13");
  put_number(&array, 99, 4), put_number(&array, 0, 8);
  refuse_value("some.key", SS_META_ARRAY, &array, SS_E_UNSUPPORTED, "some.key: array of unknown metadata type 99");
  put_number(&two, 2, 1);
  refuse_value("some.key", SS_META_BOOL, &two, SS_E_FORMAT, "some.key: a bool of value 2");
  free(array.data), free(two.data);
}

static void test_open_rejects_arrays_nested_too_deep(void **state) {
  (void)state;
  byte_buffer value = {0};
  for (int i = 0; i < 5; i++) put_number(&value, SS_META_ARRAY, 4), put_number(&value, 1, 8);
  refuse_value("deep", SS_META_ARRAY, &value, SS_E_UNSUPPORTED, "deep: arrays nested deeper than 4");
  free(value.data);
}

static void test_open_rejects_keys_that_are_empty_doubled_or_unprintable(void **state) {
  (void)state;
  gguf_writer w = gguf_start();
  gguf_u32(&w, "", 1);
  expect_refusal(gguf_finish(&w), SS_E_FORMAT, "metadata entry 0: a key of 0 bytes");
  w = gguf_start();
  gguf_u32(&w, "fine", 1);
  gguf_u32(&w, "not\nfine", 1);
  expect_refusal(gguf_finish(&w), SS_E_FORMAT, "metadata entry 1: its key holds a control character");
  w = gguf_start();
  gguf_u32(&w, "a", 1);
  gguf_u32(&w, "twice", 1);
  gguf_u32(&w, "b", 1);
  gguf_string(&w, "twice", "x");
  expect_refusal(gguf_finish(&w), SS_E_FORMAT, "twice: the key is there twice");
}

static void test_open_rejects_bad_alignment(void **state) {
  (void)state;
  static const uint32_t alignments[] = {0, 1, 33, 48, 1u << 31, UINT32_MAX};
  for (size_t i = 0; i < sizeof alignments / sizeof alignments[0]; i++) {
    gguf_writer w = gguf_start();
    gguf_u32(&w, "general.alignment", alignments[i]);
    expect_refusal(gguf_finish(&w), SS_E_FORMAT, "general.alignment: ");
  }
  gguf_writer w = gguf_start();
  gguf_string(&w, "general.alignment", "32");
  expect_refusal(gguf_finish(&w), SS_E_FORMAT, "general.alignment: ");
}

static void refuse_tensor(const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims, uint64_t offset,
                          ss_status status, const char *message) {
  gguf_writer w = gguf_start();
  gguf_tensor(&w, "before", SS_GGUF_F32, 1, row32, zeros, 128);
  gguf_tensor_entry(&w, name, type, n_dims, dims, offset);
  expect_refusal(gguf_finish(&w), status, message);
}

static void test_open_rejects_malformed_tensors(void **state) {
  (void)state;
  const uint64_t huge = (uint64_t)1 << 62;
  const uint64_t five[] = {1, 1, 1, 1, 1}, none[] = {32, 0}, overflow[] = {huge, 8}, whole[] = {UINT64_MAX};
  const uint64_t most[] = {INT64_MAX}, wide[] = {huge}, odd[] = {33, 2}, k_odd[] = {288, 1};
  char long_name[300];
  memset(long_name, 'n', sizeof long_name);
  long_name[256] = 0;
  refuse_tensor("", 0, 1, row32, 128, SS_E_FORMAT, "tensor 1: a name of 0 bytes");
  refuse_tensor(long_name, 0, 1, row32, 128, SS_E_FORMAT, "tensor 1: a name of 256 bytes");
  refuse_tensor("a\tb", 0, 1, row32, 128, SS_E_FORMAT, "tensor 1: its name holds a control character");
  refuse_tensor("t", 0, 0, row32, 128, SS_E_FORMAT, "t: 0 dimensions, want 1 to 4");
  refuse_tensor("t", 0, 5, five, 128, SS_E_FORMAT, "t: 5 dimensions, want 1 to 4");
  refuse_tensor("t", 0, 2, none, 128, SS_E_FORMAT, "t: dimension 1 is 0");
  refuse_tensor("t", 0, 2, overflow, 128, SS_E_FORMAT, "t: its size overflows");
  refuse_tensor("t", 0, 1, whole, 128, SS_E_FORMAT, "t: its size overflows");
  refuse_tensor("t", SS_GGUF_F32, 1, wide, 128, SS_E_FORMAT, "t: its size overflows");
  refuse_tensor("t", 28, 1, wide, 128, SS_E_FORMAT, "t: its size overflows");
  refuse_tensor("t", 24, 1, most, 128, SS_E_FORMAT, "t: offset 128 and ");
  refuse_tensor("t", 0, 1, row32, (uint64_t)INT64_MAX - 31, SS_E_FORMAT, "t: offset ");
  refuse_tensor("t", 0, 1, row32, UINT64_MAX - 31, SS_E_FORMAT, "t: offset ");
  refuse_tensor("t", 4, 1, row32, 128, SS_E_UNSUPPORTED, "t: unknown type 4");
  refuse_tensor("t", UINT32_MAX, 1, row32, 128, SS_E_UNSUPPORTED, "t: unknown type 4294967295");
  refuse_tensor("t", SS_GGUF_Q4_0, 2, odd, 128, SS_E_FORMAT, "t: rows of 33, want a multiple of Q4_0's block of 32");
  refuse_tensor("t", SS_GGUF_Q6_K, 2, k_odd, 128, SS_E_FORMAT, "want a multiple of Q6_K's block of 256");
  refuse_tensor("t", 0, 1, row32, 130, SS_E_FORMAT, "t: offset 130, want a multiple of the alignment 32");
  refuse_tensor("t", 0, 1, row32, 96, SS_E_FORMAT, "t: overlaps before");
  refuse_tensor("t", 0, 1, row32, 0, SS_E_FORMAT, "overlaps");
  refuse_tensor("before", 0, 1, row32, 128, SS_E_FORMAT, "before: the tensor is there twice");
}

static void test_tensor_past_the_end_of_the_file_is_named(void **state) {
  (void)state;
  gguf_writer w = gguf_start();
  gguf_tensor(&w, "inside", SS_GGUF_F32, 1, row32, zeros, 128);
  gguf_tensor_entry(&w, "outside", SS_GGUF_F32, 1, row32, 1 << 20);
  gguf_image image = gguf_finish(&w);
  ss_gguf g;
  ss_error err = {0};
  size_t used;
  ss_gguf_open(&g, &test_host);
  assert_int_equal(ss_gguf_expect(&g, image.len, NULL), SS_OK);
  assert_int_equal(ss_gguf_feed(&g, image.data, image.len, &used, &err), SS_E_FORMAT);
  assert_non_null(strstr(err.message, "truncated file: "));
  assert_non_null(strstr(err.message, "; outside ends at "));
  ss_gguf_close(&g);
  gguf_image_free(&image);
}

static void test_open_survives_any_allocation_that_fails(void **state) {
  (void)state;
  gguf_image image = one_of_everything();
  for (size_t fail_at = 1;; fail_at++) {
    counting_memory memory = {.fail_at = fail_at};
    const ss_host host = counting_host(&memory);
    ss_gguf g;
    ss_error err = {0};
    const ss_status status = read_image(&g, &image, 50, &host, &err);
    ss_gguf_close(&g);
    assert_int_equal(memory.n_live, 0);
    assert_int_equal(memory.bytes_live, 0);
    if (status == SS_OK) {
      assert_true(fail_at > 8);
      break;
    }
    assert_int_equal(status, SS_E_MEMORY);
    assert_non_null(strstr(err.message, "header: the host refused "));
  }
  gguf_image_free(&image);
}

/* Any damage to one byte gives a header or an error, and reads nothing outside the image. */
static void test_any_changed_byte_is_survived(void **state) {
  (void)state;
  gguf_image image = one_of_everything();
  for (size_t at = 0; at < image.header_len; at++)
    for (unsigned change = 1; change < 256; change += change < 4 || change > 250 ? 1 : 41) {
      ss_gguf g;
      image.data[at] ^= (uint8_t)change;
      const ss_status status = read_image(&g, &image, SIZE_MAX, &test_host, NULL);
      assert_true(status == SS_OK || status == SS_MORE || status == SS_E_FORMAT || status == SS_E_UNSUPPORTED);
      ss_gguf_close(&g);
      image.data[at] ^= (uint8_t)change;
    }
  gguf_image_free(&image);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_header_gives_every_kind_of_value_in_pieces_of_any_size),
      cmocka_unit_test(test_version_2_is_read_like_version_3),
      cmocka_unit_test(test_feed_says_how_many_bytes_the_header_took),
      cmocka_unit_test(test_header_ends_with_its_last_byte),
      cmocka_unit_test(test_file_that_ends_anywhere_is_called_truncated),
      cmocka_unit_test(test_length_told_late_is_checked_too),
      cmocka_unit_test(test_arrays_are_walked_and_indexed_alike),
      cmocka_unit_test(test_numbers_of_an_array_are_walked),
      cmocka_unit_test(test_large_header_in_single_bytes_takes_linear_time),
      cmocka_unit_test(test_open_rejects_other_files_and_versions),
      cmocka_unit_test(test_open_rejects_lengths_that_no_header_can_have),
      cmocka_unit_test(test_open_rejects_values_of_unknown_type),
      cmocka_unit_test(test_open_rejects_arrays_nested_too_deep),
      cmocka_unit_test(test_open_rejects_keys_that_are_empty_doubled_or_unprintable),
      cmocka_unit_test(test_open_rejects_bad_alignment),
      cmocka_unit_test(test_open_rejects_malformed_tensors),
      cmocka_unit_test(test_tensor_past_the_end_of_the_file_is_named),
      cmocka_unit_test(test_open_survives_any_allocation_that_fails),
      cmocka_unit_test(test_any_changed_byte_is_survived),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
