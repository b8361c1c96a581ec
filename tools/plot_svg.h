/* Line plots as a self-contained SVG that is readable on light and dark ground. */
#ifndef SS_TOOL_PLOT_SVG_H
#define SS_TOOL_PLOT_SVG_H

#include "support.h"

typedef struct plot_point {
  double x, y, low, high; /* low to high: the interval of y */
  double order;           /* points are joined by it */
  char *label;            /* shown when pointed at; owned */
} plot_point;

typedef struct plot_series {
  char *name; /* owned; the same name has the same looks in every panel */
  plot_point *points;
  uint32_t n;
} plot_series;

typedef struct plot_panel {
  const char *title, *x_title, *y_title;
  bool percent_x, percent_y; /* values are shares */
  double max_y; /* 0: as high as the points */
  plot_series *series;
  uint32_t n;
} plot_panel;

/* The series of that name, made when it is not there. */
plot_series *plot_series_of(plot_panel *panel, ss_text name);
void plot_add(plot_series *series, plot_point point); /* takes the label */
void plot_panel_free(plot_panel *panel);

/* The panels beside each other, and one legend. Series stand a little apart, so that intervals at one x do not hide each other. */
void plot_write(buffer *out, const char *title, plot_panel *panels, uint32_t n);

#endif
