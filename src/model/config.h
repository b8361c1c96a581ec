/* What the architectures' readers share: config.c has these and the llama family, config_bert.c the sentence encoder. */
#ifndef SS_CONFIG_H
#define SS_CONFIG_H

#include "model/load.h"

#define SS_MAX_LAYERS (SS_MAX_BLOCKS / 2)
#define SS_MAX_WIDTH 65536u /* n_embd, and all heads side by side */
#define SS_MAX_FF (1u << 20)
#define SS_MAX_CONTEXT (1u << 30)
#define SS_MAX_HEAD_DIM 512u
#define SS_REQUIRED -1

/* Reads keys of the architecture and remembers the first failure, so that it is checked once. */
typedef struct ss_key_reader {
  const ss_gguf *gguf;
  const char *architecture;
  ss_error *err;
  ss_status status;
  char key[96]; /* the one looked at last */
} ss_key_reader;

/* What differs between the architectures. */
typedef struct ss_architecture {
  const char *name;
  void (*read_config)(ss_model *m, ss_key_reader *r);
  ss_status (*want_tensors)(ss_model *m, ss_error *err);
} ss_architecture;
extern const ss_architecture ss_architecture_bert;

/* Finds `architecture.name`. False: it is absent, or an earlier read failed. */
bool ss_key_find(ss_key_reader *r, const char *name, bool required, ss_meta *meta);
void ss_key_fail(ss_key_reader *r, ss_status status, const char *wrong); /* says it about the key looked at last */

/* An integer in [least, most]. fallback: its value when the key is absent, or SS_REQUIRED. */
uint32_t ss_key_count(ss_key_reader *r, const char *name, uint32_t least, uint32_t most, int64_t fallback);
/* A positive finite number, at most `most`; fallback 0: it must be there. */
float ss_key_positive(ss_key_reader *r, const char *name, double most, float fallback);
void ss_key_multiple(ss_key_reader *r, const char *what, uint32_t value, uint32_t of);

/* What all have: layers, widths, heads of a multiple of 32 dimensions, context, and a norm's epsilon under its key. */
void ss_read_shape(ss_model *m, ss_key_reader *r, const char *norm_eps);

/* Gives the tensor its place in the model. rows SS_VECTOR: one dimension, kept as f32. */
enum { SS_VECTOR = 0 };
ss_status ss_want_tensor(ss_model *m, const char *name, uint32_t cols, uint32_t rows, int32_t block, uint32_t *index,
                         ss_error *err);
/* The same for `blk.l.name`. */
ss_status ss_want_of_layer(ss_model *m, uint32_t l, const char *name, uint32_t cols, uint32_t rows, int32_t block,
                           uint32_t *index, ss_error *err);

#endif
