/* The bank file: a GGUF with general.architecture "skipstone-bank".
 *
 *   skipstone-bank.version u32               of the format; 1, or 2 where there is recovery; a newer one is refused
 *   skipstone-bank.numerics_version u32      SS_NUMERICS_VERSION of the losses
 *   skipstone-bank.n_layers u32              of the model: 2 blocks each
 *   skipstone-bank.levels f32[L]             share of the block MACs skipped, ascending, in (0, 1)
 *   skipstone-bank.model.family, .exact u64  fingerprints;  .model.name string
 *   skipstone-bank.encoder.family, .exact u64;  .encoder.kind string "self" or "bert";  .encoder.name string
 *   optional: skipstone-bank.losses f32[L * (K + 1)], .dense_losses f32[K + 1], .sizes u32[K], .examples string[K],
 *             .method, .training, .provenance string
 *   tensors:  centroids F32 [K][dim];  masks I8 [L][K + 1][2 * n_layers], 1: the block runs, index K: the fallback
 *
 * Recovery (ss_recovery): skipstone-bank.n_embd u32, and tensors that hold the rows of all masks, level by level, in each
 * the clusters and then the global mask, in each the blocks in order. A mask has a part when its bit in recovery.parts is
 * set. The losses stay those of the masks alone.
 *   recovery.parts     I8 [L][K + 1]        of each mask: 1 gains + 2 scales + 4 stand-ins
 *   recovery.gains     F16 [rows][n_embd]   RMSNorm gains of each block that runs, then of the output norm
 *   recovery.scales    F16 [rows]           of each block that runs: its output is multiplied by it
 *   recovery.stand_ins F16 [rows][2][n_embd] of each block that does not run: a and b of h += a * h + b
 *
 * For SmolLM2-135M (60 blocks of width 576) a mask that skips s of them takes (61 - s) * 1154 + s * 2304 bytes of it, 70 to
 * 105 KB: 4 levels of 8 clusters and the global mask are about 3.1 MB. Stand-ins of rank 8 would take 18 KB for each
 * skipped block, twice the room of all the rest.
 *
 * A bank is small, so everything is checked when it is opened and kept in one arena. */
#include "route/bank.h"

#include "model/quant.h"

#define KEY(name) "skipstone-bank." name
#define MAX_CLUSTERS 4096
#define MAX_LEVELS 64
#define MAX_DIM 65536
#define TYPE_I8 24

/* ---- reading the header ---- */

typedef struct reader {
  const ss_gguf *g;
  const uint8_t *file; /* [n] */
  size_t n;
  ss_error *err;
  ss_status status; /* the first error; nothing is read after it */
} reader;

static uint64_t take_unsigned(reader *r, const char *key, uint64_t min, uint64_t max) {
  ss_meta m;
  if (r->status != SS_OK) return min;
  const bool found = ss_gguf_meta(r->g, key, &m);
  const bool is_unsigned =
      m.type == SS_META_U8 || m.type == SS_META_U16 || m.type == SS_META_U32 || m.type == SS_META_U64;
  if (!found) r->status = ss_fail(r->err, SS_E_FORMAT, "bank: %s is missing", key);
  else if (!is_unsigned) r->status = ss_fail(r->err, SS_E_FORMAT, "bank: %s is no unsigned number", key);
  else if (m.u < min || m.u > max)
    r->status = ss_fail(r->err, SS_E_FORMAT, "bank: %s is %llu, want %llu to %llu", key, (unsigned long long)m.u,
                        (unsigned long long)min, (unsigned long long)max);
  return r->status == SS_OK ? m.u : min;
}

static bool is_finite(float x) { return (ss_bits_of_float(x) & 0x7f800000u) != 0x7f800000u; }

/* How many elements an array of numbers has; 0 when it is absent or of another type. */
static uint64_t array_length(const ss_gguf *g, const char *key, ss_meta_type element) {
  ss_meta m;
  return ss_gguf_meta(g, key, &m) && m.type == SS_META_ARRAY && m.element == element ? m.n : 0;
}

/* An optional array of n finite numbers: false when the file does not have it. */
static bool has_array(reader *r, const char *key, ss_meta_type element, uint64_t n) {
  ss_meta m;
  if (r->status != SS_OK || !ss_gguf_meta(r->g, key, &m)) return false;
  if (m.type == SS_META_ARRAY && m.element == element && m.n == n) return true;
  r->status = ss_fail(r->err, SS_E_FORMAT, "bank: %s has %llu elements or another type, want %llu", key,
                      (unsigned long long)m.n, (unsigned long long)n);
  return false;
}

static void read_floats(reader *r, const char *key, float *out) {
  ss_gguf_iter it;
  double x;
  if (r->status != SS_OK || !ss_gguf_array(r->g, key, &it)) return;
  for (size_t i = 0; ss_gguf_next_number(&it, &x); i++) {
    out[i] = (float)x;
    if (!is_finite(out[i])) {
      r->status = ss_fail(r->err, SS_E_FORMAT, "bank: %s: element %zu is not finite", key, i);
      return;
    }
  }
}

/* The tensor's bytes in the file, once its type and dims are what they must be. */
static const uint8_t *find_tensor(reader *r, const char *name, uint32_t type, const uint64_t dims[3]) {
  if (r->status != SS_OK) return NULL;
  const int32_t at = ss_gguf_find(r->g, name);
  if (at < 0) {
    r->status = ss_fail(r->err, SS_E_FORMAT, "bank: tensor %s is missing", name);
    return NULL;
  }
  const ss_gguf_tensor *t = &r->g->tensors[at];
  if (t->type != type || t->n_dims > 3 || memcmp(t->dims, dims, 3 * sizeof *dims) != 0) {
    r->status = ss_fail(r->err, SS_E_FORMAT, "bank: tensor %s is %s [%llu, %llu, %llu], want %s [%llu, %llu, %llu]",
                        name, ss_quant_find(t->type)->name, (unsigned long long)t->dims[0],
                        (unsigned long long)t->dims[1], (unsigned long long)t->dims[2], ss_quant_find(type)->name,
                        (unsigned long long)dims[0], (unsigned long long)dims[1], (unsigned long long)dims[2]);
    return NULL;
  }
  if (t->bytes > r->n || t->offset > r->n - t->bytes) {
    r->status = ss_fail(r->err, SS_E_FORMAT, "bank: truncated: %s ends at byte %llu, the file has %zu", name,
                        (unsigned long long)(t->offset + t->bytes), r->n);
    return NULL;
  }
  return r->file + t->offset;
}

/* ---- opening ---- */

static bool text_is(ss_text text, const char *want) {
  size_t i = 0;
  while (i < text.len && want[i] && text.data[i] == want[i]) i++;
  return i == text.len && !want[i];
}

static ss_text text_of_key(const ss_gguf *g, const char *key) {
  ss_meta m;
  if (!ss_gguf_meta(g, key, &m) || m.type != SS_META_STRING) return (ss_text){"", 0};
  return m.text;
}

/* Is this a bank, and one that this version reads? */
static ss_status check_kind(const ss_gguf *g, ss_error *err) {
  const ss_text architecture = text_of_key(g, "general.architecture");
  if (!text_is(architecture, "skipstone-bank"))
    return ss_fail(err, SS_E_FORMAT, "bank: general.architecture is '%.*s', want 'skipstone-bank'",
                   (int)ss_min(architecture.len, 80), architecture.data);
  reader r = {.g = g, .err = err};
  const uint64_t version = take_unsigned(&r, KEY("version"), 1, UINT32_MAX);
  if (r.status == SS_OK && version > SS_BANK_VERSION)
    return ss_fail(err, SS_E_UNSUPPORTED, "bank: version %llu is newer than %u, which this build reads",
                   (unsigned long long)version, SS_BANK_VERSION);
  return r.status;
}

enum { GAINS, SCALES, STAND_INS, N_PARTS };
static const char *const part_names[] = {"recovery.gains", "recovery.scales", "recovery.stand_ins"};

static void lay_out(ss_arena *arena, ss_bank *b, const ss_gguf *g, bool losses, bool dense_losses, bool sizes) {
  const size_t n_masks = (size_t)b->n_levels * (b->n_clusters + 1), n_recoveries = b->n_embd ? n_masks : 0;
  ss_carve(arena, 1, sizeof *b);
  b->levels = ss_carve(arena, b->n_levels, sizeof *b->levels);
  b->centroids = ss_carve(arena, (size_t)b->n_clusters * b->dim, sizeof *b->centroids);
  b->masks = ss_carve(arena, n_masks, sizeof *b->masks);
  b->recoveries = ss_carve(arena, n_recoveries, sizeof *b->recoveries);
  b->recovery_blocks = ss_carve(arena, n_recoveries * 2 * b->n_layers, sizeof *b->recovery_blocks);
  for (int i = 0; i < N_PARTS; i++) {
    const int32_t at = n_recoveries ? ss_gguf_find(g, part_names[i]) : -1;
    b->recovery_floats[i] = ss_carve(arena, at < 0 ? 0 : g->tensors[at].n_elements, sizeof(float));
  }
  b->losses = losses ? ss_carve(arena, n_masks, sizeof *b->losses) : NULL;
  b->dense_losses = dense_losses ? ss_carve(arena, b->n_clusters + 1, sizeof *b->dense_losses) : NULL;
  b->sizes = sizes ? ss_carve(arena, b->n_clusters, sizeof *b->sizes) : NULL;
}

static void read_levels(reader *r, ss_bank *b) {
  read_floats(r, KEY("levels"), b->levels);
  for (uint32_t i = 0; r->status == SS_OK && i < b->n_levels; i++)
    if (!(b->levels[i] > (i ? b->levels[i - 1] : 0.0f) && b->levels[i] < 1.0f))
      r->status =
          ss_fail(r->err, SS_E_FORMAT, "bank: %s: element %u is not between the one before and 1", KEY("levels"), i);
}

static void read_centroids(reader *r, ss_bank *b, const uint8_t *bytes) {
  const size_t n = (size_t)b->n_clusters * b->dim;
  if (r->status != SS_OK) return;
  memcpy(b->centroids, bytes, n * sizeof(float));
  for (size_t i = 0; i < n; i++)
    if (!is_finite(b->centroids[i])) {
      r->status = ss_fail(r->err, SS_E_FORMAT, "bank: centroid %zu: element %zu is not finite", i / b->dim, i % b->dim);
      return;
    }
}

static void read_masks(reader *r, ss_bank *b, const uint8_t *bytes) {
  const uint32_t n_blocks = 2 * b->n_layers, n_masks = b->n_levels * (b->n_clusters + 1);
  for (uint32_t i = 0; r->status == SS_OK && i < n_masks; i++)
    for (uint32_t block = 0; block < n_blocks; block++) {
      const uint8_t runs = bytes[(size_t)i * n_blocks + block];
      if (runs > 1) {
        r->status = ss_fail(r->err, SS_E_FORMAT, "bank: mask of level %u, cluster %u: block %u is %u, want 0 or 1",
                            i / (b->n_clusters + 1), i % (b->n_clusters + 1), block, runs);
        return;
      }
      ss_mask_set(&b->masks[i], block, runs);
    }
}

/* The rows of part `i` as floats. */
static float *read_rows(reader *r, const ss_bank *b, int i, uint64_t rows) {
  const uint64_t dims[N_PARTS][3] = {{b->n_embd, rows, 1}, {rows, 1, 1}, {b->n_embd, 2, rows}};
  float *out = b->recovery_floats[i];
  const uint8_t *bytes = rows ? find_tensor(r, part_names[i], SS_GGUF_F16, dims[i]) : NULL;
  if (!bytes) return out;
  const size_t wrong = ss_quant_floats(out, SS_GGUF_F16, (size_t)(dims[i][0] * dims[i][1] * dims[i][2]), bytes);
  if (wrong != SS_QUANT_FINITE)
    r->status = ss_fail(r->err, SS_E_FORMAT, "bank: %s: element %zu is not finite", part_names[i], wrong);
  return out;
}

static void read_recovery(reader *r, ss_bank *b) {
  const uint32_t n_blocks = 2 * b->n_layers, n_masks = b->n_levels * (b->n_clusters + 1);
  const uint64_t dims[] = {b->n_clusters + 1, b->n_levels, 1};
  uint64_t rows[N_PARTS] = {0};
  const uint8_t *parts = b->n_embd ? find_tensor(r, "recovery.parts", TYPE_I8, dims) : NULL;
  if (!parts) return;
  for (uint32_t i = 0; i < n_masks; i++) {
    const uint32_t n_run = ss_mask_count(&b->masks[i], n_blocks);
    if (parts[i] >> N_PARTS) {
      r->status = ss_fail(r->err, SS_E_FORMAT, "bank: recovery.parts: element %u is %u, want 0 to 7", i, parts[i]);
      return;
    }
    if (parts[i] >> GAINS & 1) rows[GAINS] += n_run + 1;
    if (parts[i] >> SCALES & 1) rows[SCALES] += n_run;
    if (parts[i] >> STAND_INS & 1) rows[STAND_INS] += n_blocks - n_run;
  }
  const float *gains = read_rows(r, b, GAINS, rows[GAINS]), *scales = read_rows(r, b, SCALES, rows[SCALES]);
  const float *stand_ins = read_rows(r, b, STAND_INS, rows[STAND_INS]);
  ss_recovery_block *block = b->recovery_blocks;
  for (uint32_t i = 0; r->status == SS_OK && i < n_masks; i++) {
    ss_recovery *recovery = &b->recoveries[i];
    *recovery = (ss_recovery){.n_blocks = n_blocks, .n_embd = b->n_embd, .blocks = parts[i] ? block : NULL};
    b->n_recovered += parts[i] != 0;
    for (uint32_t k = 0; k < n_blocks; k++, block++) {
      const bool runs = ss_mask_has(&b->masks[i], k);
      block->scale = runs && parts[i] >> SCALES & 1 ? *scales++ : 1.0f;
      if (runs && parts[i] >> GAINS & 1) {
        block->gains = gains;
        gains += b->n_embd;
      } else if (!runs && parts[i] >> STAND_INS & 1) {
        block->a = stand_ins;
        block->b = stand_ins + b->n_embd;
        stand_ins += 2 * b->n_embd;
      }
    }
    if (parts[i] >> GAINS & 1) {
      recovery->output_gains = gains;
      gains += b->n_embd;
    }
  }
}

/* Everything behind the header. *g is moved into the bank, or stays the caller's when this fails. */
static ss_status read_bank(ss_bank **out, const ss_gguf *g, const uint8_t *file, size_t n, const ss_host *host,
                           ss_error *err) {
  reader r = {.g = g, .file = file, .n = n, .err = err};
  ss_bank shape = {.version = (uint32_t)take_unsigned(&r, KEY("version"), 1, SS_BANK_VERSION),
                   .numerics_version = (uint32_t)take_unsigned(&r, KEY("numerics_version"), 0, UINT32_MAX),
                   .n_layers = (uint32_t)take_unsigned(&r, KEY("n_layers"), 1, SS_MAX_BLOCKS / 2),
                   .model = {take_unsigned(&r, KEY("model.family"), 0, UINT64_MAX),
                             take_unsigned(&r, KEY("model.exact"), 0, UINT64_MAX)},
                   .encoder = {take_unsigned(&r, KEY("encoder.family"), 0, UINT64_MAX),
                               take_unsigned(&r, KEY("encoder.exact"), 0, UINT64_MAX)}};
  if (r.status != SS_OK) return r.status;

  const uint64_t n_levels = array_length(g, KEY("levels"), SS_META_F32);
  if (n_levels < 1 || n_levels > MAX_LEVELS)
    return ss_fail(err, SS_E_FORMAT, "bank: %s: want an array of 1 to %u f32", KEY("levels"), MAX_LEVELS);
  const int32_t at = ss_gguf_find(g, "centroids");
  if (at < 0) return ss_fail(err, SS_E_FORMAT, "bank: tensor centroids is missing");
  const uint64_t dim = g->tensors[at].dims[0], n_clusters = g->tensors[at].dims[1];
  if (dim > MAX_DIM || n_clusters > MAX_CLUSTERS)
    return ss_fail(err, SS_E_FORMAT, "bank: %llu centroids of %llu, want at most %u of %u",
                   (unsigned long long)n_clusters, (unsigned long long)dim, MAX_CLUSTERS, MAX_DIM);
  shape.n_levels = (uint32_t)n_levels;
  shape.n_clusters = (uint32_t)n_clusters;
  shape.dim = (uint32_t)dim;
  const uint64_t centroid_dims[] = {dim, n_clusters, 1}, mask_dims[] = {2 * shape.n_layers, n_clusters + 1, n_levels};
  const uint8_t *centroids = find_tensor(&r, "centroids", SS_GGUF_F32, centroid_dims);
  const uint8_t *masks = find_tensor(&r, "masks", TYPE_I8, mask_dims);
  const bool losses = has_array(&r, KEY("losses"), SS_META_F32, n_levels * (n_clusters + 1));
  const bool dense = has_array(&r, KEY("dense_losses"), SS_META_F32, n_clusters + 1);
  const bool sizes = has_array(&r, KEY("sizes"), SS_META_U32, n_clusters);
  if (ss_gguf_find(g, "recovery.parts") >= 0) shape.n_embd = (uint32_t)take_unsigned(&r, KEY("n_embd"), 1, MAX_DIM);
  if (r.status != SS_OK) return r.status;

  ss_arena arena = {0};
  lay_out(&arena, &shape, g, losses, dense, sizes);
  ss_bank *b = arena.overflow ? NULL : ss_host_alloc(host, arena.used);
  if (!b) return ss_fail(err, SS_E_MEMORY, "bank: the host refused %zu bytes", arena.used);
  const size_t bytes = arena.used;
  *b = shape;
  arena = (ss_arena){.base = (uint8_t *)b};
  lay_out(&arena, b, g, losses, dense, sizes);
  b->host = *host;
  b->bytes = bytes;
  read_levels(&r, b);
  read_centroids(&r, b, centroids);
  read_masks(&r, b, masks);
  read_recovery(&r, b);
  if (losses) read_floats(&r, KEY("losses"), b->losses);
  if (dense) read_floats(&r, KEY("dense_losses"), b->dense_losses);
  for (uint32_t i = 0; sizes && i < b->n_clusters; i++) {
    ss_meta m;
    if (ss_gguf_meta_element(g, KEY("sizes"), i, &m)) b->sizes[i] = (uint32_t)m.u;
  }
  if (r.status != SS_OK) {
    ss_host_free(host, b, bytes);
    return r.status;
  }
  b->gguf = *g;
  *out = b;
  return SS_OK;
}

ss_status ss_bank_open(ss_bank **out, const void *bytes, size_t n, const ss_host *host, ss_error *err) {
  *out = NULL;
  ss_gguf g;
  size_t used;
  ss_gguf_open(&g, host);
  ss_status status = n ? ss_gguf_expect(&g, n, err) : ss_fail(err, SS_E_FORMAT, "bank: the file is empty");
  if (status == SS_OK) status = ss_gguf_feed(&g, bytes, n, &used, err);
  if (status == SS_MORE)
    status = ss_fail(err, SS_E_FORMAT, "bank: truncated: it ends at byte %zu, inside its header", n);
  if (status == SS_OK) status = check_kind(&g, err);
  if (status == SS_OK) status = read_bank(out, &g, bytes, n, host, err);
  if (status != SS_OK) ss_gguf_close(&g);
  return status;
}

void ss_bank_free(ss_bank *b) {
  if (!b) return;
  const ss_host host = b->host;
  ss_gguf_close(&b->gguf);
  ss_host_free(&host, b, b->bytes);
}

/* ---- what it holds ---- */

void ss_bank_info_get(const ss_bank *b, ss_bank_info *out) {
  const ss_gguf *g = &b->gguf;
  *out = (ss_bank_info){
      .version = b->version,
      .numerics_version = b->numerics_version,
      .n_clusters = b->n_clusters,
      .n_levels = b->n_levels,
      .n_layers = b->n_layers,
      .n_blocks = 2 * b->n_layers,
      .dim = b->dim,
      .n_recovered = b->n_recovered,
      .levels = b->levels,
      .centroids = b->centroids,
      .losses = b->losses,
      .dense_losses = b->dense_losses,
      .sizes = b->sizes,
      .model = b->model,
      .encoder = b->encoder,
      .name = text_of_key(g, "general.name"),
      .model_name = text_of_key(g, KEY("model.name")),
      .encoder_kind = text_of_key(g, KEY("encoder.kind")),
      .encoder_name = text_of_key(g, KEY("encoder.name")),
      .method = text_of_key(g, KEY("method")),
      .training = text_of_key(g, KEY("training")),
      .provenance = text_of_key(g, KEY("provenance")),
  };
}

ss_text ss_bank_example(const ss_bank *b, uint32_t cluster) {
  ss_meta m;
  if (!ss_gguf_meta_element(&b->gguf, KEY("examples"), cluster, &m) || m.type != SS_META_STRING)
    return (ss_text){"", 0};
  return m.text;
}

/* ---- does it fit ---- */

static ss_status check_family(const ss_fingerprint *want, const ss_fingerprint *found, const char *what,
                              ss_error *err) {
  if (want->family == found->family) return SS_OK;
  return ss_fail(err, SS_E_ARGUMENT, "bank: made for another %s: the bank wants family %llx, the %s is of family %llx",
                 what, (unsigned long long)want->family, what, (unsigned long long)found->family);
}

static size_t add_note(char *note, size_t capacity, size_t at, const char *text) {
  if (capacity && at < capacity) at += ss_format(note + at, capacity - at, "%s%s", at ? "; " : "", text);
  return at;
}

ss_status ss_bank_check(const ss_bank *b, const ss_model *model, const ss_model *encoder, char *note, size_t capacity,
                        ss_error *err) {
  ss_fingerprint found;
  size_t at = 0;
  if (capacity) note[0] = 0;
  ss_status status = ss_model_fingerprint(model, &found, err);
  if (status == SS_OK) status = check_family(&b->model, &found, "model", err);
  if (status != SS_OK) return status;
  if (found.exact && b->model.exact && found.exact != b->model.exact)
    at = add_note(note, capacity, at, "the bank was made with another quantisation of this model");
  if (b->numerics_version != SS_NUMERICS_VERSION)
    at = add_note(note, capacity, at, "the bank's losses were measured with another numerics version");
  if (!encoder) return SS_OK;
  if (encoder != model) {
    status = ss_model_fingerprint(encoder, &found, err);
    if (status != SS_OK) return status;
  }
  status = check_family(&b->encoder, &found, "encoder", err);
  if (status == SS_OK && encoder != model && found.exact && b->encoder.exact && found.exact != b->encoder.exact)
    add_note(note, capacity, at, "the bank was made with another quantisation of this encoder");
  return status;
}

/* ---- masks ---- */

#define ROUNDING 1e-6 /* 1 - 0.9f and the like still reach their level */

ss_status ss_bank_level(const ss_bank *b, double depth, uint32_t *level, ss_error *err) {
  const double skip = 1.0 - depth, deepest = (double)b->levels[b->n_levels - 1];
  *level = SS_BANK_DENSE;
  if (!(depth >= 0.0 && depth <= 1.0 + ROUNDING))
    return ss_fail(err, SS_E_ARGUMENT, "depth: want a number from 0 to 1");
  if (skip > deepest + ROUNDING) {
    const uint32_t ten_thousandths = (uint32_t)((1.0 - deepest) * 10000.0 + 0.5);
    char digits[8];
    ss_format(digits, sizeof digits, "%u", 10000 + ten_thousandths);
    return ss_fail(err, SS_E_ARGUMENT,
                   "depth: the bank's deepest level runs 0.%s of the blocks' MACs, want at least that", digits + 1);
  }
  for (uint32_t i = 0; i < b->n_levels && (double)b->levels[i] <= skip + ROUNDING; i++) *level = i;
  return SS_OK;
}

ss_status ss_bank_mask(const ss_bank *b, uint32_t cluster, double depth, ss_mask *mask, ss_error *err) {
  uint32_t level;
  ss_mask_fill(mask, 2 * b->n_layers);
  if (cluster > b->n_clusters)
    return ss_fail(err, SS_E_ARGUMENT, "cluster %u: the bank has %u, and its global mask at that index", cluster,
                   b->n_clusters);
  const ss_status status = ss_bank_level(b, depth, &level, err);
  if (status == SS_OK && level != SS_BANK_DENSE) *mask = b->masks[level * (b->n_clusters + 1) + cluster];
  return status;
}

const ss_recovery *ss_bank_recovery(const ss_bank *b, uint32_t cluster, double depth) {
  uint32_t level;
  if (!b->n_recovered || cluster > b->n_clusters || ss_bank_level(b, depth, &level, NULL) || level == SS_BANK_DENSE)
    return NULL;
  const ss_recovery *r = &b->recoveries[level * (b->n_clusters + 1) + cluster];
  return r->blocks ? r : NULL;
}
