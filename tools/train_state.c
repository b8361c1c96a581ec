#include "train_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/base.h"
#include "state.h"

/* ---- the folder ---- */

static ss_status take_lock(const char *folder, int *lock, ss_error *err) {
  buffer path = {0};
  ss_status status = SS_OK;
  buffer_addf(&path, "%s/lock", folder);
  *lock = open(path.data, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (*lock < 0) status = ss_fail(err, SS_E_ARGUMENT, "%s: %s", path.data, strerror(errno));
  else if (flock(*lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    status = ss_fail(err, SS_E_ARGUMENT, "%s: another process trains in this folder", folder);
  buffer_free(&path);
  return status;
}

/* The first line of b that a does not have at the same place. */
static ss_status compare_settings(const char *folder, const char *there, const char *here, ss_error *err) {
  while (*there && *here) {
    const size_t a = strcspn(there, "\n"), b = strcspn(here, "\n");
    if (a != b || memcmp(there, here, a) != 0)
      return ss_fail(err, SS_E_ARGUMENT, "%s: of another run: it has '%.*s', this command '%.*s'", folder, (int)a,
                     there, (int)b, here);
    there += a + (there[a] == '\n');
    here += b + (here[b] == '\n');
  }
  if (*there || *here) return ss_fail(err, SS_E_ARGUMENT, "%s: of another version of skipstone", folder);
  return SS_OK;
}

ss_status train_folder_open(const char *folder, const char *settings, bool resume, int *lock, ss_error *err) {
  buffer path = {0}, old = {0};
  *lock = -1;
  ss_status status = make_folder(folder, err);
  if (status == SS_OK) status = take_lock(folder, lock, err);
  buffer_addf(&path, "%s/settings", folder);
  if (status == SS_OK && access(path.data, F_OK) == 0) {
    if (!resume)
      status = ss_fail(err, SS_E_ARGUMENT, "%s holds a run: --resume goes on with it, or remove the folder", folder);
    buffer_add(&old, "", 0);
    if (status == SS_OK) status = read_all(&old, path.data, err);
    if (status == SS_OK) status = compare_settings(folder, old.data, settings, err);
  } else if (status == SS_OK) status = write_whole(path.data, settings, strlen(settings), err);
  buffer_free(&old);
  buffer_free(&path);
  return status;
}

/* ---- files ---- */

typedef struct file_head {
  char magic[8], kind[8];
  uint64_t of, n, hash; /* of the n bytes behind */
} file_head;

static file_head make_head(const char *kind, uint64_t of, const void *bytes, size_t n) {
  file_head head = {.magic = "sstrain1", .of = of, .n = n, .hash = ss_fnv1a(SS_FNV_START, bytes, n)};
  memcpy(head.kind, kind, ss_min(strlen(kind), sizeof head.kind));
  return head;
}

ss_status train_file_write(const char *path, const char *kind, uint64_t of, const void *bytes, size_t n,
                           ss_error *err) {
  const file_head head = make_head(kind, of, bytes, n);
  buffer file = {0};
  buffer_add(&file, &head, sizeof head);
  buffer_add(&file, bytes, n);
  const ss_status status = write_whole(path, file.data, file.len, err);
  buffer_free(&file);
  return status;
}

ss_status train_file_load(const char *path, const char *kind, uint64_t of, buffer *out, bool *found, ss_error *err) {
  buffer file = {0};
  *found = false;
  if (access(path, F_OK) != 0) return SS_OK;
  buffer_add(&file, "", 0);
  ss_status status = read_all(&file, path, err);
  if (status == SS_OK) {
    const size_t n = file.len < sizeof(file_head) ? 0 : file.len - sizeof(file_head);
    const file_head head = make_head(kind, of, file.data + (file.len - n), n);
    if (file.len >= sizeof head && !memcmp(&head, file.data, sizeof head)) {
      buffer_add(out, file.data + sizeof head, n);
      *found = true;
    } else
      status = ss_fail(err, SS_E_FORMAT, "%s: damaged, or of another run: remove it to take that part again", path);
  }
  buffer_free(&file);
  return status;
}

ss_status train_file_read(const char *path, const char *kind, uint64_t of, void *bytes, size_t n, bool *found,
                          ss_error *err) {
  buffer content = {0};
  ss_status status = train_file_load(path, kind, of, &content, found, err);
  if (status == SS_OK && *found && content.len != n) {
    *found = false;
    status =
        ss_fail(err, SS_E_FORMAT, "%s: %zu bytes, want %zu: remove it to take that part again", path, content.len, n);
  }
  if (*found) memcpy(bytes, content.data, n);
  buffer_free(&content);
  return status;
}

/* ---- logs ---- */

ss_status train_log_open(train_log *log, const char *path, uint64_t keep_bytes, ss_error *err) {
  *log = (train_log){.path = path, .file = fopen(path, keep_bytes ? "r+b" : "wb")};
  if (!log->file && keep_bytes && errno == ENOENT) log->file = fopen(path, "wb"), keep_bytes = 0;
  if (!log->file) return ss_fail(err, SS_E_ARGUMENT, "%s: %s", path, strerror(errno));
  if (keep_bytes && (ftruncate(fileno(log->file), (off_t)keep_bytes) != 0 || fseek(log->file, 0, SEEK_END) != 0))
    return ss_fail(err, SS_E_ARGUMENT, "%s: %s", path, strerror(errno));
  return SS_OK;
}

uint64_t train_log_bytes(const train_log *log) {
  const long at = ftell(log->file);
  return at > 0 ? (uint64_t)at : 0;
}

ss_status train_log_check(train_log *log, ss_error *err) {
  if (fflush(log->file) == 0 && !ferror(log->file)) return SS_OK;
  return ss_fail(err, SS_E_ARGUMENT, "%s: %s", log->path, strerror(errno));
}

void train_log_close(train_log *log) {
  if (log->file) fclose(log->file);
  *log = (train_log){0};
}
