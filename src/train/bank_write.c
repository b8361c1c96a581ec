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

static size_t count_masks(const ss_bank_parts *p) { return (size_t)p->n_levels * (p->n_clusters + 1); }

/* The first recovery that there is; NULL: none. */
static const ss_recovery *first_recovery(const ss_bank_parts *p) {
  for (size_t i = 0; p->recoveries && i < count_masks(p); i++)
    if (p->recoveries[i]) return p->recoveries[i];
  return NULL;
}

static void put_meta(writer *w, const ss_bank_parts *p) {
  const size_t n_masks = p->n_clusters + 1;
  put_string(w, "general.architecture", "skipstone-bank");
  put_string(w, "general.name", p->name);
  put_u32(w, KEY("version"), first_recovery(p) ? 2 : 1);
  put_u32(w, KEY("numerics_version"), SS_NUMERICS_VERSION);
  put_u32(w, KEY("n_layers"), p->n_layers);
  if (first_recovery(p)) put_u32(w, KEY("n_embd"), first_recovery(p)->n_embd);
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

static uint64_t padded(uint64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }
static void pad(writer *w) {
  while (w->at % ALIGNMENT) put_number(w, 0, 1);
}

/* ---- recovery ---- */

uint16_t ss_half_of_float(float x) {
  const uint32_t bits = ss_bits_of_float(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7bffu); /* what would round to infinity, and infinity */
  if (magnitude < 0x38800000u) { /* subnormal, in units of 2^-24: those of a float between 0.5 and 1 */
    const float shifted = ss_float_of_bits(magnitude) + 0.5f;
    return (uint16_t)(sign | (ss_bits_of_float(shifted) - ss_bits_of_float(0.5f)));
  }
  const uint32_t odd = magnitude >> 13 & 1;
  return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

static void put_halves(writer *w, const float *x, size_t n) { /* NULL: zeros */
  for (size_t i = 0; i < n; i++) put_number(w, x ? ss_half_of_float(x[i]) : 0, 2);
}

enum { GAINS, SCALES, STAND_INS, N_PARTS };

/* Is there something of this part to write for mask i? */
static bool has_part(const ss_bank_parts *p, size_t i, int part) {
  const ss_recovery *r = p->recoveries[i];
  if (!r) return false;
  bool gains = r->output_gains != NULL, scales = false, stand_ins = false;
  for (uint32_t k = 0; k < r->n_blocks; k++) {
    const ss_recovery_block *block = &r->blocks[k];
    if (ss_mask_has(&p->masks[i], k)) {
      gains = gains && block->gains;
      scales = scales || block->scale != 1.0f;
    } else stand_ins = stand_ins || block->a;
  }
  return part == GAINS ? gains : part == SCALES ? scales : stand_ins;
}

/* The numbers of a part of all masks; returns how many rows they are. */
static uint64_t put_rows(writer *w, const ss_bank_parts *p, int part) {
  uint64_t rows = 0;
  for (size_t i = 0; i < count_masks(p); i++) {
    const ss_recovery *r = p->recoveries[i];
    if (!has_part(p, i, part)) continue;
    for (uint32_t k = 0; k < r->n_blocks; k++) {
      const ss_recovery_block *block = &r->blocks[k];
      if (ss_mask_has(&p->masks[i], k) == (part == STAND_INS)) continue;
      rows++;
      if (part == SCALES) put_halves(w, &block->scale, 1);
      if (part == GAINS) put_halves(w, block->gains, r->n_embd);
      if (part == STAND_INS) put_halves(w, block->a, r->n_embd);
      if (part == STAND_INS) put_halves(w, block->b, r->n_embd);
    }
    if (part == GAINS) {
      put_halves(w, r->output_gains, r->n_embd);
      rows++;
    }
  }
  return rows;
}

/* With offset the tensors' entries, the first at *offset; without it their numbers. */
static void put_recovery(writer *w, const ss_bank_parts *p, uint64_t *offset) {
  static const char *const names[] = {"recovery.gains", "recovery.scales", "recovery.stand_ins"};
  static const uint32_t n_dims[] = {2, 1, 3};
  const ss_recovery *first = first_recovery(p);
  if (!first) return;
  const uint64_t dims[] = {p->n_clusters + 1, p->n_levels};
  if (offset) {
    put_info(w, "recovery.parts", TYPE_I8, 2, dims, *offset);
    *offset += padded(count_masks(p));
  } else {
    for (size_t i = 0; i < count_masks(p); i++)
      put_number(w, (uint64_t)(has_part(p, i, GAINS) | has_part(p, i, SCALES) << 1 | has_part(p, i, STAND_INS) << 2),
                 1);
    pad(w);
  }
  for (int part = 0; part < N_PARTS; part++) {
    writer count = {0};
    const uint64_t rows = put_rows(&count, p, part), n_embd = first->n_embd;
    const uint64_t part_dims[N_PARTS][3] = {{n_embd, rows}, {rows}, {n_embd, 2, rows}};
    if (!rows) continue;
    if (offset) {
      put_info(w, names[part], SS_GGUF_F16, n_dims[part], part_dims[part], *offset);
      *offset += padded(count.at);
    } else {
      put_rows(w, p, part);
      pad(w);
    }
  }
}

static ss_status check_recovery(const ss_bank_parts *p, ss_error *err) {
  const ss_recovery *first = first_recovery(p);
  for (size_t i = 0; first && i < count_masks(p); i++) {
    const ss_recovery *r = p->recoveries[i];
    if (r && (r->n_blocks != 2 * p->n_layers || r->n_embd != first->n_embd))
      return ss_fail(err, SS_E_ARGUMENT, "bank: recovery %zu is for %u blocks of width %u, want %u of %u", i,
                     r->n_blocks, r->n_embd, 2 * p->n_layers, first->n_embd);
  }
  return SS_OK;
}

/* ---- the file ---- */

static void put_file(writer *w, const ss_bank_parts *p, uint64_t n_entries, uint64_t n_tensors) {
  const uint32_t n_blocks = 2 * p->n_layers;
  const uint64_t centroid_dims[] = {p->dim, p->n_clusters}, mask_dims[] = {n_blocks, p->n_clusters + 1, p->n_levels};
  const size_t n_centroids = (size_t)p->n_clusters * p->dim;
  const uint64_t masks_at = padded(n_centroids * sizeof(float));
  uint64_t recovery_at = masks_at + padded(count_masks(p) * n_blocks);
  put(w, "GGUF", 4);
  put_number(w, 3, 4);
  put_number(w, n_tensors, 8);
  put_number(w, n_entries, 8);
  put_meta(w, p);
  put_info(w, "centroids", SS_GGUF_F32, 2, centroid_dims, 0);
  put_info(w, "masks", TYPE_I8, 3, mask_dims, masks_at);
  put_recovery(w, p, &recovery_at);
  pad(w);
  for (size_t i = 0; i < n_centroids; i++) put_number(w, ss_bits_of_float(p->centroids[i]), 4);
  pad(w);
  for (size_t i = 0; i < count_masks(p); i++)
    for (uint32_t block = 0; block < n_blocks; block++) put_number(w, ss_mask_has(&p->masks[i], block), 1);
  pad(w);
  put_recovery(w, p, NULL);
}

ss_status ss_bank_write(uint8_t **out, size_t *n, const ss_bank_parts *parts, const ss_host *host, ss_error *err) {
  writer count = {0};
  *out = NULL;
  *n = 0;
  const ss_status wrong = check_recovery(parts, err);
  if (wrong) return wrong;
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
