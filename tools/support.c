#include "support.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"

void say(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fflush(stdout);
  fputs("skipstone: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
}

int report_failure(const ss_error *err) {
  say("%s", err->message[0] ? err->message : ss_status_name(err->status));
  return CODE_FAIL;
}

void *take_memory(size_t n, size_t item_bytes) { return grow_memory(NULL, n, item_bytes); }

void *grow_memory(void *p, size_t n, size_t item_bytes) {
  const size_t bytes = n * item_bytes;
  if (item_bytes && bytes / item_bytes != n) p = NULL;
  else p = realloc(p, bytes ? bytes : 1);
  if (!p) {
    say("no memory for %zu items of %zu bytes", n, item_bytes);
    exit(CODE_FAIL);
  }
  return p;
}

char *buffer_room(buffer *b, size_t n) {
  if (n >= b->capacity - b->len) { /* one byte is kept for the NUL */
    b->capacity = ss_max(b->capacity * 2, b->len + n + 1);
    b->data = grow_memory(b->data, b->capacity, 1);
  }
  return b->data + b->len;
}

void buffer_add(buffer *b, const void *bytes, size_t n) {
  char *to = buffer_room(b, n);
  if (n) memcpy(to, bytes, n);
  b->len += n;
  b->data[b->len] = 0;
}

void buffer_addf(buffer *b, const char *format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  const int n = vsnprintf(NULL, 0, format, args);
  if (n > 0) {
    vsnprintf(buffer_room(b, (size_t)n), (size_t)n + 1, format, again);
    b->len += (size_t)n;
  }
  va_end(again);
  va_end(args);
}

void buffer_free(buffer *b) {
  free(b->data);
  *b = (buffer){0};
}

ss_text buffer_text(const buffer *b) { return (ss_text){b->data ? b->data : "", b->len}; }
ss_text text_of(const char *text) { return (ss_text){text, strlen(text)}; }

ss_status read_all(buffer *b, const char *path, ss_error *err) {
  const bool is_stdin = !strcmp(path, "-");
  const char *name = is_stdin ? "standard input" : path;
  FILE *file = is_stdin ? stdin : fopen(path, "rb");
  if (!file) return ss_fail(err, SS_E_ARGUMENT, "%s: %s", name, strerror(errno));
  for (;;) {
    char *to = buffer_room(b, 1 << 16);
    const size_t n = fread(to, 1, 1 << 16, file);
    b->len += n;
    b->data[b->len] = 0;
    if (n == 0) break;
  }
  const int failed = ferror(file) ? errno : 0;
  if (!is_stdin) fclose(file);
  return failed ? ss_fail(err, SS_E_ARGUMENT, "%s: %s", name, strerror(failed)) : SS_OK;
}

double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

byte_count bytes_for_people(uint64_t n) {
  static const char *const units[] = {"B", "KB", "MB", "GB", "TB"};
  double value = (double)n;
  size_t unit = 0;
  for (; value >= 999.95 && unit + 1 < sizeof units / sizeof units[0]; unit++) value /= 1000;
  byte_count out;
  snprintf(out.text, sizeof out.text, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
  return out;
}
