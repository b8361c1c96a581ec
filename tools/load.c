#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define PIECE_BYTES ((size_t)1 << 20) /* small enough to be still in the cache when it is repacked */
#define PROGRESS_AFTER_MS 1000
#define PROGRESS_EVERY_MS 100

/* ---- progress ---- */

typedef struct progress {
  double start_ms, last_ms;
  bool enabled, shown;
} progress;

static void progress_step(progress *p, uint64_t done, uint64_t total) {
  const double now = now_ms();
  if (!p->enabled || now - p->start_ms < PROGRESS_AFTER_MS || now - p->last_ms < PROGRESS_EVERY_MS) return;
  p->last_ms = now;
  p->shown = true;
  fprintf(stderr, "\rloading %3.0f %% of %s ", total ? 100.0 * (double)done / (double)total : 0.0,
          bytes_for_people(total).text);
}

static void progress_end(const progress *p) {
  if (p->shown) fputs("\r\033[K", stderr);
}

/* ---- the file ---- */

static ss_status read_error(const char *path, ss_error *err) {
  return ss_fail(err, SS_E_FORMAT, "%s: %s", path, strerror(errno));
}

static ss_status truncated(const ss_model *model, const char *path, uint64_t size, ss_error *err) {
  if (size == 0) return ss_fail(err, SS_E_FORMAT, "%s: the file is empty, want a GGUF file", path);
  if (!ss_model_header_done(model))
    return ss_fail(err, SS_E_FORMAT, "%s: the file is truncated: it ends at byte %llu, inside its header", path,
                   (unsigned long long)size);
  return ss_fail(err, SS_E_FORMAT, "%s: the file is truncated: found %llu bytes, want %llu", path,
                 (unsigned long long)size, (unsigned long long)ss_model_file_bytes(model));
}

/* Errors of the core do not know the file's name. */
static ss_status name_file(ss_status status, const char *path, ss_error *err) {
  const ss_error inner = *err;
  return ss_fail(err, status, "%s: %s", path, inner.message);
}

static ss_status feed_all(ss_model *model, int fd, const char *path, uint64_t size, bool header_only, char *piece,
                          ss_error *err) {
  progress p = {.start_ms = now_ms(), .enabled = isatty(STDERR_FILENO)};
  uint64_t at = 0;
  ss_status status = SS_MORE;
  while (status == SS_MORE && !(header_only && ss_model_header_done(model))) {
    const ssize_t n = pread(fd, piece, PIECE_BYTES, (off_t)at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) status = read_error(path, err);
    else if (n == 0) status = truncated(model, path, at, err);
    else {
      status = ss_model_feed(model, at, piece, (size_t)n, err);
      if (status < 0) status = name_file(status, path, err);
      at += (uint64_t)n;
      progress_step(&p, at, size);
    }
  }
  progress_end(&p);
  return status < 0 ? status : SS_OK;
}

ss_status load_file(ss_model *model, const char *path, bool header_only, uint64_t *file_bytes, ss_error *err) {
  struct stat st;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return read_error(path, err);
  ss_status status = SS_OK;
  if (fstat(fd, &st) != 0) status = read_error(path, err);
  else if (!S_ISREG(st.st_mode)) status = ss_fail(err, SS_E_ARGUMENT, "%s: not a regular file", path);
  if (status == SS_OK) {
    char *piece = take_memory(PIECE_BYTES, 1);
    *file_bytes = (uint64_t)st.st_size;
    status = feed_all(model, fd, path, *file_bytes, header_only, piece, err);
    free(piece);
  }
  close(fd);
  return status;
}

/* ---- the engine ---- */

const ss_kernels *engine_kernels(const char *name) {
  const ss_kernels *kernels = ss_kernels_find(name);
  if (kernels) return kernels;
  buffer known = {0};
  for (size_t i = 0; ss_kernels_at(i); i++)
    buffer_addf(&known, "%s%s", i ? ", " : "", ss_kernels_name(ss_kernels_at(i)));
  say("--kernels %s: no such kernel set here, want one of: %s", name, known.data);
  buffer_free(&known);
  return NULL;
}

int engine_open(engine *e, const engine_options *options) {
  ss_error err = {0};
  *e = (engine){.path = options->model ? options->model : getenv("SKIPSTONE_MODEL")};
  if (!e->path || !*e->path) {
    say("no model: give -m PATH or set SKIPSTONE_MODEL");
    return CODE_USAGE;
  }
  const ss_kernels *kernels = engine_kernels(options->kernels);
  if (!kernels) return CODE_USAGE;
  e->pool = host_create(options->header_only ? 1 : options->threads);
  if (!e->pool) {
    say("could not start %u threads", options->threads);
    return CODE_FAIL;
  }
  e->host = host_face(e->pool);
  const double start = now_ms();
  ss_status status = ss_model_create(&e->model, e->host, kernels, &err);
  if (status == SS_OK) status = load_file(e->model, e->path, options->header_only, &e->file_bytes, &err);
  if (status == SS_OK) status = ss_model_info_get(e->model, &e->info, &err);
  e->load_ms = now_ms() - start;
  if (status == SS_OK) return CODE_OK;
  engine_close(e);
  return report_failure(&err);
}

int engine_tokenizer(engine *e) {
  ss_error err = {0};
  const double start = now_ms();
  if (ss_tokenizer_create(&e->tokenizer, e->model, e->host, &err) != SS_OK) return report_failure(&err);
  e->load_ms += now_ms() - start;
  return CODE_OK;
}

void engine_close(engine *e) {
  ss_tokenizer_free(e->tokenizer);
  ss_model_free(e->model);
  host_free(e->pool);
  *e = (engine){0};
}
