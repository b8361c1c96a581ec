/* Writes GGUF images in memory for tests: well-formed ones, and by its options ones that are wrong in one place.
 *
 *     gguf_writer w = gguf_start();
 *     gguf_u32(&w, "llama.block_count", 2);
 *     gguf_tensor(&w, "a.weight", SS_GGUF_F32, 2, (uint64_t[]){32, 8}, bytes, sizeof bytes);
 *     gguf_image image = gguf_finish(&w);   ...   gguf_image_free(&image);
 *
 * or a whole small random llama model in one call: tiny_model_image. */
#ifndef SS_GGUF_WRITER_H
#define SS_GGUF_WRITER_H

#include "base/base.h"
#include "model/quant.h"

typedef struct byte_buffer {
  uint8_t *data;
  size_t len, capacity;
} byte_buffer;

void put_bytes(byte_buffer *b, const void *bytes, size_t n);
void put_number(byte_buffer *b, uint64_t value, size_t n_bytes); /* little-endian */
void put_text(byte_buffer *b, const char *text, size_t n);       /* u64 length, then the bytes */

typedef struct gguf_writer {
  byte_buffer meta, infos, weights;
  uint64_t n_entries, n_tensors; /* what the header will claim */
  uint32_t version, alignment;   /* alignment: where tensors are put; the key is only written when asked for */
} gguf_writer;

typedef struct gguf_image {
  uint8_t *data;      /* exactly `len` bytes, so that a sanitizer sees a read past the end */
  size_t len;
  size_t header_len;  /* without the padding behind it */
  size_t data_offset; /* of the tensors */
} gguf_image;

gguf_writer gguf_start(void); /* version 3, alignment 32 */
gguf_image gguf_finish(gguf_writer *w);
void gguf_image_free(gguf_image *image);

void gguf_scalar(gguf_writer *w, const char *key, ss_meta_type type, uint64_t value); /* integers and bools */
void gguf_u32(gguf_writer *w, const char *key, uint32_t value);
void gguf_f32(gguf_writer *w, const char *key, float value);
void gguf_f64(gguf_writer *w, const char *key, double value);
void gguf_bool(gguf_writer *w, const char *key, bool value);
void gguf_string(gguf_writer *w, const char *key, const char *value);
void gguf_strings(gguf_writer *w, const char *key, const char *const *items, size_t n);
void gguf_u32s(gguf_writer *w, const char *key, const uint32_t *items, size_t n);
/* An entry whose value is given as bytes, right or wrong. */
void gguf_raw(gguf_writer *w, const char *key, uint32_t type, const void *value, size_t n);

/* A tensor at the next aligned place, and one whose entry says what it likes and has no bytes. */
void gguf_tensor(gguf_writer *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                 const void *bytes, size_t n);
void gguf_tensor_entry(gguf_writer *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                       uint64_t offset);

/* Random weights of any supported type, n_weights a multiple of its block: finite, of about the spread. Returns malloc'ed
 * memory of *n_bytes. */
uint8_t *random_weights(uint32_t type, uint64_t n_weights, float spread, uint64_t seed, size_t *n_bytes);
uint16_t half_of_float(float x); /* for ordinary numbers; cuts */

/* A llama model with a byte-level tokenizer: 3 special tokens (<|endoftext|>, <|im_start|>, <|im_end|>), the 256 bytes in
 * byte order, and the products of its merges. Zero fields take the default. */
#define TINY_VOCAB 291
typedef struct tiny_model {
  uint32_t type; /* of the matrices; 0 is F32 */
  uint32_t vector_type; /* of the norms; 0 is F32 */
  uint32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads; /* 2, 64, 96, 2, 1; k-quants 1, 256, 256, 4, 1 */
  uint32_t head_dim; /* written as attention.key_length when given */
  const char *pre; /* "smollm" */
  bool own_head, rope_freqs;
  uint64_t seed;
  /* one thing that is wrong */
  const char *without; /* leave out this key or tensor */
  const char *odd_key; /* write this key so, in addition to or instead of the usual */
  ss_meta_type odd_meta; /* integers, bool, F32 (odd_f32) or STRING (odd_text) */
  uint64_t odd_value;
  float odd_f32;
  const char *odd_text;
  const char *odd_tensor; /* write this tensor with these dims and type, no matter what */
  uint64_t odd_dims[4];
  uint32_t odd_n_dims, odd_type;
  const char *extra_tensor; /* one more tensor, F32 [32] */
  uint32_t alignment; /* 32 */
} tiny_model;
gguf_image tiny_model_image(const tiny_model *model);

#endif
