/* Routing in the commands: the bank's file, its encoder, and which mask a prompt gets. */
#ifndef SS_TOOL_ROUTING_H
#define SS_TOOL_ROUTING_H

#include "json.h"
#include "load.h"

/* A sentence encoder: `self`, the engine's own model, or a GGUF file of its own. */
typedef struct text_encoder {
  ss_model *model; /* owned; NULL: `self` */
  ss_encoder *encoder;
  const ss_model *of; /* the model that it reads */
  const char *name;   /* of the model: borrowed from it */
  uint32_t dim;
  uint64_t bytes;     /* of its file; 0 for `self`, which downloads nothing */
} text_encoder;
/* spec: "self" or a path. */
ss_status text_encoder_open(text_encoder *t, const engine *e, const char *spec, ss_error *err);
void text_encoder_close(text_encoder *t);

typedef struct bank_options {
  const char *bank, *encoder, *recovery;
  float depth; /* 0: not given */
} bank_options;
#define DEFAULT_DEPTH 0.875
/* False, and said so: an option that only a bank has a use for, without one. name: the command's; depth_option: what it calls the depth. */
bool bank_options_fit(const bank_options *options, const char *name, const char *depth_option);

#define BANK_OPTION(b) \
  {.name = "bank", .text = &(b).bank, .argument = "BANK", .help = "routes the prompt over this mask bank"}
#define DEPTH_OPTION(b, option_name) \
  {.name = option_name,              \
   .real = &(b).depth,               \
   .argument = "D",                  \
   .min = 0.01,                      \
   .max = 1,                         \
   .help = "share of the blocks' multiply-adds to run at least,\n1: all (default 0.875)"}
#define ENCODER_OPTION(b)  \
  {.name = "encoder",      \
   .text = &(b).encoder,   \
   .argument = "ENC.gguf", \
   .help = "the bank's sentence encoder, where it is not `self`"}

#define RECOVERY_OPTION(b) \
  {.name = "recovery",     \
   .text = &(b).recovery,  \
   .argument = "on|off",   \
   .help = "what the bank makes up for skipped blocks with (default on)"}

typedef struct router {
  ss_bank *bank;
  ss_bank_info info;
  text_encoder encoder;
  float *embedding; /* [dim] */
  double depth;
  bool no_recovery;
  uint64_t bank_bytes;
  char note[256]; /* what the user should know, or "" */
} router;

/* Reads the bank, checks it against the model and opens its encoder. options->bank must be set. */
ss_status router_open(router *r, const engine *e, const bank_options *options, ss_error *err);
void router_close(router *r);

typedef struct routing {
  uint32_t cluster; /* n_clusters: the global mask */
  uint32_t level; /* or SS_BANK_DENSE */
  float distance;
  double ms; /* encoder and nearest centroid */
  ss_mask mask;
  const ss_recovery *recovery; /* of the bank, or NULL */
} routing;
ss_status route_text(router *r, ss_text prompt, routing *out, ss_error *err);
/* The recovery of a cluster's mask at the router's depth; NULL where there is none, or it is off. */
const ss_recovery *router_recovery(const router *r, uint32_t cluster);
/* Continues a hash over all of its numbers. */
uint64_t recovery_hash(uint64_t hash, const ss_recovery *recovery);
/* Bytes that it takes in a bank, by part. */
typedef struct recovery_sizes {
  uint64_t gains, scales, stand_ins;
} recovery_sizes;
recovery_sizes recovery_bytes(const ss_recovery *recovery, const ss_mask *mask);
void routing_json(json *j, const char *key, const router *r, const routing *route);

/* The bank alone. *n: its bytes. */
ss_status bank_load(ss_bank **out, const char *path, const ss_host *memory, uint64_t *n, ss_error *err);
/* Is the file a bank, by its first bytes? Unreadable files are not. */
bool is_bank_file(const char *path);

#endif
