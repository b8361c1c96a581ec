/* The host in C: an allocator over memory.grow and a fork-join pool on memory.atomic.wait32 / notify.
 *
 * Heap. Blocks lie one behind the other from __heap_base on, each with a 64-byte header that knows its own size and
 * that of the block in front, so that freeing merges with both neighbours at once. Free blocks are in a list; the core
 * asks for few and large pieces (tensors, arenas), so the best fit is searched for linearly. Memory never shrinks in
 * WebAssembly, and growth may be refused at any time: that is a NULL like any other.
 *
 * Pool. One job at a time. `ticket` holds the next part and the number of parts in one 64-bit word; a thread claims a
 * part by compare-and-swap, so a helper that comes late finds either a part of the job that runs now or nothing: the
 * task and its argument are read only after a claim, and no job ends while a claimed part is open. Whoever is free
 * takes the next part: a helper that sleeps or is slow never holds up parts that the caller can do itself. */
#include "host.h"

enum {
  PAGE = 65536,
  HEADER = 64,
  GROW_PAGES = 16,           /* growth is rounded up to this where it is granted */
  MAX_PAGES = 65535,         /* the last page of 4 GB stays out: its end is not a 32-bit address */
  STACK_BYTES = 256 * 1024,  /* of a helper */
  SPINS = 120000, /* looks at a word before sleeping on it: about 60 us, a token has longer serial parts than 10 */
};

ss_host wasm_host;

/* ---- Heap ------------------------------------------------------------------------------------------------------- */

typedef struct block {
  size_t size; /* header included, a multiple of 64; 0: the sentinel at the end of the heap */
  size_t prev_size; /* of the block in front; 0: there is none */
  uint32_t used;
  struct block *next, *prev; /* free list; meaningful while not used */
  uint8_t reserved[HEADER - 12 - 2 * sizeof(void *)];
} block;
_Static_assert(sizeof(block) == HEADER, "payloads are 64-byte aligned when headers are");

extern uint8_t __heap_base; /* the linker's: end of data and stack */

static struct {
  block *free_list;
  block *end; /* the sentinel */
  size_t used, peak;
#if SS_WASM_THREADS
  _Alignas(64) _Atomic uint32_t lock;
#endif
} heap;

static void heap_lock(void) {
#if SS_WASM_THREADS
  while (__c11_atomic_exchange(&heap.lock, 1, __ATOMIC_ACQUIRE))
    __builtin_wasm_memory_atomic_wait32((int *)(void *)&heap.lock, 1, 50 * 1000);
#endif
}

static void heap_unlock(void) {
#if SS_WASM_THREADS
  __c11_atomic_store(&heap.lock, 0, __ATOMIC_RELEASE);
#endif
}

static block *after(block *b) { return (block *)(void *)((uint8_t *)b + b->size); }
static block *before(block *b) { return b->prev_size ? (block *)(void *)((uint8_t *)b - b->prev_size) : NULL; }

static void unlink_free(block *b) {
  if (b->prev) b->prev->next = b->next;
  else heap.free_list = b->next;
  if (b->next) b->next->prev = b->prev;
}

/* Makes b free, merged with what is free on either side. */
static void link_free(block *b) {
  block *const front = before(b), *const back = after(b);
  if (back->size && !back->used) {
    unlink_free(back);
    b->size += back->size;
  }
  if (front && !front->used) {
    unlink_free(front);
    front->size += b->size;
    b = front;
  }
  after(b)->prev_size = b->size;
  b->used = 0;
  b->prev = NULL;
  b->next = heap.free_list;
  if (b->next) b->next->prev = b;
  heap.free_list = b;
}

/* Puts the sentinel into the last 64 bytes before `limit`. */
static void end_heap(size_t limit, size_t prev_size) {
  heap.end = (block *)(limit - HEADER);
  *heap.end = (block){.prev_size = prev_size, .used = 1};
}

static void heap_start(void) {
  const size_t start = ((size_t)&__heap_base + HEADER - 1) & ~(size_t)(HEADER - 1);
  size_t pages = __builtin_wasm_memory_size(0);
  if (pages > MAX_PAGES) pages = MAX_PAGES;
  if (pages * PAGE < start + 2 * HEADER) { /* no room at all: begin at the next page, once it is there */
    heap.end = NULL;
    return;
  }
  const size_t limit = pages * PAGE, size = limit - HEADER - start;
  block *const b = (block *)start;
  *b = (block){.size = size};
  end_heap(limit, size);
  link_free(b);
}

/* Makes a free block of at least `need` bytes at the end of the heap. */
static bool heap_grow(size_t need) {
  const size_t now = __builtin_wasm_memory_size(0);
  const bool goes_on = heap.end && (size_t)heap.end + HEADER == now * PAGE; /* else someone else grew memory */
  block *const last = goes_on ? before(heap.end) : NULL;
  const size_t have = last && !last->used ? last->size : 0; /* < need, or it would have been taken */
  const size_t missing = need - have + (goes_on ? 0 : HEADER);
  const size_t pages = missing / PAGE + (missing % PAGE != 0);
  if (now >= MAX_PAGES || pages > MAX_PAGES - now) return false;
  size_t got = (pages + GROW_PAGES - 1) / GROW_PAGES * GROW_PAGES;
  if (got > MAX_PAGES - now || __builtin_wasm_memory_grow(0, got) != now) {
    got = pages;
    if (__builtin_wasm_memory_grow(0, got) != now) return false;
  }

  size_t start = now * PAGE, prev_size = 0;
  if (goes_on) { /* the old sentinel becomes the header of the new space */
    start = (size_t)heap.end;
    prev_size = heap.end->prev_size;
  } else if (heap.end) { /* and here that of a piece that is never freed: what is not ours */
    heap.end->size = prev_size = start - (size_t)heap.end;
  }
  const size_t limit = (now + got) * PAGE;
  block *const b = (block *)start;
  *b = (block){.size = limit - HEADER - start, .prev_size = prev_size};
  end_heap(limit, b->size);
  link_free(b);
  return true;
}

static block *best_fit(size_t need) {
  block *best = NULL;
  for (block *b = heap.free_list; b; b = b->next)
    if (b->size >= need && (!best || b->size < best->size)) best = b;
  return best;
}

void *heap_alloc(size_t bytes) {
  if (bytes > (size_t)MAX_PAGES * PAGE - HEADER) return NULL;
  const size_t need = ((bytes ? bytes : 1) + 2 * HEADER - 1) & ~(size_t)(HEADER - 1);
  heap_lock();
  block *b = best_fit(need);
  if (!b && heap_grow(need)) b = best_fit(need);
  if (b) {
    unlink_free(b);
    b->used = 1;
    if (b->size - need >= 2 * HEADER) { /* hand the rest back */
      block *const rest = (block *)(void *)((uint8_t *)b + need);
      *rest = (block){.size = b->size - need, .prev_size = need};
      b->size = need;
      link_free(rest);
    }
    heap.used += b->size;
    if (heap.used > heap.peak) heap.peak = heap.used;
  }
  heap_unlock();
  return b ? b + 1 : NULL;
}

void heap_free(void *p) {
  if (!p) return;
  block *const b = (block *)p - 1;
  heap_lock();
  heap.used -= b->size;
  link_free(b);
  heap_unlock();
}

heap_stats heap_stats_get(void) {
  heap_lock();
  const heap_stats stats = {.used = heap.used, .peak = heap.peak};
  heap_unlock();
  return stats;
}

static void *host_alloc(void *ctx, size_t bytes) {
  (void)ctx;
  return heap_alloc(bytes);
}

static void host_free(void *ctx, void *p, size_t bytes) {
  (void)ctx;
  (void)bytes;
  heap_free(p);
}

/* ---- Pool ------------------------------------------------------------------------------------------------------- */

#if SS_WASM_THREADS

#define FAILED 0x80000000u /* in `done`: a helper trapped */

static struct {
  ss_task *task;
  void *arg;
  uint8_t *stacks; /* [n_threads - 1][STACK_BYTES] */
  bool busy; /* only the engine's thread looks at it */
  _Alignas(64) _Atomic uint64_t ticket; /* next part << 32 | number of parts */
  _Alignas(64) _Atomic uint32_t done; /* parts that are done; the caller sleeps on it */
  _Atomic uint32_t caller_sleeps;
  _Alignas(64) _Atomic uint32_t epoch; /* one more with every job; helpers sleep on it */
  _Atomic uint32_t n_sleepers, quit;
} pool;

#define load(p) __c11_atomic_load((p), __ATOMIC_SEQ_CST)
#define store(p, v) __c11_atomic_store((p), (v), __ATOMIC_SEQ_CST)
#define add(p, v) __c11_atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)

static void sleep_on(_Atomic uint32_t *word, uint32_t while_value) {
  __builtin_wasm_memory_atomic_wait32((int *)(void *)word, (int)while_value, -1);
}

static void wake(_Atomic uint32_t *word, uint32_t n) { __builtin_wasm_memory_atomic_notify((int *)(void *)word, n); }

/* Takes parts of the job that runs, if there are any left, and does them. */
static void do_parts(void) {
  uint64_t ticket = load(&pool.ticket);
  for (;;) {
    const uint32_t part = (uint32_t)(ticket >> 32), n_parts = (uint32_t)ticket;
    if (part >= n_parts) return;
    if (!__c11_atomic_compare_exchange_weak(&pool.ticket, &ticket, ticket + ((uint64_t)1 << 32), __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST))
      continue;
    pool.task(pool.arg, part, n_parts);
    if (add(&pool.done, 1) + 1 == n_parts && load(&pool.caller_sleeps)) wake(&pool.done, 1);
    ticket = load(&pool.ticket);
  }
}

static void pool_run(void *ctx, uint32_t n_parts, ss_task *task, void *arg) {
  (void)ctx;
  if (n_parts <= 1 || pool.busy) {
    for (uint32_t part = 0; part < n_parts; part++) task(arg, part, n_parts);
    return;
  }
  pool.busy = true;
  pool.task = task;
  pool.arg = arg;
  if (load(&pool.done) & FAILED) __builtin_trap();
  store(&pool.done, 0);
  store(&pool.ticket, n_parts);
  add(&pool.epoch, 1);
  if (load(&pool.n_sleepers)) wake(&pool.epoch, n_parts - 1);
  do_parts();

  uint32_t done = load(&pool.done);
  for (uint32_t spins = 0; done < n_parts; done = load(&pool.done)) {
    if (++spins < SPINS) continue;
    store(&pool.caller_sleeps, 1);
    done = load(&pool.done);
    if (done < n_parts) sleep_on(&pool.done, done);
    store(&pool.caller_sleeps, 0);
  }
  if (done & FAILED) __builtin_trap();
  pool.busy = false;
}

void pool_work(uint32_t index) {
  (void)index;
  while (!load(&pool.quit)) {
    const uint32_t epoch = load(&pool.epoch);
    do_parts();
    uint32_t spins = 0;
    while (load(&pool.epoch) == epoch && !load(&pool.quit)) {
      if (++spins < SPINS) continue;
      add(&pool.n_sleepers, 1); /* before the look at epoch inside sleep_on: the caller changes it, then looks here */
      sleep_on(&pool.epoch, epoch);
      __c11_atomic_fetch_sub(&pool.n_sleepers, 1, __ATOMIC_SEQ_CST);
    }
  }
}

void pool_stop(bool failed) {
  store(&pool.quit, 1);
  add(&pool.epoch, 1);
  wake(&pool.epoch, SS_MAX_THREADS);
  if (!failed) return;
  __c11_atomic_fetch_or(&pool.done, FAILED, __ATOMIC_SEQ_CST);
  wake(&pool.done, 1);
}

void *pool_stack(uint32_t index) { return pool.stacks + (size_t)index * STACK_BYTES; } /* helper 1 has the first */

static bool pool_start(uint32_t n_threads) {
  if (n_threads == 1) return true;
  pool.stacks = heap_alloc((size_t)(n_threads - 1) * STACK_BYTES);
  wasm_host.parallel_for = pool_run;
  return pool.stacks != NULL;
}

#else /* one thread */

void pool_work(uint32_t index) { (void)index; }
void pool_stop(bool failed) { (void)failed; }
void *pool_stack(uint32_t index) {
  (void)index;
  return NULL;
}
static bool pool_start(uint32_t n_threads) { return n_threads == 1; }

#endif

bool host_start(uint32_t n_threads) {
  if (n_threads < 1 || n_threads > SS_MAX_THREADS) return false;
  heap_start();
  wasm_host = (ss_host){.alloc = host_alloc, .free = host_free, .n_threads = n_threads};
  return pool_start(n_threads);
}
