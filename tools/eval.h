/* What the tasks of `skipstone eval` share: rows, which are ways to choose a mask for a text; the state file; intervals. */
#ifndef SS_TOOL_EVAL_H
#define SS_TOOL_EVAL_H

#include "options.h"
#include "routing.h"
#include "state.h"
#include "train/train.h"

#define EVAL_MAX_FILES 256
#define EVAL_RESAMPLES 2000

/* ---- options ---- */

typedef struct eval_args {
  engine_options engine;
  option_list data, masks, banks, baselines, controls, against;
  const char *operands[EVAL_MAX_FILES], *depths, *encoder, *recovery, *out;
  uint64_t seed;
  bool resume, json;
} eval_args;

#define EVAL_ROW_OPTIONS(a)                                                                                                                      \
  {.name = "bank",                                                                                                                               \
   .list = &(a).banks,                                                                                                                           \
   .argument = "[NAME=]BANK",                                                                                                                    \
   .help = "a row that is routed over this bank; may be repeated"},                                                                              \
      {.name = "baseline",                                                                                                                       \
       .list = &(a).baselines,                                                                                                                   \
       .argument = "[NAME=]BANK",                                                                                                                \
       .help = "a row that takes this bank's global mask for every\ntext: \"NAME static\"; may be repeated"},                                    \
      {.name = "control",                                                                                                                        \
       .list = &(a).controls,                                                                                                                    \
       .argument = "random|oracle|static",                                                                                                       \
       .help =                                                                                                                                   \
           "more rows of each --bank: a random cluster's mask, the\nbest cluster's for each text, the global one"},                              \
      {.name = "depth", .text = &(a).depths, .argument = "LIST", .help = "depths of the banks' rows (default 0.875)"},                           \
      {.name = "mask",                                                                                                                           \
       .list = &(a).masks,                                                                                                                       \
       .argument = "BLOCKS",                                                                                                                     \
       .help = "a row that skips these: \"attn:3,7-9;ffn:12\"; may be repeated"},                                                                \
      {.name = "against",                                                                                                                        \
       .list = &(a).against,                                                                                                                     \
       .argument = "NAME",                                                                                                                       \
       .help =                                                                                                                                   \
           "compares every row with this one of its depth, pairwise:\n\"NAME KIND\", or NAME alone; may be repeated (default:\nthe baselines)"}, \
      {.name = "encoder",                                                                                                                        \
       .text = &(a).encoder,                                                                                                                     \
       .argument = "ENC.gguf",                                                                                                                   \
       .help = "the banks' sentence encoder, where it is not `self`"},                                                                           \
      {.name = "recovery",                                                                                                                       \
       .text = &(a).recovery,                                                                                                                    \
       .argument = "on|off|both",                                                                                                                \
       .help = "the banks' masks with what makes up for skipped blocks,\nwithout it, or a row of each (default on)"}
#define EVAL_OUT_OPTIONS(a)                                                                                   \
  {.name = "out",                                                                                             \
   .letter = 'o',                                                                                             \
   .text = &(a).out,                                                                                          \
   .argument = "FILE",                                                                                        \
   .help = "the result as JSON; FILE.state keeps what was measured"},                                         \
      {.name = "resume", .flag = &(a).resume, .help = "goes on with FILE.state"}, THREADS_OPTION((a).engine), \
      KERNELS_OPTION((a).engine), {.name = "json", .flag = &(a).json, .help = "print the JSON instead of the table"}

/* ---- rows ---- */

typedef enum row_kind { ROW_MASK, ROW_ROUTED, ROW_RANDOM, ROW_ORACLE, ROW_STATIC } row_kind;

typedef struct eval_row {
  row_kind kind;
  char *name, *series; /* "bank.gguf 0.875 routed"; the same without the depth. Owned */
  uint32_t bank; /* of a bank's row */
  double depth; /* 0: a mask's row, the dense one too */
  bool no_recovery; /* though the bank has some */
  ss_mask mask; /* of a mask's row */
  double skipped, weight; /* sums of eval_count */
} eval_row;

/* What a row runs a text with. */
typedef struct eval_pick {
  ss_mask mask;
  const ss_recovery *recovery; /* of the bank; NULL: none */
} eval_pick;

typedef struct eval_bank {
  router router;
  char *name;
  bool routes; /* else only its global mask is used */
} eval_bank;

typedef struct eval {
  const eval_args *args;
  engine engine;
  eval_row *rows; /* [n_rows] the first is dense */
  eval_bank *banks;
  uint32_t n_rows, n_banks;
  uint64_t *costs, total_cost; /* MACs of the blocks */
  double routing_ms;
  uint64_t n_routed;
  state state;
} eval;

/* Opens the engine with its tokenizer, makes the rows and opens the state. `task` keeps states of other tasks apart; NULL: nll's.
 * Says what went wrong and returns an exit code. Release with eval_close, also after a failure. */
int eval_open(eval *e, const eval_args *args, const char *task, bool has_oracle);
void eval_close(eval *e);
void eval_args_free(eval_args *args);

/* clusters[n_banks]: where each bank that routes puts the text. */
ss_status eval_route(eval *e, ss_text prompt, uint32_t *clusters, ss_error *err);
/* The clusters that a row tries for a text: one, or all of them (an oracle's). draw: a number of the text, for random rows. */
void eval_clusters(const eval *e, const eval_row *row, const uint32_t *clusters, uint64_t draw, uint32_t *first,
                   uint32_t *last);
ss_status eval_pick_of(const eval *e, const eval_row *row, uint32_t cluster, eval_pick *pick, ss_error *err);
/* Empties the session and runs it like that from now on. */
ss_status eval_use(ss_session *session, const eval_pick *pick, ss_error *err);
bool eval_is_dense(const eval *e, const eval_pick *pick);
/* Notes that the row ran weight tokens like that. */
void eval_count(eval *e, eval_row *row, const eval_pick *pick, double weight);
double eval_skipped(const eval_row *row); /* mean share of MACs */

/* The row that `row` is compared with by args.against (or baseline) i; NULL: none, or itself. */
size_t eval_n_against(const eval *e);
const eval_row *eval_against(const eval *e, const eval_row *row, size_t i);

/* A key of the state. */
uint64_t eval_key(const void *bytes, size_t n, const eval_pick *pick);

/* ---- items in strata, and what was measured of them ---- */

typedef struct eval_items {
  double *weights; /* [n] */
  uint32_t *strata; /* [n] */
  uint32_t n, n_strata;
  uint64_t seed;
  const ss_host *host;
} eval_items;
/* Of a row's sums [n], less those of another (NULL: of the row alone): the mean over strata. */
ss_status eval_estimate(const eval_items *items, const double *a, const double *b, ss_estimate *out, ss_error *err);
/* The mean of a less base over that of b less base, or with base NULL that of a over that of b. */
ss_status eval_ratio(const eval_items *items, const double *a, const double *b, const double *base, ss_estimate *out,
                     ss_error *err);
double eval_stratum_mean(const eval_items *items, const double *sums, uint32_t stratum);

/* ---- reports ---- */

void json_estimate(json *j, const char *key, const ss_estimate *x);
/* name, series, kind, depth and share of MACs skipped, into the object that is open */
void json_eval_row(json *j, const eval_row *row);
/* What every result starts with: task, model, numerics, seed. */
void json_eval_head(json *j, const eval *e, const char *task);
/* The names' column. */
int eval_name_width(const eval *e);

/* Writes the JSON to args.out and prints it or the table. */
typedef ss_status eval_write(const void *task, json *j, ss_error *err);
typedef ss_status eval_print(const void *task, ss_error *err);
ss_status eval_report(const eval *e, eval_write *write, eval_print *print, const void *task, ss_error *err);
/* After a task: the exit code, and says what is to be said. */
int eval_end(const eval *e, ss_status status, bool stopped, const ss_error *err);

#endif
