#include "mask.h"

#include <stdlib.h>

/* The layers whose block of one kind (0 attention, 1 feed-forward) is skipped, as "attn:3,7-9". */
static void add_kind(buffer *b, const ss_mask *mask, uint32_t n_layers, uint32_t kind) {
  bool some = false;
  for (uint32_t layer = 0; layer < n_layers; layer++) {
    if (ss_mask_has(mask, 2 * layer + kind)) continue;
    uint32_t last = layer;
    while (last + 1 < n_layers && !ss_mask_has(mask, 2 * (last + 1) + kind)) last++;
    if (!some) buffer_addf(b, "%s%s:", b->len ? ";" : "", kind ? "ffn" : "attn");
    buffer_addf(b, last > layer ? "%s%u-%u" : "%s%u", some ? "," : "", layer, last);
    some = true;
    layer = last;
  }
}

char *mask_skip_text(const ss_mask *mask, uint32_t n_layers) {
  buffer text = {0};
  buffer_add(&text, "", 0);
  add_kind(&text, mask, n_layers, 0);
  add_kind(&text, mask, n_layers, 1);
  return text.data;
}

static uint64_t greatest_divisor(uint64_t a, uint64_t b) {
  while (b) {
    const uint64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

ss_status block_costs(uint64_t **out, const ss_model *model, ss_error *err) {
  ss_model_info info;
  *out = NULL;
  ss_status status = ss_model_info_get(model, &info, err);
  if (status == SS_OK) *out = take_memory(info.n_blocks, sizeof **out);
  for (uint32_t block = 0; status == SS_OK && block < info.n_blocks; block++) {
    ss_block_cost cost;
    status = ss_model_block_cost(model, block, &cost, err);
    (*out)[block] = cost.macs;
  }
  return status;
}

ss_status mask_report_make(mask_report *out, const ss_model *model, const ss_mask *mask, ss_error *err) {
  ss_model_info info;
  uint64_t total = 0, skipped = 0, unit = 0;
  ss_status status = ss_model_info_get(model, &info, err);
  *out = (mask_report){0};
  for (uint32_t block = 0; status == SS_OK && block < info.n_blocks; block++) {
    ss_block_cost cost;
    status = ss_model_block_cost(model, block, &cost, err);
    if (status != SS_OK) break;
    total += cost.macs;
    unit = greatest_divisor(unit, cost.macs);
    if (ss_mask_has(mask, block)) out->blocks_run++;
    else skipped += cost.macs;
  }
  if (status != SS_OK) return status;
  out->skip = mask_skip_text(mask, info.n_layers);
  out->blocks_total = info.n_blocks;
  out->macs_skipped = total ? (double)skipped / (double)total : 0;
  out->units_skipped = unit ? skipped / unit : 0;
  out->units_total = unit ? total / unit : 0;
  return SS_OK;
}

void mask_report_free(mask_report *r) {
  free(r->skip);
  *r = (mask_report){0};
}

void mask_report_json(json *j, const char *key, const mask_report *r) {
  json_open(j, key, '{');
  json_string(j, "skip", r->skip);
  json_uint(j, "blocks_run", r->blocks_run);
  json_uint(j, "blocks_total", r->blocks_total);
  json_real(j, "macs_skipped", r->macs_skipped, true);
  json_uint(j, "units_skipped", r->units_skipped);
  json_uint(j, "units_total", r->units_total);
  json_close(j);
}
