#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The include diagram: who may include whom. First it shows that it can fail, on a tree with breaches in it; then it
# looks at this one.
#
#	engine/cmd_*.c cli_*.c main.c  ->  any room
#	lua, lab, load                 ->  engine
#	baseline, inject, lvs, bpf     ->  engine
#	engine                         ->  engine
#	tests                          ->  any room
#
# A room includes its own headers and engine's; inject and bpf also the skeletons of gen/. lua.h and its kin: lua/ alone.
set -euo pipefail

rooms=(engine baseline inject lvs bpf load lab lua)

may_include() # ROOM FILE OTHER
{
	[ "$1" = "$3" ] || [ "$3" = engine ] && return 0
	case $1/$2/$3 in
	engine/cmd_*/* | engine/cli_*/* | engine/main.c/*) return 0 ;;
	inject/*/gen | bpf/*/gen) return 0 ;;
	esac
	return 1
}

check() # TREE
{
	local tree=$1 room file line other breaches=0 seen=0
	for room in "${rooms[@]}"; do
		for file in "$tree/$room"/*.[ch]; do
			[ -e "$file" ] || continue
			seen=$((seen + 1))
			while IFS= read -r line; do
				case $line in
				*'"'*/*) # "room/header.h"
					other=${line#*\"}
					other=${other%%/*}
					may_include "$room" "${file##*/}" "$other" && continue
					;;
				*'<lua'*.h* | *'<lauxlib.h'* | *'"lua.h'* | *'"lauxlib.h'* | *'"lualib.h'*)
					[ "$room" != lua ] || continue
					;;
				*) continue ;;
				esac
				echo "${file#"$tree"/}: $line"
				breaches=$((breaches + 1))
			done < <(grep -E '^[[:space:]]*#[[:space:]]*include' "$file" || true)
		done
	done
	[ $seen -gt 0 ] || { echo "no sources in $tree"; return 1; }
	[ $breaches -eq 0 ]
}

prove() # that a breach is found
{
	local tree n
	tree=$(mktemp -d)
	# shellcheck disable=SC2064 # now, not then
	trap "rm -r '$tree'" EXIT
	mkdir "$tree"/{engine,inject,lua,lab}
	printf '#include "engine/a.h"\n#include "lab/a.h"\n' >"$tree/engine/cmd_x.c"
	printf '#include <lua5.4/lua.h>\n#include "lua/a.h"\n' >"$tree/lua/b.c"
	printf '#include "gen/a.skel.h"\n#include <stdio.h>\n' >"$tree/inject/a.c"
	check "$tree" || { echo "legal includes were refused"; return 1; }
	printf '#include "lab/a.h"\n' >"$tree/engine/run.c"
	printf '#include "engine/a.h"\n# include "lvs/ipvs.h"\n' >"$tree/inject/b.c"
	printf '#include <lua.h>\n' >"$tree/inject/c.h"
	printf '#include "gen/a.skel.h"\n' >"$tree/lab/d.c"
	n=$(check "$tree" | wc -l) || true
	[ "$n" -eq 4 ] || { echo "of 4 breaches $n were found"; return 1; }
}

prove
check "$(cd "$(dirname "$0")/.." && pwd)"
