#include "inspect_bank.h"

#include <stdlib.h>
#include <string.h>

#include "mask.h"
#include "routing.h"

typedef struct view {
  const char *path;
  uint64_t file_bytes;
  const ss_bank *bank;
  ss_bank_info info;
} view;

static ss_status mask_of(const view *v, uint32_t level, uint32_t cluster, ss_mask *mask, ss_error *err) {
  return ss_bank_mask(v->bank, cluster, 1.0 - (double)v->info.levels[level], mask, err);
}

static const ss_recovery *recovery_of(const view *v, uint32_t level, uint32_t cluster) {
  return ss_bank_recovery(v->bank, cluster, 1.0 - (double)v->info.levels[level]);
}

static void json_hex(json *j, const char *key, uint64_t value) {
  char text[17];
  snprintf(text, sizeof text, "%016llx", (unsigned long long)value);
  json_string(j, key, text);
}

static ss_status print_json(const view *v, ss_error *err) {
  const ss_bank_info *i = &v->info;
  json j = {.out = stdout};
  ss_status status = SS_OK;
  json_open(&j, NULL, '{');
  json_string(&j, "file", v->path);
  json_uint(&j, "file_bytes", v->file_bytes);
  json_uint(&j, "version", i->version);
  json_uint(&j, "numerics_version", i->numerics_version);
  json_text(&j, "name", i->name);
  json_open(&j, "model", '{');
  json_text(&j, "name", i->model_name);
  json_hex(&j, "family", i->model.family);
  json_hex(&j, "exact", i->model.exact);
  json_uint(&j, "n_layers", i->n_layers);
  json_close(&j);
  json_open(&j, "encoder", '{');
  json_text(&j, "kind", i->encoder_kind);
  json_text(&j, "name", i->encoder_name);
  json_hex(&j, "family", i->encoder.family);
  json_hex(&j, "exact", i->encoder.exact);
  json_uint(&j, "dim", i->dim);
  json_close(&j);
  json_uint(&j, "recovered_masks", i->n_recovered);
  json_text(&j, "method", i->method);
  json_text(&j, "training", i->training);
  json_text(&j, "provenance", i->provenance);
  json_open(&j, "levels", '[');
  for (uint32_t level = 0; level < i->n_levels; level++) json_real(&j, NULL, (double)i->levels[level], true);
  json_close(&j);
  json_open(&j, "clusters", '[');
  for (uint32_t c = 0; status == SS_OK && c <= i->n_clusters; c++) {
    json_open(&j, NULL, '{');
    if (c < i->n_clusters) json_uint(&j, "cluster", c);
    else json_null(&j, "cluster"); /* the global mask */
    if (c < i->n_clusters && i->sizes) json_uint(&j, "size", i->sizes[c]);
    if (c < i->n_clusters) json_text(&j, "example", ss_bank_example(v->bank, c));
    if (i->dense_losses) json_real(&j, "dense_loss", (double)i->dense_losses[c], true);
    json_open(&j, "masks", '[');
    for (uint32_t level = 0; status == SS_OK && level < i->n_levels; level++) {
      ss_mask mask;
      status = mask_of(v, level, c, &mask, err);
      char *skip = mask_skip_text(&mask, i->n_layers);
      json_open(&j, NULL, '{');
      json_real(&j, "level", (double)i->levels[level], true);
      json_string(&j, "skip", skip);
      json_uint(&j, "blocks_run", ss_mask_count(&mask, i->n_blocks));
      if (i->losses) json_real(&j, "loss", (double)i->losses[level * (i->n_clusters + 1) + c], true);
      const ss_recovery *recovery = recovery_of(v, level, c);
      if (recovery) {
        const recovery_sizes n = recovery_bytes(recovery, &mask);
        json_open(&j, "recovery_bytes", '{');
        json_uint(&j, "gains", n.gains);
        json_uint(&j, "scales", n.scales);
        json_uint(&j, "stand_ins", n.stand_ins);
        json_close(&j);
      }
      json_close(&j);
      free(skip);
    }
    json_close(&j);
    json_close(&j);
  }
  json_done(&j);
  return status;
}

static void print_line(const char *name, ss_text text) {
  if (text.len) printf("  %-11s %.*s\n", name, (int)text.len, text.data);
}

static ss_status print_text(const view *v, ss_error *err) {
  const ss_bank_info *i = &v->info;
  ss_status status = SS_OK;
  printf("%s: mask bank, version %u, %s\n", v->path, i->version, bytes_for_people(v->file_bytes).text);
  print_line("name", i->name);
  print_line("model", i->model_name);
  printf("  %-11s %u layers, family %016llx, exact %016llx\n", "", i->n_layers, (unsigned long long)i->model.family,
         (unsigned long long)i->model.exact);
  printf("  %-11s %.*s %.*s, %u wide, family %016llx\n", "encoder", (int)i->encoder_kind.len, i->encoder_kind.data,
         (int)i->encoder_name.len, i->encoder_name.data, i->dim, (unsigned long long)i->encoder.family);
  print_line("method", i->method);
  print_line("training", i->training);
  print_line("provenance", i->provenance);
  for (uint32_t c = 0; status == SS_OK && c <= i->n_clusters; c++) {
    const ss_text example = c < i->n_clusters ? ss_bank_example(v->bank, c) : (ss_text){"", 0};
    if (c < i->n_clusters) printf("\ncluster %u", c);
    else printf("\nglobal mask");
    if (c < i->n_clusters && i->sizes) printf(", %u samples", i->sizes[c]);
    if (i->dense_losses) printf(", dense loss %.4f", (double)i->dense_losses[c]);
    if (example.len) {
      fputs(", ", stdout);
      json_quote(stdout, example);
    }
    putchar('\n');
    for (uint32_t level = 0; status == SS_OK && level < i->n_levels; level++) {
      ss_mask mask;
      status = mask_of(v, level, c, &mask, err);
      char *skip = mask_skip_text(&mask, i->n_layers);
      printf("  %5.2f %%  %3u of %u blocks  ", 100 * (double)i->levels[level], ss_mask_count(&mask, i->n_blocks),
             i->n_blocks);
      if (i->losses) printf("loss %.4f  ", (double)i->losses[level * (i->n_clusters + 1) + c]);
      printf("%s", skip);
      const ss_recovery *recovery = recovery_of(v, level, c);
      if (recovery) {
        const recovery_sizes n = recovery_bytes(recovery, &mask);
        printf("  recovery:%s%s%s, %s", n.gains ? " gains" : "", n.scales ? " scales" : "",
               n.stand_ins ? " stand-ins" : "", bytes_for_people(n.gains + n.scales + n.stand_ins).text);
      }
      putchar('\n');
      free(skip);
    }
  }
  return status;
}

int inspect_bank(const char *path, bool as_json) {
  ss_error err = {0};
  ss_bank *bank = NULL;
  view v = {.path = path};
  host *pool = host_create(1);
  if (!pool) {
    say("could not start");
    return CODE_FAIL;
  }
  ss_status status = bank_load(&bank, path, host_face(pool), &v.file_bytes, &err);
  if (status == SS_OK) {
    v.bank = bank;
    ss_bank_info_get(bank, &v.info);
    status = as_json ? print_json(&v, &err) : print_text(&v, &err);
  }
  ss_bank_free(bank);
  host_free(pool);
  return status == SS_OK ? CODE_OK : report_failure(&err);
}
