/* skipstone bench --train-step: one forward and backward pass of L0 training. */
#ifndef SS_TOOL_BENCH_TRAIN_H
#define SS_TOOL_BENCH_TRAIN_H

#include "json.h"
#include "load.h"

/* `repeats` steps of 1,024 tokens (8 windows of 128), gradient by the gates of the blocks of mask; those of the others
 * are 0. One more step warms up. Prints text, or adds an object to j. Returns an exit code. */
int bench_train(const engine *e, const ss_host *threads, const ss_mask *mask, uint32_t repeats, json *j);

#endif
