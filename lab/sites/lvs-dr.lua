-- SPDX-License-Identifier: GPL-2.0-only
-- lvs-dr: a client, an LVS director in direct-routing mode, and three real servers of unequal weight on one switch.
--
-- The director owns the virtual addresses and schedules (wrr); it forwards a frame by changing its MAC address alone.
--
-- Options:
--   health_checker  "keepalived": a server that does not answer gets weight 0, and its weight again when it does
--                   "none": keepalived builds the same table without checks, and nobody withdraws anything

local lvs = part "lvs"
local options = option { health_checker = "keepalived" }

if options.health_checker ~= "keepalived" and options.health_checker ~= "none" then
	error('health_checker = "' .. options.health_checker .. '" is neither "keepalived" nor "none"', 0)
end

local port = 8080
local vips = { "198.18.0.100", "2001:db8::100" }
local servers = {
	{ name = "rs1", addrs = { "198.18.0.21", "2001:db8::21" }, weight = 3 },
	{ name = "rs2", addrs = { "198.18.0.22", "2001:db8::22" }, weight = 5 },
	{ name = "rs3", addrs = { "198.18.0.23", "2001:db8::23" }, weight = 5 },
}

local keepalived_conf = string.format([[
global_defs {
	router_id %%{site}
	checker_priority %d
	checker_log_all_failures true
}

]], lvs.priority) .. lvs.virtual_servers {
	vips = vips, port = port, scheduler = "wrr", servers = servers, check = options.health_checker == "keepalived",
}

local nodes = {
	{
		name = "client",
		-- IPVS remembers a closed connection for 120 s, and a port that comes round earlier goes to the same server again
		-- without being scheduled or counted: 64,000 ports last for 500 connections a second
		sysctl = { ["net.ipv4.ip_local_port_range"] = "1024 65535" },
		links = { { dev = "eth0", switch = "lan", addrs = { "198.18.0.10/24", "2001:db8::10/64" } } },
	},
	{
		name = "director",
		links = {
			{
				dev = "eth0",
				switch = "lan",
				addrs = { "198.18.0.2/24", "2001:db8::2/64", lvs.alone(vips[1]), lvs.alone(vips[2]) },
			},
		},
		sysctl = {
			-- a connection to a server that has gone from the table is ended, instead of being dropped in silence
			["net.ipv4.vs.expire_nodest_conn"] = "1",
			["net.ipv4.tcp_retries2"] = lvs.check_retries,
		},
		daemons = {
			{
				name = "keepalived",
				package = "keepalived",
				order = 1, -- when the servers answer: it would begin with withdrawing them
				argv = {
					"keepalived", "--dont-fork", "--check", "--log-console", "--log-detail", "--no-syslog",
					"--use-file=%{dir}/keepalived.conf", "--pid=%{dir}/keepalived.pid",
					"--checkers_pid=%{dir}/checkers.pid",
				},
				files = { ["keepalived.conf"] = keepalived_conf },
				ready = { ipvs = { destinations = #servers * #vips } },
			},
		},
	},
}

for _, server in ipairs(servers) do
	nodes[#nodes + 1] = lvs.real_server { name = server.name, addrs = server.addrs, vips = vips, port = port }
end

return {
	name = "lvs-dr",
	summary = "client, LVS director (direct routing, wrr, keepalived) and three nginx of weights 3, 5, 5",
	switches = { "lan" },
	nodes = nodes,
	services = {
		{
			name = "web",
			protocol = "tcp",
			port = port,
			vips = vips,
			scheduler = "wrr",
			forward = "dr",
			director = "director",
			servers = lvs.service_servers(servers),
		},
	},
}
