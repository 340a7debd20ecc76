#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Inside the microVM: the test programs that a file lists. Results go to OUT as tests/run.sh leaves them.
#
#	tests/in_vm.sh OUT LIST
out=$1 list=$2
here=$(dirname "$0")
uname -sr
while read -r program; do
	"$here/run.sh" "$out" 900 "$program"
done <"$list"
