/* The core's host in WebAssembly: memory and threads without anything from outside but env.memory. */
#ifndef SS_WASM_HOST_H
#define SS_WASM_HOST_H

#include "skipstone.h"

/* The host that every object of this instance is made with. Valid after host_start. */
extern ss_host wasm_host;

/* Takes over the heap and sets up n_threads - 1 helpers, whose stacks are allocated here. Called once, by the engine's
 * thread, before anything else. False when n_threads is impossible here or there is no memory for the stacks. */
bool host_start(uint32_t n_threads);

/* 64-byte aligned, contents undefined; NULL when memory cannot grow. heap_free takes NULL. */
void *heap_alloc(size_t bytes);
void heap_free(void *p);

typedef struct heap_stats {
  size_t used, peak; /* bytes handed out now and at most, headers included */
} heap_stats;
heap_stats heap_stats_get(void);

/* Helper `index` (1 .. n_threads - 1): the top of its stack, and its loop, which returns after pool_stop. */
void *pool_stack(uint32_t index);
void pool_work(uint32_t index);

/* Lets the helpers return. With `failed` (a helper trapped in its part) the engine's thread traps as well, since the
 * part will never be done. Any thread may call it. */
void pool_stop(bool failed);

#endif
