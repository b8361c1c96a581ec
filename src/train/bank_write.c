/* The bank file's bytes. route/bank.c says what is in it and reads it. */
#include "model/quant.h"
#include "train/train.h"

#define KEY(name) "skipstone-bank." name
#define ALIGNMENT 32 /* of tensors, GGUF's default */
#define TYPE_I8 24

/* Writes twice: without data it only counts. */
typedef struct writer {
  uint8_t *data;
  size_t at;
  uint64_t n_entries, n_tensors;
} writer;

static void put(writer *w, const void *bytes, size_t n) {
  if (w->data && n) memcpy(w->data + w->at, bytes, n);
  w->at += n;
}

static void put_number(writer *w, uint64_t value, size_t n_bytes) {
  uint8_t bytes[8];
  for (size_t i = 0; i < n_bytes; i++) bytes[i] = (uint8_t)(value >> (8 * i));
  put(w, bytes, n_bytes);
}

static void put_text(writer *w, ss_text text) {
  put_number(w, text.len, 8);
  put(w, text.data, text.len);
}

static ss_text text_of(const char *s) { return (ss_text){s, strlen(s)}; }

static void put_key(writer *w, const char *key, uint32_t type) {
  put_text(w, text_of(key));
  put_number(w, type, 4);
  w->n_entries++;
}

static void put_u32(writer *w, const char *key, uint32_t value) {
  put_key(w, key, SS_META_U32);
  put_number(w, value, 4);
}

static void put_u64(writer *w, const char *key, uint64_t value) {
  put_key(w, key, SS_META_U64);
  put_number(w, value, 8);
}

static void put_string(writer *w, const char *key, const char *value) {
  if (!value) return;
  put_key(w, key, SS_META_STRING);
  put_text(w, text_of(value));
}

static void put_array(writer *w, const char *key, uint32_t element, uint64_t n) {
  put_key(w, key, SS_META_ARRAY);
  put_number(w, element, 4);
  put_number(w, n, 8);
}

static void put_floats(writer *w, const char *key, const float *values, size_t n) {
  if (!values) return;
  put_array(w, key, SS_META_F32, n);
  for (size_t i = 0; i < n; i++) put_number(w, ss_bits_of_float(values[i]), 4);
}

static void put_meta(writer *w, const ss_bank_parts *p) {
  const size_t n_masks = p->n_clusters + 1;
  put_string(w, "general.architecture", "skipstone-bank");
  put_string(w, "general.name", p->name);
  put_u32(w, KEY("version"), SS_BANK_VERSION);
  put_u32(w, KEY("numerics_version"), SS_NUMERICS_VERSION);
  put_u32(w, KEY("n_layers"), p->n_layers);
  put_floats(w, KEY("levels"), p->levels, p->n_levels);
  put_string(w, KEY("model.name"), p->model_name);
  put_u64(w, KEY("model.family"), p->model.family);
  put_u64(w, KEY("model.exact"), p->model.exact);
  put_string(w, KEY("encoder.kind"), p->encoder_kind);
  put_string(w, KEY("encoder.name"), p->encoder_name);
  put_u64(w, KEY("encoder.family"), p->encoder.family);
  put_u64(w, KEY("encoder.exact"), p->encoder.exact);
  put_floats(w, KEY("losses"), p->losses, p->n_levels * n_masks);
  put_floats(w, KEY("dense_losses"), p->dense_losses, n_masks);
  if (p->sizes) {
    put_array(w, KEY("sizes"), SS_META_U32, p->n_clusters);
    for (uint32_t i = 0; i < p->n_clusters; i++) put_number(w, p->sizes[i], 4);
  }
  if (p->examples) {
    put_array(w, KEY("examples"), SS_META_STRING, p->n_clusters);
    for (uint32_t i = 0; i < p->n_clusters; i++) put_text(w, p->examples[i]);
  }
  put_string(w, KEY("method"), p->method);
  put_string(w, KEY("training"), p->training);
  put_string(w, KEY("provenance"), p->provenance);
}

static void put_info(writer *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                     uint64_t offset) {
  put_text(w, text_of(name));
  put_number(w, n_dims, 4);
  for (uint32_t i = 0; i < n_dims; i++) put_number(w, dims[i], 8);
  put_number(w, type, 4);
  put_number(w, offset, 8);
  w->n_tensors++;
}

static void pad(writer *w) {
  while (w->at % ALIGNMENT) put_number(w, 0, 1);
}

static void put_file(writer *w, const ss_bank_parts *p, uint64_t n_entries, uint64_t n_tensors) {
  const uint32_t n_blocks = 2 * p->n_layers;
  const uint64_t centroid_dims[] = {p->dim, p->n_clusters}, mask_dims[] = {n_blocks, p->n_clusters + 1, p->n_levels};
  const size_t n_centroids = (size_t)p->n_clusters * p->dim, centroid_bytes = n_centroids * sizeof(float);
  put(w, "GGUF", 4);
  put_number(w, 3, 4);
  put_number(w, n_tensors, 8);
  put_number(w, n_entries, 8);
  put_meta(w, p);
  put_info(w, "centroids", SS_GGUF_F32, 2, centroid_dims, 0);
  put_info(w, "masks", TYPE_I8, 3, mask_dims, (centroid_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
  pad(w);
  for (size_t i = 0; i < n_centroids; i++) put_number(w, ss_bits_of_float(p->centroids[i]), 4);
  pad(w);
  for (size_t i = 0; i < (size_t)p->n_levels * (p->n_clusters + 1); i++)
    for (uint32_t block = 0; block < n_blocks; block++) put_number(w, ss_mask_has(&p->masks[i], block), 1);
  pad(w);
}

ss_status ss_bank_write(uint8_t **out, size_t *n, const ss_bank_parts *parts, const ss_host *host, ss_error *err) {
  writer count = {0};
  *out = NULL;
  *n = 0;
  put_file(&count, parts, 0, 0);
  writer w = {.data = ss_host_alloc(host, count.at)};
  if (!w.data) return ss_fail(err, SS_E_MEMORY, "bank: the host refused %zu bytes", count.at);
  put_file(&w, parts, count.n_entries, count.n_tensors);
  ss_bank *bank; /* whoever cannot read it must not have written it */
  const ss_status status = ss_bank_open(&bank, w.data, w.at, host, err);
  ss_bank_free(bank);
  if (status != SS_OK) {
    ss_host_free(host, w.data, w.at);
    return status;
  }
  *out = w.data;
  *n = w.at;
  return SS_OK;
}
