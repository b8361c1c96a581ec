#include "bank_fixture.h"

#include <stdlib.h>

#define KEY(name) "skipstone-bank." name
#define TYPE_I8 24

static bool wanted(const bank_case *c, const char *name) { return !c->without || strcmp(c->without, name) != 0; }

static void put_floats(gguf_writer *w, const char *key, const float *values, size_t n) {
  byte_buffer value = {0};
  put_number(&value, SS_META_F32, 4);
  put_number(&value, n, 8);
  for (size_t i = 0; i < n; i++) put_number(&value, ss_bits_of_float(values[i]), 4);
  gguf_raw(w, key, SS_META_ARRAY, value.data, value.len);
  free(value.data);
}

static void put_u64(gguf_writer *w, const bank_case *c, const char *key, uint64_t value) {
  if (wanted(c, key)) gguf_scalar(w, key, SS_META_U64, value);
}

ss_mask bank_mask(uint32_t cluster, uint32_t level) {
  ss_mask m;
  ss_mask_fill(&m, 2 * BANK_LAYERS);
  ss_mask_set(&m, (cluster + level) % 4, false);
  return m;
}

uint32_t bank_recovery_parts(const bank_case *c, uint32_t i) {
  if (i == 0) return c->parts ? c->parts : 7;
  return i == BANK_LEVELS * (BANK_CLUSTERS + 1) - 1 ? 0 : i % 8;
}

static void put_recovery(gguf_writer *w, const bank_case *c) {
  enum { N_MASKS = BANK_LEVELS * (BANK_CLUSTERS + 1), N_BLOCKS = 2 * BANK_LAYERS, N_RUN = N_BLOCKS - 1 };
  uint8_t parts[N_MASKS];
  uint16_t gains[N_MASKS * N_BLOCKS * BANK_EMBD], scales[N_MASKS * N_BLOCKS], stand_ins[N_MASKS * 2 * BANK_EMBD];
  uint64_t rows[3] = {0};
  for (uint32_t i = 0; i < N_MASKS; i++) {
    parts[i] = (uint8_t)bank_recovery_parts(c, i);
    if (parts[i] & 1) rows[0] += N_RUN + 1;
    if (parts[i] & 2) rows[1] += N_RUN;
    if (parts[i] & 4) rows[2] += 1;
  }
  if (c->gain_rows) rows[0] = c->gain_rows;
  for (uint32_t i = 0; i < sizeof gains / 2; i++) gains[i] = half_of_float((float)(i + 1));
  for (uint32_t i = 0; i < sizeof scales / 2; i++) scales[i] = half_of_float(2 - (float)i / 64);
  for (uint32_t i = 0; i < sizeof stand_ins / 2; i++) stand_ins[i] = half_of_float((float)(i + 1));
  if (c->scale) scales[0] = (uint16_t)c->scale;
  const uint64_t parts_dims[] = {BANK_CLUSTERS + 1, BANK_LEVELS}, gains_dims[] = {BANK_EMBD, rows[0]};
  const uint64_t stand_in_dims[] = {BANK_EMBD, 2, rows[2]};
  if (wanted(c, KEY("n_embd"))) gguf_u32(w, KEY("n_embd"), BANK_EMBD);
  if (wanted(c, "recovery.parts")) gguf_tensor(w, "recovery.parts", TYPE_I8, 2, parts_dims, parts, sizeof parts);
  const uint32_t type = c->recovery_type ? c->recovery_type : SS_GGUF_F16;
  if (wanted(c, "recovery.gains"))
    gguf_tensor(w, "recovery.gains", type, 2, gains_dims, gains,
                (size_t)(rows[0] * BANK_EMBD * ss_quant_find(type)->bytes));
  if (wanted(c, "recovery.scales"))
    gguf_tensor(w, "recovery.scales", SS_GGUF_F16, 1, &rows[1], scales, (size_t)rows[1] * 2);
  if (wanted(c, "recovery.stand_ins"))
    gguf_tensor(w, "recovery.stand_ins", SS_GGUF_F16, 3, stand_in_dims, stand_ins, (size_t)rows[2] * 4 * BANK_EMBD);
}

gguf_image bank_image(const bank_case *c) {
  gguf_writer w = gguf_start();
  const char *architecture = c->architecture ? c->architecture : "skipstone-bank";
  if (*architecture) gguf_string(&w, "general.architecture", architecture);
  if (wanted(c, KEY("version"))) gguf_u32(&w, KEY("version"), c->version ? c->version : c->recovery ? 2 : 1);
  gguf_u32(&w, KEY("numerics_version"), SS_NUMERICS_VERSION);
  if (wanted(c, KEY("n_layers"))) gguf_u32(&w, KEY("n_layers"), BANK_LAYERS);
  const float levels[] = {0.25f, c->level != 0.0f ? c->level : 0.5f};
  if (wanted(c, KEY("levels"))) put_floats(&w, KEY("levels"), levels, BANK_LEVELS);
  put_u64(&w, c, KEY("model.family"), 0x1234);
  put_u64(&w, c, KEY("model.exact"), 0x5678);
  put_u64(&w, c, KEY("encoder.family"), 0x1234);
  put_u64(&w, c, KEY("encoder.exact"), 0x5678);
  gguf_string(&w, KEY("encoder.kind"), "self");
  if (c->losses) {
    const float losses[16] = {1, 2, 3, 4, 5, 6, 7, 8};
    put_floats(&w, KEY("losses"), losses, c->losses);
  }
  float centroids[BANK_CLUSTERS * BANK_DIM] = {0};
  for (size_t i = 0; i < BANK_CLUSTERS; i++) centroids[i * BANK_DIM + i] = 1;
  centroids[BANK_DIM + 2] += c->centroid;
  const uint64_t dims[] = {BANK_DIM, BANK_CLUSTERS};
  if (wanted(c, "centroids")) gguf_tensor(&w, "centroids", SS_GGUF_F32, 2, dims, centroids, sizeof centroids);
  const uint32_t n = c->mask_clusters ? c->mask_clusters : BANK_CLUSTERS + 1;
  uint8_t masks[BANK_LEVELS * 16 * 4 * 4] = {0}; /* room for another type too */
  for (uint32_t i = 0; i < BANK_LEVELS * n; i++) {
    const ss_mask m = bank_mask(i % n, i / n);
    for (uint32_t b = 0; b < 4; b++) masks[i * 4 + b] = ss_mask_has(&m, b);
  }
  if (c->mask_value) masks[0] = (uint8_t)c->mask_value;
  const uint64_t mask_dims[] = {2 * BANK_LAYERS, n, BANK_LEVELS};
  const uint32_t type = c->mask_type ? c->mask_type : TYPE_I8;
  const size_t bytes = (size_t)BANK_LEVELS * n * 4 * ss_quant_find(type)->bytes;
  if (wanted(c, "masks")) gguf_tensor(&w, "masks", type, 3, mask_dims, masks, bytes);
  if (c->recovery) put_recovery(&w, c);
  if (c->extra_tensor) gguf_tensor(&w, c->extra_tensor, SS_GGUF_F32, 1, dims, centroids, BANK_DIM * sizeof(float));
  return gguf_finish(&w);
}
