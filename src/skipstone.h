/* skipstone.h - the one public header of the Skipstone core.
 *
 * The core runs a llama-family model from GGUF weights and skips the attention and feed-forward blocks that a mask
 * leaves out. It does no I/O: the host hands over bytes, memory and threads (ss_host), and everything else is a
 * function of its arguments. Logits are bit-identical on every target and for any number of threads; a change of any
 * number changes SS_NUMERICS_VERSION.
 *
 * Order of use:   ss_model_create -> ss_model_feed ... -> ss_tokenizer_create
 *                 ss_session_create -> ss_session_begin -> ss_session_run ... -> ss_session_logits -> ss_sampler_pick
 *
 * Conventions: functions that can fail return ss_status and fill *err (which may be NULL). free functions take NULL.
 * An object keeps a copy of the ss_host it was made with and must be used by one thread at a time.
 * Sizes are bytes, positions are tokens. Nothing here is global: any number of models and sessions may coexist. */
#ifndef SKIPSTONE_H
#define SKIPSTONE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SS_VERSION "0.1.0"
#define SS_NUMERICS_VERSION 1 /* the numbers: kernels/scalar.c is their specification */
#define SS_LAYOUT_VERSION 1   /* the packed weights: kernels/pack.h */
#define SS_MAX_BLOCKS 1024    /* attention and feed-forward blocks of one model: 512 layers */

/* ---- Status and errors ------------------------------------------------------------------------------------------ */

/* Values are stable. */
typedef enum ss_status {
  SS_OK = 0,
  SS_MORE = 1,           /* not an error: more work or more bytes are due */
  SS_E_ARGUMENT = -1,    /* an argument or option is impossible */
  SS_E_MEMORY = -2,      /* the host refused memory */
  SS_E_FORMAT = -3,      /* a file is malformed, truncated or inconsistent */
  SS_E_UNSUPPORTED = -4, /* well formed, but not something this version runs */
  SS_E_MISSING = -5,     /* a tensor or key is absent or its bytes have not been fed yet */
  SS_E_CONTEXT = -6,     /* the session's context is full */
  SS_E_STATE = -7,       /* called out of order */
} ss_status;

/* Stable lower-case name, for example "format". Never NULL. */
const char *ss_status_name(ss_status status);

/* Caller-owned. The message names the thing, what was found and what was wanted; it is NUL-terminated UTF-8. */
typedef struct ss_error {
  ss_status status;
  char message[320];
} ss_error;

/* ---- Host ------------------------------------------------------------------------------------------------------- */

/* One part of a parallel loop: called once for each part in 0..n_parts-1, on any thread, in any order. */
typedef void ss_task(void *arg, uint32_t part, uint32_t n_parts);

typedef struct ss_host {
  void *(*alloc)(void *ctx, size_t bytes);          /* 64-byte aligned, contents undefined; NULL when refused */
  void (*free)(void *ctx, void *p, size_t bytes);   /* p from alloc with the same bytes; p may be NULL */
  void (*parallel_for)(void *ctx, uint32_t n_parts, ss_task *task, void *arg); /* returns when all parts are done;
                                                       NULL: parts run one after the other on the caller */
  uint32_t n_threads; /* how many parts can run at once, at least 1 and at most SS_MAX_THREADS */
  void *ctx;
} ss_host;

#define SS_MAX_THREADS 64

/* ---- Kernels ---------------------------------------------------------------------------------------------------- */

typedef struct ss_kernels ss_kernels;

/* The kernel sets that this build and processor can run, fastest first; NULL past the last. The last one is always
 * "scalar", the specification. All give the same bits. */
const ss_kernels *ss_kernels_at(size_t i);
const ss_kernels *ss_kernels_find(const char *name); /* NULL name: the fastest; NULL result: no such set here */
const char *ss_kernels_name(const ss_kernels *kernels);

/* ---- Masks ------------------------------------------------------------------------------------------------------ */

/* Which blocks run. Block 2*l is the attention of layer l, block 2*l+1 its feed-forward. */
typedef struct ss_mask {
  uint64_t bits[SS_MAX_BLOCKS / 64];
} ss_mask;

static inline bool ss_mask_has(const ss_mask *m, uint32_t block) { return m->bits[block / 64] >> (block % 64) & 1; }
static inline void ss_mask_set(ss_mask *m, uint32_t block, bool run) {
  const uint64_t bit = (uint64_t)1 << (block % 64);
  if (run) m->bits[block / 64] |= bit;
  else m->bits[block / 64] &= ~bit;
}
void ss_mask_fill(ss_mask *m, uint32_t n_blocks); /* blocks 0..n_blocks-1 set, the rest clear */
uint32_t ss_mask_count(const ss_mask *m, uint32_t n_blocks);
bool ss_mask_within(const ss_mask *inner, const ss_mask *outer); /* every block of inner is in outer */

/* Parses "attn:3,7-9;ffn:12" - the blocks to SKIP - into *m, the blocks that run. An empty text skips none. */
ss_status ss_mask_parse_skip(ss_mask *m, uint32_t n_layers, const char *text, ss_error *err);

/* The bench's own mask: skips about `fraction` of the attention blocks and the same share of the feed-forward blocks,
 * spread evenly and away from the first and last layer. 0 <= fraction < 1. */
void ss_mask_proportional(ss_mask *m, uint32_t n_layers, double fraction);

/* ---- Model ------------------------------------------------------------------------------------------------------ */

typedef struct ss_model ss_model;

/* An empty model that waits for its file's bytes. kernels NULL: the fastest set. */
ss_status ss_model_create(ss_model **out, const ss_host *host, const ss_kernels *kernels, ss_error *err);
void ss_model_free(ss_model *model);

/* Hands over bytes [offset, offset + n) of the GGUF file. `bytes` is borrowed for the call.
 * Until ss_model_header_done the pieces must continue the file's beginning without a gap (overlap is allowed); after
 * that they may come in any order and size, also twice. Each whole quantisation block is repacked at once.
 * SS_OK: the model is complete. SS_MORE: more bytes are due. After an error the model can only be freed. */
ss_status ss_model_feed(ss_model *model, uint64_t offset, const void *bytes, size_t n, ss_error *err);

/* For a host that knows how long the file is: a truncated file and a tensor past the end are then found at once, with
 * the header. May be called before the first feed or later; after an error the model can only be freed. */
ss_status ss_model_expect_bytes(ss_model *model, uint64_t file_bytes, ss_error *err);

bool ss_model_header_done(const ss_model *model);
uint64_t ss_model_next_offset(const ss_model *model);   /* the first byte of the file that is not yet known */
uint64_t ss_model_file_bytes(const ss_model *model);    /* end of the last tensor; 0 before the header is done */
size_t ss_model_bytes(const ss_model *model, const ss_mask *mask); /* packed weights of the blocks of mask and of
                                                          everything outside blocks; NULL: all. Header is enough. */

typedef struct ss_model_info {
  const char *architecture, *name, *quantisation; /* owned by the model; "" where the file has none. quantisation is
                                                     the type that holds most weights, for example "Q4_1" */
  uint32_t n_layers, n_blocks, n_embd, n_ff, n_heads, n_kv_heads, head_dim, n_vocab, context_train;
  uint64_t n_parameters, packed_bytes;
  float rope_theta, norm_eps;
  bool tied_head;
  const char *kernels;
} ss_model_info;
ss_status ss_model_info_get(const ss_model *model, ss_model_info *out, ss_error *err);

typedef struct ss_block_cost {
  uint64_t macs;         /* multiply-adds of the block's matmuls for one token, attention over the past not counted */
  uint64_t file_bytes;   /* of its tensors in the file */
  uint64_t packed_bytes; /* of its tensors in memory */
  uint64_t kv_bytes;     /* of KV cache per token of context; 0 for a feed-forward block */
} ss_block_cost;
ss_status ss_model_block_cost(const ss_model *model, uint32_t block, ss_block_cost *out, ss_error *err);

typedef struct ss_tensor_info {
  const char *name, *type; /* owned by the model */
  uint32_t n_dims;
  uint64_t dims[4];        /* GGUF order: dims[0] runs fastest */
  uint64_t offset, bytes;  /* in the file, absolute */
  int32_t block;           /* the block that owns it, or -1 */
  bool present;            /* all bytes fed */
} ss_tensor_info;
size_t ss_model_n_tensors(const ss_model *model);
ss_status ss_model_tensor(const ss_model *model, size_t i, ss_tensor_info *out, ss_error *err);

/* Metadata. Strings are owned by the model, not NUL-terminated: use the length. */
typedef struct ss_text {
  const char *data;
  size_t len;
} ss_text;
/* GGUF's numbering. */
typedef enum ss_meta_type {
  SS_META_U8,
  SS_META_I8,
  SS_META_U16,
  SS_META_I16,
  SS_META_U32,
  SS_META_I32,
  SS_META_F32,
  SS_META_BOOL,
  SS_META_STRING,
  SS_META_ARRAY,
  SS_META_U64,
  SS_META_I64,
  SS_META_F64,
} ss_meta_type;
typedef struct ss_meta {
  ss_text key;
  ss_meta_type type, element; /* element: of an array */
  uint64_t n;                 /* elements of an array, else 1 */
  uint64_t u;                 /* unsigned, signed (two's complement) and bool scalars */
  double f;                   /* any numeric scalar as a double */
  ss_text text;               /* a string */
} ss_meta;
size_t ss_model_n_meta(const ss_model *model);
bool ss_model_meta_at(const ss_model *model, size_t i, ss_meta *out);
bool ss_model_meta(const ss_model *model, const char *key, ss_meta *out);
bool ss_model_meta_element(const ss_model *model, const char *key, uint64_t i, ss_meta *out); /* of an array */

/* ---- Tokenizer -------------------------------------------------------------------------------------------------- */

typedef struct ss_tokenizer ss_tokenizer;

/* Byte-level BPE from the model's metadata. Borrows the model, which must outlive it; the header is enough.
 * Pre-tokenizers: smollm, gpt-2, llama-bpe, qwen2. */
ss_status ss_tokenizer_create(ss_tokenizer **out, const ss_model *model, const ss_host *host, ss_error *err);
void ss_tokenizer_free(ss_tokenizer *tokenizer);

typedef enum ss_tokenize_flags {
  SS_TOKENIZE_PLAIN = 0,
  SS_TOKENIZE_SPECIAL = 1, /* text like <|im_start|> becomes its special token */
  SS_TOKENIZE_BOS = 2,     /* put the BOS token in front where the model's metadata asks for it */
} ss_tokenize_flags;

/* Writes at most `capacity` ids and sets *n_tokens to how many there are (call again with more room when it is larger
 * than capacity). Invalid UTF-8 becomes U+FFFD first. Time is O(n log n) in the longest word. */
ss_status ss_tokenize(const ss_tokenizer *tokenizer, ss_text text, uint32_t flags, int32_t *tokens, size_t capacity,
                      size_t *n_tokens, ss_error *err);

/* The raw bytes of one token, which need not be whole UTF-8 characters; special tokens give their text.
 * Writes at most `capacity` bytes and returns how many there are; 0 for an id outside the vocabulary. */
size_t ss_token_bytes(const ss_tokenizer *tokenizer, int32_t token, char *bytes, size_t capacity);

/* Streams text: collects the bytes of tokens and hands out whole UTF-8 characters only. Plain data: copy it freely. */
typedef struct ss_detokenizer {
  uint8_t tail[4]; /* an unfinished character */
  uint8_t n_tail;
} ss_detokenizer;
/* Appends token's bytes and writes the whole characters that are now complete (invalid bytes as U+FFFD) to text;
 * returns their length, at most 3 * (bytes of the token + 4). token -1 flushes an unfinished tail as U+FFFD.
 * Special tokens give no text. When the result is larger than capacity nothing was consumed. */
size_t ss_detokenize(ss_detokenizer *state, const ss_tokenizer *tokenizer, int32_t token, char *text, size_t capacity);

typedef struct ss_special_tokens {
  int32_t bos, eos, eot, unknown, pad; /* -1: none. eot ends a turn (<|im_end|>, <|eot_id|>, ...) */
  bool add_bos;
} ss_special_tokens;
ss_special_tokens ss_tokenizer_special(const ss_tokenizer *tokenizer);
bool ss_token_is_end(const ss_tokenizer *tokenizer, int32_t token); /* ends an answer: eos, eot or the like */
bool ss_token_is_special(const ss_tokenizer *tokenizer, int32_t token);
uint32_t ss_tokenizer_n_vocab(const ss_tokenizer *tokenizer);

/* ---- Recovery: what makes up for skipped blocks ------------------------------------------------------------------ */

/* A skipped block leaves a gap in the residual stream h. For one mask, this closes part of it at next to no cost:
 *   a block that runs            h += scale * block(h), and its RMSNorm has gains of its own
 *   a block that does not run    h += a * h + b, channel by channel, in its place: a stand-in
 * The same bits on every target. Owned by a bank, or by whoever made it. */
typedef struct ss_recovery_block {
  const float *gains; /* [n_embd] in place of the model's; NULL: the model's */
  float scale; /* 1: none */
  const float *a, *b; /* [n_embd] each, or both NULL: no stand-in */
} ss_recovery_block;
typedef struct ss_recovery {
  uint32_t n_blocks, n_embd; /* n_embd 0: scales alone */
  const ss_recovery_block
      *blocks; /* [n_blocks]; what does not apply, as the stand-in of a block that runs, is not read */
  const float *output_gains; /* [n_embd] of the norm before the head; NULL: the model's */
} ss_recovery;

/* ---- Session: KV cache and forward pass ------------------------------------------------------------------------- */

typedef struct ss_session ss_session;

typedef struct ss_session_options {
  uint32_t context; /* tokens; 0: the smaller of 2048 and the model's training context */
  uint32_t chunk; /* tokens per prefill step; 0: a good default. Results do not depend on it */
  uint32_t max_logits; /* rows of logits that one ss_session_begin may ask for; 0: 1 */
  const ss_mask *run_mask; /* blocks that run; NULL: all */
  const ss_mask *kv_mask; /* attention blocks whose KV is kept, a superset of run_mask's; NULL: run_mask */
  const ss_recovery *recovery; /* borrowed: must outlive the session; NULL: none. Changes no size */
} ss_session_options;

/* Memory that ss_session_create would take with the model's own host, KV cache included; 0 when the options are impossible. */
size_t ss_session_bytes(const ss_model *model, const ss_session_options *options);
size_t ss_session_kv_bytes(const ss_model *model, const ss_session_options *options);

/* Borrows the model, which must outlive it. One arena, allocated here; no call after this one allocates. */
ss_status ss_session_create(ss_session **out, const ss_model *model, const ss_session_options *options,
                            const ss_host *host, ss_error *err);
void ss_session_free(ss_session *session);

/* Starts on n tokens behind those already in the session and asks for logits of the last n_logits of them
 * (n_logits <= min(n, max_logits); 0: none, for a prompt whose end follows later). Copies nothing: `tokens` must stay until
 * ss_session_run says SS_OK or ss_session_cancel. SS_E_CONTEXT when they do not fit. */
ss_status ss_session_begin(ss_session *session, const int32_t *tokens, size_t n, size_t n_logits, ss_error *err);

/* Runs at most max_blocks blocks (0: no limit). SS_MORE: call again. SS_OK: done, logits are ready.
 * SS_E_MISSING names a tensor that was not fed; feed it and call again. */
ss_status ss_session_run(ss_session *session, uint32_t max_blocks, ss_error *err);

/* Gives up what ss_session_begin started, but for the chunks that are complete: ss_session_length says how many
 * tokens the session then holds. */
void ss_session_cancel(ss_session *session);

/* Row i of the logits asked for, [n_vocab] f32, valid until the next begin. NULL when there is no such row. */
float *ss_session_logits(ss_session *session, size_t i);

uint32_t ss_session_length(const ss_session *session); /* tokens held */
uint32_t ss_session_context(const ss_session *session); /* tokens it can hold */
ss_status ss_session_truncate(ss_session *session, uint32_t n_tokens, ss_error *err); /* keep the first n_tokens */
const ss_mask *ss_session_mask(const ss_session *session);

/* Changes which blocks run from now on, within kv_mask. Positions already held keep what they were computed with; an
 * attention block that did not run for all of them has a hole in its KV, and ss_session_begin then fails with
 * SS_E_STATE until the session is truncated to where the hole begins. The recovery belonged to the former mask: it goes. */
ss_status ss_session_set_run_mask(ss_session *session, const ss_mask *run_mask, ss_error *err);
/* Borrows the recovery of the run mask from now on; NULL: none. */
ss_status ss_session_set_recovery(ss_session *session, const ss_recovery *recovery, ss_error *err);

/* Takes over the first n_tokens of `from`, so that both may go on from there. The two are sessions of one model with
 * the same masks and recovery; what `to` held is gone. */
ss_status ss_session_copy(ss_session *to, const ss_session *from, uint32_t n_tokens, ss_error *err);

/* A session as bytes that outlive the process: KV, tokens, masks, and what they belong to (saved.c describes the format).
 * `tokens` are those that it holds, [ss_session_length]; `bytes` has room for ss_session_saved_bytes. SS_E_STATE while a
 * step is under way, or when the KV has holes. */
size_t ss_session_saved_bytes(const ss_session *session);
ss_status ss_session_save(const ss_session *session, const int32_t *tokens, void *bytes, ss_error *err);

/* The session that was saved, with the context and chunk that `options` ask for; its tokens go to tokens[context], and their
 * number is ss_session_length. `bytes` may be anything: SS_E_FORMAT: no saved session, truncated or damaged; SS_E_UNSUPPORTED: of
 * another version of the format or of the numbers; SS_E_ARGUMENT: of another model, or with other masks or recovery than
 * `options`; SS_E_CONTEXT: it does not fit. */
ss_status ss_session_restore(ss_session **out, const ss_model *model, const ss_session_options *options,
                             const void *bytes, size_t n, int32_t *tokens, const ss_host *host, ss_error *err);

/* FNV-1a (64 bit) of the row's bytes: the fingerprint that every target must reproduce. */
uint64_t ss_logits_hash(const float *logits, size_t n);

/* ---- Sampler ---------------------------------------------------------------------------------------------------- */

typedef struct ss_sampler_options {
  float temperature; /* 0: greedy */
  uint32_t top_k; /* 0: off */
  float top_p; /* 1: off */
  float min_p; /* 0: off */
  float repetition_penalty; /* 1: off; applies to the last repetition_window tokens */
  float frequency_penalty, presence_penalty; /* 0: off; over the same window */
  uint32_t repetition_window; /* 0: 64 */
  uint64_t seed;
} ss_sampler_options;

typedef struct ss_sampler ss_sampler;
ss_sampler_options ss_sampler_defaults(void); /* temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, penalties off */
ss_status ss_sampler_create(ss_sampler **out, uint32_t n_vocab, const ss_sampler_options *options, const ss_host *host,
                            ss_error *err);
void ss_sampler_free(ss_sampler *sampler);
void ss_sampler_accept(ss_sampler *sampler, int32_t token); /* makes token part of the penalty window */
/* Picks a token and accepts it. Penalties change `logits` in place. Same seed and logits: same token on every target.
 * Order: penalties, top-k, top-p, min-p, temperature (as in llama.cpp's default chain). Ties go to the lower id. */
int32_t ss_sampler_pick(ss_sampler *sampler, float *logits);
/* log softmax of one entry, for logprobs */
float ss_logprob(const float *logits, size_t n, int32_t token);
/* The k <= n most likely tokens, best first, and their log softmax. Ties go to the lower id. */
void ss_top_logprobs(const float *logits, size_t n, size_t k, int32_t *tokens, float *logprobs);

/* ---- Stop strings ----------------------------------------------------------------------------------------------- */

/* Holds text back while it could still become a stop string, so that no part of one is ever shown. */
typedef struct ss_stopper ss_stopper;
ss_status ss_stopper_create(ss_stopper **out, const ss_text *stops, size_t n_stops, const ss_host *host, ss_error *err);
void ss_stopper_free(ss_stopper *stopper);
/* Takes more text; *out (valid until the next call) is what may be shown now. Returns true when a stop string was
 * reached: *out then ends before it, and nothing more will be shown. flush: no more text follows. */
bool ss_stopper_feed(ss_stopper *stopper, ss_text text, bool flush, ss_text *out, ss_error *err);

/* ---- Chat templates --------------------------------------------------------------------------------------------- */

typedef struct ss_chat_message {
  ss_text role, content; /* role: system, user or assistant */
} ss_chat_message;

/* Formats a chat by the model's template when it is one of the known forms: ChatML, Llama 3, Gemma, Qwen. SS_E_UNSUPPORTED
 * when it is not (hosts with a Jinja engine render it themselves). Writes at most capacity bytes, *len is the whole
 * length. add_generation_prompt opens the assistant's turn. */
ss_status ss_chat_format(const ss_model *model, const ss_chat_message *messages, size_t n_messages,
                         bool add_generation_prompt, char *text, size_t capacity, size_t *len, ss_error *err);

/* ---- Sentence encoder ------------------------------------------------------------------------------------------- */

#define SS_ENCODER_TOKENS 256 /* a text is cut there, [CLS] and [SEP] included */

/* Makes one vector of unit length of a text; the same bits on every target. Two kinds:
 *   bert   a sentence encoder's own model (architecture bert, as all-MiniLM-L6-v2): WordPiece, the whole model, mean of the
 *          tokens' vectors or that of [CLS], as the file says
 *   self   a language model without its later layers: mean of the tokens' vectors, each of unit length, after its
 *          first four; nothing to download */
typedef struct ss_encoder ss_encoder;

/* Borrows the model, whose header must be complete. What it needs is allocated here; later only `self`'s tokenizer
 * takes memory, for words of more than a few hundred bytes, and gives it back. */
ss_status ss_encoder_create(ss_encoder **out, const ss_model *model, const ss_host *host, ss_error *err);
void ss_encoder_free(ss_encoder *encoder);
const char *ss_encoder_kind(const ss_encoder *encoder); /* "bert" or "self" */
uint32_t ss_encoder_dim(const ss_encoder *encoder);

/* The tokens that a text is read as, at most SS_ENCODER_TOKENS. Text never becomes a special token. `self` looks at
 * the first 8192 bytes. */
ss_status ss_encoder_tokens(ss_encoder *encoder, ss_text text, int32_t tokens[SS_ENCODER_TOKENS], size_t *n_tokens,
                            ss_error *err);

/* embedding[dim] of a text. All zero for `self` when the text has no token. SS_E_MISSING names a tensor that was not fed. */
ss_status ss_encode(ss_encoder *encoder, ss_text text, float *embedding, ss_error *err);

/* ---- Banks: which mask a prompt runs with ------------------------------------------------------------------------ */

/* What a model is. `family` is equal for all quantisations of the same weights: shapes, tokenizer, norm gains. `exact` is of every
 * packed tensor; 0 while bytes are missing. Both are the same on every target. */
typedef struct ss_fingerprint {
  uint64_t family, exact;
} ss_fingerprint;
/* Needs the header and the norm tensors; SS_E_MISSING names the first one that is absent. Reads all packed weights
 * when they are complete (about 10 ms for 100 MB). */
ss_status ss_model_fingerprint(const ss_model *model, ss_fingerprint *out, ss_error *err);

#define SS_BANK_VERSION 2 /* 1: without recovery */
#define SS_BANK_DENSE UINT32_MAX /* the level of depth 1: every block runs */

/* A bank holds n_clusters centroids and, for each of n_levels depths, one mask per cluster and one more, at index
 * n_clusters, for a prompt without a cluster: the global mask. */
typedef struct ss_bank ss_bank;

/* Parses a bank file, whole in memory. Copies what it needs: `bytes` may go after the call.
 * SS_E_FORMAT: truncated, damaged or no bank; SS_E_UNSUPPORTED: from a newer version. */
ss_status ss_bank_open(ss_bank **out, const void *bytes, size_t n, const ss_host *host, ss_error *err);
void ss_bank_free(ss_bank *bank);

typedef struct ss_bank_info { /* everything is owned by the bank */
  uint32_t version, numerics_version, n_clusters, n_levels, n_layers, n_blocks, dim;
  uint32_t n_recovered; /* masks that have some recovery */
  const float *levels; /* [n_levels] share of the blocks' multiply-adds that is skipped, ascending */
  const float *centroids; /* [n_clusters][dim] */
  const float *losses; /* [n_levels][n_clusters + 1] mean NLL on calibration text; NULL: not recorded */
  const float *dense_losses; /* [n_clusters + 1] the same with all blocks; NULL: not recorded */
  const uint32_t *sizes; /* [n_clusters] calibration samples in each cluster; NULL: not recorded */
  ss_fingerprint model, encoder;
  ss_text name, model_name, encoder_kind,
      encoder_name; /* kind: "self" or "bert". Texts that the file lacks are empty */
  ss_text method, training, provenance;
} ss_bank_info;
void ss_bank_info_get(const ss_bank *bank, ss_bank_info *out);
ss_text ss_bank_example(const ss_bank *bank, uint32_t cluster); /* a prompt of the cluster, or empty */

/* Does the bank fit? Another family of model or encoder (NULL: not asked) is SS_E_ARGUMENT and names both fingerprints. What
 * the user should know all the same, as another quantisation, goes to note[capacity]; "" when there is nothing. */
ss_status ss_bank_check(const ss_bank *bank, const ss_model *model, const ss_model *encoder, char *note,
                        size_t capacity, ss_error *err);

/* The level for a depth: 1 is dense, and 1 - depth the share that may be skipped. Between levels it is the nearest one
 * that runs at least that much; below the deepest is SS_E_ARGUMENT. */
ss_status ss_bank_level(const ss_bank *bank, double depth, uint32_t *level, ss_error *err);
/* The mask of a cluster, or of index n_clusters, at a depth. */
ss_status ss_bank_mask(const ss_bank *bank, uint32_t cluster, double depth, ss_mask *mask, ss_error *err);
/* What goes with that mask, owned by the bank. NULL: it has none, or depth is dense, or there is no such cluster. */
const ss_recovery *ss_bank_recovery(const ss_bank *bank, uint32_t cluster, double depth);

/* The centroid nearest to embedding[dim] and its Euclidean distance; ties go to the lower cluster. An embedding of zeros
 * (a text without tokens) has none: *cluster is n_clusters. The same bits on every target. */
ss_status ss_bank_route(const ss_bank *bank, const float *embedding, size_t dim, uint32_t *cluster, float *distance,
                        ss_error *err);

#ifdef __cplusplus
}
#endif
#endif
