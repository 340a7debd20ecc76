#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Runs test programs one after the other and keeps what each says: OUT/NAME.log, OUT/NAME.rc (exit status, 124 for a
# timeout), OUT/NAME.s (seconds). tests/count.awk makes numbers of them. For this host and for inside the microVM.
#
#	tests/run.sh OUT SECONDS "PROGRAM [ARGUMENT]"...
out=$1 limit=$2
shift 2
mkdir -p "$out"
export CMOCKA_MESSAGE_OUTPUT=TAP
for item; do
	program=${item%% *} arg=
	[ "$item" = "$program" ] || arg=${item#* }
	name=${program##*/}${arg:+-$arg}
	begin=$(date +%s)
	echo "# $item" >"$out/$name.log" # never empty: awk would pass over it
	timeout -k 10 "$limit" "$program" ${arg:+"$arg"} >>"$out/$name.log" 2>&1 </dev/null
	echo $? >"$out/$name.rc"
	echo $(($(date +%s) - begin)) >"$out/$name.s"
	echo "$name: $(cat "$out/$name.s") s"
done
