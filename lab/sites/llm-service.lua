-- SPDX-License-Identifier: GPL-2.0-only
-- llm-service: clients, a pair of LVS directors, three inference nodes behind them, and the Redis cache with its sentinels.
--
--	client ── lvs1 | lvs2 ── rs1 rs2 rs3        HTTP on 8080: wrr, direct routing, weights 3 5 5
--	   └───── db1 → db2     s1 s2 s3            Redis on 6379: primary, replica; sentinels on 26379
--
-- The directors share the virtual addresses by VRRP; who has them schedules, and tells the other one of its connections (the IPVS
-- sync daemon), so that these survive a failover.
--
-- Options:
--   health_checker  true; false: keepalived builds the same tables without checks, and nobody withdraws a server
--   on_failure      "weight": a server that fails its checks gets weight 0; "delete": it is taken out of the table
--   weights         "declared"; "reversed": the directors give 5, 5, 3 where 3, 5, 5 is declared
--   sync_daemon     true; false: the standby director knows no connection but its own
--   expire_nodest   true: a connection to a server that has gone from the table is ended; false: dropped in silence
--   garp_refresh    1, in seconds: how often the active director says again which machine its addresses are at. 0: never. A director
--                   that was unheard for a while and never knew takes its addresses back without a word, and whoever had learnt
--                   the other one's machine goes on sending there until it forgets, half a minute
--   sentinels       3; 1 of them alone can elect nobody when quorum is 2
--   min_replicas    0; 1: the primary refuses writes while no replica follows it, and none is lost when it is cut off
--   backlog         65535, of nginx's listening sockets; the kernel cuts it to net.core.somaxconn

local lvs, redis = part "lvs", part "redis"
local options = option {
	health_checker = true, on_failure = "weight", weights = "declared", sync_daemon = true, expire_nodest = true, garp_refresh = 1, sentinels = 3, min_replicas = 0,
	backlog = 65535,
}

if options.sentinels < 1 or options.sentinels > 3 or options.sentinels % 1 ~= 0 then
	error("sentinels = " .. options.sentinels .. " is none of 1, 2 and 3", 0)
end

if options.on_failure ~= "weight" and options.on_failure ~= "delete" then
	error(('on_failure = "%s" is neither "weight" nor "delete"'):format(options.on_failure), 0)
end
if options.weights ~= "declared" and options.weights ~= "reversed" then
	error(('weights = "%s" is neither "declared" nor "reversed"'):format(options.weights), 0)
end

local port, db_port, sentinel_port = 8080, 6379, 26379
local vips = { "198.18.0.100", "2001:db8::100" }
local servers = {
	{ name = "rs1", addrs = { "198.18.0.21", "2001:db8::21" }, weight = 3 },
	{ name = "rs2", addrs = { "198.18.0.22", "2001:db8::22" }, weight = 5 },
	{ name = "rs3", addrs = { "198.18.0.23", "2001:db8::23" }, weight = 5 },
}
local primary = "198.18.0.31"

-- What the directors are told, which should be what is declared
local told = {}

for i, server in ipairs(servers) do
	local from = options.weights == "reversed" and servers[#servers + 1 - i] or server

	told[i] = { addrs = server.addrs, weight = from.weight }
end

local function on_lan(number)
	return { lvs.on_lan("198.18.0." .. number), lvs.on_lan("2001:db8::" .. number) }
end

-- The IPv6 address moves with the IPv4 one: VRRP itself runs over IPv4. Three adverts of half a second missed make the standby
-- take over, 1.5 s and its skew after the last one.
local keepalived_conf = [[
global_defs {
	router_id %%{node}
	vrrp_version 3
	vrrp_priority %d
	checker_priority %d
	checker_log_all_failures true
	vrrp_garp_master_delay 1
	vrrp_garp_master_refresh %d
%s}

vrrp_instance web {
	state BACKUP
	interface eth0
	virtual_router_id 51
	priority %d
	advert_int 0.5
	virtual_ipaddress {
		%s/32 dev eth0
	}
	virtual_ipaddress_excluded {
		%s/128 dev eth0
	}
}

]]

local function director(name, number, priority, order)
	local sync = options.sync_daemon and "\tlvs_sync_daemon eth0 web id 51\n" or ""

	return {
		name = name,
		links = { { dev = "eth0", switch = "lan", addrs = on_lan(number) } },
		sysctl = {
			["net.ipv4.vs.expire_nodest_conn"] = options.expire_nodest and "1" or "0",
			-- a connection is told of at its second packet, and again at every change of its state
			["net.ipv4.vs.sync_threshold"] = "2 0",
			["net.ipv4.vs.sync_refresh_period"] = "1",
			["net.ipv4.vs.sync_retries"] = "2",
			["net.ipv4.tcp_retries2"] = lvs.check_retries,
		},
		daemons = {
			{
				name = "keepalived",
				package = "keepalived",
				order = order,
				within = "30s",
				argv = {
					"keepalived", "--dont-fork", "--log-console", "--log-detail", "--no-syslog",
					"--use-file=%{dir}/keepalived.conf", "--pid=%{dir}/keepalived.pid", "--vrrp_pid=%{dir}/vrrp.pid",
					"--checkers_pid=%{dir}/checkers.pid",
				},
				files = {
					["keepalived.conf"] = keepalived_conf:format(lvs.priority, lvs.priority, options.garp_refresh, sync,
						priority, vips[1], vips[2])
						.. lvs.virtual_servers {
							vips = vips, port = port, scheduler = "wrr", servers = told, check = options.health_checker,
							delete = options.on_failure == "delete",
						},
				},
				-- the first one serves before the second one starts, or both would want to
				ready = order == 1 and { address = vips[1] } or { ipvs = { destinations = #servers * #vips } },
			},
		},
	}
end

local nodes = {
	{
		name = "client",
		-- IPVS remembers a closed connection for 120 s, and a port that comes round earlier goes to the same server again
		-- without being scheduled or counted: 64,000 ports last for 500 connections a second
		sysctl = { ["net.ipv4.ip_local_port_range"] = "1024 65535" },
		links = { { dev = "eth0", switch = "lan", addrs = on_lan(10) } },
	},
	director("lvs1", 2, 150, 1),
	director("lvs2", 3, 100, 2),
}

for _, server in ipairs(servers) do
	nodes[#nodes + 1] = lvs.real_server {
		name = server.name, addrs = server.addrs, vips = vips, port = port, backlog = options.backlog,
	}
end
for i, name in ipairs { "db1", "db2" } do
	nodes[#nodes + 1] = {
		name = name,
		links = { { dev = "eth0", switch = "lan", addrs = on_lan(30 + i) } },
		daemons = {
			redis.server {
				port = db_port, replica_of = i > 1 and primary or nil, min_replicas = options.min_replicas,
			},
		},
	}
end

local sentinels = {}

for i = 1, options.sentinels do
	sentinels[i] = "s" .. i
	nodes[#nodes + 1] = {
		name = sentinels[i],
		links = { { dev = "eth0", switch = "lan", addrs = on_lan(40 + i) } },
		daemons = {
			redis.sentinel {
				port = sentinel_port, name = "cache", primary = primary, primary_port = db_port, quorum = 2,
				down_after = 1500, failover_timeout = 10000,
			},
		},
	}
end

return {
	name = "llm-service",
	summary = "client, two LVS directors (VRRP, sync daemon), three nginx of weights 3, 5, 5, Redis primary, replica, sentinels",
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
			directors = { "lvs1", "lvs2" },
			servers = lvs.service_servers(servers),
		},
	},
	databases = {
		{
			name = "cache",
			kind = "redis",
			port = db_port,
			nodes = { "db1", "db2" },
			sentinels = sentinels,
			sentinel_port = sentinel_port,
		},
	},
}
