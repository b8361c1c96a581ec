/* Recovery of a finished mask (train/recover.h), kept in the run's folder while it is fitted and behind that. */
#ifndef SS_TOOL_TRAIN_RECOVER_H
#define SS_TOOL_TRAIN_RECOVER_H

#include "train_run.h"

size_t kept_numbers(uint32_t n_blocks, uint32_t n_embd);
/* Copies r (NULL: none); to be freed. */
void kept_recovery_pack(kept_recovery *out, const ss_recovery *r, uint32_t n_blocks, uint32_t n_embd);
/* Makes the face from out->numbers. */
void kept_recovery_open(kept_recovery *out, uint32_t n_blocks, uint32_t n_embd);
void kept_recovery_free(kept_recovery *k);

/* What a checkpoint of fitting begins with; ss_recover_state follows. */
typedef struct recover_head {
  uint64_t log_bytes;
  double seconds;
} recover_head;

/* Fits it, or goes on from what was saved (empty: nothing). Fills m's figures of recovery, and *out. */
ss_status train_recover(train_job *j, uint32_t level, const buffer *saved, mask_result *m, kept_recovery *out,
                        ss_error *err);

#endif
