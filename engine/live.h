/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * live.h: the drill as it happens, on stderr: a terminal gets a view that redraws (phase, faults with their age, gauges,
 * sparkline), a pipe a line an event. Fed with the events of events.h, from this host's engine or from the microVM's.
 */
#pragma once

#include "engine/base.h"

enum live_mode { LIVE_AUTO, LIVE_TTY, LIVE_LINES, LIVE_JSON, LIVE_QUIET };
enum live_color { COLOR_AUTO, COLOR_ALWAYS, COLOR_NEVER };

struct live;

int live_new(int fd, enum live_mode mode, enum live_color color, struct live **ret);
/* One event, an object with "t" and "kind" */
void live_event(struct live *l, const json_t *event);
/* Call a few times a second: countdowns and the spinner move, a resized terminal is noticed. */
void live_tick(struct live *l);
/* A note of the command itself ("starting the microVM ..."), shown in place. */
void live_note(struct live *l, const char *text);
/* Leaves the terminal as it was. */
void live_free(struct live *l);
