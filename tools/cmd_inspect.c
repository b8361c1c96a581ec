/* skipstone inspect: what is in a model file and what each of its blocks costs; or what a mask bank holds. */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "inspect_bank.h"
#include "json.h"
#include "load.h"
#include "routing.h"

typedef struct inspect_args {
  engine_options engine;
  const char *operand;
  bool metadata, tensors, blocks, json, full;
} inspect_args;

#define TEXT_ELEMENTS 6  /* of an array, shown in the text form */
#define JSON_ELEMENTS 32 /* longer arrays are shortened in JSON too */
#define TEXT_BYTES 100   /* of a string, shown in the text form */

static parse_result parse(inspect_args *a, int argc, char **argv) {
  const option options[] = {
      MODEL_OPTION(a->engine),
      {.name = "metadata", .flag = &a->metadata, .help = "only the metadata"},
      {.name = "tensors", .flag = &a->tensors, .help = "only the tensors"},
      {.name = "blocks", .flag = &a->blocks, .help = "only the blocks and what they cost"},
      {.name = "full", .flag = &a->full, .help = "long arrays and strings whole"},
      {.name = "json", .flag = &a->json, .help = "print one JSON object"},
  };
  const command c = {
      .name = "inspect",
      .usage = "[-m] MODEL [options]",
      .about =
          "Prints a GGUF file's metadata, its tensors, and for each attention and feed-forward block its\n"
          "multiply-adds per token, its bytes in the file and in memory, and its KV cache bytes per token of\n"
          "context. Only the beginning of the file is read. Of a mask bank: its model, encoder and training, and\n"
          "the masks and losses of each cluster and level.",
      .examples =
          "  skipstone inspect model.gguf\n"
          "  skipstone inspect model.gguf --blocks\n"
          "  skipstone inspect bank.gguf\n"
          "  skipstone inspect model.gguf --metadata --json | jq '.metadata[\"llama.rope.freq_base\"]'",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = &a->operand,
      .max_operands = 1,
  };
  return options_parse(&c, argc, argv);
}

/* ---- metadata ---- */

static const char *type_name(ss_meta_type type) {
  static const char *const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                      "bool", "string", "array", "u64", "i64", "f64"};
  return (size_t)type < sizeof names / sizeof names[0] ? names[type] : "?";
}

static bool is_signed(ss_meta_type t) {
  return t == SS_META_I8 || t == SS_META_I16 || t == SS_META_I32 || t == SS_META_I64;
}
static bool is_real(ss_meta_type t) { return t == SS_META_F32 || t == SS_META_F64; }

/* A scalar or string as JSON, which serves as the text form too. */
static void json_scalar(json *j, const char *key, const ss_meta *m) {
  if (m->type == SS_META_STRING) json_text(j, key, m->text);
  else if (m->type == SS_META_BOOL) json_bool(j, key, m->u != 0);
  else if (is_real(m->type)) json_real(j, key, m->f, m->type == SS_META_F32);
  else if (is_signed(m->type)) json_int(j, key, (int64_t)m->u);
  else json_uint(j, key, m->u);
}

static void json_elements(json *j, const ss_model *model, const char *key, uint64_t n) {
  for (uint64_t i = 0; i < n; i++) {
    ss_meta element;
    if (ss_model_meta_element(model, key, i, &element) && element.type != SS_META_ARRAY) json_scalar(j, NULL, &element);
    else json_null(j, NULL);
  }
}

static void json_metadata(json *j, const ss_model *model, const inspect_args *a) {
  ss_meta m;
  json_open(j, "metadata", '{');
  for (size_t i = 0; ss_model_meta_at(model, i, &m); i++) {
    buffer key = {0};
    buffer_add(&key, m.key.data, m.key.len);
    if (m.type != SS_META_ARRAY) json_scalar(j, key.data, &m);
    else if (a->full || m.n <= JSON_ELEMENTS) {
      json_open(j, key.data, '[');
      json_elements(j, model, key.data, m.n);
      json_close(j);
    } else {
      json_open(j, key.data, '{');
      json_string(j, "array_of", type_name(m.element));
      json_uint(j, "n", m.n);
      json_open(j, "first", '[');
      json_elements(j, model, key.data, JSON_ELEMENTS);
      json_close(j);
      json_close(j);
    }
    buffer_free(&key);
  }
  json_close(j);
}

static void print_metadata(const ss_model *model, const inspect_args *a) {
  ss_meta m;
  printf("Metadata: %zu keys\n", ss_model_n_meta(model));
  for (size_t i = 0; ss_model_meta_at(model, i, &m); i++) {
    buffer key = {0};
    buffer_add(&key, m.key.data, m.key.len);
    printf("  %-42s %-7s ", key.data, type_name(m.type));
    json j = {.out = stdout};
    if (m.type == SS_META_ARRAY) {
      const uint64_t n_shown = a->full || m.n <= TEXT_ELEMENTS ? m.n : TEXT_ELEMENTS;
      printf("%llu x %s: ", (unsigned long long)m.n, type_name(m.element));
      json_open(&j, NULL, '[');
      json_elements(&j, model, key.data, n_shown);
      if (n_shown < m.n) fputs(", ...", stdout);
      json_close(&j);
    } else if (m.type == SS_META_STRING && m.text.len > TEXT_BYTES && !a->full) {
      size_t n = TEXT_BYTES;
      while (n && ((unsigned char)m.text.data[n] & 0xc0) == 0x80) n--; /* not inside a character */
      json_text(&j, NULL, (ss_text){m.text.data, n});
      printf("... (%zu bytes)", m.text.len);
    } else {
      json_scalar(&j, NULL, &m);
    }
    putchar('\n');
    buffer_free(&key);
  }
  putchar('\n');
}

/* ---- tensors ---- */

static ss_status json_tensors(json *j, const ss_model *model, ss_error *err) {
  json_open(j, "tensors", '[');
  for (size_t i = 0; i < ss_model_n_tensors(model); i++) {
    ss_tensor_info t;
    const ss_status status = ss_model_tensor(model, i, &t, err);
    if (status != SS_OK) return status;
    json_open(j, NULL, '{');
    json_string(j, "name", t.name);
    json_string(j, "type", t.type);
    json_open(j, "dims", '[');
    for (uint32_t d = 0; d < t.n_dims; d++) json_uint(j, NULL, t.dims[d]);
    json_close(j);
    json_uint(j, "offset", t.offset);
    json_uint(j, "bytes", t.bytes);
    if (t.block >= 0) json_int(j, "block", t.block);
    else json_null(j, "block");
    json_close(j);
  }
  json_close(j);
  return SS_OK;
}

static ss_status print_tensors(const ss_model *model, ss_error *err) {
  printf("Tensors: %zu\n  %-32s %-6s %-20s %12s %12s  block\n", ss_model_n_tensors(model), "name", "type", "dims",
         "offset", "bytes");
  for (size_t i = 0; i < ss_model_n_tensors(model); i++) {
    ss_tensor_info t;
    char dims[96] = "", block[16] = "-";
    const ss_status status = ss_model_tensor(model, i, &t, err);
    if (status != SS_OK) return status;
    for (uint32_t d = 0, at = 0; d < t.n_dims && at < sizeof dims - 24; d++)
      at += (uint32_t)snprintf(dims + at, sizeof dims - at, "%s%llu", d ? " x " : "", (unsigned long long)t.dims[d]);
    if (t.block >= 0) snprintf(block, sizeof block, "%s %d", t.block % 2 ? "ffn" : "attn", t.block / 2);
    printf("  %-32s %-6s %-20s %12llu %12llu  %s\n", t.name, t.type, dims, (unsigned long long)t.offset,
           (unsigned long long)t.bytes, block);
  }
  putchar('\n');
  return SS_OK;
}

/* ---- blocks ---- */

static void json_cost(json *j, const ss_block_cost *c) {
  json_uint(j, "macs", c->macs);
  json_uint(j, "file_bytes", c->file_bytes);
  json_uint(j, "packed_bytes", c->packed_bytes);
  json_uint(j, "kv_bytes", c->kv_bytes);
}

static void add_cost(ss_block_cost *sum, const ss_block_cost *c) {
  sum->macs += c->macs;
  sum->file_bytes += c->file_bytes;
  sum->packed_bytes += c->packed_bytes;
  sum->kv_bytes += c->kv_bytes;
}

static ss_status total_cost(const engine *e, ss_block_cost *total, ss_error *err) {
  *total = (ss_block_cost){0};
  for (uint32_t block = 0; block < e->info.n_blocks; block++) {
    ss_block_cost c;
    const ss_status status = ss_model_block_cost(e->model, block, &c, err);
    if (status != SS_OK) return status;
    add_cost(total, &c);
  }
  return SS_OK;
}

static ss_status json_blocks(json *j, const engine *e, ss_error *err) {
  ss_block_cost total;
  ss_status status = total_cost(e, &total, err);
  if (status != SS_OK) return status;
  json_open(j, "blocks", '[');
  for (uint32_t block = 0; block < e->info.n_blocks; block++) {
    ss_block_cost c;
    status = ss_model_block_cost(e->model, block, &c, err);
    if (status != SS_OK) return status;
    json_open(j, NULL, '{');
    json_uint(j, "block", block);
    json_uint(j, "layer", block / 2);
    json_string(j, "kind", block % 2 ? "ffn" : "attn");
    json_cost(j, &c);
    json_close(j);
  }
  json_close(j);
  json_open(j, "blocks_total", '{');
  json_cost(j, &total);
  json_close(j);
  return SS_OK;
}

static void print_cost(const char *name, const ss_block_cost *c, const ss_block_cost *total) {
  printf("  %-9s %14llu %8.2f %% %14llu %14llu %10llu\n", name, (unsigned long long)c->macs,
         total->macs ? 100.0 * (double)c->macs / (double)total->macs : 0.0, (unsigned long long)c->file_bytes,
         (unsigned long long)c->packed_bytes, (unsigned long long)c->kv_bytes);
}

static ss_status print_blocks(const engine *e, ss_error *err) {
  ss_block_cost total;
  ss_status status = total_cost(e, &total, err);
  printf("Blocks: %u, costs per token\n  %-9s %14s %10s %14s %14s %10s\n", e->info.n_blocks, "block", "MACs", "share",
         "file bytes", "packed bytes", "KV bytes");
  for (uint32_t block = 0; status == SS_OK && block < e->info.n_blocks; block++) {
    ss_block_cost c;
    char name[24];
    status = ss_model_block_cost(e->model, block, &c, err);
    if (status != SS_OK) break;
    snprintf(name, sizeof name, "%s %u", block % 2 ? "ffn" : "attn", block / 2);
    print_cost(name, &c, &total);
  }
  if (status == SS_OK) print_cost("all", &total, &total);
  putchar('\n');
  return status;
}

/* ---- all of it ---- */

static void json_summary(json *j, const engine *e) {
  const ss_model_info *i = &e->info;
  json_string(j, "file", e->path);
  json_uint(j, "file_bytes", e->file_bytes);
  json_uint(j, "file_bytes_wanted", ss_model_file_bytes(e->model));
  json_string(j, "architecture", i->architecture);
  json_string(j, "name", i->name);
  json_string(j, "quantisation", i->quantisation);
  json_uint(j, "n_parameters", i->n_parameters);
  json_uint(j, "packed_bytes", i->packed_bytes);
  json_uint(j, "n_layers", i->n_layers);
  json_uint(j, "n_blocks", i->n_blocks);
  json_uint(j, "n_embd", i->n_embd);
  json_uint(j, "n_ff", i->n_ff);
  json_uint(j, "n_heads", i->n_heads);
  json_uint(j, "n_kv_heads", i->n_kv_heads);
  json_uint(j, "head_dim", i->head_dim);
  json_uint(j, "n_vocab", i->n_vocab);
  json_uint(j, "context_train", i->context_train);
  json_real(j, "rope_theta", i->rope_theta, true);
  json_real(j, "norm_eps", i->norm_eps, true);
  json_bool(j, "tied_head", i->tied_head);
}

static void print_summary(const engine *e) {
  const ss_model_info *i = &e->info;
  printf("%s: %s, architecture %s, %s\n", e->path, i->name[0] ? i->name : "no name", i->architecture, i->quantisation);
  printf("  %.1f M parameters, %s on disk, %s packed in memory\n", (double)i->n_parameters / 1e6,
         bytes_for_people(e->file_bytes).text, bytes_for_people(i->packed_bytes).text);
  printf("  %u layers (%u blocks), width %u, feed-forward %u, %u heads of %u, %u KV heads\n", i->n_layers, i->n_blocks,
         i->n_embd, i->n_ff, i->n_heads, i->head_dim, i->n_kv_heads);
  printf("  vocabulary %u, trained on %u tokens of context, ", i->n_vocab, i->context_train);
  if (i->rope_theta > 0)
    printf("RoPE base %g, %s output head\n\n", (double)i->rope_theta, i->tied_head ? "tied" : "own");
  else printf("a sentence encoder\n\n");
}

static int inspect(const inspect_args *a, engine *e) {
  ss_error err = {0};
  const bool all = !a->metadata && !a->tensors && !a->blocks;
  const int code = engine_open(e, &a->engine);
  if (code != CODE_OK) return code;
  ss_status status = SS_OK;
  if (a->json) {
    json j = {.out = stdout};
    json_open(&j, NULL, '{');
    json_summary(&j, e);
    if (all || a->metadata) json_metadata(&j, e->model, a);
    if (all || a->tensors) status = json_tensors(&j, e->model, &err);
    if (status == SS_OK && (all || a->blocks)) status = json_blocks(&j, e, &err);
    json_done(&j);
  } else {
    if (all) print_summary(e);
    if (all || a->metadata) print_metadata(e->model, a);
    if (all || a->tensors) status = print_tensors(e->model, &err);
    if (status == SS_OK && (all || a->blocks)) status = print_blocks(e, &err);
  }
  if (status != SS_OK) return report_failure(&err);
  if (e->file_bytes < ss_model_file_bytes(e->model)) {
    say("%s: the file is truncated: found %llu bytes, want %llu", e->path, (unsigned long long)e->file_bytes,
        (unsigned long long)ss_model_file_bytes(e->model));
    return CODE_FAIL;
  }
  return CODE_OK;
}

int cmd_inspect(int argc, char **argv) {
  inspect_args a = {.engine = {.header_only = true}};
  engine e = {0};
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) {
    if (a.operand && a.engine.model) say("inspect: more than one model");
    else {
      if (a.operand) a.engine.model = a.operand;
      code = a.engine.model && is_bank_file(a.engine.model) ? inspect_bank(a.engine.model, a.json) : inspect(&a, &e);
    }
  }
  engine_close(&e);
  return code;
}
