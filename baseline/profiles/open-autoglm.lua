-- SPDX-License-Identifier: GPL-2.0-only
-- open-autoglm: what an inference service behind LVS is tuned to.
--
-- `on` says where: the real servers, the directors, or the host, which is the machine itself: what the kernel has once for
-- all its namespaces. `optional` entries hold where the host has what they need; where not, the plan, the report and
-- `muster baseline` say what was left out, and why. The load balancer itself (direct routing, wrr, weights by compute) is
-- declared by the site and owned by its health checker: a profile that wrote weights would fight it. The keep-alive of
-- 60 s is the web server's own configuration.

return {
	summary = "Sockets, descriptors, interrupts, processors and memory of an inference service, and the hosts it does not serve",

	{
		on = "servers",
		"set.sysctl",
		{
			values = {
				-- the accept queue is the smaller of listen()'s backlog and this, as of when the server began to listen
				["net.core.somaxconn"] = 65535,
				-- 0: a connection that finds the accept queue full is dropped and may try again; 1: it is reset
				["net.ipv4.tcp_abort_on_overflow"] = 0,
				["net.ipv4.tcp_tw_reuse"] = 1,
				["net.ipv4.tcp_fin_timeout"] = 30,
				-- least, default, most: 64 KiB to 1 MiB, which the kernel grows by the bandwidth-delay product
				["net.ipv4.tcp_rmem"] = "4096 65536 1048576",
				["net.ipv4.tcp_wmem"] = "4096 65536 1048576",
			},
		},
	},
	-- how far a program may go that asks for a buffer of its own (SO_RCVBUF); of the whole machine
	{ on = "host", optional = true, "set.sysctl", { values = { ["net.core.rmem_max"] = 1048576, ["net.core.wmem_max"] = 1048576 } } },

	-- memory: always, and 1024 static pages of 2 MiB where they leave enough for everybody else
	{ on = "host", optional = true, "set.thp", { enabled = "always" } },
	{ on = "host", optional = true, "set.hugepages", { pages = 1024 } },

	-- one queue, one processor; where a device has one queue, its packets are spread in software
	{ on = "host", optional = true, "set.irq", {} },
	{ on = "servers", optional = true, "set.rps", { device = "eth0" } },

	-- the serving processes: nginx is the gateway in front of the model. Processor 0 is on NUMA node 0 everywhere, and its
	-- memory is where queue 0 of the network card is served
	{ on = "servers", optional = true, "set.limits", { process = "nginx", limits = { nofile = 65536 } } },
	{ on = "servers", optional = true, "set.numa", { process = "nginx", numa_node = 0 } },
	{ on = "servers", optional = true, "set.affinity", { process = "nginx", cpus = "0" } },

	-- one rule that asks a set, in place of a rule for each address
	{ on = "directors", "set.ipset", { name = "blocked_hosts", type = "hash:ip" } },
	{ on = "directors", optional = true, "set.block", { name = "blocked_hosts" } },
}
