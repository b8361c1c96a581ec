/* Status names and error messages, without stdio. */
#include <stdarg.h>

#include "base/base.h"

const char *ss_status_name(ss_status status) {
  switch (status) {
    case SS_OK: return "ok";
    case SS_MORE: return "more";
    case SS_E_ARGUMENT: return "argument";
    case SS_E_MEMORY: return "memory";
    case SS_E_FORMAT: return "format";
    case SS_E_UNSUPPORTED: return "unsupported";
    case SS_E_MISSING: return "missing";
    case SS_E_CONTEXT: return "context";
    case SS_E_STATE: return "state";
  }
  return "unknown";
}

typedef struct sink {
  char *text;
  size_t capacity, len;
} sink;

static void put(sink *s, char c) {
  if (s->len + 1 < s->capacity) s->text[s->len] = c;
  s->len++;
}

static void put_number(sink *s, uint64_t value, unsigned base) {
  char digits[20];
  size_t n = 0;
  do {
    digits[n++] = "0123456789abcdef"[value % base];
    value /= base;
  } while (value);
  while (n) put(s, digits[--n]);
}

static size_t format_args(char *text, size_t capacity, const char *format, va_list args) {
  sink s = {text, capacity, 0};
  for (const char *f = format; *f; f++) {
    if (*f != '%') {
      put(&s, *f);
      continue;
    }
    f++;
    size_t precision = SIZE_MAX;
    if (f[0] == '.' && f[1] == '*') {
      const int given = va_arg(args, int);
      precision = given < 0 ? SIZE_MAX : (size_t)given;
      f += 2;
    }
    unsigned longs = 0;
    for (; *f == 'l' || *f == 'z'; f++) longs += *f == 'l' ? 1u : (sizeof(size_t) == sizeof(long long) ? 2u : 0u);
    switch (*f) {
      case 's': {
        const char *string = va_arg(args, const char *);
        if (!string) string = "(null)";
        for (size_t i = 0; i < precision && string[i]; i++) put(&s, string[i]);
        break;
      }
      case 'c': put(&s, (char)va_arg(args, int)); break;
      case 'd': {
        const int64_t v = longs == 0 ? va_arg(args, int) : longs == 1 ? va_arg(args, long) : va_arg(args, long long);
        if (v < 0) put(&s, '-');
        put_number(&s, v < 0 ? (uint64_t)0 - (uint64_t)v : (uint64_t)v, 10);
        break;
      }
      case 'u':
      case 'x': {
        const uint64_t v = longs == 0   ? va_arg(args, unsigned)
                           : longs == 1 ? va_arg(args, unsigned long)
                                        : va_arg(args, unsigned long long);
        put_number(&s, v, *f == 'x' ? 16 : 10);
        break;
      }
      default: put(&s, *f); break;
    }
  }
  if (capacity) text[ss_min(s.len, capacity - 1)] = 0;
  return s.len;
}

ss_status ss_fail(ss_error *err, ss_status status, const char *format, ...) {
  if (!err) return status;
  err->status = status;
  va_list args;
  va_start(args, format);
  format_args(err->message, sizeof err->message, format, args);
  va_end(args);
  return status;
}

size_t ss_format(char *text, size_t capacity, const char *format, ...) {
  va_list args;
  va_start(args, format);
  const size_t len = format_args(text, capacity, format, args);
  va_end(args);
  return len;
}
