/* The kernel checks, and the roofline of tools/, as a WebAssembly module; run.mjs builds and drives it.
 *
 * Imports: env.say(text, bytes), and for the roofline env.seconds(), env.peak(...), env.row(...), whose texts end with a
 * NUL. A buffer's end is not fenced here, the checks' guard bytes are all. */
#include "../../../tools/roofline.h"
#include "../check.h"

/* Defines an export. */
#define EXPORT(type, name, args)                      \
  __attribute__((export_name(#name))) type name args; \
  type name args

#define IMPORT(name) __attribute__((import_module("env"), import_name(#name)))
IMPORT(say) void host_say(const char *text, size_t bytes);
IMPORT(seconds) double host_seconds(void);
IMPORT(peak) void host_peak(const char *instructions, double macs);
IMPORT(row)
void host_row(const char *kernel, const char *shape, int multiplies, double units, double bytes, double limit,
              int bound);
extern uint8_t __heap_base;

/* ---- memory: free lists of powers of two, over memory.grow ---- */

enum { PAGE = 65536, CLASSES = 32 };
static void *free_lists[CLASSES];
static uintptr_t unused; /* memory from here on was never given out */

static unsigned class_of(size_t bytes) {
  unsigned c = 6;
  while (((size_t)1 << c) < bytes) c++;
  return c;
}

static void *take(void *ctx, size_t bytes) {
  (void)ctx;
  const unsigned c = class_of(bytes);
  void *p = free_lists[c];
  if (p) {
    memcpy(&free_lists[c], p, sizeof p);
    return p;
  }
  if (!unused) unused = ss_align((uintptr_t)&__heap_base);
  const uintptr_t at = unused, end = at + ((size_t)1 << c), have = (uintptr_t)__builtin_wasm_memory_size(0) * PAGE;
  if (end > have && __builtin_wasm_memory_grow(0, ss_ceil_div(end - have, PAGE)) == (size_t)-1) __builtin_trap();
  unused = end;
  return (void *)at;
}

static void give(void *ctx, void *p, size_t bytes) {
  (void)ctx;
  const unsigned c = class_of(bytes);
  memcpy(p, &free_lists[c], sizeof p);
  free_lists[c] = p;
}

/* ---- output ---- */

static void say(void *ctx, const char *line) {
  (void)ctx;
  size_t n = 0;
  while (line[n]) n++;
  host_say(line, n);
}
static void say_nothing(void *ctx, const char *line) { (void)ctx, (void)line; }

static const ss_check_host loud = {take, give, say, NULL};
static const ss_check_host quiet = {take, give, say_nothing, NULL};

static void tell_peak(void *ctx, const char *instructions, double macs) {
  (void)ctx;
  host_peak(instructions, macs);
}
static void tell_row(void *ctx, const roofline_row *r) {
  (void)ctx;
  host_row(r->kernel, r->shape, r->multiplies, r->units, r->bytes, r->limit, r->bound);
}

/* ---- what run.mjs calls ---- */

EXPORT(size_t, n_sets, (void)) {
  size_t n = 0;
  while (ss_kernels_at(n)) n++;
  return n;
}
EXPORT(void, say_set, (size_t set)) { say(NULL, ss_kernels_at(set)->name); }

EXPORT(size_t, n_checks, (void)) { return ss_n_checks; }
EXPORT(void, say_check, (size_t check)) { say(NULL, ss_checks[check].name); }
EXPORT(size_t, run_check, (size_t set, size_t check)) { return ss_checks[check].run(ss_kernels_at(set), &loud); }

EXPORT(size_t, n_planted, (void)) { return ss_n_planted_errors; }
EXPORT(void, say_planted, (size_t error)) { say(NULL, ss_planted_errors[error].error); }
EXPORT(size_t, run_planted, (size_t error)) {
  ss_kernels broken = ss_kernels_scalar;
  ss_planted_errors[error].plant(&broken);
  return ss_check_kernels(&broken, &quiet);
}

EXPORT(char *, text_buffer, (void)) { /* 64 bytes for the name of an entry */
  static char text[64];
  return text;
}
EXPORT(size_t, bench, (size_t set)) { /* how many rows there were, or (size_t)-1 */
  static const ss_host host = {.alloc = take, .free = give, .n_threads = 1};
  const char *only = text_buffer();
  const roofline r = {.kernels = ss_kernels_at(set),
                      .host = &host,
                      .seconds = host_seconds,
                      .only = *only ? only : NULL,
                      .peak = tell_peak,
                      .row = tell_row};
  size_t n_rows;
  return roofline_run(&r, &n_rows, NULL) == SS_OK ? n_rows : (size_t)-1;
}
