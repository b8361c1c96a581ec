#include "plot_svg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define PANEL_WIDTH 492
#define PLOT_LEFT 80
#define PLOT_TOP 64
#define PLOT_WIDTH 396
#define PLOT_HEIGHT 300
#define LEGEND_TOP (PLOT_TOP + PLOT_HEIGHT + 62)
#define LEGEND_LEFT 16
#define LEGEND_LINE 20
#define APART 3.0 /* pixels between series at one x, where x is a share */
#define MARGIN 20 /* of the plot that marks may reach into */
#define N_LOOKS 8

/* Colours that most colour-blind people tell apart, for light and for dark ground; marks differ as well. */
static const char *const light[N_LOOKS] = {"#0060a8", "#c44400", "#00735c", "#a8307c",
                                           "#7a5c00", "#2f8fc9", "#5b3fa0", "#555555"};
static const char *const dark[N_LOOKS] = {"#6cb6f5", "#ff9a66", "#4fd0ae", "#f08cc8",
                                          "#e3c04d", "#9adcff", "#b9a4f5", "#bbbbbb"};

/* ---- what is plotted ---- */

plot_series *plot_series_of(plot_panel *p, ss_text name) {
  for (uint32_t i = 0; i < p->n; i++)
    if (strlen(p->series[i].name) == name.len && !memcmp(p->series[i].name, name.data, name.len)) return &p->series[i];
  buffer copy = {0};
  buffer_add(&copy, name.data, name.len);
  p->series = grow_memory(p->series, p->n + 1, sizeof *p->series);
  p->series[p->n] = (plot_series){.name = copy.data};
  return &p->series[p->n++];
}

void plot_add(plot_series *s, plot_point point) {
  s->points = grow_memory(s->points, s->n + 1, sizeof *s->points);
  uint32_t at = s->n++;
  for (; at > 0 && s->points[at - 1].order > point.order; at--) s->points[at] = s->points[at - 1];
  s->points[at] = point;
}

void plot_panel_free(plot_panel *p) {
  for (uint32_t i = 0; i < p->n; i++) {
    for (uint32_t k = 0; k < p->series[i].n; k++) free(p->series[i].points[k].label);
    free(p->series[i].points);
    free(p->series[i].name);
  }
  free(p->series);
  *p = (plot_panel){0};
}

/* ---- axes ---- */

typedef struct axis {
  double from, to, step;
  int decimals;
  bool percent;
} axis;

/* Whole steps of 1, 2 or 5 times a power of ten around what is shown, about five of them. */
static axis make_axis(double from, double to, bool percent) {
  const double scale = percent ? 100 : 1;
  from *= scale;
  to *= scale;
  if (!(to > from)) to = from + 1;
  const double rough = (to - from) / 5, power = pow(10, floor(log10(rough)));
  const double step = power * (rough / power > 5 ? 10 : rough / power > 2 ? 5 : rough / power > 1 ? 2 : 1);
  const int decimals = (int)-floor(log10(step) + 1e-9);
  return (axis){floor(from / step + 1e-9) * step, ceil(to / step - 1e-9) * step, step, decimals > 0 ? decimals : 0,
                percent};
}

static double place(const axis *a, double value) {
  return (value * (a->percent ? 100 : 1) - a->from) / (a->to - a->from);
}

static void make_axes(const plot_panel *p, axis *x, axis *y) {
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  for (uint32_t i = 0; i < p->n; i++)
    for (uint32_t k = 0; k < p->series[i].n; k++) {
      const plot_point *at = &p->series[i].points[k];
      x0 = fmin(x0, at->x), x1 = fmax(x1, at->x);
      y0 = fmin(y0, at->low), y1 = fmax(y1, at->high);
    }
  if (p->max_y > 0) y1 = fmin(y1, p->max_y);
  *x = make_axis(x0, x1, p->percent_x);
  *y = make_axis(y0, y1, p->percent_y);
}

/* ---- drawing ---- */

static void put_escaped(buffer *b, const char *text) {
  for (; *text; text++)
    if (*text == '<') buffer_addf(b, "&lt;");
    else if (*text == '&') buffer_addf(b, "&amp;");
    else if (*text == '>') buffer_addf(b, "&gt;");
    else if ((unsigned char)*text >= 0x20) buffer_add(b, text, 1);
}

static void put_text(buffer *b, double x, double y, const char *attributes, const char *text) {
  buffer_addf(b, "<text x=\"%.1f\" y=\"%.1f\"%s>", x, y, attributes);
  put_escaped(b, text);
  buffer_addf(b, "</text>\n");
}

/* A circle, square, diamond or triangle; looks from the fifth on are hollow. */
static void put_mark(buffer *b, uint32_t look, double x, double y) {
  static const char *const paths[] = {"M-4.5,0a4.5,4.5 0 1 0 9,0a4.5,4.5 0 1 0 -9,0z", "M-4,-4h8v8h-8z",
                                      "M0,-5.5L5.5,0L0,5.5L-5.5,0z", "M0,-5L5,4H-5z"};
  buffer_addf(b, "<path class=\"s%u%s\" transform=\"translate(%.1f %.1f)\" d=\"%s\"/>", look % N_LOOKS,
              look % N_LOOKS >= 4 ? " hollow" : " mark", x, y, paths[look % 4]);
}

static void put_grid(buffer *b, const plot_panel *p, const axis *x, const axis *y) {
  char text[64];
  for (double v = y->from; v <= y->to + y->step / 2; v += y->step) {
    const double at = PLOT_TOP + PLOT_HEIGHT * (1 - (v - y->from) / (y->to - y->from));
    buffer_addf(b, "<path class=\"%s\" d=\"M%d,%.1fh%d\"/>\n", fabs(v) < y->step / 1e6 ? "axis" : "grid", PLOT_LEFT, at,
                PLOT_WIDTH);
    snprintf(text, sizeof text, "%.*f%s", y->decimals, fabs(v) < y->step / 1e6 ? 0 : v, p->percent_y ? " %" : "");
    put_text(b, PLOT_LEFT - 8, at + 4, " text-anchor=\"end\"", text);
  }
  for (double v = x->from; v <= x->to + x->step / 2; v += x->step) {
    const double at = PLOT_LEFT + PLOT_WIDTH * (v - x->from) / (x->to - x->from);
    buffer_addf(b, "<path class=\"axis\" d=\"M%.1f,%dv5\"/>\n", at, PLOT_TOP + PLOT_HEIGHT);
    snprintf(text, sizeof text, "%.*f%s", x->decimals, fabs(v) < x->step / 1e6 ? 0 : v, p->percent_x ? " %" : "");
    put_text(b, at, PLOT_TOP + PLOT_HEIGHT + 19, " text-anchor=\"middle\"", text);
  }
  buffer_addf(b, "<path class=\"axis\" d=\"M%d,%dh%d\"/>\n", PLOT_LEFT, PLOT_TOP + PLOT_HEIGHT, PLOT_WIDTH);
}

/* shift: pixels to the right */
static void put_series(buffer *b, const plot_series *s, uint32_t look, const axis *x, const axis *y, double shift) {
  buffer_addf(b, "<g><path class=\"line s%u\" d=\"", look % N_LOOKS);
  for (uint32_t i = 0; i < s->n; i++)
    buffer_addf(b, "%c%.1f,%.1f", i ? 'L' : 'M', shift + PLOT_LEFT + PLOT_WIDTH * place(x, s->points[i].x),
                PLOT_TOP + PLOT_HEIGHT * (1 - place(y, s->points[i].y)));
  buffer_addf(b, "\"/>\n");
  for (uint32_t i = 0; i < s->n; i++) {
    const plot_point *p = &s->points[i];
    const double at = shift + PLOT_LEFT + PLOT_WIDTH * place(x, p->x);
    buffer_addf(b, "<g><title>");
    put_escaped(b, p->label ? p->label : s->name);
    buffer_addf(b, "</title><path class=\"bar s%u\" d=\"M%.1f,%.1fV%.1f\"/>", look % N_LOOKS, at,
                PLOT_TOP + PLOT_HEIGHT * (1 - place(y, p->low)), PLOT_TOP + PLOT_HEIGHT * (1 - place(y, p->high)));
    put_mark(b, look, at, PLOT_TOP + PLOT_HEIGHT * (1 - place(y, p->y)));
    buffer_addf(b, "</g>\n");
  }
  buffer_addf(b, "</g>\n");
}

/* ---- the file ---- */

static void put_style(buffer *b) {
  buffer_addf(
      b,
      "<style>\n"
      "svg{background:#fff;color:#1c1c1c;font:13px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',Arial,sans-serif}\n"
      "text{fill:currentColor}.title{font-size:16px;font-weight:600}.panel{font-weight:600}\n"
      ".grid{stroke:#dcdcdc}.axis{stroke:#8a8a8a}.line{fill:none;stroke-width:1.8}.bar{stroke-width:1.3;opacity:.6}\n"
      ".hollow{fill:#fff;stroke-width:1.8}.mark{stroke-width:.8}\n");
  for (int i = 0; i < N_LOOKS; i++) buffer_addf(b, ".s%d{stroke:%s}.mark.s%d{fill:%s}\n", i, light[i], i, light[i]);
  buffer_addf(b,
              "@media (prefers-color-scheme:dark){svg{background:#16181c;color:#e6e6e6}.grid{stroke:#33373d}"
              ".axis{stroke:#80868f}.hollow{fill:#16181c}\n");
  for (int i = 0; i < N_LOOKS; i++) buffer_addf(b, ".s%d{stroke:%s}.mark.s%d{fill:%s}\n", i, dark[i], i, dark[i]);
  buffer_addf(b, "}\n</style>\n");
}

/* Names in the order in which the panels have them: a name's place is its look. */
static uint32_t look_of(const char *name, const char **names, uint32_t *n) {
  uint32_t i = 0;
  while (i < *n && strcmp(names[i], name) != 0) i++;
  if (i == *n) names[(*n)++] = name;
  return i;
}

void plot_write(buffer *b, const char *title, plot_panel *panels, uint32_t n) {
  uint32_t n_series = 0, n_names = 0;
  for (uint32_t i = 0; i < n; i++) n_series += panels[i].n;
  const char **names = take_memory(n_series, sizeof *names);
  for (uint32_t i = 0; i < n; i++)
    for (uint32_t k = 0; k < panels[i].n; k++) look_of(panels[i].series[k].name, names, &n_names);
  const int columns = (int)n * 2, width = (int)n * PANEL_WIDTH + 16;
  const int height = LEGEND_TOP + (int)ss_ceil_div(n_names, (size_t)columns) * LEGEND_LINE + 6;
  buffer_addf(
      b,
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\">\n"
      "<title>",
      width, height, width, height);
  put_escaped(b, title);
  buffer_addf(b, "</title>\n");
  put_style(b);
  buffer_addf(b, "<clipPath id=\"plot\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/></clipPath>\n",
              PLOT_LEFT - MARGIN, PLOT_TOP - 7, PLOT_WIDTH + 2 * MARGIN, PLOT_HEIGHT + 14);
  put_text(b, 16, 25, " class=\"title\"", title);
  for (uint32_t i = 0; i < n; i++) {
    const plot_panel *p = &panels[i];
    axis x, y;
    make_axes(p, &x, &y);
    buffer_addf(b, "<g transform=\"translate(%d 0)\">\n", (int)i * PANEL_WIDTH);
    put_text(b, PLOT_LEFT, PLOT_TOP - 14, " class=\"panel\"", p->title);
    put_grid(b, p, &x, &y);
    put_text(b, PLOT_LEFT + PLOT_WIDTH / 2.0, PLOT_TOP + PLOT_HEIGHT + 39, " text-anchor=\"middle\"", p->x_title);
    buffer_addf(b, "<g transform=\"translate(20 %d) rotate(-90)\">", PLOT_TOP + PLOT_HEIGHT / 2);
    put_text(b, 0, 0, " text-anchor=\"middle\"", p->y_title);
    buffer_addf(b, "</g>\n<g clip-path=\"url(#plot)\">\n");
    const double apart = p->percent_x ? fmin(APART, 2.0 * (MARGIN - 6) / p->n) : 0;
    for (uint32_t k = 0; k < p->n; k++) {
      const plot_series *series = &p->series[k];
      put_series(b, series, look_of(series->name, names, &n_names), &x, &y,
                 series->n > 1 ? apart * (k - (p->n - 1) / 2.0) : 0);
    }
    buffer_addf(b, "</g>\n</g>\n");
  }
  for (uint32_t i = 0; i < n_names; i++) {
    const double x = LEGEND_LEFT + (i % (uint32_t)columns) * (PANEL_WIDTH / 2.0);
    const double y = LEGEND_TOP + (i / (uint32_t)columns) * LEGEND_LINE;
    buffer_addf(b, "<path class=\"line s%u\" d=\"M%.1f,%.1fh24\"/>", i % N_LOOKS, x, y);
    put_mark(b, i, x + 12, y);
    put_text(b, x + 31, y + 4, "", names[i]);
  }
  buffer_addf(b, "</svg>\n");
  free(names);
}
