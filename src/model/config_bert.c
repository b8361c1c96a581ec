/* BERT sentence encoders (all-MiniLM-L6-v2 and its like) as llama.cpp's converter writes them. The residual is
 * normalised behind each block, everything has a bias, positions are a table. src/route/encoder.c runs them. */
#include "model/config.h"

static void read_bert(ss_model *m, ss_key_reader *r) {
  ss_config *c = &m->config;
  ss_read_shape(m, r, "attention.layer_norm_epsilon");
  if (r->status == SS_OK && (c->n_kv_heads != c->n_heads || c->head_dim * c->n_heads != c->n_embd))
    r->status = ss_fail(r->err, SS_E_UNSUPPORTED,
                        "%s: %u heads of %u dimensions and %u for keys, want all alike and %u in all", r->architecture,
                        (unsigned)c->n_heads, (unsigned)c->head_dim, (unsigned)c->n_kv_heads, (unsigned)c->n_embd);
  ss_meta causal;
  if (ss_key_find(r, "attention.causal", false, &causal) && causal.u) ss_key_fail(r, SS_E_UNSUPPORTED, "want false");
  const uint32_t type = ss_key_count(r, "pooling_type", 1, 2, 1); /* llama.cpp's numbers: 1 mean, 2 the [CLS] token */
  c->pooling = type == 2 ? SS_POOL_CLS : SS_POOL_MEAN;
}

static ss_status want_layer(ss_model *m, uint32_t l, ss_error *err) {
  const uint32_t n = m->config.n_embd, n_ff = m->config.n_ff;
  ss_layer *layer = &m->layers[l];
  const struct {
    const char *name;
    uint32_t cols, rows;
    int32_t part;
    uint32_t *index;
  } tensors[] = {
      {"attn_q.weight", n, n, 0, &layer->q},
      {"attn_q.bias", n, SS_VECTOR, 0, &layer->q_bias},
      {"attn_k.weight", n, n, 0, &layer->k},
      {"attn_k.bias", n, SS_VECTOR, 0, &layer->k_bias},
      {"attn_v.weight", n, n, 0, &layer->v},
      {"attn_v.bias", n, SS_VECTOR, 0, &layer->v_bias},
      {"attn_output.weight", n, n, 0, &layer->o},
      {"attn_output.bias", n, SS_VECTOR, 0, &layer->o_bias},
      {"attn_output_norm.weight", n, SS_VECTOR, 0, &layer->attn_norm},
      {"attn_output_norm.bias", n, SS_VECTOR, 0, &layer->attn_norm_bias},
      {"ffn_up.weight", n, n_ff, 1, &layer->up},
      {"ffn_up.bias", n_ff, SS_VECTOR, 1, &layer->up_bias},
      {"ffn_down.weight", n_ff, n, 1, &layer->down},
      {"ffn_down.bias", n, SS_VECTOR, 1, &layer->down_bias},
      {"layer_output_norm.weight", n, SS_VECTOR, 1, &layer->ffn_norm},
      {"layer_output_norm.bias", n, SS_VECTOR, 1, &layer->ffn_norm_bias},
  };
  layer->gate = SS_NO_TENSOR;
  ss_status status = SS_OK;
  for (size_t i = 0; status == SS_OK && i < sizeof tensors / sizeof *tensors; i++)
    status = ss_want_of_layer(m, l, tensors[i].name, tensors[i].cols, tensors[i].rows,
                              (int32_t)(2 * l) + tensors[i].part, tensors[i].index, err);
  return status;
}

static ss_status want_bert(ss_model *m, ss_error *err) {
  const ss_config *c = &m->config;
  const int32_t types = ss_gguf_find(&m->gguf, "token_types.weight");
  const uint64_t n_types = types < 0 ? 1 : m->gguf.tensors[types].dims[1]; /* the first row alone is read */
  const struct {
    const char *name;
    uint32_t rows;
    uint32_t *index;
  } tensors[] = {
      {"token_embd.weight", c->n_vocab, &m->embedding},
      {"position_embd.weight", c->context_train, &m->positions},
      {"token_types.weight", (uint32_t)(n_types <= SS_MAX_WIDTH ? n_types : SS_MAX_WIDTH), &m->token_types},
      {"token_embd_norm.weight", SS_VECTOR, &m->embedding_norm},
      {"token_embd_norm.bias", SS_VECTOR, &m->embedding_norm_bias},
  };
  m->head = m->output_norm = SS_NO_TENSOR;
  ss_status status = SS_OK;
  for (size_t i = 0; status == SS_OK && i < sizeof tensors / sizeof *tensors; i++)
    status = ss_want_tensor(m, tensors[i].name, c->n_embd, tensors[i].rows, -1, tensors[i].index, err);
  for (uint32_t l = 0; status == SS_OK && l < c->n_layers; l++) status = want_layer(m, l, err);
  return status;
}

const ss_architecture ss_architecture_bert = {"bert", read_bert, want_bert};
