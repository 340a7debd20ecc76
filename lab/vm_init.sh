#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-only
#
# The microVM's first process, twice. As /init of the initramfs it finds the host's root (9p, read-only), lays a tmpfs over
# it and moves there; as "init root" it mounts what a running system has, asks the host for the job, runs it, and says how
# it ended. There is no udev, no systemd and no dynamic linking on this path: each process that is spawned here counts
# when the processor is emulated.
#
# Ports (virtio-serial): 1 control, 2 the job's stdout, 3 its stderr, 4 its descriptor 3.
#	host -> guest	"LENGTH\n", then that many bytes of shell that define MARK, MODULES, OUT and job(); later "TERM\n", "INT\n"
#	guest -> host	"up\n"  "started\n"  "exit STATUS\n"; and MARK at the end of ports 2, 3 and 4: nothing follows it
# The console (ttyS0) is for the kernel and for fail().

B=/bin/busybox
V=/run/muster-vm
PORT=/dev/vport0p

fail()
{
	echo "muster-vm: $*" >/dev/ttyS0
	$B poweroff -f
	$B sleep 60
}

initramfs()
{
	$B mkdir -p /proc /sys /dev /lower /rw /new
	$B mount -t proc proc /proc
	$B mount -t sysfs sys /sys
	$B mount -t devtmpfs dev /dev 2>/dev/null
	read -r cmdline </proc/cmdline
	case " $cmdline " in
	*" muster.probe "*) # is this accelerator able to reach user space at all?
		echo "muster-vm: alive" >/dev/ttyS0
		$B poweroff -f
		;;
	esac
	for m in /modules/*.ko; do
		$B insmod "$m" || fail "module ${m##*/} was not loaded"
	done
	# 512000 is the most that virtio takes in one message
	$B mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /lower ||
		fail "the host's root did not come over 9p"
	$B mount -t tmpfs -o mode=755 tmpfs /rw
	$B mkdir /rw/upper /rw/work
	$B mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /new ||
		fail "no overlay over the host's root"
	$B mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /new/run
	$B mkdir -p /new$V
	$B cp $B /init /new$V/
	for d in proc sys dev; do
		$B mount --move /$d /new/$d
	done
	exec $B switch_root /new $V/busybox sh $V/init root
}

# What a system has under these paths; the host's own are hidden, because they are the state of other processes.
mounts()
{
	$B mkdir -p /dev/pts /dev/shm /run/lock /run/netns /var/lib/muster
	$B mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
	$B mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm
	$B mount -t tmpfs -o mode=755 tmpfs /var/lib/muster
	$B mount -t cgroup2 cgroup2 /sys/fs/cgroup
	$B mount -t bpf bpf /sys/fs/bpf
	$B mount -t tracefs tracefs /sys/kernel/tracing
	$B mount -t debugfs debugfs /sys/kernel/debug
	$B hostname muster-vm
	$B ip link set lo up
	ulimit -Hn 1048576
}

# The network card has its interrupts when it is up, and nothing else: no address, no traffic, nothing that a drill's pictures of
# the host could find half done.
card()
{
	modprobe -q vmxnet3 && [ -d /sys/class/net/eth0 ] || return 0
	echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6
	$B ip link set eth0 up
}

# Reads the job from the control port. The port reads as ended until the host's side is connected.
receive()
{
	n=
	tries=0
	exec 5<>${PORT}1
	echo up >&5
	until read -r n <&5 && [ -n "$n" ]; do
		tries=$((tries + 1))
		[ $tries -lt 3000 ] || fail "the host sent no job"
		$B usleep 10000
	done
	$B head -c "$n" <&5 >$V/job
	# shellcheck source=/dev/null
	. $V/job
}

share()
{
	release=$($B uname -r)
	$B mkdir -p "/lib/modules/$release"
	$B mount -o bind "$MODULES" "/lib/modules/$release" || fail "no modules at $MODULES"
	[ -n "$OUT" ] || return
	$B mkdir -p "$OUT"
	# cache=mmap: nothing is kept back, so what was written is on the host when the job has ended
	$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=mmap out "$OUT" ||
		fail "the output folder $OUT was not shared"
}

root()
{
	B=$V/busybox
	PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	export PATH
	mounts
	receive
	share
	card
	# The kernel would load these one by one when they are first used; like this it happens beside the job's own start.
	modprobe -aq veth bridge ip_vs ip_vs_wrr sch_netem sch_ingress cls_bpf ip_set ip_set_hash_ip </dev/null >/dev/null 2>&1 &
	while read -r word <&5; do
		read -r pid <$V/pid && kill -s "$word" "$pid"
	done &
	# In the foreground: a shell without a terminal starts background jobs with SIGINT ignored for good.
	(
		read -r pid rest </proc/self/stat
		echo "$pid" >$V/pid
		echo started >&5
		job </dev/null >${PORT}2 2>${PORT}3 3>${PORT}4 5>&-
	)
	status=$?
	# What the job left running must not write behind the marks. A port has one user at a time (EBUSY), and who was killed takes a
	# moment to let go of it: when it can be opened, nobody is left who could write.
	kill -KILL -1
	$B sync
	tries=0
	for p in 2 3 4; do
		until printf %s "$MARK" >$PORT$p; do
			tries=$((tries + 1))
			[ $tries -lt 3000 ] || fail "who was killed keeps port $p in use"
			$B usleep 10000
		done
	done 2>/dev/null
	echo "exit $status" >&5
	# The host ends the machine when it has read everything
	$B sleep 60
	$B poweroff -f
}

case "$1" in
root) root ;;
*) initramfs ;;
esac
