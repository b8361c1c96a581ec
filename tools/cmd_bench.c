/* skipstone bench: tokens per second of prefill and decode, dense and with blocks skipped; how fast a file is repacked;
 * and with --roofline the kernels alone.
 *
 * Every number is the median of the repeats; one untimed pass warms caches, threads and clock up. With
 * --compare-dense the dense and the masked session take turns, so that a drift of the machine's speed hits both. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/base.h"
#include "bench_roofline.h"
#include "bench_train.h"
#include "commands.h"
#include "generate.h"
#include "json.h"
#include "mask.h"
#include "routing.h"

typedef struct bench_args {
  engine_options engine; /* its kernels and threads are set for each run */
  bank_options bank;
  const char *threads, *kernels, *skip, *prompt;
  float proportional;
  uint32_t prefill, decode, depth, repeats, chunk;
  bool compare, blocks, load, json;
  bool roofline, train_step;
  const char *only;
} bench_args;

static parse_result parse(bench_args *a, int argc, char **argv) {
  const option options[] = {
      MODEL_OPTION(a->engine),
      {.name = "prefill",
       .letter = 'p',
       .u32 = &a->prefill,
       .argument = "N",
       .min = 0,
       .max = 1 << 20,
       .help = "tokens of a prefill; 0: none (default 512)"},
      {.name = "decode",
       .letter = 'n',
       .u32 = &a->decode,
       .argument = "N",
       .min = 0,
       .max = 1 << 20,
       .help = "tokens decoded one by one; 0: none (default 128)"},
      {.name = "depth",
       .letter = 'd',
       .u32 = &a->depth,
       .argument = "N",
       .min = 0,
       .max = 1 << 20,
       .help = "tokens that decoding runs behind (default 480)"},
      {.name = "repeats",
       .letter = 'r',
       .u32 = &a->repeats,
       .argument = "N",
       .min = 1,
       .max = 1000,
       .help = "timed repeats (default 5)"},
      {.name = "threads",
       .letter = 't',
       .text = &a->threads,
       .argument = "LIST",
       .help = "thread counts, \"1,2\" (default: one per core)"},
      {.name = "kernels", .text = &a->kernels, .argument = "NAME", .help = "kernel set, or all (default: the fastest)"},
      {.name = "skip", .text = &a->skip, .argument = "BLOCKS", .help = "blocks that do not run: \"attn:3,7-9;ffn:12\""},
      {.name = "proportional",
       .real = &a->proportional,
       .argument = "F",
       .min = 0,
       .max = 0.99,
       .help = "skips the share F of the attention blocks and of the\nfeed-forward blocks, evenly spread"},
      BANK_OPTION(a->bank),
      DEPTH_OPTION(a->bank, "bank-depth"),
      ENCODER_OPTION(a->bank),
      RECOVERY_OPTION(a->bank),
      {.name = "prompt",
       .text = &a->prompt,
       .argument = "TEXT",
       .help = "what --bank routes (default: a short question)"},
      {.name = "compare-dense",
       .flag = &a->compare,
       .help = "all blocks and the mask by turns, and the ratio of\nthe time spent in blocks; means --blocks"},
      {.name = "blocks", .flag = &a->blocks, .help = "also the time spent in blocks (blocks_ms)"},
      {.name = "load",
       .flag = &a->load,
       .help =
           "also how fast the file is repacked into the kernels'\nlayout, from memory, in pieces of 1 MB, by one thread"},
      {.name = "chunk", .u32 = &a->chunk, .argument = "N", .min = 1, .max = 65536, .help = "tokens per prefill step"},
      {.name = "roofline",
       .flag = &a->roofline,
       .help = "instead of a model the kernels alone: the machine's\npeaks and each kernel's share of its own limit;\n"
               "takes --threads, --kernels, --only and --json"},
      {.name = "train-step",
       .flag = &a->train_step,
       .help = "instead of prefill and decode one step of L0 training:\nforward and backward over 1,024 tokens"},
      {.name = "only",
       .text = &a->only,
       .argument = "TEXT",
       .help = "with --roofline: kernels whose name and shape contain\nTEXT, for example \"gemm 4m\""},
      {.name = "json", .flag = &a->json, .help = "print one JSON object, or an array of several"},
  };
  const command c = {
      .name = "bench",
      .usage = "-m MODEL [options]\n       skipstone bench --roofline [options]",
      .about =
          "Measures prefill and decode on fixed pseudo-random tokens: one untimed pass, then the median, minimum\n"
          "and maximum of the repeats.\n"
          "\n"
          "blocks_ms is the time of the whole prefill or decode with no logits asked for: the attention and\n"
          "feed-forward blocks and the embedding, without the output head. A mask can only save that part.\n"
          "ratio in --json is the mask's time over the dense time, from pairs measured one after the other.\n"
          "With --bank the mask is that of the prompt's cluster, and the time of routing is told; where the bank has\n"
          "recovery, --compare-dense also tells what that costs.\n"
          "peak_rss_bytes in --json is the most memory that the process has had so far.\n"
          "\n"
          "--roofline: a kernel's limit is the smaller of its multiply-adds from registers alone and of what reading\n"
          "its weights, of that size and so from that cache, allows; for kernels that multiply nothing the latter.",
      .examples =
          "  skipstone bench -m model.gguf\n"
          "  skipstone bench -m model.gguf --threads 1,2 --kernels all -r 3\n"
          "  skipstone bench -m model.gguf --proportional 0.25 --compare-dense --json\n"
          "  skipstone bench -m model.gguf --train-step --threads 2\n"
          "  skipstone bench --roofline --threads 1,2 --kernels all",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
  };
  return options_parse(&c, argc, argv);
}

/* ---- samples ---- */

typedef struct samples {
  double *ms; /* [n] of [repeats] */
  size_t n;
} samples;

static int compare_doubles(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

typedef struct spread {
  double median, min, max; /* 0 when there are no samples */
} spread;

static spread spread_of(const double *values, size_t n) {
  if (n == 0) return (spread){0};
  double *sorted = take_memory(n, sizeof *sorted);
  memcpy(sorted, values, n * sizeof *sorted);
  qsort(sorted, n, sizeof *sorted, compare_doubles);
  const spread out = {(sorted[(n - 1) / 2] + sorted[n / 2]) / 2, sorted[0], sorted[n - 1]};
  free(sorted);
  return out;
}

/* What was done in each of the samples, per second. */
static spread rate_of(const samples *s, size_t done) {
  double *rates = take_memory(s->n, sizeof *rates);
  for (size_t i = 0; i < s->n; i++) rates[i] = per_second(done, s->ms[i]);
  const spread out = spread_of(rates, s->n);
  free(rates);
  return out;
}

/* Masked over dense, pair by pair: the two of a pair ran one after the other. */
static spread ratio_of(const samples *masked, const samples *dense) {
  double *ratio = take_memory(masked->n, sizeof *ratio);
  for (size_t i = 0; i < masked->n; i++) ratio[i] = masked->ms[i] / dense->ms[i];
  const spread out = spread_of(ratio, masked->n);
  free(ratio);
  return out;
}

/* ---- one session to measure ---- */

typedef struct subject {
  ss_mask mask;
  const ss_recovery *recovery;
  mask_report report;
  ss_session *session;
  size_t session_bytes, kv_bytes;
  samples prefill, decode, prefill_blocks, decode_blocks;
} subject;

typedef struct bench {
  const bench_args *args;
  const engine *engine;
  const ss_host *host;
  int32_t *tokens; /* [context] */
  uint32_t context;
  router router;
  routing route; /* with --bank */
  subject subjects[3]; /* the masked one; with --compare-dense the dense one, and the masked one without its recovery */
  size_t n_subjects;
  uint64_t peak_rss_bytes;
  samples load; /* with --load */
} bench;

static ss_status step(ss_session *session, const int32_t *tokens, size_t n, size_t n_logits, ss_error *err) {
  ss_status status = ss_session_begin(session, tokens, n, n_logits, err);
  while (status == SS_OK && (status = ss_session_run(session, 0, err)) == SS_MORE) status = SS_OK;
  return status;
}

static ss_status time_prefill(const bench *b, subject *s, size_t n_logits, samples *out, ss_error *err) {
  ss_status status = ss_session_truncate(s->session, 0, err);
  const double start = now_ms();
  if (status == SS_OK) status = step(s->session, b->tokens, b->args->prefill, n_logits, err);
  if (out) out->ms[out->n++] = now_ms() - start;
  return status;
}

static ss_status time_decode(const bench *b, subject *s, size_t n_logits, samples *out, ss_error *err) {
  const uint32_t depth = b->args->depth, held = ss_session_length(s->session);
  ss_status status = SS_OK;
  if (held > depth) status = ss_session_truncate(s->session, depth, err); /* the same tokens: still right */
  else if (held < depth) status = step(s->session, b->tokens + held, depth - held, 0, err);
  const double start = now_ms();
  for (uint32_t i = 0; status == SS_OK && i < b->args->decode; i++)
    status = step(s->session, b->tokens + depth + i, 1, n_logits, err);
  if (out) out->ms[out->n++] = now_ms() - start;
  return status;
}

/* Everything once; timed: false only warms up. */
static ss_status run_repeat(const bench *b, subject *s, bool timed, ss_error *err) {
  const bench_args *a = b->args;
  ss_status status = SS_OK;
  if (status == SS_OK && a->prefill) status = time_prefill(b, s, 1, timed ? &s->prefill : NULL, err);
  if (status == SS_OK && a->prefill && a->blocks)
    status = time_prefill(b, s, 0, timed ? &s->prefill_blocks : NULL, err);
  if (status == SS_OK && a->decode) status = time_decode(b, s, 1, timed ? &s->decode : NULL, err);
  if (status == SS_OK && a->decode && a->blocks) status = time_decode(b, s, 0, timed ? &s->decode_blocks : NULL, err);
  return status;
}

static ss_status subject_open(bench *b, subject *s, ss_error *err) {
  const ss_model *model = b->engine->model;
  const ss_session_options options = {
      .context = b->context, .chunk = b->args->chunk, .max_logits = 1, .run_mask = &s->mask, .recovery = s->recovery};
  samples *const all[] = {&s->prefill, &s->decode, &s->prefill_blocks, &s->decode_blocks};
  for (size_t i = 0; i < 4; i++) *all[i] = (samples){.ms = take_memory(b->args->repeats, sizeof(double))};
  s->session_bytes = ss_session_bytes(model, &options);
  s->kv_bytes = ss_session_kv_bytes(model, &options);
  ss_status status = mask_report_make(&s->report, model, &s->mask, err);
  if (status == SS_OK) status = ss_session_create(&s->session, model, &options, b->host, err);
  return status;
}

static void subject_close(subject *s) {
  samples *const all[] = {&s->prefill, &s->decode, &s->prefill_blocks, &s->decode_blocks};
  for (size_t i = 0; i < 4; i++) free(all[i]->ms);
  mask_report_free(&s->report);
  ss_session_free(s->session);
}

static ss_status measure(bench *b, ss_error *err) {
  ss_status status = SS_OK;
  for (size_t i = 0; status == SS_OK && i < b->n_subjects; i++) status = subject_open(b, &b->subjects[i], err);
  for (size_t i = 0; status == SS_OK && i < b->n_subjects; i++) status = run_repeat(b, &b->subjects[i], false, err);
  for (uint32_t r = 0; status == SS_OK && r < b->args->repeats; r++)
    for (size_t i = 0; status == SS_OK && i < b->n_subjects; i++) /* who is first changes from repeat to repeat */
      status = run_repeat(b, &b->subjects[(i + r) % b->n_subjects], true, err);
  return status;
}

/* The most memory that this program has had; 0: unknown. Linux's getrusage also counts what the process was before exec. */
static uint64_t peak_rss(void) {
#ifdef __linux__
  unsigned long long kilobytes = 0;
  char line[256];
  FILE *f = fopen("/proc/self/status", "r");
  while (f && fgets(line, sizeof line, f))
    if (sscanf(line, "VmHWM: %llu kB", &kilobytes) == 1) break;
  if (f) fclose(f);
  return kilobytes * 1024;
#else
  struct rusage usage;
  return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss : 0; /* bytes on macOS */
#endif
}

/* ---- repacking ---- */

static ss_status repack(const bench *b, const uint8_t *file, size_t file_bytes, ss_error *err) {
  const size_t piece = (size_t)1 << 20;
  ss_model *model = NULL;
  ss_status status = ss_model_create(&model, b->host, NULL, err);
  for (size_t at = 0; status >= 0 && at < file_bytes; at += piece)
    status = ss_model_feed(model, at, file + at, ss_min(piece, file_bytes - at), err);
  ss_model_free(model);
  return status < 0 ? status : SS_OK;
}

static ss_status measure_load(bench *b, ss_error *err) {
  const char *path = b->engine->path;
  const size_t bytes = (size_t)b->engine->file_bytes;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  void *file = fd < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  const int failed = errno;
  if (fd >= 0) close(fd);
  if (file == MAP_FAILED) return ss_fail(err, SS_E_FORMAT, "%s: %s", path, strerror(failed));
  ss_status status = repack(b, file, bytes, err); /* now the pages are there */
  for (uint32_t r = 0; status == SS_OK && r < b->args->repeats; r++) {
    const double start = now_ms();
    status = repack(b, file, bytes, err);
    b->load.ms[b->load.n++] = now_ms() - start;
  }
  munmap(file, bytes);
  return status;
}

/* ---- reports ---- */

static void json_spread(json *j, const char *name, const spread *s, bool present) {
  static const char *const ends[] = {"", "_min", "_max"};
  const double values[] = {s->median, s->min, s->max};
  for (size_t i = 0; i < 3; i++) {
    char key[48];
    snprintf(key, sizeof key, "%s%s", name, ends[i]);
    if (present) json_fixed(j, key, values[i], 4);
    else json_null(j, key);
  }
}

static void json_subject(json *j, const bench *b, const subject *s) {
  const bench_args *a = b->args;
  const spread prefill = rate_of(&s->prefill, a->prefill), decode = rate_of(&s->decode, a->decode);
  json_spread(j, "prefill_tps", &prefill, a->prefill > 0);
  json_spread(j, "decode_tps", &decode, a->decode > 0);
  mask_report_json(j, "mask", &s->report);
  json_uint(j, "kv_bytes", s->kv_bytes);
  json_uint(j, "session_bytes", s->session_bytes);
  if (!a->blocks) return;
  const spread blocks[] = {spread_of(s->prefill_blocks.ms, s->prefill_blocks.n),
                           spread_of(s->decode_blocks.ms, s->decode_blocks.n)};
  json_open(j, "blocks_ms", '{');
  json_spread(j, "prefill", &blocks[0], a->prefill > 0);
  json_spread(j, "decode", &blocks[1], a->decode > 0);
  json_close(j);
}

static void json_load(json *j, const bench *b) {
  const spread v = rate_of(&b->load, (size_t)b->engine->file_bytes);
  json_open(j, "load", '{');
  json_uint(j, "bytes", b->engine->file_bytes);
  json_spread(j, "bytes_per_s", &v, true);
  json_close(j);
}

static void print_json(json *j, const bench *b) {
  const bench_args *a = b->args;
  const subject *masked = &b->subjects[0], *dense = &b->subjects[1], *bare = &b->subjects[2];
  json_open(j, NULL, '{');
  json_string(j, "model", b->engine->path);
  json_string(j, "quantisation", b->engine->info.quantisation);
  json_uint(j, "threads", b->host->n_threads);
  json_string(j, "kernels", b->engine->info.kernels);
  json_uint(j, "prefill_tokens", a->prefill);
  json_uint(j, "decode_tokens", a->decode);
  json_uint(j, "depth", a->depth);
  json_uint(j, "repeats", a->repeats);
  json_uint(j, "packed_bytes", b->engine->info.packed_bytes);
  json_uint(j, "peak_rss_bytes", b->peak_rss_bytes);
  if (a->load) json_load(j, b);
  json_subject(j, b, masked);
  if (b->router.bank) routing_json(j, "routing", &b->router, &b->route);
  if (b->n_subjects > 1) {
    const spread ratios[] = {ratio_of(&masked->prefill_blocks, &dense->prefill_blocks),
                             ratio_of(&masked->decode_blocks, &dense->decode_blocks),
                             ratio_of(&masked->prefill, &dense->prefill), ratio_of(&masked->decode, &dense->decode)};
    json_open(j, "dense", '{');
    json_subject(j, b, dense);
    json_close(j);
    json_open(j, "ratio", '{'); /* masked over dense */
    json_spread(j, "prefill_blocks", &ratios[0], a->prefill > 0);
    json_spread(j, "decode_blocks", &ratios[1], a->decode > 0);
    json_spread(j, "prefill", &ratios[2], a->prefill > 0);
    json_spread(j, "decode", &ratios[3], a->decode > 0);
    json_fixed(j, "kv_bytes", dense->kv_bytes ? (double)masked->kv_bytes / (double)dense->kv_bytes : 1, 6);
    json_close(j);
  }
  if (b->n_subjects > 2) {
    const spread ratios[] = {ratio_of(&masked->prefill_blocks, &bare->prefill_blocks),
                             ratio_of(&masked->decode_blocks, &bare->decode_blocks)};
    json_open(j, "recovery_ratio", '{'); /* masked over the same without recovery */
    json_spread(j, "prefill_blocks", &ratios[0], a->prefill > 0);
    json_spread(j, "decode_blocks", &ratios[1], a->decode > 0);
    json_close(j);
  }
  json_close(j);
}

static void print_spread(const char *name, uint32_t tokens, const samples *s) {
  if (!s->n) return;
  const spread v = rate_of(s, tokens);
  printf("    %-8s %9.1f tokens/s   (%.1f to %.1f)\n", name, v.median, v.min, v.max);
}

static void print_subject(const bench *b, const subject *s) {
  const bench_args *a = b->args;
  printf("  %u of %u blocks, %.2f %% of MACs skipped%s%s, KV %s, session %s\n", s->report.blocks_run,
         s->report.blocks_total, 100 * s->report.macs_skipped, s->report.skip[0] ? ": " : "", s->report.skip,
         bytes_for_people(s->kv_bytes).text, bytes_for_people(s->session_bytes).text);
  print_spread("prefill", a->prefill, &s->prefill);
  print_spread("decode", a->decode, &s->decode);
  if (s->prefill_blocks.n)
    printf("    prefill, in blocks: %.2f ms\n", spread_of(s->prefill_blocks.ms, s->prefill_blocks.n).median);
  if (s->decode_blocks.n)
    printf("    decode, in blocks:  %.2f ms\n", spread_of(s->decode_blocks.ms, s->decode_blocks.n).median);
}

static void print_ratio(const char *name, const samples *masked, const samples *other) {
  if (!masked->n) return;
  const spread r = ratio_of(masked, other);
  printf("    %-8s %.3f of that time   (%.3f to %.3f)\n", name, r.median, r.min, r.max);
}

static void print_text(const bench *b) {
  const subject *masked = &b->subjects[0], *dense = &b->subjects[1], *bare = &b->subjects[2];
  printf("%s, %u thread%s; prefill %u, decode %u behind %u, median of %u\n", b->engine->info.kernels,
         b->host->n_threads, b->host->n_threads == 1 ? "" : "s", b->args->prefill, b->args->decode, b->args->depth,
         b->args->repeats);
  print_subject(b, masked);
  if (b->router.bank)
    printf("    cluster %u, distance %.3f, routed in %.2f ms\n", b->route.cluster, (double)b->route.distance,
           b->route.ms);
  if (b->n_subjects > 1) {
    print_subject(b, dense);
    puts("  time in blocks, masked over dense");
    print_ratio("prefill", &masked->prefill_blocks, &dense->prefill_blocks);
    print_ratio("decode", &masked->decode_blocks, &dense->decode_blocks);
  }
  if (b->n_subjects > 2) {
    puts("  time in blocks, with recovery over without");
    print_ratio("prefill", &masked->prefill_blocks, &bare->prefill_blocks);
    print_ratio("decode", &masked->decode_blocks, &bare->decode_blocks);
  }
  if (b->args->load) {
    const spread v = rate_of(&b->load, (size_t)b->engine->file_bytes);
    printf("  repacks %.0f MB/s of the file   (%.0f to %.0f)\n", v.median * 1e-6, v.min * 1e-6, v.max * 1e-6);
  }
  fflush(stdout);
}

/* ---- what to run ---- */

static int set_masks(bench *b) {
  const bench_args *a = b->args;
  const ss_model_info *info = &b->engine->info;
  ss_error err = {0};
  if (a->bank.bank) {
    const ss_text prompt = text_of(a->prompt ? a->prompt : "What is the capital of France?");
    ss_status status = router_open(&b->router, b->engine, &a->bank, &err);
    for (int i = 0; status == SS_OK && i < 2; i++)
      status = route_text(&b->router, prompt, &b->route, &err); /* once to warm up */
    if (status != SS_OK) return report_failure(&err);
    b->subjects[0].mask = b->route.mask;
    b->subjects[0].recovery = b->route.recovery;
  } else if (a->proportional > 0) ss_mask_proportional(&b->subjects[0].mask, info->n_layers, (double)a->proportional);
  else if (ss_mask_parse_skip(&b->subjects[0].mask, info->n_layers, a->skip ? a->skip : "", &err) != SS_OK) {
    say("bench: %s", err.message);
    return CODE_USAGE;
  }
  ss_mask_fill(&b->subjects[1].mask, info->n_blocks);
  b->subjects[2].mask = b->subjects[0].mask;
  if (a->compare) b->n_subjects = b->subjects[0].recovery ? 3 : 2;
  return CODE_OK;
}

/* Ordinary tokens, the same for every run with the same vocabulary. */
static int set_tokens(bench *b) {
  const ss_tokenizer *tokenizer = b->engine->tokenizer;
  ss_rng rng = ss_rng_seed(1);
  b->tokens = take_memory(b->context, sizeof *b->tokens);
  for (uint32_t i = 0, tries = 0; i < b->context; tries++) {
    const int32_t token = (int32_t)ss_rng_below(&rng, b->engine->info.n_vocab);
    if (!ss_token_is_special(tokenizer, token) || tries > 100 * b->context) b->tokens[i++] = token;
  }
  return CODE_OK;
}

static int run_bench(const bench_args *a, const engine *e, uint32_t n_threads, json *j) {
  ss_error err = {0};
  host *pool = host_create(n_threads);
  if (!pool) {
    say("could not start %u threads", n_threads);
    return CODE_FAIL;
  }
  bench b = {.args = a, .engine = e, .host = host_face(pool), .n_subjects = 1};
  b.context = (uint32_t)ss_max(ss_max(a->prefill, a->decode ? a->depth + a->decode : 0), 1);
  int code = set_masks(&b);
  if (a->train_step) {
    if (code == CODE_OK) code = bench_train(e, b.host, &b.subjects[0].mask, a->repeats, j);
    router_close(&b.router);
    host_free(pool);
    return code;
  }
  if (code == CODE_OK) code = set_tokens(&b);
  if (code == CODE_OK && measure(&b, &err) != SS_OK) code = report_failure(&err);
  b.peak_rss_bytes = peak_rss();
  b.load.ms = take_memory(a->repeats, sizeof(double));
  if (code == CODE_OK && a->load && measure_load(&b, &err) != SS_OK) code = report_failure(&err);
  if (code == CODE_OK) {
    if (j) print_json(j, &b);
    else print_text(&b);
  }
  for (size_t i = 0; i < b.n_subjects; i++) subject_close(&b.subjects[i]);
  router_close(&b.router);
  free(b.load.ms);
  free(b.tokens);
  host_free(pool);
  return code;
}

#define MAX_LIST 16

static int parse_threads(const char *text, uint32_t *counts, size_t *n) {
  char item[24];
  *n = 0;
  if (!text) {
    counts[(*n)++] = host_cores();
    return CODE_OK;
  }
  for (const char *at = text;; at++) {
    const size_t len = strcspn(at, ",");
    uint64_t count;
    snprintf(item, sizeof item, "%.*s", (int)len, at);
    if (*n == MAX_LIST || !parse_number(item, 1, SS_MAX_THREADS, &count)) {
      say("bench: --threads %s: want up to %d numbers from 1 to %d: \"1,2\"", text, MAX_LIST, SS_MAX_THREADS);
      return CODE_USAGE;
    }
    counts[(*n)++] = (uint32_t)count;
    at += len;
    if (!*at) return CODE_OK;
  }
}

static int bench_all(bench_args *a) {
  uint32_t counts[MAX_LIST];
  size_t n_counts, n_kernels = 1;
  int code = parse_threads(a->threads, counts, &n_counts);
  if (code == CODE_OK && a->roofline) {
    const bool of_model = a->engine.model || a->skip || a->bank.bank || a->proportional > 0 || a->blocks || a->compare;
    if (!of_model && !a->load && !a->train_step) return bench_roofline(a->kernels, counts, n_counts, a->only, a->json);
    say("bench: --roofline measures no model: it takes --threads, --kernels, --only and --json");
    return CODE_USAGE;
  }
  if (code == CODE_OK && a->only) {
    say("bench: --only needs --roofline");
    code = CODE_USAGE;
  }
  if (code == CODE_OK && !bank_options_fit(&a->bank, "bench", "bank-depth")) code = CODE_USAGE;
  if (code == CODE_OK && (a->skip != NULL) + (a->proportional > 0) + (a->bank.bank != NULL) > 1) {
    say("bench: --skip, --proportional and --bank exclude each other");
    code = CODE_USAGE;
  }
  if (code == CODE_OK && a->train_step && (a->compare || a->blocks || a->load)) {
    say("bench: --train-step goes with neither --compare-dense, --blocks nor --load");
    code = CODE_USAGE;
  }
  if (code == CODE_OK && a->prefill == 0 && a->decode == 0) {
    say("bench: nothing to measure: both -p and -n are 0");
    code = CODE_USAGE;
  }
  const bool all_kernels = a->kernels && !strcmp(a->kernels, "all");
  if (all_kernels)
    for (n_kernels = 0; ss_kernels_at(n_kernels);) n_kernels++;
  a->blocks = a->blocks || a->compare;
  json j = {.out = stdout};
  const bool array = n_counts * n_kernels > 1;
  for (size_t k = 0; code == CODE_OK && k < n_kernels; k++) {
    engine e;
    a->engine.kernels = all_kernels ? ss_kernels_name(ss_kernels_at(k)) : a->kernels;
    a->engine.threads = counts[0];
    code = engine_open(&e, &a->engine);
    if (code != CODE_OK) break;
    code = engine_tokenizer(&e);
    if (code == CODE_OK && k == 0 && array && a->json) json_open(&j, NULL, '[');
    for (size_t t = 0; code == CODE_OK && t < n_counts; t++) code = run_bench(a, &e, counts[t], a->json ? &j : NULL);
    engine_close(&e);
  }
  if (a->json && code == CODE_OK) json_done(&j);
  return code;
}

int cmd_bench(int argc, char **argv) {
  bench_args a = {.prefill = 512, .decode = 128, .depth = 480, .repeats = 5};
  const parse_result parsed = parse(&a, argc, argv);
  if (parsed != PARSE_OK) return parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  return bench_all(&a);
}
