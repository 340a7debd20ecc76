/* SPDX-License-Identifier: GPL-2.0-only */
/* cli.h: finds the subcommand, parses its options, prints usage: all from the tables of cmd.h. */
#pragma once

#include "engine/cmd.h"

int cli_main(int argc, char **argv);
