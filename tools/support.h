/* What the commands share: messages, exit codes, a growing buffer, whole small files, the clock. */
#ifndef SS_TOOL_SUPPORT_H
#define SS_TOOL_SUPPORT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "skipstone.h"

enum { CODE_OK = 0, CODE_FAIL = 1, CODE_USAGE = 2, CODE_INTERRUPTED = 130 };

/* One line on stderr: "skipstone: ...". */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Says err's message and returns CODE_FAIL. */
int report_failure(const ss_error *err);

/* malloc and realloc that end the program when there is no memory; n * item_bytes must not overflow. */
void *take_memory(size_t n, size_t item_bytes);
void *grow_memory(void *p, size_t n, size_t item_bytes);

typedef struct buffer {
  char *data; /* NUL-terminated whenever it is not NULL */
  size_t len, capacity;
} buffer;
void buffer_add(buffer *b, const void *bytes, size_t n);
void buffer_addf(buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
char *buffer_room(buffer *b, size_t n); /* where n more bytes may be written; add to len what was */
void buffer_free(buffer *b);
ss_text buffer_text(const buffer *b);
ss_text text_of(const char *text);

/* Appends a whole file; path "-" is stdin. For prompts, not for weights. */
ss_status read_all(buffer *b, const char *path, ss_error *err);

double now_ms(void); /* monotonic */

typedef struct byte_count {
  char text[16]; /* "97.1 MB" */
} byte_count;
byte_count bytes_for_people(uint64_t n);

#endif
