/* From a complete header to a model's shape: the configuration keys, every value checked, and the tensors that the
 * architecture needs, each with its exact shape and a type that the kernels run. What is not checked here is not
 * checked again: the forward pass trusts it. */
#include "model/config.h"

#define MAX_VOCAB (1u << 24)

/* ---- keys ---- */

void ss_key_fail(ss_key_reader *r, ss_status status, const char *wrong) {
  if (r->status == SS_OK) r->status = ss_fail(r->err, status, "%s: %s", r->key, wrong);
}

bool ss_key_find(ss_key_reader *r, const char *name, bool required, ss_meta *meta) {
  if (r->status != SS_OK) return false;
  ss_format(r->key, sizeof r->key, "%s.%s", r->architecture, name);
  if (ss_gguf_meta(r->gguf, r->key, meta)) return true;
  if (required) ss_key_fail(r, SS_E_MISSING, "the key is missing");
  return false;
}

static bool is_signed(ss_meta_type t) {
  return t == SS_META_I8 || t == SS_META_I16 || t == SS_META_I32 || t == SS_META_I64;
}
static bool is_integer(ss_meta_type t) {
  return is_signed(t) || t == SS_META_U8 || t == SS_META_U16 || t == SS_META_U32 || t == SS_META_U64;
}

/* An array with one value for each layer counts as that value when all are equal. */
static void unfold_equal(ss_key_reader *r, ss_meta *meta) {
  ss_gguf_iter it;
  ss_meta next;
  if (!ss_gguf_array(r->gguf, r->key, &it)) return;
  if (!is_integer(it.element) || !ss_gguf_next(&it, meta)) {
    ss_key_fail(r, SS_E_FORMAT, "want an integer, or an array of them");
    return;
  }
  while (ss_gguf_next(&it, &next))
    if (next.u != meta->u) {
      ss_key_fail(r, SS_E_UNSUPPORTED, "its entries differ, want the same for all layers");
      return;
    }
}

uint32_t ss_key_count(ss_key_reader *r, const char *name, uint32_t least, uint32_t most, int64_t fallback) {
  ss_meta meta;
  if (!ss_key_find(r, name, fallback == SS_REQUIRED, &meta)) return r->status == SS_OK ? (uint32_t)fallback : least;
  unfold_equal(r, &meta);
  if (r->status == SS_OK && !is_integer(meta.type)) ss_key_fail(r, SS_E_FORMAT, "want an integer");
  if (r->status != SS_OK) return least;
  const bool negative = is_signed(meta.type) && (int64_t)meta.u < 0;
  if (!negative && meta.u >= least && meta.u <= most) return (uint32_t)meta.u;
  r->status = ss_fail(r->err, negative || meta.u < least ? SS_E_FORMAT : SS_E_UNSUPPORTED, "%s: %s%llu, want %u to %u",
                      r->key, negative ? "-" : "", (unsigned long long)(negative ? 0 - meta.u : meta.u),
                      (unsigned)least, (unsigned)most);
  return least;
}

float ss_key_positive(ss_key_reader *r, const char *name, double most, float fallback) {
  ss_meta meta;
  if (!ss_key_find(r, name, fallback <= 0, &meta)) return fallback;
  if (meta.type != SS_META_F32 && meta.type != SS_META_F64) ss_key_fail(r, SS_E_FORMAT, "want a floating-point number");
  else if (!(meta.f > 0 && meta.f <= most && (float)meta.f > 0)) ss_key_fail(r, SS_E_FORMAT, "out of range");
  return r->status == SS_OK ? (float)meta.f : 1;
}

static bool text_is(ss_text text, const char *word) {
  size_t i = 0;
  while (i < text.len && word[i] && text.data[i] == word[i]) i++;
  return i == text.len && !word[i];
}

/* ---- configuration ---- */

static void read_rope(ss_model *m, ss_key_reader *r) {
  ss_config *c = &m->config;
  c->rope_theta = ss_key_positive(r, "rope.freq_base", 1e12, 10000);
  c->n_rot = ss_key_count(r, "rope.dimension_count", 2, c->head_dim, c->head_dim);
  if (c->n_rot % 2) ss_key_fail(r, SS_E_FORMAT, "an odd number, want an even one");
  c->rope_scale = 1 / ss_key_positive(r, "rope.scale_linear", 1e6, 1); /* what older files call it */
  ss_meta type;
  if (!ss_key_find(r, "rope.scaling.type", false, &type)) return;
  if (type.type != SS_META_STRING) {
    ss_key_fail(r, SS_E_FORMAT, "want a string");
  } else if (text_is(type.text, "linear")) {
    c->rope_scale = 1 / ss_key_positive(r, "rope.scaling.factor", 1e6, 1);
  } else if (text_is(type.text, "llama3") && ss_gguf_find(&m->gguf, "rope_freqs.weight") >= 0) {
    return; /* the file spells it out as factors */
  } else if (!text_is(type.text, "none")) {
    r->status = ss_fail(r->err, SS_E_UNSUPPORTED, "%s: \"%.*s\", want \"none\" or \"linear\"", r->key,
                        (int)ss_min(type.text.len, 40), type.text.data);
  }
}

void ss_key_multiple(ss_key_reader *r, const char *what, uint32_t value, uint32_t of) {
  if (r->status == SS_OK && value % of)
    r->status = ss_fail(r->err, SS_E_UNSUPPORTED, "%s.%s: %u, want a multiple of %u", r->architecture, what,
                        (unsigned)value, (unsigned)of);
}

void ss_read_shape(ss_model *m, ss_key_reader *r, const char *norm_eps) {
  ss_config *c = &m->config;
  c->n_layers = ss_key_count(r, "block_count", 1, SS_MAX_LAYERS, SS_REQUIRED);
  c->n_embd = ss_key_count(r, "embedding_length", SS_COLS, SS_MAX_WIDTH, SS_REQUIRED);
  c->n_ff = ss_key_count(r, "feed_forward_length", SS_COLS, SS_MAX_FF, SS_REQUIRED);
  c->n_heads = ss_key_count(r, "attention.head_count", 1, SS_MAX_WIDTH / SS_COLS, SS_REQUIRED);
  c->n_kv_heads = ss_key_count(r, "attention.head_count_kv", 1, c->n_heads, c->n_heads);
  c->context_train = ss_key_count(r, "context_length", 1, SS_MAX_CONTEXT, SS_REQUIRED);
  c->norm_eps = ss_key_positive(r, norm_eps, 1, 0);
  ss_key_count(r, "expert_count", 0, 0, 0); /* a mixture of experts is another model */
  ss_key_multiple(r, "embedding_length", c->n_embd, SS_COLS);
  ss_key_multiple(r, "feed_forward_length", c->n_ff, SS_COLS);
  if (r->status != SS_OK) return;

  if (c->n_heads % c->n_kv_heads) {
    r->status = ss_fail(r->err, SS_E_FORMAT, "%s.attention.head_count: %u, want a multiple of head_count_kv %u",
                        r->architecture, (unsigned)c->n_heads, (unsigned)c->n_kv_heads);
    return;
  }
  const bool divides = c->n_embd % c->n_heads == 0;
  c->head_dim = ss_key_count(r, "attention.key_length", 1, SS_MAX_HEAD_DIM,
                             divides ? (int64_t)(c->n_embd / c->n_heads) : SS_REQUIRED);
  const uint32_t value_dim = ss_key_count(r, "attention.value_length", 1, SS_MAX_HEAD_DIM, c->head_dim);
  if (r->status != SS_OK) return;
  if (value_dim != c->head_dim)
    r->status = ss_fail(r->err, SS_E_UNSUPPORTED, "%s.attention.value_length: %u, want the key_length %u",
                        r->architecture, (unsigned)value_dim, (unsigned)c->head_dim);
  else if (c->head_dim % SS_COLS || c->head_dim > SS_MAX_HEAD_DIM || c->head_dim > SS_MAX_WIDTH / c->n_heads)
    r->status = ss_fail(r->err, SS_E_UNSUPPORTED,
                        "%s: heads of %u dimensions, want a multiple of 32 up to %u, and at most %u in all %u heads",
                        r->architecture, (unsigned)c->head_dim, SS_MAX_HEAD_DIM, SS_MAX_WIDTH, (unsigned)c->n_heads);
}

static void read_llama(ss_model *m, ss_key_reader *r) {
  ss_read_shape(m, r, "attention.layer_norm_rms_epsilon");
  if (r->status == SS_OK) read_rope(m, r);
}
static void read_qwen2(ss_model *m, ss_key_reader *r) {
  m->config.rope_neox = true; /* the pairing; converters reorder llama's rows, and no other's */
  read_llama(m, r);
}

/* ---- tensors ---- */

ss_status ss_want_tensor(ss_model *m, const char *name, uint32_t cols, uint32_t rows, int32_t block, uint32_t *index,
                         ss_error *err) {
  const int32_t found = ss_gguf_find(&m->gguf, name);
  if (found < 0) return ss_fail(err, SS_E_MISSING, "%s: the tensor is missing", name);
  ss_tensor *t = &m->tensors[found];
  const ss_gguf_tensor *file = t->file;
  const ss_quant_info *quant = ss_quant_find(file->type);

  const uint64_t want_rows = rows == SS_VECTOR ? 1 : rows;
  if (file->dims[0] != cols || file->dims[1] != want_rows || file->dims[2] != 1 || file->dims[3] != 1) {
    char shape[96] = "", want[32];
    size_t len = 0;
    for (uint32_t i = 0; i < file->n_dims; i++)
      len += ss_format(shape + len, sizeof shape - len, i ? ", %llu" : "%llu", (unsigned long long)file->dims[i]);
    if (rows == SS_VECTOR) ss_format(want, sizeof want, "%u", (unsigned)cols);
    else ss_format(want, sizeof want, "%u, %u", (unsigned)cols, (unsigned)rows);
    return ss_fail(err, SS_E_FORMAT, "%s: shape [%s], want [%s]", name, shape, want);
  }
  if (quant->pack < 0 || (rows == SS_VECTOR && !ss_packs[quant->pack].is_float))
    return ss_fail(err, SS_E_UNSUPPORTED, "%s: type %s, want F32, F16%s", name, quant->name,
                   rows == SS_VECTOR ? " or BF16" : ", BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K");

  t->pack = rows == SS_VECTOR ? SS_PACK_F32 : (ss_pack)quant->pack;
  t->cols = cols;
  t->rows = (uint32_t)want_rows;
  t->block = block;
  t->wanted = true;
  t->vector = rows == SS_VECTOR;
  const uint64_t bytes = rows == SS_VECTOR ? (uint64_t)cols * sizeof(float)
                                           : ss_ceil_div(rows, SS_ROWS) * ss_pack_group_bytes(t->pack, cols);
  if (bytes > SIZE_MAX / 2)
    return ss_fail(err, SS_E_MEMORY, "%s: %llu bytes do not fit the address space", name, (unsigned long long)bytes);
  t->data_bytes = (size_t)bytes;
  *index = (uint32_t)found;
  return SS_OK;
}

ss_status ss_want_of_layer(ss_model *m, uint32_t l, const char *name, uint32_t cols, uint32_t rows, int32_t block,
                           uint32_t *index, ss_error *err) {
  char whole[64];
  ss_format(whole, sizeof whole, "blk.%u.%s", (unsigned)l, name);
  return ss_want_tensor(m, whole, cols, rows, block, index, err);
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
      {"attn_norm.weight", c->n_embd, SS_VECTOR, 0, &layer->attn_norm},
      {"attn_q.weight", c->n_embd, q, 0, &layer->q},
      {"attn_k.weight", c->n_embd, kv, 0, &layer->k},
      {"attn_v.weight", c->n_embd, kv, 0, &layer->v},
      {"attn_output.weight", q, c->n_embd, 0, &layer->o},
      {"ffn_norm.weight", c->n_embd, SS_VECTOR, 1, &layer->ffn_norm},
      {"ffn_gate.weight", c->n_embd, c->n_ff, 1, &layer->gate},
      {"ffn_up.weight", c->n_embd, c->n_ff, 1, &layer->up},
      {"ffn_down.weight", c->n_ff, c->n_embd, 1, &layer->down},
      {"attn_q.bias", q, SS_VECTOR, 0, &layer->q_bias}, /* these where qkv_bias says so */
      {"attn_k.bias", kv, SS_VECTOR, 0, &layer->k_bias},
      {"attn_v.bias", kv, SS_VECTOR, 0, &layer->v_bias},
  };
  layer->q_bias = layer->k_bias = layer->v_bias = SS_NO_TENSOR;
  ss_status status = SS_OK;
  for (size_t i = 0; status == SS_OK && i < (qkv_bias ? 12u : 9u); i++)
    status = ss_want_of_layer(m, l, tensors[i].name, tensors[i].cols, tensors[i].rows,
                              (int32_t)(2 * l) + tensors[i].part, tensors[i].index, err);
  return status;
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
  ss_key_reader r = {.gguf = &m->gguf, .architecture = m->load->architecture, .err = err};
  const uint32_t stated = ss_key_count(&r, "vocab_size", 1, MAX_VOCAB, (int64_t)n_vocab);
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

static ss_status want_family(ss_model *m, bool qkv_bias, ss_error *err) {
  const ss_config *c = &m->config;
  ss_status status = ss_want_tensor(m, "token_embd.weight", c->n_embd, c->n_vocab, -1, &m->embedding, err);
  if (status == SS_OK) status = ss_want_tensor(m, "output_norm.weight", c->n_embd, SS_VECTOR, -1, &m->output_norm, err);
  if (status != SS_OK) return status;
  m->head = m->embedding; /* tied, unless there is one of its own */
  if (ss_gguf_find(&m->gguf, "output.weight") >= 0)
    status = ss_want_tensor(m, "output.weight", c->n_embd, c->n_vocab, -1, &m->head, err);
  m->rope_factors = -1;
  if (status == SS_OK && ss_gguf_find(&m->gguf, "rope_freqs.weight") >= 0) {
    uint32_t factors;
    status = ss_want_tensor(m, "rope_freqs.weight", c->n_rot / 2, SS_VECTOR, -1, &factors, err);
    if (status == SS_OK) m->rope_factors = (int32_t)factors;
  }
  for (uint32_t l = 0; status == SS_OK && l < c->n_layers; l++) status = want_layer(m, l, qkv_bias, err);
  return status;
}

static ss_status want_llama(ss_model *m, ss_error *err) { return want_family(m, false, err); }
static ss_status want_qwen2(ss_model *m, ss_error *err) { return want_family(m, true, err); }

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

static const ss_architecture llama = {"llama", read_llama, want_llama};
static const ss_architecture qwen2 = {"qwen2", read_qwen2, want_qwen2};
static const ss_architecture *const architectures[] = {&llama, &qwen2, &ss_architecture_bert};

ss_status ss_config_read(ss_model *m, ss_error *err) {
  ss_meta meta;
  if (!ss_gguf_meta(&m->gguf, "general.architecture", &meta) || meta.type != SS_META_STRING)
    return ss_fail(err, SS_E_MISSING, "general.architecture: the key is missing");
  const ss_architecture *a = NULL;
  for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
    if (text_is(meta.text, architectures[i]->name)) a = architectures[i];
  if (!a)
    return ss_fail(err, SS_E_UNSUPPORTED, "general.architecture: \"%.*s\", want \"llama\", \"qwen2\" or \"bert\"",
                   (int)ss_min(meta.text.len, 64), meta.text.data);
  m->load->architecture = a->name;
  ss_key_reader r = {.gguf = &m->gguf, .architecture = a->name, .err = err};
  a->read_config(m, &r);
  ss_status status = r.status;
  if (status == SS_OK) status = read_vocabulary(m, err);
  if (status == SS_OK) status = allocate(m, err);
  if (status == SS_OK) status = a->want_tensors(m, err);
  if (status == SS_OK) status = check_extra(m, err);
  if (status == SS_OK) status = sum_up(m, err);
  return status;
}
