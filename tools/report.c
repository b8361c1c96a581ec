/* The page (report/page.html, report/page.js, built in) draws what it finds in two script elements: run.json, and the
 * logs one behind the other. Nothing is parsed here. */
#include "report.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "report_page.h"
#include "state.h"

#define STEPS_PER_MASK 300

/* In JSON a '<' is only in strings; written so it cannot end a script element. */
static void add_escaped(buffer *out, const char *text, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (text[i] == '<') buffer_add(out, "\\u003c", 6);
    else buffer_add(out, text + i, 1);
}

static bool is_step(const char *line, size_t n) {
  static const char start[] = "{\"phase\":\"l0\"";
  return n >= sizeof start - 1 && !memcmp(line, start, sizeof start - 1);
}

/* The lines of a log, of its steps every k-th and the last. A line that is still being written is left out. */
static void add_log(buffer *out, const buffer *log) {
  size_t n_steps = 0, seen = 0;
  const char *line, *end, *stop = log->data + log->len;
  for (line = log->data; (end = memchr(line, '\n', (size_t)(stop - line))); line = end + 1)
    n_steps += is_step(line, (size_t)(end - line));
  const size_t every = (n_steps + STEPS_PER_MASK - 1) / STEPS_PER_MASK;
  for (line = log->data; (end = memchr(line, '\n', (size_t)(stop - line))); line = end + 1) {
    if (is_step(line, (size_t)(end - line)) && ++seen % every != 0 && seen != n_steps) continue;
    add_escaped(out, line, (size_t)(end - line) + 1);
  }
}

static int is_log(const struct dirent *entry) {
  const size_t n = strlen(entry->d_name);
  return n > 6 && !strcmp(entry->d_name + n - 6, ".jsonl");
}

static ss_status add_logs(buffer *out, const char *folder, ss_error *err) {
  struct dirent **names;
  buffer path = {0}, log = {0};
  ss_status status = SS_OK;
  const int n = scandir(folder, &names, is_log, alphasort);
  if (n < 0) return ss_fail(err, SS_E_ARGUMENT, "%s: %s", folder, strerror(errno));
  for (int i = 0; i < n; i++) {
    path.len = log.len = 0;
    buffer_addf(&path, "%s/%s", folder, names[i]->d_name);
    buffer_add(&log, "", 0);
    if (status == SS_OK) status = read_all(&log, path.data, err);
    if (status == SS_OK) add_log(out, &log);
    free(names[i]);
  }
  free(names);
  buffer_free(&path);
  buffer_free(&log);
  return status;
}

/* The page with data and script in place of their marks. */
static void fill_page(buffer *out, const buffer *about, const buffer *logs) {
  static const char marks[][12] = {"@run@", "@log@", "@script@"};
  const char *at = report_page_html;
  for (int i = 0; i < 3; i++) {
    const char *mark = strstr(at, marks[i]);
    if (!mark) continue; /* a test sees to it that it is there */
    buffer_add(out, at, (size_t)(mark - at));
    if (i == 0) add_escaped(out, about->data, about->len);
    else if (i == 1) buffer_add(out, logs->data ? logs->data : "", logs->len);
    else buffer_add(out, report_page_js, strlen(report_page_js));
    at = mark + strlen(marks[i]);
  }
  buffer_add(out, at, strlen(at));
}

ss_status report_write(const char *folder, const char *path, ss_error *err) {
  buffer name = {0}, about = {0}, logs = {0}, page = {0};
  buffer_addf(&name, "%s/run.json", folder);
  ss_status status = read_all(&about, name.data, err);
  if (status == SS_OK) status = add_logs(&logs, folder, err);
  if (status == SS_OK) {
    fill_page(&page, &about, &logs);
    status = write_whole(path, page.data, page.len, err);
  }
  buffer_free(&name);
  buffer_free(&about);
  buffer_free(&logs);
  buffer_free(&page);
  return status;
}
