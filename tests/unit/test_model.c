/* The loader: a model from its file's bytes, in any pieces, or a clear refusal. */
#include <stdio.h>
#include <stdlib.h>

#include "gguf_writer.h"
#include "host.h"
#include "model/model.h"
#include "test.h"

/* ---- helpers ---- */

static ss_model *new_model(const ss_host *host) {
  ss_model *m;
  ss_error err;
  assert_int_equal(ss_model_create(&m, host, NULL, &err), SS_OK);
  return m;
}

static ss_status feed_in_order(ss_model *m, const gguf_image *image, size_t piece, ss_error *err) {
  ss_status status = SS_MORE;
  for (size_t at = 0; at < image->len && status >= 0; at += piece)
    status = ss_model_feed(m, at, image->data + at, image->len - at < piece ? image->len - at : piece, err);
  return status;
}

static ss_model *loaded(const gguf_image *image) {
  ss_model *m = new_model(&test_host);
  ss_error err = {0};
  if (feed_in_order(m, image, SIZE_MAX, &err) != SS_OK) fail_msg("%s", err.message);
  return m;
}

static void assert_same_weights(const ss_model *a, const ss_model *b) {
  assert_int_equal(a->gguf.n_tensors, b->gguf.n_tensors);
  for (size_t i = 0; i < a->gguf.n_tensors; i++) {
    const ss_tensor *x = &a->tensors[i], *y = &b->tensors[i];
    assert_true(x->present == y->present && x->data_bytes == y->data_bytes && !x->data == !y->data);
    if (x->data && memcmp(x->data, y->data, x->data_bytes) != 0) fail_msg("%s differs", x->file->name);
  }
}

/* A piece of the file. */
typedef struct piece {
  size_t at, n;
} piece;

static void shuffle(piece *pieces, size_t n, ss_rng *rng) {
  for (size_t i = n; i > 1; i--) {
    const size_t j = (size_t)ss_rng_below(rng, i);
    const piece swapped = pieces[i - 1];
    pieces[i - 1] = pieces[j];
    pieces[j] = swapped;
  }
}

/* The weights in pieces of 1..most bytes in random order, every third piece twice and some that overlap others. */
static ss_status feed_shuffled(ss_model *m, const gguf_image *image, size_t most, uint64_t seed, ss_error *err) {
  ss_rng rng = ss_rng_seed(seed);
  ss_status status = ss_model_feed(m, 0, image->data, image->header_len, err);
  if (status < 0) return status;
  piece *pieces = malloc(3 * image->len * sizeof *pieces);
  size_t n = 0;
  for (size_t at = image->header_len; at < image->len;) {
    const size_t bytes = ss_min(1 + (size_t)ss_rng_below(&rng, most), image->len - at);
    pieces[n++] = (piece){at, bytes};
    if (n % 3 == 0) pieces[n++] = (piece){at, bytes};
    if (n % 4 == 0) {
      const size_t back = ss_min(at, (size_t)ss_rng_below(&rng, 2 * most));
      pieces[n++] = (piece){at - back, ss_min(bytes + back + (size_t)ss_rng_below(&rng, most), image->len - at + back)};
    }
    at += bytes;
  }
  shuffle(pieces, n, &rng);
  for (size_t i = 0; i < n && status >= 0; i++) {
    /* its own memory, so that a sanitizer sees a read past its end */
    uint8_t *bytes = malloc(pieces[i].n);
    memcpy(bytes, image->data + pieces[i].at, pieces[i].n);
    status = ss_model_feed(m, pieces[i].at, bytes, pieces[i].n, err);
    free(bytes);
  }
  free(pieces);
  return status;
}

static void expect_refusal(const tiny_model *tiny, ss_status want, const char *message) {
  gguf_image image = tiny_model_image(tiny);
  counting_memory memory = {0};
  const ss_host host = counting_host(&memory);
  ss_model *m = new_model(&host);
  ss_error err = {0};
  const ss_status status = feed_in_order(m, &image, 5000, &err);
  if (status != want || err.status != want || !strstr(err.message, message))
    fail_msg("status %d \"%s\", want %d \"%s\"", status, err.message, want, message);
  assert_int_equal(ss_model_feed(m, 0, image.data, 1, &err), SS_E_STATE);
  assert_int_equal(ss_model_expect_bytes(m, image.len, &err), SS_E_STATE);
  ss_model_free(m);
  assert_int_equal(memory.bytes_live, 0);
  gguf_image_free(&image);
}

/* ---- a good file ---- */

static void test_info_tells_what_the_header_says(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.type = SS_GGUF_Q4_1, .own_head = true});
  ss_model *m = new_model(&test_host);
  ss_model_info info;
  ss_error err;
  assert_int_equal(ss_model_info_get(m, &info, &err), SS_E_STATE);
  assert_int_equal(ss_model_file_bytes(m), 0);
  assert_int_equal(ss_model_feed(m, 0, image.data, image.header_len, &err), SS_MORE);
  assert_true(ss_model_header_done(m));
  assert_int_equal(ss_model_file_bytes(m), image.len);
  assert_int_equal(ss_model_info_get(m, &info, &err), SS_OK);
  assert_string_equal(info.architecture, "llama");
  assert_string_equal(info.name, "tiny");
  assert_string_equal(info.quantisation, "Q4_1");
  assert_int_equal(info.n_layers, 2);
  assert_int_equal(info.n_blocks, 4);
  assert_int_equal(info.n_embd, 64);
  assert_int_equal(info.n_ff, 96);
  assert_int_equal(info.n_heads, 2);
  assert_int_equal(info.n_kv_heads, 1);
  assert_int_equal(info.head_dim, 32);
  assert_int_equal(info.n_vocab, TINY_VOCAB);
  assert_int_equal(info.context_train, 512);
  assert_false(info.tied_head);
  assert_true(info.rope_theta == 10000 && info.norm_eps == 1e-5f);
  const uint64_t layer = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 96 + 2 * 64;
  assert_int_equal(info.n_parameters, 2 * 64 * TINY_VOCAB + 64 + 2 * layer);
  assert_int_equal(info.packed_bytes, ss_model_bytes(m, NULL));
  assert_int_equal(ss_model_n_tensors(m), 21);
  assert_true(ss_model_n_meta(m) > 15);
  ss_meta meta;
  assert_true(ss_model_meta(m, "tokenizer.ggml.tokens", &meta) && meta.n == TINY_VOCAB);
  assert_true(ss_model_meta_element(m, "tokenizer.ggml.tokens", 2, &meta) && meta.text.len == 10);
  ss_model_free(m);
  gguf_image_free(&image);
}

static void test_block_costs_are_those_of_the_shapes(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.type = SS_GGUF_Q8_0});
  ss_model *m = loaded(&image);
  ss_block_cost attention, feed_forward;
  ss_error err;
  assert_int_equal(ss_model_block_cost(m, 2, &attention, &err), SS_OK);
  assert_int_equal(ss_model_block_cost(m, 3, &feed_forward, &err), SS_OK);
  assert_int_equal(ss_model_block_cost(m, 4, &feed_forward, &err), SS_E_ARGUMENT);
  assert_int_equal(ss_model_block_cost(m, 3, &feed_forward, &err), SS_OK);
  assert_int_equal(attention.macs, 64 * 64 * 2 + 64 * 32 * 2);
  assert_int_equal(feed_forward.macs, 3 * 64 * 96);
  assert_int_equal(attention.file_bytes, attention.macs / 32 * 34 + 64 * 4);
  assert_int_equal(feed_forward.file_bytes, feed_forward.macs / 32 * 34 + 64 * 4);
  assert_int_equal(attention.packed_bytes, attention.macs / 256 * sizeof(ss_block8) + 64 * 4);
  assert_int_equal(attention.kv_bytes, 32 + 32 + 2 * 4);
  assert_int_equal(feed_forward.kv_bytes, 0);

  ss_mask mask = {{0}};
  const size_t outside = ss_model_bytes(m, &mask);
  ss_mask_set(&mask, 2, true);
  assert_int_equal(ss_model_bytes(m, &mask), outside + attention.packed_bytes);
  assert_int_equal(ss_model_bytes(m, NULL), outside + 2 * (attention.packed_bytes + feed_forward.packed_bytes));
  ss_model_free(m);
  gguf_image_free(&image);
}

static void test_tensors_belong_to_their_blocks(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.extra_tensor = "something.else"});
  ss_model *m = loaded(&image);
  ss_tensor_info t;
  ss_error err;
  for (size_t i = 0; i < ss_model_n_tensors(m); i++) {
    assert_int_equal(ss_model_tensor(m, i, &t, &err), SS_OK);
    int layer = -1;
    const bool in_layer = sscanf(t.name, "blk.%d.", &layer) == 1;
    assert_int_equal(t.block, !in_layer ? -1 : 2 * layer + (strstr(t.name, ".ffn_") != NULL));
    assert_true(t.present == (strcmp(t.name, "something.else") != 0));
    assert_string_equal(t.type, "F32");
  }
  assert_int_equal(ss_model_tensor(m, ss_model_n_tensors(m), &t, &err), SS_E_ARGUMENT);
  ss_model_free(m);
  gguf_image_free(&image);
}

static void test_weights_read_back_through_the_model(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.type = SS_GGUF_F32, .vector_type = SS_GGUF_F16});
  ss_model *m = loaded(&image);
  const ss_matrix w = ss_model_matrix(m, m->layers[1].down);
  float row[96], norm[64];
  for (uint32_t r = 0; r < 64; r++) {
    ss_matrix_row(row, &w, r);
    assert_memory_equal(row, image.data + m->tensors[m->layers[1].down].file->offset + r * 96u * 4, sizeof row);
  }
  const ss_tensor *t = &m->tensors[m->output_norm];
  ss_quant_floats(norm, SS_GGUF_F16, 64, image.data + t->file->offset);
  assert_memory_equal(norm, ss_model_vector(m, m->output_norm), sizeof norm);
  assert_int_equal(t->data_bytes, 64 * 4);
  assert_int_equal(m->head, m->embedding);
  ss_model_free(m);
  gguf_image_free(&image);
}

static void test_shape_of_heads_may_differ_from_the_width(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(
      &(tiny_model){.type = SS_GGUF_Q5_0, .n_heads = 3, .n_kv_heads = 3, .head_dim = 64, .rope_freqs = true});
  ss_model *m = loaded(&image);
  assert_int_equal(m->config.head_dim, 64);
  assert_int_equal(m->config.n_rot, 64);
  assert_true(m->rope_factors >= 0);
  assert_int_equal(m->tensors[m->rope_factors].cols, 32);
  assert_int_equal(m->tensors[m->layers[0].o].cols, 192);
  ss_model_free(m);
  gguf_image_free(&image);
}

static void test_optional_keys_have_defaults(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.without = "llama.attention.head_count_kv", .n_kv_heads = 2});
  ss_model *m = loaded(&image);
  assert_int_equal(m->config.n_kv_heads, 2);
  ss_model_free(m);
  gguf_image_free(&image);
  image = tiny_model_image(&(tiny_model){.without = "llama.rope.dimension_count", .alignment = 256});
  m = loaded(&image);
  assert_int_equal(m->config.n_rot, 32);
  assert_true(m->config.rope_scale == 1);
  assert_int_equal(m->tensors[1].file->offset % 256, 0);
  ss_model_free(m);
  gguf_image_free(&image);
}

static void test_keys_with_a_value_for_each_layer_may_be_arrays(void **state) {
  (void)state;
  static const uint32_t equal[] = {1, 1}, mixed[] = {1, 2};
  for (int i = 0; i < 2; i++) {
    tiny_model tiny = {.without = "llama.attention.head_count_kv"};
    gguf_image base = tiny_model_image(&tiny);
    gguf_writer w = gguf_start(); /* the same header with one more entry */
    gguf_u32s(&w, "llama.attention.head_count_kv", i ? mixed : equal, 2);
    byte_buffer all = {0};
    put_bytes(&all, base.data, 24);
    put_bytes(&all, w.meta.data, w.meta.len);
    put_bytes(&all, base.data + 24, base.header_len - 24);
    all.data[16]++;
    free(w.meta.data);
    while (all.len % 32) put_number(&all, 0, 1);
    put_bytes(&all, base.data + base.data_offset, base.len - base.data_offset);
    ss_model *m = new_model(&test_host);
    ss_error err = {0};
    const ss_status status = ss_model_feed(m, 0, all.data, all.len, &err);
    if (i) {
      assert_int_equal(status, SS_E_UNSUPPORTED);
      assert_non_null(strstr(err.message, "llama.attention.head_count_kv: its entries differ"));
    } else {
      assert_int_equal(status, SS_OK);
      assert_int_equal(m->config.n_kv_heads, 1);
    }
    ss_model_free(m);
    free(all.data);
    gguf_image_free(&base);
  }
}

static void test_linear_position_scaling_is_read(void **state) {
  (void)state;
  gguf_image image =
      tiny_model_image(&(tiny_model){.odd_key = "llama.rope.scale_linear", .odd_meta = SS_META_F32, .odd_f32 = 4});
  ss_model *m = loaded(&image);
  assert_true(m->config.rope_scale == 0.25f);
  ss_model_free(m);
  gguf_image_free(&image);
}

/* ---- pieces ---- */

static void test_pieces_of_any_size_and_order_give_the_same_weights(void **state) {
  (void)state;
  static const uint32_t types[] = {SS_GGUF_F32,  SS_GGUF_F16,  SS_GGUF_BF16, SS_GGUF_Q4_0, SS_GGUF_Q4_1, SS_GGUF_Q5_0,
                                   SS_GGUF_Q5_1, SS_GGUF_Q8_0, SS_GGUF_Q4_K, SS_GGUF_Q5_K, SS_GGUF_Q6_K};
  static const size_t ordered[] = {1, 7, 65536}, shuffled[] = {3, 300, 20000};
  for (size_t k = 0; k < sizeof types / sizeof types[0]; k++) {
    tiny_model tiny = {.type = types[k], .vector_type = k % 2 ? SS_GGUF_BF16 : 0, .n_layers = 1};
    if (ss_quant_find(types[k])->block <= 32) tiny.n_embd = tiny.n_ff = 32, tiny.n_heads = 1;
    gguf_image image = tiny_model_image(&tiny);
    ss_model *whole = loaded(&image);
    for (size_t i = 0; i < sizeof ordered / sizeof ordered[0]; i++) {
      ss_model *m = new_model(&test_host);
      assert_int_equal(feed_in_order(m, &image, ordered[i], NULL), SS_OK);
      assert_same_weights(whole, m);
      ss_model_free(m);
    }
    for (size_t i = 0; i < sizeof shuffled / sizeof shuffled[0]; i++) {
      ss_model *m = new_model(&test_host);
      ss_error err = {0};
      if (feed_shuffled(m, &image, shuffled[i], i + k, &err) != SS_OK) fail_msg("%s", err.message);
      assert_same_weights(whole, m);
      assert_int_equal(ss_model_next_offset(m), image.len);
      ss_model_free(m);
    }
    ss_model_free(whole);
    gguf_image_free(&image);
  }
}

static void test_same_weights_finds_a_changed_byte(void **state) { /* the comparison above is one that can fail */
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.type = SS_GGUF_Q8_0});
  ss_model *a = loaded(&image);
  image.data[image.data_offset + 5] ^= 1;
  ss_model *b = loaded(&image);
  const ss_tensor *x = &a->tensors[0], *y = &b->tensors[0];
  assert_int_not_equal(memcmp(x->data, y->data, x->data_bytes), 0);
  ss_model_free(a);
  ss_model_free(b);
  gguf_image_free(&image);
}

static void test_next_offset_is_the_first_unknown_byte(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.type = SS_GGUF_Q4_0});
  ss_model *m = new_model(&test_host);
  ss_error err;
  assert_int_equal(ss_model_next_offset(m), 0);
  ss_model_feed(m, 0, image.data, 100, &err);
  assert_int_equal(ss_model_next_offset(m), 100);
  assert_false(ss_model_header_done(m));
  ss_model_feed(m, 50, image.data + 50, 100, &err); /* overlaps what is known */
  assert_int_equal(ss_model_next_offset(m), 150);
  ss_model_feed(m, 0, image.data, 120, &err);
  assert_int_equal(ss_model_next_offset(m), 150);
  assert_int_equal(ss_model_feed(m, 150, image.data + 150, image.data_offset + 1000 - 150, &err), SS_MORE);
  assert_true(ss_model_header_done(m));
  assert_int_equal(ss_model_next_offset(m), image.data_offset + 1000);
  ss_model_feed(m, image.data_offset + 2000, image.data + image.data_offset + 2000, 500, &err);
  assert_int_equal(ss_model_next_offset(m), image.data_offset + 1000);
  ss_model_feed(m, image.data_offset + 1000, image.data + image.data_offset + 1000, 1000, &err);
  assert_int_equal(ss_model_next_offset(m), image.data_offset + 2500);
  ss_model_free(m);
  gguf_image_free(&image);
}

static void test_tensor_is_present_with_its_last_byte(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.type = SS_GGUF_Q5_1});
  ss_model *m = new_model(&test_host);
  ss_error err;
  ss_tensor_info t;
  ss_model_feed(m, 0, image.data, image.header_len, &err);
  assert_int_equal(ss_model_tensor(m, 3, &t, &err), SS_OK);
  assert_null(m->tensors[3].data);
  ss_model_feed(m, t.offset, image.data + t.offset, (size_t)t.bytes - 1, &err);
  ss_model_tensor(m, 3, &t, &err);
  assert_false(t.present);
  assert_non_null(m->tensors[3].data);
  ss_model_feed(m, t.offset + t.bytes - 1, image.data + t.offset + t.bytes - 1, 1, &err);
  ss_model_tensor(m, 3, &t, &err);
  assert_true(t.present);
  assert_null(m->tensors[2].data);
  ss_model_free(m);
  gguf_image_free(&image);
}

static void test_bytes_behind_the_last_tensor_do_not_matter(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.type = SS_GGUF_Q4_0});
  uint8_t *longer = calloc(image.len + 1000, 1);
  memcpy(longer, image.data, image.len);
  ss_model *m = new_model(&test_host);
  assert_int_equal(ss_model_feed(m, 0, longer, image.len + 1000, NULL), SS_OK);
  assert_int_equal(ss_model_feed(m, image.len + 5000, longer, 1000, NULL), SS_OK);
  assert_int_equal(ss_model_next_offset(m), image.len);
  ss_model_free(m);
  free(longer);
  gguf_image_free(&image);
}

static void test_header_must_come_without_a_gap(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){0});
  ss_model *m = new_model(&test_host);
  ss_error err;
  assert_int_equal(ss_model_feed(m, 0, image.data, 100, &err), SS_MORE);
  assert_int_equal(ss_model_feed(m, 101, image.data + 101, 100, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "feed: bytes from 101 on, but the header is known to 100 only"));
  ss_model_free(m);
  m = new_model(&test_host);
  assert_int_equal(ss_model_feed(m, UINT64_MAX - 5, image.data, 100, &err), SS_E_ARGUMENT);
  ss_model_free(m);
  gguf_image_free(&image);
}

static void test_length_that_is_told_finds_truncation_with_the_header(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.type = SS_GGUF_Q4_0});
  ss_model *m = new_model(&test_host);
  ss_error err;
  assert_int_equal(ss_model_expect_bytes(m, image.len - 10, &err), SS_OK);
  assert_int_equal(ss_model_feed(m, 0, image.data, image.header_len, &err), SS_E_FORMAT);
  char want[80];
  snprintf(want, sizeof want, "truncated file: %zu of %zu bytes; output_norm.weight ends at ", image.len - 10,
           image.len);
  if (!strstr(err.message, want)) fail_msg("\"%s\", want \"%s\"", err.message, want);
  ss_model_free(m);

  m = new_model(&test_host);
  assert_int_equal(ss_model_expect_bytes(m, image.len, &err), SS_OK);
  assert_int_equal(ss_model_feed(m, 0, image.data, image.len, &err), SS_OK);
  assert_int_equal(ss_model_feed(m, image.len - 1, image.data, 2, &err), SS_E_ARGUMENT);
  ss_model_free(m);
  gguf_image_free(&image);
}

/* ---- what is wrong with a file ---- */

static void test_load_rejects_configurations_that_do_not_run(void **state) {
  (void)state;
  static const struct {
    const char *key;
    ss_meta_type type;
    uint64_t value;
    float f32;
    const char *text;
    ss_status status;
    const char *message;
  } cases[] = {
      {"general.architecture", SS_META_STRING, 0, 0, "mamba", SS_E_UNSUPPORTED,
       "general.architecture: \"mamba\", want \"llama\", \"qwen2\" or \"bert\""},
      {"general.architecture", SS_META_U32, 5, 0, 0, SS_E_MISSING, "general.architecture"},
      {"llama.block_count", SS_META_U32, 0, 0, 0, SS_E_FORMAT, "llama.block_count: 0, want 1 to 512"},
      {"llama.block_count", SS_META_U32, 513, 0, 0, SS_E_UNSUPPORTED, "llama.block_count: 513, want 1 to 512"},
      {"llama.block_count", SS_META_I32, (uint64_t)-3, 0, 0, SS_E_FORMAT, "llama.block_count: -3, want 1 to 512"},
      {"llama.block_count", SS_META_U64, UINT64_MAX, 0, 0, SS_E_UNSUPPORTED, "llama.block_count: 18446744073709551615"},
      {"llama.block_count", SS_META_STRING, 0, 0, "2", SS_E_FORMAT, "llama.block_count: want an integer"},
      {"llama.block_count", SS_META_U32, 3, 0, 0, SS_E_MISSING, "blk.2.attn_norm.weight: the tensor is missing"},
      {"llama.embedding_length", SS_META_U32, 0, 0, 0, SS_E_FORMAT, "llama.embedding_length: 0"},
      {"llama.embedding_length", SS_META_U32, 72, 0, 0, SS_E_UNSUPPORTED,
       "llama.embedding_length: 72, want a multiple of 32"},
      {"llama.embedding_length", SS_META_U32, 1u << 31, 0, 0, SS_E_UNSUPPORTED, "llama.embedding_length: 2147483648"},
      {"llama.feed_forward_length", SS_META_U32, 100, 0, 0, SS_E_UNSUPPORTED,
       "llama.feed_forward_length: 100, want a multiple of 32"},
      {"llama.feed_forward_length", SS_META_U32, 128, 0, 0, SS_E_FORMAT,
       "blk.0.ffn_gate.weight: shape [64, 96], want [64, 128]"},
      {"llama.attention.head_count", SS_META_U32, 0, 0, 0, SS_E_FORMAT, "llama.attention.head_count: 0"},
      {"llama.attention.head_count", SS_META_U32, 3, 0, 0, SS_E_MISSING,
       "llama.attention.key_length: the key is missing"},
      {"llama.attention.head_count", SS_META_U32, 4, 0, 0, SS_E_UNSUPPORTED,
       "llama: heads of 16 dimensions, want a multiple of 32"},
      {"llama.attention.head_count_kv", SS_META_U32, 0, 0, 0, SS_E_FORMAT, "llama.attention.head_count_kv: 0"},
      {"llama.attention.head_count_kv", SS_META_U32, 3, 0, 0, SS_E_UNSUPPORTED,
       "llama.attention.head_count_kv: 3, want 1 to 2"},
      {"llama.attention.head_count_kv", SS_META_F32, 0, 2, 0, SS_E_FORMAT,
       "llama.attention.head_count_kv: want an integer"},
      {"llama.attention.head_count_kv", SS_META_U32, 2, 0, 0, SS_E_FORMAT,
       "blk.0.attn_k.weight: shape [64, 32], want [64, 64]"},
      {"llama.attention.key_length", SS_META_U32, 48, 0, 0, SS_E_UNSUPPORTED, "llama: heads of 48 dimensions"},
      {"llama.attention.key_length", SS_META_U32, 1024, 0, 0, SS_E_UNSUPPORTED,
       "llama.attention.key_length: 1024, want 1 to 512"},
      {"llama.attention.key_length", SS_META_U32, 64, 0, 0, SS_E_FORMAT,
       "blk.0.attn_q.weight: shape [64, 64], want [64, 128]"},
      {"llama.attention.value_length", SS_META_U32, 64, 0, 0, SS_E_UNSUPPORTED,
       "llama.attention.value_length: 64, want the key_length 32"},
      {"llama.rope.dimension_count", SS_META_U32, 0, 0, 0, SS_E_FORMAT, "llama.rope.dimension_count: 0, want 2 to 32"},
      {"llama.rope.dimension_count", SS_META_U32, 7, 0, 0, SS_E_FORMAT, "llama.rope.dimension_count: an odd number"},
      {"llama.rope.dimension_count", SS_META_U32, 34, 0, 0, SS_E_UNSUPPORTED,
       "llama.rope.dimension_count: 34, want 2 to 32"},
      {"llama.rope.freq_base", SS_META_F32, 0, 0, 0, SS_E_FORMAT, "llama.rope.freq_base: out of range"},
      {"llama.rope.freq_base", SS_META_F32, 0, -1, 0, SS_E_FORMAT, "llama.rope.freq_base: out of range"},
      {"llama.rope.freq_base", SS_META_F32, 0, __builtin_nanf(""), 0, SS_E_FORMAT,
       "llama.rope.freq_base: out of range"},
      {"llama.rope.freq_base", SS_META_F32, 0, __builtin_inff(), 0, SS_E_FORMAT, "llama.rope.freq_base: out of range"},
      {"llama.rope.freq_base", SS_META_U32, 10000, 0, 0, SS_E_FORMAT,
       "llama.rope.freq_base: want a floating-point number"},
      {"llama.rope.scaling.type", SS_META_STRING, 0, 0, "yarn", SS_E_UNSUPPORTED,
       "llama.rope.scaling.type: \"yarn\", want \"none\" or \"linear\""},
      {"llama.rope.scaling.type", SS_META_STRING, 0, 0, "llama3", SS_E_UNSUPPORTED,
       "llama.rope.scaling.type: \"llama3\""},
      {"llama.rope.scale_linear", SS_META_F32, 0, 0, 0, SS_E_FORMAT, "llama.rope.scale_linear: out of range"},
      {"llama.attention.layer_norm_rms_epsilon", SS_META_F32, 0, __builtin_nanf(""), 0, SS_E_FORMAT,
       "layer_norm_rms_epsilon: out of range"},
      {"llama.attention.layer_norm_rms_epsilon", SS_META_F32, 0, 2, 0, SS_E_FORMAT,
       "layer_norm_rms_epsilon: out of range"},
      {"llama.context_length", SS_META_U64, (uint64_t)1 << 32, 0, 0, SS_E_UNSUPPORTED,
       "llama.context_length: 4294967296"},
      {"llama.vocab_size", SS_META_U32, 290, 0, 0, SS_E_FORMAT,
       "llama.vocab_size: 290 tokens, but token_embd.weight has 291 rows"},
      {"llama.expert_count", SS_META_U32, 8, 0, 0, SS_E_UNSUPPORTED, "llama.expert_count: 8, want 0 to 0"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
    expect_refusal(&(tiny_model){.odd_key = cases[i].key,
                                 .odd_meta = cases[i].type,
                                 .odd_value = cases[i].value,
                                 .odd_f32 = cases[i].f32,
                                 .odd_text = cases[i].text},
                   cases[i].status, cases[i].message);
}

static void test_load_names_what_is_missing(void **state) {
  (void)state;
  static const char *const keys[] = {"general.architecture",
                                     "llama.block_count",
                                     "llama.context_length",
                                     "llama.embedding_length",
                                     "llama.feed_forward_length",
                                     "llama.attention.head_count",
                                     "llama.attention.layer_norm_rms_epsilon"};
  static const char *const tensors[] = {"token_embd.weight",        "output_norm.weight",    "blk.0.attn_norm.weight",
                                        "blk.1.attn_q.weight",      "blk.1.attn_k.weight",   "blk.0.attn_v.weight",
                                        "blk.0.attn_output.weight", "blk.1.ffn_norm.weight", "blk.0.ffn_gate.weight",
                                        "blk.0.ffn_up.weight",      "blk.1.ffn_down.weight"};
  char message[96];
  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
    snprintf(message, sizeof message, "%s: the key is missing", keys[i]);
    expect_refusal(&(tiny_model){.without = keys[i]}, SS_E_MISSING, message);
  }
  for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
    snprintf(message, sizeof message, "%s: the tensor is missing", tensors[i]);
    expect_refusal(&(tiny_model){.without = tensors[i]}, SS_E_MISSING, message);
  }
}

static void test_load_rejects_tensors_of_wrong_shape_or_type(void **state) {
  (void)state;
  static const struct {
    const char *name;
    uint32_t n_dims;
    uint64_t dims[4];
    uint32_t type;
    ss_status status;
    const char *message;
  } cases[] = {
      {"blk.1.attn_q.weight", 2, {64, 32}, 0, SS_E_FORMAT, "blk.1.attn_q.weight: shape [64, 32], want [64, 64]"},
      {"blk.1.attn_q.weight", 1, {64}, 0, SS_E_FORMAT, "blk.1.attn_q.weight: shape [64], want [64, 64]"},
      {"blk.1.attn_q.weight", 3, {64, 64, 2}, 0, SS_E_FORMAT, "shape [64, 64, 2], want [64, 64]"},
      {"blk.1.attn_q.weight", 4, {64, 64, 1, 3}, 0, SS_E_FORMAT, "shape [64, 64, 1, 3], want [64, 64]"},
      {"blk.0.ffn_norm.weight", 1, {32}, 0, SS_E_FORMAT, "blk.0.ffn_norm.weight: shape [32], want [64]"},
      {"blk.0.ffn_norm.weight", 2, {64, 2}, 0, SS_E_FORMAT, "blk.0.ffn_norm.weight: shape [64, 2], want [64]"},
      {"blk.0.ffn_norm.weight",
       1,
       {64},
       SS_GGUF_Q8_0,
       SS_E_UNSUPPORTED,
       "blk.0.ffn_norm.weight: type Q8_0, want F32, F16 or BF16"},
      {"blk.0.ffn_up.weight",
       2,
       {64, 96},
       20,
       SS_E_UNSUPPORTED,
       "blk.0.ffn_up.weight: type IQ4_NL, want F32, F16, BF16, Q4_0"},
      {"blk.0.ffn_up.weight", 2, {64, 96}, 28, SS_E_UNSUPPORTED, "blk.0.ffn_up.weight: type F64, want F32"},
      {"token_embd.weight",
       2,
       {64, 290},
       0,
       SS_E_FORMAT,
       "llama.vocab_size: 291 tokens, but token_embd.weight has 290 rows"},
      {"token_embd.weight", 2, {96, 291}, 0, SS_E_FORMAT, "token_embd.weight: shape [96, 291], want [64, 291]"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    tiny_model tiny = {.odd_tensor = cases[i].name, .odd_n_dims = cases[i].n_dims, .odd_type = cases[i].type};
    memcpy(tiny.odd_dims, cases[i].dims, sizeof tiny.odd_dims);
    expect_refusal(&tiny, cases[i].status, cases[i].message);
  }
  expect_refusal(&(tiny_model){.extra_tensor = "blk.0.attn_q.bias"}, SS_E_UNSUPPORTED,
                 "blk.0.attn_q.bias: this bias is not part of the architecture llama");
}

static void test_vector_with_a_second_dimension_of_one_is_a_vector(void **state) {
  (void)state;
  gguf_image image =
      tiny_model_image(&(tiny_model){.odd_tensor = "blk.0.ffn_norm.weight", .odd_n_dims = 2, .odd_dims = {64, 1}});
  ss_model *m = loaded(&image);
  assert_int_equal(m->tensors[m->layers[0].ffn_norm].data_bytes, 64 * 4);
  ss_model_free(m);
  gguf_image_free(&image);
}

static void test_weight_that_is_not_finite_is_named(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.type = SS_GGUF_Q4_0});
  ss_model *m = loaded(&image);
  const ss_gguf_tensor *t = &m->gguf.tensors[ss_gguf_find(&m->gguf, "blk.1.ffn_down.weight")];
  const size_t at = (size_t)t->offset + (5 * 96 / 32 + 2) * 18; /* row 5, its third block */
  image.data[at] = 0;
  image.data[at + 1] = 0x7c;
  ss_model_free(m);
  static const size_t pieces[] = {SIZE_MAX, 7};
  for (size_t i = 0; i < 2; i++) {
    ss_error err = {0};
    m = new_model(&test_host);
    assert_int_equal(feed_in_order(m, &image, pieces[i], &err), SS_E_FORMAT);
    assert_string_equal(err.message, "blk.1.ffn_down.weight: element 544 (row 5, column 64) is not finite");
    ss_model_free(m);
  }
  gguf_image_free(&image);

  image = tiny_model_image(&(tiny_model){0});
  m = loaded(&image);
  t = &m->gguf.tensors[ss_gguf_find(&m->gguf, "output_norm.weight")];
  memcpy(image.data + t->offset + 4 * 9, "\0\0\xc0\x7f", 4);
  ss_model_free(m);
  for (size_t i = 0; i < 2; i++) {
    ss_error err = {0};
    m = new_model(&test_host);
    assert_int_equal(feed_in_order(m, &image, pieces[i], &err), SS_E_FORMAT);
    assert_string_equal(err.message, "output_norm.weight: element 9 (row 0, column 9) is not finite");
    ss_model_free(m);
  }
  gguf_image_free(&image);
}

/* ---- memory ---- */

static void test_load_survives_any_allocation_that_fails(void **state) {
  (void)state;
  gguf_image image =
      tiny_model_image(&(tiny_model){.type = SS_GGUF_Q4_1, .n_layers = 1, .n_embd = 32, .n_ff = 32, .n_heads = 1});
  for (size_t fail_at = 1;; fail_at++) {
    counting_memory memory = {.fail_at = fail_at};
    const ss_host host = counting_host(&memory);
    ss_model *m;
    ss_error err = {0};
    ss_status status = ss_model_create(&m, &host, NULL, &err);
    if (status == SS_OK) status = feed_shuffled(m, &image, 40, 3, &err);
    else assert_null(m);
    ss_model_free(m);
    assert_int_equal(memory.n_live, 0);
    assert_int_equal(memory.bytes_live, 0);
    if (status == SS_OK) {
      assert_true(fail_at > 30);
      break;
    }
    assert_int_equal(status, SS_E_MEMORY);
    assert_int_equal(err.status, SS_E_MEMORY);
    assert_non_null(strstr(err.message, "refused"));
  }
  gguf_image_free(&image);
}

static void test_create_wants_a_host_that_allocates(void **state) {
  (void)state;
  ss_model *m;
  ss_error err;
  assert_int_equal(ss_model_create(&m, &(ss_host){0}, NULL, &err), SS_E_ARGUMENT);
  assert_null(m);
  ss_model_free(NULL);
}

static void test_memory_is_the_weights_and_little_more(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.type = SS_GGUF_Q8_0, .n_embd = 256, .n_ff = 768, .n_heads = 4});
  counting_memory memory = {0};
  const ss_host host = counting_host(&memory);
  ss_model *m = new_model(&host);
  assert_int_equal(feed_in_order(m, &image, 1000, NULL), SS_OK);
  assert_true(memory.bytes_live < ss_model_bytes(m, NULL) + image.header_len + 20000);
  ss_model_free(m);
  gguf_image_free(&image);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_info_tells_what_the_header_says),
      cmocka_unit_test(test_block_costs_are_those_of_the_shapes),
      cmocka_unit_test(test_tensors_belong_to_their_blocks),
      cmocka_unit_test(test_weights_read_back_through_the_model),
      cmocka_unit_test(test_shape_of_heads_may_differ_from_the_width),
      cmocka_unit_test(test_optional_keys_have_defaults),
      cmocka_unit_test(test_keys_with_a_value_for_each_layer_may_be_arrays),
      cmocka_unit_test(test_linear_position_scaling_is_read),
      cmocka_unit_test(test_pieces_of_any_size_and_order_give_the_same_weights),
      cmocka_unit_test(test_same_weights_finds_a_changed_byte),
      cmocka_unit_test(test_next_offset_is_the_first_unknown_byte),
      cmocka_unit_test(test_tensor_is_present_with_its_last_byte),
      cmocka_unit_test(test_bytes_behind_the_last_tensor_do_not_matter),
      cmocka_unit_test(test_header_must_come_without_a_gap),
      cmocka_unit_test(test_length_that_is_told_finds_truncation_with_the_header),
      cmocka_unit_test(test_load_rejects_configurations_that_do_not_run),
      cmocka_unit_test(test_load_names_what_is_missing),
      cmocka_unit_test(test_load_rejects_tensors_of_wrong_shape_or_type),
      cmocka_unit_test(test_vector_with_a_second_dimension_of_one_is_a_vector),
      cmocka_unit_test(test_weight_that_is_not_finite_is_named),
      cmocka_unit_test(test_load_survives_any_allocation_that_fails),
      cmocka_unit_test(test_create_wants_a_host_that_allocates),
      cmocka_unit_test(test_memory_is_the_weights_and_little_more),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
