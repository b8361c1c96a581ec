/* The tokenizer from its parts. Inside the core and its tests only: hosts use ss_tokenizer_create. */
#ifndef SS_TOKENIZER_H
#define SS_TOKENIZER_H

#include "model/gguf.h"

typedef struct ss_vocab {
  ss_text pre;            /* tokenizer.ggml.pre */
  ss_gguf_iter tokens;    /* strings, in GPT-2's characters for bytes; special tokens as they are */
  ss_gguf_iter types;     /* numbers, one per token; left 0: all are normal */
  ss_gguf_iter merges;    /* strings "left right", best first */
  ss_special_tokens special; /* as the metadata has them; eot -1: it is looked for by name */
} ss_vocab;

/* Borrows nothing of vocab beyond the call. */
ss_status ss_tokenizer_build(ss_tokenizer **out, const ss_vocab *vocab, const ss_host *host, ss_error *err);

#endif
