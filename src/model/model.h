/* The loaded model as the forward pass sees it. Inside the core only: hosts use skipstone.h. */
#ifndef SS_MODEL_H
#define SS_MODEL_H

#include "kernels/kernels.h"
#include "model/gguf.h"

/* How a sentence encoder makes one vector of its tokens'; a language model does not. */
typedef enum ss_pooling { SS_POOL_NONE, SS_POOL_MEAN, SS_POOL_CLS } ss_pooling;

typedef struct ss_config {
  uint32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, n_vocab, context_train;
  uint32_t n_rot;       /* dimensions of each head that rotate */
  bool rope_neox;       /* pairs (i, i + n_rot / 2); else (2i, 2i + 1), GGUF's order for llama */
  float rope_theta, rope_scale; /* rope_scale multiplies positions: 1 / factor of linear scaling, 1 = none */
  float norm_eps;
  ss_pooling pooling;   /* not SS_POOL_NONE: a sentence encoder (config_bert.c), which ss_session does not run */
} ss_config;

/* One tensor of the file. data is allocated when its first byte arrives. */
typedef struct ss_tensor {
  const ss_gguf_tensor *file; /* name, type, dims, offset */
  void *data;                 /* packed matrix, or f32 vector */
  size_t data_bytes;
  ss_pack pack;
  uint32_t rows, cols;        /* a vector has rows 1 */
  int32_t block;              /* owner, or -1 */
  bool vector;                /* kept as f32, and not a matrix of one row */
  bool wanted;                /* false: the model does not use it; its bytes are ignored */
  bool present;               /* every byte arrived */
} ss_tensor;

#define SS_NO_TENSOR UINT32_MAX

/* A layer's tensors, as indices into ss_model.tensors. */
typedef struct ss_layer {
  uint32_t attn_norm, q, k, v,
      o; /* [n_embd]; [n_heads * head_dim][n_embd]; [n_kv_heads * head_dim][n_embd] x 2; [n_embd][n_heads * head_dim] */
  uint32_t q_bias, k_bias, v_bias; /* SS_NO_TENSOR where the architecture has none */
  uint32_t ffn_norm, gate, up, down; /* [n_embd]; [n_ff][n_embd] x 2; [n_embd][n_ff] */
  /* An encoder has all of these and no gate; its norms are LayerNorms behind the blocks. */
  uint32_t o_bias, attn_norm_bias, up_bias, down_bias, ffn_norm_bias;
} ss_layer;

struct ss_model {
  ss_host host;
  const ss_kernels *kernels;
  ss_gguf gguf;
  ss_config config;
  ss_tensor *tensors; /* [gguf.n_tensors], in the file's order */
  ss_layer *layers; /* [config.n_layers] */
  uint32_t embedding, output_norm, head; /* tensors; head is embedding when tied */
  uint32_t positions, token_types, embedding_norm,
      embedding_norm_bias; /* of an encoder: [context_train][n_embd], ... */
  int32_t rope_factors; /* tensor `rope_freqs.weight` [n_rot / 2], or -1: divides the frequencies (Llama 3.1) */
  /* ... the loader's own state follows: see model.c */
  struct ss_load *load;
};

static inline const float *ss_model_vector(const ss_model *m, uint32_t tensor) { return m->tensors[tensor].data; }
static inline ss_matrix ss_model_matrix(const ss_model *m, uint32_t tensor) {
  const ss_tensor *t = &m->tensors[tensor];
  return (ss_matrix){.data = t->data, .rows = t->rows, .cols = t->cols, .pack = t->pack};
}

/* A fast 64-bit hash of n bytes, which any change of them changes but for chance; a change of one bit always does. */
uint64_t ss_hash_words(const void *data, size_t n);

#endif
