/* The native host.
 *
 * A decoded token makes about 150 fork-joins of 20 to 100 microseconds each, so the pool is built for latency: each
 * worker watches its own cache line, spins for some microseconds between two jobs and only then sleeps, and a join
 * is one counter. Parts are static: part p of a loop runs on thread p, so weights and KV stay in the same core's
 * caches from step to step. One exception: when the caller has done its own part and a worker has not even started,
 * because it was asleep or another program has its core, the caller takes that part back and does it too. So a busy
 * machine costs speed, but no step ever waits for a thread to be scheduled.
 *
 * Sleeping cannot miss a wake-up: the sleeper publishes `asleep` and then looks at its offer once more, the caller
 * publishes the offer and then looks at `asleep`, all sequentially consistent, so at least one of them sees the other. */
#include "host.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

/* Long enough to bridge the serial parts between two loops of a step (norms, a sampler's pick is longer), short enough
 * not to heat a core between tokens. */
#define SPIN_NS 60000

typedef struct worker {
  _Alignas(SS_ALIGN) _Atomic uint32_t offer; /* odd: a job waits to be claimed, by the worker or back by the caller */
  _Atomic bool asleep;
  pthread_mutex_t lock;
  pthread_cond_t wake;
  pthread_t thread;
  uint32_t index; /* thread 0 is the caller */
  host *owner;
} worker;

struct host {
  ss_host face;
  uint32_t n_workers, n_started;
  int64_t spin_ns;
  /* the job: written before it is offered, read by those who claimed it */
  _Alignas(SS_ALIGN) ss_task *task; /* NULL: end the thread */
  void *arg;
  uint32_t n_parts;
  /* the join */
  _Alignas(SS_ALIGN) _Atomic uint32_t pending; /* workers that still run */
  _Atomic bool waiting;                        /* the caller sleeps until pending is 0 */
  pthread_mutex_t lock;
  pthread_cond_t done;
  worker workers[];
};

static inline void pause_core(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Waits for about spin_ns until *word & mask is value; true when it is. */
static bool spin(_Atomic uint32_t *word, uint32_t mask, uint32_t value, int64_t spin_ns) {
  int64_t end = 0;
  for (uint32_t i = 0;; i++) {
    if ((atomic_load_explicit(word, memory_order_acquire) & mask) == value) return true;
    pause_core();
    if (i % 16) continue;
    const int64_t now = now_ns();
    if (end == 0) end = now + spin_ns;
    if (now >= end) return false;
  }
}

/* ---- workers ---- */

static void run_parts(const host *h, uint32_t first) {
  for (uint32_t part = first; part < h->n_parts; part += h->face.n_threads) h->task(h->arg, part, h->n_parts);
}

static void offer_job(worker *w) {
  atomic_fetch_add(&w->offer, 1);
  if (!atomic_load(&w->asleep)) return;
  pthread_mutex_lock(&w->lock);
  pthread_cond_signal(&w->wake);
  pthread_mutex_unlock(&w->lock);
}

/* Whoever makes the offer even again has the job. */
static bool claim_job(worker *w) {
  uint32_t offer = atomic_load(&w->offer);
  return offer % 2 && atomic_compare_exchange_strong(&w->offer, &offer, offer + 1);
}

static void await_job(worker *w) {
  while (!claim_job(w)) {
    if (spin(&w->offer, 1, 1, w->owner->spin_ns)) continue;
    pthread_mutex_lock(&w->lock);
    atomic_store(&w->asleep, true);
    while (atomic_load(&w->offer) % 2 == 0) pthread_cond_wait(&w->wake, &w->lock);
    atomic_store(&w->asleep, false);
    pthread_mutex_unlock(&w->lock);
  }
}

static void *worker_main(void *arg) {
  worker *w = arg;
  host *h = w->owner;
  for (;;) {
    await_job(w);
    if (!h->task) return NULL;
    run_parts(h, w->index);
    if (atomic_fetch_sub(&h->pending, 1) == 1 && atomic_load(&h->waiting)) {
      pthread_mutex_lock(&h->lock);
      pthread_cond_signal(&h->done);
      pthread_mutex_unlock(&h->lock);
    }
  }
}

/* ---- the ss_host ---- */

static void parallel_for(void *ctx, uint32_t n_parts, ss_task *task, void *arg) {
  host *h = ctx;
  const uint32_t n_busy = n_parts <= h->n_workers ? (n_parts ? n_parts - 1 : 0) : h->n_workers;
  h->task = task;
  h->arg = arg;
  h->n_parts = n_parts;
  atomic_store(&h->pending, n_busy);
  for (uint32_t i = 0; i < n_busy; i++) offer_job(&h->workers[i]);
  run_parts(h, 0);
  for (uint32_t i = n_busy; i-- > 0;) {
    if (!claim_job(&h->workers[i])) continue;
    run_parts(h, h->workers[i].index);
    atomic_fetch_sub(&h->pending, 1);
  }
  if (spin(&h->pending, UINT32_MAX, 0, h->spin_ns)) return;
  pthread_mutex_lock(&h->lock);
  atomic_store(&h->waiting, true);
  while (atomic_load(&h->pending)) pthread_cond_wait(&h->done, &h->lock);
  atomic_store(&h->waiting, false);
  pthread_mutex_unlock(&h->lock);
}

static void *aligned_take(void *ctx, size_t bytes) {
  (void)ctx;
  if (bytes > SIZE_MAX - SS_ALIGN) return NULL;
  return aligned_alloc(SS_ALIGN, ss_align(bytes ? bytes : 1));
}

static void aligned_give(void *ctx, void *p, size_t bytes) {
  (void)ctx, (void)bytes;
  free(p);
}

const ss_host *host_face(const host *h) { return &h->face; }

/* ---- how many cores ---- */

static bool read_line(const char *path, char *line, int capacity) {
  FILE *f = fopen(path, "r");
  if (!f) return false;
  const bool ok = fgets(line, capacity, f) != NULL;
  fclose(f);
  return ok;
}

/* CPUs that this process may run on. */
static uint32_t usable_cpus(void) {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return (uint32_t)CPU_COUNT(&set);
#endif
  const long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n > 0 ? (uint32_t)n : 1;
}

/* Usable CPUs, hyperthreads of one core counted once: a CPU counts when no lower usable one shares its core. */
static uint32_t usable_cores(void) {
#ifdef __linux__
  cpu_set_t set;
  uint32_t n_cores = 0;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return usable_cpus();
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    char path[96], line[256];
    if (!CPU_ISSET(cpu, &set)) continue;
    bool first = true;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list", cpu);
    if (read_line(path, line, sizeof line)) /* "0,4" or "0-1" */
      for (char *at = line; *at >= '0' && *at <= '9';) {
        unsigned long low = strtoul(at, &at, 10), high = low;
        if (*at == '-') high = strtoul(at + 1, &at, 10);
        for (; low <= high && low < cpu; low++)
          if (CPU_ISSET((unsigned)low, &set)) first = false;
        if (*at == ',') at++;
      }
    n_cores += first;
  }
  if (n_cores) return n_cores;
#endif
  return usable_cpus();
}

uint32_t host_cores(void) {
  uint32_t n = usable_cores();
  char line[64];
  if (read_line("/sys/fs/cgroup/cpu.max", line, sizeof line)) { /* "max 100000" or "<quota> <period>" */
    char *end;
    const unsigned long long quota = strtoull(line, &end, 10);
    const unsigned long long period = strtoull(end, NULL, 10);
    if (end != line && quota && period && ss_ceil_div(quota, period) < n) n = (uint32_t)ss_ceil_div(quota, period);
  }
  return n < 1 ? 1 : n > SS_MAX_THREADS ? SS_MAX_THREADS : n;
}

/* ---- life ---- */

host *host_create(uint32_t n_threads) {
  if (n_threads == 0) n_threads = host_cores();
  if (n_threads > SS_MAX_THREADS) return NULL;
  const size_t bytes = sizeof(host) + (n_threads - 1) * sizeof(worker);
  host *h = aligned_take(NULL, bytes);
  if (!h) return NULL;
  memset(h, 0, bytes);
  h->face = (ss_host){.alloc = aligned_take, .free = aligned_give, .n_threads = n_threads, .ctx = h};
  h->face.parallel_for = n_threads > 1 ? parallel_for : NULL;
  h->n_workers = n_threads - 1;
  h->spin_ns = n_threads <= usable_cpus() ? SPIN_NS : 0; /* too few cores: spinning would take the time of the others */
  pthread_mutex_init(&h->lock, NULL);
  pthread_cond_init(&h->done, NULL);
  for (; h->n_started < h->n_workers; h->n_started++) {
    worker *w = &h->workers[h->n_started];
    w->owner = h;
    w->index = h->n_started + 1;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    if (pthread_create(&w->thread, NULL, worker_main, w) != 0) {
      pthread_cond_destroy(&w->wake);
      pthread_mutex_destroy(&w->lock);
      host_free(h);
      return NULL;
    }
  }
  return h;
}

void host_free(host *h) {
  if (!h) return;
  h->task = NULL;
  for (uint32_t i = 0; i < h->n_started; i++) offer_job(&h->workers[i]);
  for (uint32_t i = 0; i < h->n_started; i++) {
    worker *w = &h->workers[i];
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
  }
  pthread_cond_destroy(&h->done);
  pthread_mutex_destroy(&h->lock);
  free(h);
}
