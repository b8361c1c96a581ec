#include "routing.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* ---- encoder ---- */

ss_status text_encoder_open(text_encoder *t, const engine *e, const char *spec, ss_error *err) {
  ss_status status = SS_OK;
  ss_model_info info;
  *t = (text_encoder){.of = e->model};
  if (strcmp(spec, "self") != 0) {
    status = ss_model_create(&t->model, e->host, ss_kernels_find(e->info.kernels), err);
    if (status == SS_OK) status = load_file(t->model, spec, false, &t->bytes, err);
    t->of = t->model;
  }
  if (status == SS_OK) status = ss_encoder_create(&t->encoder, t->of, e->host, err);
  if (status == SS_OK) status = ss_model_info_get(t->of, &info, err);
  if (status != SS_OK) return status;
  t->dim = ss_encoder_dim(t->encoder);
  t->name = info.name;
  return SS_OK;
}

void text_encoder_close(text_encoder *t) {
  ss_encoder_free(t->encoder);
  ss_model_free(t->model);
  *t = (text_encoder){0};
}

/* ---- bank ---- */

ss_status bank_load(ss_bank **out, const char *path, const ss_host *memory, uint64_t *n, ss_error *err) {
  buffer bytes = {0};
  *out = NULL;
  ss_status status = read_all(&bytes, path, err);
  if (status == SS_OK) {
    *n = bytes.len;
    status = ss_bank_open(out, bytes.data, bytes.len, memory, err);
    if (status != SS_OK) {
      const ss_error inner = *err;
      ss_fail(err, status, "%s: %s", path, inner.message);
    }
  }
  buffer_free(&bytes);
  return status;
}

bool is_bank_file(const char *path) {
  static const char name[] = "skipstone-bank";
  char head[256];
  FILE *file = fopen(path, "rb");
  if (!file) return false;
  const size_t n = fread(head, 1, sizeof head, file);
  fclose(file);
  for (size_t i = 0; n >= sizeof name - 1 && i + sizeof name - 1 <= n; i++) /* its architecture is the first entry */
    if (!memcmp(head + i, name, sizeof name - 1)) return !memcmp(head, "GGUF", 4);
  return false;
}

/* ---- router ---- */

static bool text_is(ss_text text, const char *want) {
  return text.len == strlen(want) && !memcmp(text.data, want, text.len);
}

bool bank_options_fit(const bank_options *options, const char *name, const char *depth_option) {
  const char *alone = options->encoder     ? "encoder"
                      : options->recovery  ? "recovery"
                      : options->depth > 0 ? depth_option
                                           : NULL;
  if (!options->bank && alone) {
    say("%s: --%s needs --bank", name, alone);
    return false;
  }
  if (options->recovery && strcmp(options->recovery, "on") && strcmp(options->recovery, "off")) {
    say("%s: --recovery %s: want on or off", name, options->recovery);
    return false;
  }
  return true;
}

ss_status router_open(router *r, const engine *e, const bank_options *options, ss_error *err) {
  *r = (router){.depth = options->depth > 0 ? (double)options->depth : DEFAULT_DEPTH,
                .no_recovery = options->recovery && !strcmp(options->recovery, "off")};
  uint32_t level;
  ss_status status = bank_load(&r->bank, options->bank, e->host, &r->bank_bytes, err);
  if (status != SS_OK) return status;
  ss_bank_info_get(r->bank, &r->info);
  status = ss_bank_level(r->bank, r->depth, &level, err);
  const bool self = text_is(r->info.encoder_kind, "self");
  if (status == SS_OK && !self && !options->encoder)
    status = ss_fail(err, SS_E_ARGUMENT, "%s: the bank routes by %.*s: give that file with --encoder", options->bank,
                     (int)r->info.encoder_name.len, r->info.encoder_name.data);
  if (status == SS_OK) status = text_encoder_open(&r->encoder, e, options->encoder ? options->encoder : "self", err);
  if (status == SS_OK) status = ss_bank_check(r->bank, e->model, r->encoder.of, r->note, sizeof r->note, err);
  if (status == SS_OK && r->encoder.dim != r->info.dim)
    status = ss_fail(err, SS_E_ARGUMENT, "%s: centroids of %u, the encoder gives %u", options->bank, r->info.dim,
                     r->encoder.dim);
  if (status != SS_OK) {
    router_close(r);
    return status;
  }
  r->embedding = take_memory(r->encoder.dim, sizeof *r->embedding);
  if (r->note[0]) say("%s: %s", options->bank, r->note);
  return SS_OK;
}

void router_close(router *r) {
  free(r->embedding);
  text_encoder_close(&r->encoder);
  ss_bank_free(r->bank);
  *r = (router){0};
}

ss_status route_text(router *r, ss_text prompt, routing *out, ss_error *err) {
  const double start = now_ms();
  *out = (routing){0};
  ss_status status = ss_encode(r->encoder.encoder, prompt, r->embedding, err);
  if (status == SS_OK)
    status = ss_bank_route(r->bank, r->embedding, r->encoder.dim, &out->cluster, &out->distance, err);
  if (status == SS_OK) status = ss_bank_level(r->bank, r->depth, &out->level, err);
  if (status == SS_OK) status = ss_bank_mask(r->bank, out->cluster, r->depth, &out->mask, err);
  if (status == SS_OK) out->recovery = router_recovery(r, out->cluster);
  out->ms = now_ms() - start;
  return status;
}

const ss_recovery *router_recovery(const router *r, uint32_t cluster) {
  return r->no_recovery ? NULL : ss_bank_recovery(r->bank, cluster, r->depth);
}

static uint64_t hash_vector(uint64_t hash, const float *x, uint32_t n) {
  return ss_fnv1a(hash, x, x ? n * sizeof *x : 0);
}

uint64_t recovery_hash(uint64_t hash, const ss_recovery *r) {
  for (uint32_t i = 0; i < r->n_blocks; i++) {
    const ss_recovery_block *block = &r->blocks[i];
    hash = ss_fnv1a(hash, &block->scale, sizeof block->scale);
    hash = hash_vector(hash, block->gains, r->n_embd);
    hash = hash_vector(hash, block->a, r->n_embd);
    hash = hash_vector(hash, block->b, r->n_embd);
  }
  return hash_vector(hash, r->output_gains, r->n_embd);
}

recovery_sizes recovery_bytes(const ss_recovery *r, const ss_mask *mask) {
  recovery_sizes n = {.gains = r->output_gains ? 2 * r->n_embd : 0};
  bool scaled = false;
  for (uint32_t i = 0; i < r->n_blocks; i++) {
    const ss_recovery_block *block = &r->blocks[i];
    if (block->gains) n.gains += 2 * r->n_embd;
    if (block->a) n.stand_ins += 4 * r->n_embd;
    scaled = scaled || block->scale != 1.0f;
  }
  if (scaled) n.scales = 2 * ss_mask_count(mask, r->n_blocks);
  return n;
}

void routing_json(json *j, const char *key, const router *r, const routing *route) {
  json_open(j, key, '{');
  if (route->cluster < r->info.n_clusters) json_uint(j, "cluster", route->cluster);
  else json_null(j, "cluster");
  json_real(j, "distance", (double)route->distance, true);
  json_real(j, "depth", r->depth, true);
  if (route->level == SS_BANK_DENSE) json_null(j, "level");
  else json_real(j, "level", (double)r->info.levels[route->level], true);
  json_bool(j, "recovery", route->recovery != NULL);
  json_fixed(j, "routing_ms", route->ms, 3);
  json_text(j, "encoder", r->info.encoder_kind);
  json_uint(j, "bank_bytes", r->bank_bytes);
  json_uint(j, "encoder_bytes", r->encoder.bytes);
  json_close(j);
}
