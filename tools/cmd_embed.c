/* skipstone embed: texts to vectors. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "commands.h"
#include "corpus.h"
#include "json.h"
#include "load.h"

#define MAX_TEXTS 256 /* on the command line */
#define PROGRESS_AFTER_MS 1000
#define PROGRESS_EVERY_MS 200

typedef struct embed_args {
  engine_options engine;
  const char *encoder, *file, *out;
  const char *operands[MAX_TEXTS];
  bool time;
} embed_args;

static parse_result parse(embed_args *a, int argc, char **argv) {
  const option options[] = {
      {.name = "encoder",
       .letter = 'e',
       .text = &a->encoder,
       .argument = "ENC.gguf",
       .help = "a sentence encoder's GGUF file; self (the default): the\nfirst layers of the model"},
      MODEL_OPTION(a->engine),
      {.name = "file",
       .letter = 'f',
       .text = &a->file,
       .argument = "FILE",
       .help =
           ".jsonl: the prompt of each line, or the text's beginning;\nany other: each line is a text; -: standard input"},
      {.name = "out",
       .letter = 'o',
       .text = &a->out,
       .argument = "FILE",
       .help = "write a matrix of 32-bit floats, a row per text:\n.npy for NumPy, any other name: the numbers alone"},
      {.name = "time", .flag = &a->time, .help = "say on stderr how long it took"},
      THREADS_OPTION(a->engine),
      KERNELS_OPTION(a->engine),
  };
  const command c = {
      .name = "embed",
      .usage = "[-e ENC.gguf | -m MODEL] [TEXT...] [options]",
      .about =
          "Prints a vector of unit length for each text: a JSON array of numbers per line. Texts with close\n"
          "meanings have close vectors; that is what `skipstone cluster` and a mask bank go by. A text is cut\n"
          "at 256 tokens. The same text gives the same bits on every machine.",
      .examples =
          "  skipstone embed -e all-MiniLM-L6-v2.Q8_0.gguf 'How do I bake bread?'\n"
          "  skipstone embed -m model.gguf --encoder self 'How do I bake bread?'\n"
          "  skipstone embed -e all-MiniLM-L6-v2.Q8_0.gguf -f prompts.jsonl -o prompts.npy",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = a->operands,
      .max_operands = MAX_TEXTS,
  };
  return options_parse(&c, argc, argv);
}

/* ---- texts ---- */

typedef struct texts {
  ss_text *items;
  size_t n, capacity;
  buffer lines;  /* what items point into, */
  corpus corpus; /* or this */
} texts;

static void add_text(texts *t, ss_text text) {
  if (t->n == t->capacity) {
    t->capacity = t->capacity ? 2 * t->capacity : 64;
    t->items = grow_memory(t->items, t->capacity, sizeof *t->items);
  }
  t->items[t->n++] = text;
}

static void add_lines(texts *t) {
  const ss_text all = buffer_text(&t->lines);
  for (size_t at = 0; at < all.len;) {
    const char *line = all.data + at, *end = memchr(line, '\n', all.len - at);
    size_t len = end ? (size_t)(end - line) : all.len - at;
    at += len + 1;
    if (len && line[len - 1] == '\r') len--;
    add_text(t, (ss_text){line, len});
  }
}

static ss_status read_texts(texts *t, const embed_args *a, ss_error *err) {
  ss_status status = SS_OK;
  for (size_t i = 0; i < MAX_TEXTS && a->operands[i]; i++) add_text(t, text_of(a->operands[i]));
  const char *path = a->file ? a->file : t->n ? NULL : "-";
  const char *dot = path ? strrchr(path, '.') : NULL;
  if (dot && !strcmp(dot, ".jsonl")) {
    status = corpus_add(&t->corpus, path, err);
    for (size_t i = 0; i < t->corpus.n; i++) add_text(t, t->corpus.samples[i].prompt);
  } else if (path) {
    status = read_all(&t->lines, path, err);
    if (status == SS_OK) add_lines(t);
  }
  return status;
}

static void free_texts(texts *t) {
  free(t->items);
  buffer_free(&t->lines);
  corpus_free(&t->corpus);
}

/* ---- the matrix ---- */

/* NumPy's format 1.0: the magic, the length of a header of one line, and rows. */
static void write_npy_header(FILE *out, size_t n, size_t dim) {
  char header[118 + 1];
  const int len =
      snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }", n, dim);
  memset(header + len, ' ', 117 - (size_t)len);
  header[117] = '\n';
  fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, out); /* 118 bytes follow: 128 in all */
  fwrite(header, 1, 118, out);
}

static FILE *open_out(const embed_args *a, size_t n, size_t dim, ss_error *err) {
  FILE *out = fopen(a->out, "wb");
  const char *dot = strrchr(a->out, '.');
  if (!out) ss_fail(err, SS_E_ARGUMENT, "%s: %s", a->out, strerror(errno));
  else if (dot && !strcmp(dot, ".npy")) write_npy_header(out, n, dim);
  return out;
}

static void print_vector(const float *x, size_t dim) {
  json j = {.out = stdout};
  json_open(&j, NULL, '[');
  for (size_t i = 0; i < dim; i++) json_real(&j, NULL, x[i], true);
  json_done(&j);
}

static void show_progress(size_t i, size_t n, double start, double *last) {
  const double now = now_ms();
  if (now - start < PROGRESS_AFTER_MS || now - *last < PROGRESS_EVERY_MS) return;
  *last = now;
  fprintf(stderr, "\rembedding %zu of %zu ", i, n);
}

static ss_status embed_all(const embed_args *a, ss_encoder *encoder, const texts *t, ss_error *err) {
  const size_t dim = ss_encoder_dim(encoder);
  float *x = take_memory(dim, sizeof *x);
  FILE *out = a->out ? open_out(a, t->n, dim, err) : NULL;
  ss_status status = a->out && !out ? SS_E_ARGUMENT : SS_OK;
  const bool progress = isatty(STDERR_FILENO) && (a->out || !isatty(STDOUT_FILENO));
  const double start = now_ms();
  double last = start;
  for (size_t i = 0; i < t->n && status == SS_OK; i++) {
    status = ss_encode(encoder, t->items[i], x, err);
    if (status != SS_OK) break;
    if (out) fwrite(x, sizeof *x, dim, out);
    else print_vector(x, dim);
    if (progress) show_progress(i + 1, t->n, start, &last);
  }
  const double ms = now_ms() - start;
  if (last > start) fputs("\r\033[K", stderr);
  if (out && (ferror(out) | fclose(out)) && status == SS_OK)
    status = ss_fail(err, SS_E_ARGUMENT, "%s: %s", a->out, strerror(errno));
  if (status == SS_OK && a->time)
    say("%s: %zu texts in %.1f ms, %.2f ms each", ss_encoder_kind(encoder), t->n, ms, t->n ? ms / (double)t->n : 0.0);
  free(x);
  return status;
}

static int embed(embed_args *a, engine *e, texts *t, ss_encoder **encoder) {
  ss_error err = {0};
  const bool self = !a->encoder || !strcmp(a->encoder, "self");
  if (!self && a->engine.model) {
    say("embed: --encoder %s is a model of its own: leave out --model", a->encoder);
    return CODE_USAGE;
  }
  if (!self) a->engine.model = a->encoder;
  if (read_texts(t, a, &err) != SS_OK) return report_failure(&err);
  const int code = engine_open(e, &a->engine);
  if (code != CODE_OK) return code;
  if (ss_encoder_create(encoder, e->model, e->host, &err) != SS_OK) return report_failure(&err);
  return embed_all(a, *encoder, t, &err) == SS_OK ? CODE_OK : report_failure(&err);
}

int cmd_embed(int argc, char **argv) {
  embed_args a = {0};
  engine e = {0};
  texts t = {0};
  ss_encoder *encoder = NULL;
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) code = embed(&a, &e, &t, &encoder);
  ss_encoder_free(encoder);
  engine_close(&e);
  free_texts(&t);
  return code;
}
