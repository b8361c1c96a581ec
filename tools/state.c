#include "state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

static state_entry *slot_of(state_entry *entries, size_t capacity, uint64_t key) {
  size_t i = (key * UINT64_C(0x9e3779b97f4a7c15)) >> 20 & (capacity - 1);
  while (entries[i].key && entries[i].key != key) i = (i + 1) & (capacity - 1);
  return &entries[i];
}

static void insert(state *s, uint64_t key, const double *values) {
  if (2 * (s->n + 1) > s->capacity) {
    const size_t capacity = s->capacity ? 2 * s->capacity : 256;
    state_entry *moved = take_memory(capacity, sizeof *moved);
    memset(moved, 0, capacity * sizeof *moved);
    for (size_t i = 0; i < s->capacity; i++)
      if (s->entries[i].key) *slot_of(moved, capacity, s->entries[i].key) = s->entries[i];
    free(s->entries);
    s->entries = moved;
    s->capacity = capacity;
  }
  state_entry *slot = slot_of(s->entries, s->capacity, key);
  s->n += slot->key == 0;
  slot->key = key;
  memcpy(slot->values, values, sizeof slot->values);
}

const double *state_find(const state *s, uint64_t key) {
  if (!s->capacity) return NULL;
  const state_entry *slot = slot_of(s->entries, s->capacity, key);
  return slot->key ? slot->values : NULL;
}

/* Reads whole lines and returns how many bytes they are; SIZE_MAX: the file is of something else. */
static size_t read_lines(state *s, const char *data, const char *head) {
  const size_t head_len = strlen(head);
  if (strncmp(data, head, head_len) != 0) return SIZE_MAX;
  const char *line = data + head_len, *end;
  for (; (end = strchr(line, '\n')); line = end + 1) {
    char *at;
    double values[STATE_VALUES];
    const uint64_t key = strtoull(line, &at, 16);
    size_t i = 0;
    for (; i < STATE_VALUES && *at == ' '; i++) values[i] = strtod(at, &at);
    if (i < STATE_VALUES || at != end || key == 0) break; /* damaged: what follows is measured again */
    insert(s, key, values);
  }
  return (size_t)(line - data);
}

ss_status state_open(state *s, const char *path, uint64_t of, bool resume, ss_error *err) {
  char head[64];
  buffer old = {0};
  size_t keep = 0;
  *s = (state){0};
  snprintf(head, sizeof head, "skipstone-state 1 %016llx\n", (unsigned long long)of);
  if (resume && access(path, F_OK) == 0) {
    buffer_add(&old, "", 0);
    const ss_status status = read_all(&old, path, err);
    if (status == SS_OK && old.len) keep = read_lines(s, old.data, head);
    buffer_free(&old);
    if (status != SS_OK) return status;
    if (keep == SIZE_MAX)
      return ss_fail(err, SS_E_ARGUMENT,
                     "%s: of another run (model, data or settings differ): remove it, or start without --resume", path);
  }
  s->n_loaded = s->n;
  s->file = fopen(path, keep ? "r+b" : "wb");
  if (!s->file) return ss_fail(err, SS_E_ARGUMENT, "%s: %s", path, strerror(errno));
  if (keep) {
    if (ftruncate(fileno(s->file), (off_t)keep) != 0 || fseek(s->file, 0, SEEK_END) != 0)
      return ss_fail(err, SS_E_ARGUMENT, "%s: %s", path, strerror(errno));
  } else if (fputs(head, s->file) < 0 || fflush(s->file) != 0) {
    return ss_fail(err, SS_E_ARGUMENT, "%s: %s", path, strerror(errno));
  }
  return SS_OK;
}

ss_status state_add(state *s, uint64_t key, const double values[STATE_VALUES], ss_error *err) {
  insert(s, key, values);
  if (fprintf(s->file, "%016llx %a %a %a\n", (unsigned long long)key, values[0], values[1], values[2]) < 0 ||
      fflush(s->file) != 0)
    return ss_fail(err, SS_E_ARGUMENT, "writing the state file: %s", strerror(errno));
  return SS_OK;
}

void state_close(state *s) {
  if (s->file) fclose(s->file);
  free(s->entries);
  *s = (state){0};
}

ss_status write_whole(const char *path, const void *bytes, size_t n, ss_error *err) {
  buffer temporary = {0};
  buffer_addf(&temporary, "%s.%ld.tmp", path, (long)getpid());
  FILE *file = fopen(temporary.data, "wb");
  bool ok = file && fwrite(bytes, 1, n, file) == n && fflush(file) == 0 && fsync(fileno(file)) == 0;
  int failed = ok ? 0 : errno;
  if (file && fclose(file) != 0 && ok) ok = false, failed = errno;
  if (ok && rename(temporary.data, path) != 0) ok = false, failed = errno;
  if (!ok) unlink(temporary.data);
  buffer_free(&temporary);
  return ok ? SS_OK : ss_fail(err, SS_E_ARGUMENT, "%s: %s", path, strerror(failed));
}

ss_status make_folder(const char *path, ss_error *err) {
  buffer part = {0};
  ss_status status = SS_OK;
  for (const char *at = path; status == SS_OK && *at;) {
    const size_t n = strspn(at, "/"), more = n + strcspn(at + n, "/");
    buffer_add(&part, at, more);
    at += more;
    if (mkdir(part.data, 0777) != 0 && errno != EEXIST && errno != EISDIR)
      status = ss_fail(err, SS_E_ARGUMENT, "%s: %s", part.data, strerror(errno));
  }
  buffer_free(&part);
  return status;
}
