/* skipstone report: the HTML report of a training run, of one that goes on too. */
#include "commands.h"
#include "options.h"
#include "report.h"

int cmd_report(int argc, char **argv) {
  const char *folder = NULL, *out = NULL;
  const option options[] = {
      {.name = "out", .letter = 'o', .text = &out, .argument = "FILE", .help = "the HTML file (default: DIR.html)"},
  };
  const command c = {
      .name = "report",
      .usage = "DIR [options]",
      .about =
          "Writes the report of a training run from its state folder, also while it goes on. One HTML file, which\n"
          "asks nothing of the network.",
      .examples = "  skipstone report bank.gguf.state -o bank.html",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = &folder,
      .max_operands = 1,
  };
  const parse_result parsed = options_parse(&c, argc, argv);
  if (parsed != PARSE_OK) return parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (!folder) {
    say("report: want the state folder of a training run, as bank.gguf.state");
    return CODE_USAGE;
  }
  buffer path = {0};
  ss_error err = {0};
  buffer_addf(&path, out ? "%s" : "%s.html", out ? out : folder);
  const ss_status status = report_write(folder, path.data, &err);
  if (status == SS_OK) printf("%s\n", path.data);
  buffer_free(&path);
  return status == SS_OK ? CODE_OK : report_failure(&err);
}
