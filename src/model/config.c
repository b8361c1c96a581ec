/* From a complete header to a model's shape: the configuration keys, every value checked, and the tensors that the
 * architecture needs, each with its exact shape and a type that the kernels run. What is not checked here is not
 * checked again: the forward pass trusts it. */
#include "model/load.h"

#define MAX_LAYERS (SS_MAX_BLOCKS / 2)
#define MAX_WIDTH 65536u     /* n_embd, and all heads side by side */
#define MAX_FF (1u << 20)
#define MAX_VOCAB (1u << 24)
#define MAX_CONTEXT (1u << 30)
#define MAX_HEAD_DIM 512u
#define REQUIRED -1

/* What differs between the architectures that the forward pass runs. */
typedef struct architecture {
  const char *name;
  bool rope_neox; /* the pairing; converters reorder llama's rows, and no other's */
  bool qkv_bias;
} architecture;
static const architecture architectures[] = {{"llama", false, false}, {"qwen2", true, true}};

/* ---- keys ---- */

/* Reads keys of the architecture and remembers the first failure, so that it is checked once. */
typedef struct key_reader {
  const ss_gguf *gguf;
  const char *architecture;
  ss_error *err;
  ss_status status;
  char key[96];
} key_reader;

static void key_fail(key_reader *r, ss_status status, const char *wrong) {
  if (r->status == SS_OK) r->status = ss_fail(r->err, status, "%s: %s", r->key, wrong);
}

/* Finds `architecture.name`. False: it is absent, or an earlier read failed. */
static bool find_key(key_reader *r, const char *name, bool required, ss_meta *meta) {
  if (r->status != SS_OK) return false;
  ss_format(r->key, sizeof r->key, "%s.%s", r->architecture, name);
  if (ss_gguf_meta(r->gguf, r->key, meta)) return true;
  if (required) key_fail(r, SS_E_MISSING, "the key is missing");
  return false;
}

static bool is_signed(ss_meta_type t) {
  return t == SS_META_I8 || t == SS_META_I16 || t == SS_META_I32 || t == SS_META_I64;
}
static bool is_integer(ss_meta_type t) {
  return is_signed(t) || t == SS_META_U8 || t == SS_META_U16 || t == SS_META_U32 || t == SS_META_U64;
}

/* An array with one value for each layer counts as that value when all are equal. */
static void unfold_equal(key_reader *r, ss_meta *meta) {
  ss_gguf_iter it;
  ss_meta next;
  if (!ss_gguf_array(r->gguf, r->key, &it)) return;
  if (!is_integer(it.element) || !ss_gguf_next(&it, meta)) {
    key_fail(r, SS_E_FORMAT, "want an integer, or an array of them");
    return;
  }
  while (ss_gguf_next(&it, &next))
    if (next.u != meta->u) {
      key_fail(r, SS_E_UNSUPPORTED, "its entries differ, want the same for all layers");
      return;
    }
}

/* An integer in [least, most]. fallback: its value when the key is absent, or REQUIRED. */
static uint32_t take_count(key_reader *r, const char *name, uint32_t least, uint32_t most, int64_t fallback) {
  ss_meta meta;
  if (!find_key(r, name, fallback == REQUIRED, &meta)) return r->status == SS_OK ? (uint32_t)fallback : least;
  unfold_equal(r, &meta);
  if (r->status == SS_OK && !is_integer(meta.type)) key_fail(r, SS_E_FORMAT, "want an integer");
  if (r->status != SS_OK) return least;
  const bool negative = is_signed(meta.type) && (int64_t)meta.u < 0;
  if (!negative && meta.u >= least && meta.u <= most) return (uint32_t)meta.u;
  r->status = ss_fail(r->err, negative || meta.u < least ? SS_E_FORMAT : SS_E_UNSUPPORTED, "%s: %s%llu, want %u to %u",
                      r->key, negative ? "-" : "", (unsigned long long)(negative ? 0 - meta.u : meta.u),
                      (unsigned)least, (unsigned)most);
  return least;
}

/* A positive finite number, at most `most`. */
static float take_positive(key_reader *r, const char *name, double most, float fallback) {
  ss_meta meta;
  if (!find_key(r, name, fallback <= 0, &meta)) return fallback;
  if (meta.type != SS_META_F32 && meta.type != SS_META_F64) key_fail(r, SS_E_FORMAT, "want a floating-point number");
  else if (!(meta.f > 0 && meta.f <= most && (float)meta.f > 0)) key_fail(r, SS_E_FORMAT, "out of range");
  return r->status == SS_OK ? (float)meta.f : 1;
}

static bool text_is(ss_text text, const char *word) {
  size_t i = 0;
  while (i < text.len && word[i] && text.data[i] == word[i]) i++;
  return i == text.len && !word[i];
}

/* ---- configuration ---- */

static void read_rope(ss_model *m, key_reader *r) {
  ss_config *c = &m->config;
  c->rope_theta = take_positive(r, "rope.freq_base", 1e12, 10000);
  c->n_rot = take_count(r, "rope.dimension_count", 2, c->head_dim, c->head_dim);
  if (c->n_rot % 2) key_fail(r, SS_E_FORMAT, "an odd number, want an even one");
  c->rope_scale = 1 / take_positive(r, "rope.scale_linear", 1e6, 1); /* what older files call it */
  ss_meta type;
  if (!find_key(r, "rope.scaling.type", false, &type)) return;
  if (type.type != SS_META_STRING) {
    key_fail(r, SS_E_FORMAT, "want a string");
  } else if (text_is(type.text, "linear")) {
    c->rope_scale = 1 / take_positive(r, "rope.scaling.factor", 1e6, 1);
  } else if (text_is(type.text, "llama3") && ss_gguf_find(&m->gguf, "rope_freqs.weight") >= 0) {
    return; /* the file spells it out as factors */
  } else if (!text_is(type.text, "none")) {
    r->status = ss_fail(r->err, SS_E_UNSUPPORTED, "%s: \"%.*s\", want \"none\" or \"linear\"", r->key,
                        (int)ss_min(type.text.len, 40), type.text.data);
  }
}

static void check_multiple(key_reader *r, const char *what, uint32_t value, uint32_t of) {
  if (r->status == SS_OK && value % of)
    r->status = ss_fail(r->err, SS_E_UNSUPPORTED, "%s.%s: %u, want a multiple of %u", r->architecture, what,
                        (unsigned)value, (unsigned)of);
}

static ss_status read_config(ss_model *m, ss_error *err) {
  ss_config *c = &m->config;
  key_reader r = {.gguf = &m->gguf, .architecture = m->load->architecture, .err = err};
  c->n_layers = take_count(&r, "block_count", 1, MAX_LAYERS, REQUIRED);
  c->n_embd = take_count(&r, "embedding_length", SS_COLS, MAX_WIDTH, REQUIRED);
  c->n_ff = take_count(&r, "feed_forward_length", SS_COLS, MAX_FF, REQUIRED);
  c->n_heads = take_count(&r, "attention.head_count", 1, MAX_WIDTH / SS_COLS, REQUIRED);
  c->n_kv_heads = take_count(&r, "attention.head_count_kv", 1, c->n_heads, c->n_heads);
  c->context_train = take_count(&r, "context_length", 1, MAX_CONTEXT, REQUIRED);
  c->norm_eps = take_positive(&r, "attention.layer_norm_rms_epsilon", 1, 0);
  take_count(&r, "expert_count", 0, 0, 0); /* a mixture of experts is another model */
  check_multiple(&r, "embedding_length", c->n_embd, SS_COLS);
  check_multiple(&r, "feed_forward_length", c->n_ff, SS_COLS);
  if (r.status != SS_OK) return r.status;

  if (c->n_heads % c->n_kv_heads)
    return ss_fail(err, SS_E_FORMAT, "%s.attention.head_count: %u, want a multiple of head_count_kv %u", r.architecture,
                   (unsigned)c->n_heads, (unsigned)c->n_kv_heads);
  const bool divides = c->n_embd % c->n_heads == 0;
  c->head_dim =
      take_count(&r, "attention.key_length", 1, MAX_HEAD_DIM, divides ? (int64_t)(c->n_embd / c->n_heads) : REQUIRED);
  const uint32_t value_dim = take_count(&r, "attention.value_length", 1, MAX_HEAD_DIM, c->head_dim);
  if (r.status != SS_OK) return r.status;
  if (value_dim != c->head_dim)
    return ss_fail(err, SS_E_UNSUPPORTED, "%s.attention.value_length: %u, want the key_length %u", r.architecture,
                   (unsigned)value_dim, (unsigned)c->head_dim);
  if (c->head_dim % SS_COLS || c->head_dim > MAX_HEAD_DIM || c->head_dim > MAX_WIDTH / c->n_heads)
    return ss_fail(err, SS_E_UNSUPPORTED,
                   "%s: heads of %u dimensions, want a multiple of 32 up to %u, and at most %u in all %u heads",
                   r.architecture, (unsigned)c->head_dim, MAX_HEAD_DIM, MAX_WIDTH, (unsigned)c->n_heads);
  read_rope(m, &r);
  return r.status;
}

/* ---- tensors ---- */

enum { VECTOR = 0 };

/* Gives the tensor its place in the model. rows VECTOR: one dimension, kept as f32. */
static ss_status want_tensor(ss_model *m, const char *name, uint32_t cols, uint32_t rows, int32_t block,
                             uint32_t *index, ss_error *err) {
  const int32_t found = ss_gguf_find(&m->gguf, name);
  if (found < 0) return ss_fail(err, SS_E_MISSING, "%s: the tensor is missing", name);
  ss_tensor *t = &m->tensors[found];
  const ss_gguf_tensor *file = t->file;
  const ss_quant_info *quant = ss_quant_find(file->type);

  const uint64_t want_rows = rows == VECTOR ? 1 : rows;
  if (file->dims[0] != cols || file->dims[1] != want_rows || file->dims[2] != 1 || file->dims[3] != 1) {
    char shape[96] = "", want[32];
    size_t len = 0;
    for (uint32_t i = 0; i < file->n_dims; i++)
      len += ss_format(shape + len, sizeof shape - len, i ? ", %llu" : "%llu", (unsigned long long)file->dims[i]);
    if (rows == VECTOR) ss_format(want, sizeof want, "%u", (unsigned)cols);
    else ss_format(want, sizeof want, "%u, %u", (unsigned)cols, (unsigned)rows);
    return ss_fail(err, SS_E_FORMAT, "%s: shape [%s], want [%s]", name, shape, want);
  }
  if (quant->pack < 0 || (rows == VECTOR && !ss_packs[quant->pack].is_float))
    return ss_fail(err, SS_E_UNSUPPORTED, "%s: type %s, want F32, F16%s", name, quant->name,
                   rows == VECTOR ? " or BF16" : ", BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K");

  t->pack = rows == VECTOR ? SS_PACK_F32 : (ss_pack)quant->pack;
  t->cols = cols;
  t->rows = (uint32_t)want_rows;
  t->block = block;
  t->wanted = true;
  t->vector = rows == VECTOR;
  const uint64_t bytes =
      rows == VECTOR ? (uint64_t)cols * sizeof(float) : ss_ceil_div(rows, SS_ROWS) * ss_pack_group_bytes(t->pack, cols);
  if (bytes > SIZE_MAX / 2)
    return ss_fail(err, SS_E_MEMORY, "%s: %llu bytes do not fit the address space", name, (unsigned long long)bytes);
  t->data_bytes = (size_t)bytes;
  *index = (uint32_t)found;
  return SS_OK;
}

static ss_status want_layer(ss_model *m, uint32_t l, bool qkv_bias, ss_error *err) {
  const ss_config *c = &m->config;
  ss_layer *layer = &m->layers[l];
  const uint32_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
  const struct {
    const char *name;
    uint32_t cols, rows;
    int32_t part;
    uint32_t *index;
  } tensors[] = {
      {"attn_norm", c->n_embd, VECTOR, 0, &layer->attn_norm},
      {"attn_q", c->n_embd, q, 0, &layer->q},
      {"attn_k", c->n_embd, kv, 0, &layer->k},
      {"attn_v", c->n_embd, kv, 0, &layer->v},
      {"attn_output", q, c->n_embd, 0, &layer->o},
      {"ffn_norm", c->n_embd, VECTOR, 1, &layer->ffn_norm},
      {"ffn_gate", c->n_embd, c->n_ff, 1, &layer->gate},
      {"ffn_up", c->n_embd, c->n_ff, 1, &layer->up},
      {"ffn_down", c->n_ff, c->n_embd, 1, &layer->down},
  };
  char name[64];
  for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
    ss_format(name, sizeof name, "blk.%u.%s.weight", (unsigned)l, tensors[i].name);
    const ss_status status = want_tensor(m, name, tensors[i].cols, tensors[i].rows, (int32_t)(2 * l) + tensors[i].part,
                                         tensors[i].index, err);
    if (status != SS_OK) return status;
  }
  layer->q_bias = layer->k_bias = layer->v_bias = SS_NO_TENSOR;
  for (size_t i = 1; qkv_bias && i <= 3; i++) { /* of q, k and v in the table above */
    uint32_t *const biases[] = {&layer->q_bias, &layer->k_bias, &layer->v_bias};
    ss_format(name, sizeof name, "blk.%u.%s.bias", (unsigned)l, tensors[i].name);
    const ss_status status = want_tensor(m, name, tensors[i].rows, VECTOR, (int32_t)(2 * l), biases[i - 1], err);
    if (status != SS_OK) return status;
  }
  return SS_OK;
}

/* The vocabulary is as large as the embedding says; the other places must agree. */
static ss_status read_vocabulary(ss_model *m, ss_error *err) {
  const int32_t found = ss_gguf_find(&m->gguf, "token_embd.weight");
  if (found < 0) return ss_fail(err, SS_E_MISSING, "token_embd.weight: the tensor is missing");
  const uint64_t n_vocab = m->gguf.tensors[found].dims[1];
  if (n_vocab > MAX_VOCAB)
    return ss_fail(err, SS_E_UNSUPPORTED, "token_embd.weight: %llu tokens, want at most %u",
                   (unsigned long long)n_vocab, MAX_VOCAB);
  m->config.n_vocab = (uint32_t)n_vocab;
  key_reader r = {.gguf = &m->gguf, .architecture = m->load->architecture, .err = err};
  const uint32_t stated = take_count(&r, "vocab_size", 1, MAX_VOCAB, (int64_t)n_vocab);
  if (r.status != SS_OK) return r.status;
  ss_gguf_iter tokens;
  const bool listed = ss_gguf_array(&m->gguf, "tokenizer.ggml.tokens", &tokens);
  if (stated != n_vocab || (listed && tokens.left != n_vocab))
    return ss_fail(err, SS_E_FORMAT, "%s: %llu tokens, but token_embd.weight has %llu rows",
                   stated != n_vocab ? r.key : "tokenizer.ggml.tokens",
                   (unsigned long long)(stated != n_vocab ? stated : tokens.left), (unsigned long long)n_vocab);
  return SS_OK;
}

/* A tensor that would change the result must not be passed over in silence. */
static ss_status check_extra(const ss_model *m, ss_error *err) {
  for (uint32_t i = 0; i < m->gguf.n_tensors; i++) {
    const ss_gguf_tensor *t = &m->gguf.tensors[i];
    if (!m->tensors[i].wanted && t->name_len > 5 && memcmp(t->name + t->name_len - 5, ".bias", 5) == 0)
      return ss_fail(err, SS_E_UNSUPPORTED, "%s: this bias is not part of the architecture %s", t->name,
                     m->load->architecture);
  }
  if (ss_gguf_find(&m->gguf, "rope_factors_long.weight") >= 0)
    return ss_fail(err, SS_E_UNSUPPORTED, "rope_factors_long.weight: this position scaling is not supported");
  return SS_OK;
}

static ss_status want_tensors(ss_model *m, const architecture *a, ss_error *err) {
  const ss_config *c = &m->config;
  ss_status status = want_tensor(m, "token_embd.weight", c->n_embd, c->n_vocab, -1, &m->embedding, err);
  if (status == SS_OK) status = want_tensor(m, "output_norm.weight", c->n_embd, VECTOR, -1, &m->output_norm, err);
  if (status != SS_OK) return status;
  m->head = m->embedding; /* tied, unless there is one of its own */
  if (ss_gguf_find(&m->gguf, "output.weight") >= 0)
    status = want_tensor(m, "output.weight", c->n_embd, c->n_vocab, -1, &m->head, err);
  m->rope_factors = -1;
  if (status == SS_OK && ss_gguf_find(&m->gguf, "rope_freqs.weight") >= 0) {
    uint32_t factors;
    status = want_tensor(m, "rope_freqs.weight", c->n_rot / 2, VECTOR, -1, &factors, err);
    if (status == SS_OK) m->rope_factors = (int32_t)factors;
  }
  for (uint32_t l = 0; status == SS_OK && l < c->n_layers; l++) status = want_layer(m, l, a->qkv_bias, err);
  return status == SS_OK ? check_extra(m, err) : status;
}

/* ---- what ss_model_info tells ---- */

static void read_name(ss_model *m) {
  ss_meta meta;
  if (!ss_gguf_meta(&m->gguf, "general.name", &meta) || meta.type != SS_META_STRING) return;
  size_t len = ss_min(meta.text.len, SS_LOAD_NAME_BYTES - 1);
  if (len < meta.text.len) /* not inside a character */
    while (len > 0 && ((uint8_t)meta.text.data[len] & 0xc0) == 0x80) len--;
  if (len) memcpy(m->load->name, meta.text.data, len);
}

static ss_status sum_up(ss_model *m, ss_error *err) {
  ss_load *load = m->load;
  uint64_t of_type[64] = {0}, most = 0;
  for (uint32_t i = 0; i < m->gguf.n_tensors; i++) {
    const ss_tensor *t = &m->tensors[i];
    if (!t->wanted) continue;
    load->n_absent++;
    load->n_parameters += t->file->n_elements;
    load->packed_bytes += t->data_bytes;
    of_type[t->file->type] += t->file->n_elements; /* wanted types are small numbers */
  }
  for (uint32_t type = 0; type < 64; type++)
    if (of_type[type] > most) {
      most = of_type[type];
      load->quantisation = ss_quant_find(type)->name;
    }
  if (load->packed_bytes > SIZE_MAX / 2)
    return ss_fail(err, SS_E_MEMORY, "the weights need %llu bytes, more than the address space",
                   (unsigned long long)load->packed_bytes);
  read_name(m);
  return SS_OK;
}

static ss_status allocate(ss_model *m, ss_error *err) {
  const size_t n = m->gguf.n_tensors;
  if (n == 0) return ss_fail(err, SS_E_MISSING, "the file has no tensors");
  m->tensors = ss_host_alloc(&m->host, n * sizeof *m->tensors);
  m->load->received = ss_host_alloc(&m->host, n * sizeof *m->load->received);
  m->layers = ss_host_alloc(&m->host, m->config.n_layers * sizeof *m->layers);
  if (!m->tensors || !m->load->received || !m->layers)
    return ss_fail(err, SS_E_MEMORY, "list of %zu tensors: the host refused the memory", n);
  for (size_t i = 0; i < n; i++) m->tensors[i] = (ss_tensor){.file = &m->gguf.tensors[i], .block = -1};
  return SS_OK;
}

ss_status ss_config_read(ss_model *m, ss_error *err) {
  ss_meta meta;
  if (!ss_gguf_meta(&m->gguf, "general.architecture", &meta) || meta.type != SS_META_STRING)
    return ss_fail(err, SS_E_MISSING, "general.architecture: the key is missing");
  const architecture *a = NULL;
  for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
    if (text_is(meta.text, architectures[i].name)) a = &architectures[i];
  if (!a)
    return ss_fail(err, SS_E_UNSUPPORTED, "general.architecture: \"%.*s\", want \"llama\" or \"qwen2\"",
                   (int)ss_min(meta.text.len, 64), meta.text.data);
  m->load->architecture = a->name;
  m->config.rope_neox = a->rope_neox;
  ss_status status = read_config(m, err);
  if (status == SS_OK) status = read_vocabulary(m, err);
  if (status == SS_OK) status = allocate(m, err);
  if (status == SS_OK) status = want_tensors(m, a, err);
  if (status == SS_OK) status = sum_up(m, err);
  return status;
}
