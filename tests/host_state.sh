#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# What tests or drills could leave behind on this host: taken before, compared after.
#
#	tests/host_state.sh MUSTER take FILE
#	tests/host_state.sh MUSTER compare FILE
#
# The state of the kernel is `muster snapshot`'s to tell (FILE.snapshot). Beside it stand here the processes, journals
# and files that it does not look for (FILE). Prints what differs; exit status 0 when nothing does.
set -u
muster=$1 verb=$2 file=$3
export PATH="$PATH:/usr/sbin:/sbin"

leftovers()
{
	for p in /proc/[0-9]*; do
		{ read -r comm <"$p/comm"; } 2>/dev/null || continue
		case $comm in
		qemu-system* | nginx | keepalived | muster* | lab_test* | unit_test* | conformance_* | redis-server | postgres | irqbalance)
			echo "process ${p#/proc/} $comm"
			;;
		esac
	done
	find /run/muster /var/lib/muster -name '*.journal' 2>/dev/null | sed 's/^/journal /'
	find /tmp /var/tmp -maxdepth 1 \( -name 'muster*' -o -name 'test_*' -o -name 'lab-*' \) 2>/dev/null | sed 's/^/left /'
	find /run/netns /var/run/netns 2>/dev/null | sed 's/^/left /'
	sed 's/^/mount /' /proc/self/mounts
}

case $verb in
take)
	leftovers | LC_ALL=C sort >"$file"
	[ "$(id -u)" != 0 ] || "$muster" snapshot >"$file.snapshot"
	;;
compare)
	r=0
	leftovers | LC_ALL=C sort | diff "$file" - || r=1
	if [ "$(id -u)" = 0 ]; then
		"$muster" snapshot --diff "$file.snapshot" || r=1
	fi
	exit $r
	;;
*)
	echo "usage: tests/host_state.sh MUSTER take|compare FILE" >&2
	exit 2
	;;
esac
