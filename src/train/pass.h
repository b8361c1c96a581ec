/* One forward and backward pass of a frozen model with a gate on each block: h += z_b * block_b(h).
 *
 * Forward: the inference kernels, block after block, on each window from position 0. With gates of 0 and 1 the numbers
 * are those of inference under that mask, to the bit; a gate in between scales what its block adds, in f32. A gate of
 * exactly 0 leaves its block out for that window: no time, no gradient (the slope of the clip is 0 there).
 *
 * Backward: f32, matrix products of gemm.h, towards gates and recovery only: no weight has a gradient. It is the
 * gradient of the same network in f32 (weights as they are dequantised), taken at the numbers that the quantised
 * forward pass had: the residual stream before each block, q, k and v after the rotation, the attention's output, gate
 * and up before SwiGLU. Rounding to 8 bits - of a matmul's input, of queries, keys and values - counts as the identity
 * (the straight-through rule, Bengio et al. 2013, arXiv 1308.3432). So d_gates is <dL/dh, block(h)> but for the
 * rounding of the block's last matmul's input.
 *
 * Memory: the residual stream before each block, 4 n_embd bytes a block and token, is always kept. Of what lies inside
 * of a block as much is kept as keep_bytes allows, last blocks first; the others run again when their turn comes.
 * Weights are dequantised block by block, the head in strips. Results do not depend on keep_bytes nor on the number of
 * threads. */
#ifndef SS_PASS_H
#define SS_PASS_H

#include "train/train.h"

typedef struct ss_pass ss_pass;

typedef struct ss_pass_options {
  uint32_t max_windows, max_tokens; /* of one batch */
  uint32_t longest; /* tokens of one window; at most max_tokens */
  size_t keep_bytes; /* for what lies inside of blocks. SmolLM2-135M: 18 KB a token and layer would keep all */
} ss_pass_options;

/* What ss_pass_create would take, keep_bytes included as far as it is of use; 0 when the options are impossible. */
size_t ss_pass_bytes(const ss_model *model, const ss_pass_options *options, const ss_host *host);

/* Borrows the model, which must be complete. Sets OpenBLAS to one thread, for the whole process: products are split by this
 * library over the host's threads, at places that do not depend on how many there are. */
ss_status ss_pass_create(ss_pass **out, const ss_model *model, const ss_pass_options *options, const ss_host *host,
                         ss_error *err);
void ss_pass_free(ss_pass *pass);

typedef struct ss_pass_shape {
  uint32_t max_windows, max_tokens, longest, n_blocks, n_embd;
  const ss_host *host; /* the pass's own */
} ss_pass_shape;
ss_pass_shape ss_pass_shape_get(const ss_pass *pass);

typedef enum ss_objective {
  SS_OBJECTIVE_LM, /* next-token loss */
  SS_OBJECTIVE_KL, /* KL(dense || masked) of the next token */
} ss_objective;

typedef struct ss_batch {
  const ss_windows *windows;
  const uint32_t *which; /* [n] the windows of the batch */
  uint32_t n;
} ss_batch;

/* Gradients by the recovery's numbers; NULL: not wanted. Of blocks whose gate is 0 in all windows gains and scales are 0, of
 * blocks that run in all windows a and b. [n_blocks][n_embd], but for scales [n_blocks] and output_gains [n_embd]. */
typedef struct ss_recovery_grads {
  float *gains, *scales, *a, *b, *output_gains;
} ss_recovery_grads;

typedef struct ss_pass_input {
  ss_batch batch;
  const float *z; /* [n][n_blocks]; NULL: all 1 */
  const ss_recovery *recovery; /* its gains and scales where a gate is not 0, its stand-ins where it is; may be NULL */
  const float *dense; /* [tokens of the batch][n_embd] of ss_pass_dense: what KL compares with; NULL: no KL */
  ss_objective objective; /* what the gradients are of; KL wants dense */
} ss_pass_input;

/* Sums over the scored tokens of the batch, not means: those of several batches or machines may be added; divide by
 * n_scored in the end. In nats. */
typedef struct ss_pass_output {
  double nll, kl; /* kl is 0 without dense */
  uint32_t n_scored;
  uint64_t block_tokens; /* tokens through blocks, one each: what gates of 0 save */
  float *d_gates; /* [n][n_blocks] given by the caller; NULL: forward only */
  const ss_recovery_grads *recovery; /* given by the caller, overwritten; NULL: none */
} ss_pass_output;

ss_status ss_pass_run(ss_pass *pass, const ss_pass_input *in, ss_pass_output *out, ss_error *err);

/* h[tokens of the batch][n_embd]: the residual stream in front of the output norm with all blocks. */
ss_status ss_pass_dense(ss_pass *pass, const ss_batch *batch, float *h, ss_error *err);

size_t ss_batch_tokens(const ss_batch *batch);

#endif
