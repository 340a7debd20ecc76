-- SPDX-License-Identifier: GPL-2.0-only
-- A client, a Redis primary with a replica, and its sentinels: nothing that any kernel lacks.
-- replica = false: db2 stands alone; sync_delay = 60: it waits for its first copy that long

local redis = part "redis"
local options = option { sentinels = 3, min_replicas = 0, replica = true, sync_delay = 0 }
local primary = "198.18.0.31"
local nodes = { { name = "client", links = { { switch = "lan", addrs = { "198.18.0.10/24" } } } } }
local sentinels = {}

for i = 1, 2 do
	nodes[#nodes + 1] = {
		name = "db" .. i,
		links = { { switch = "lan", addrs = { "198.18.0.3" .. i .. "/24" } } },
		daemons = {
			redis.server {
				port = 6379, replica_of = i > 1 and options.replica and primary or nil, min_replicas = options.min_replicas,
				sync_delay = options.sync_delay,
			},
		},
	}
end
for i = 1, options.sentinels do
	sentinels[i] = "s" .. i
	nodes[#nodes + 1] = {
		name = sentinels[i],
		links = { { switch = "lan", addrs = { "198.18.0.4" .. i .. "/24" } } },
		daemons = {
			redis.sentinel {
				port = 26379, name = "cache", primary = primary, primary_port = 6379, quorum = 2, down_after = 500,
				failover_timeout = 3000,
			},
		},
	}
end
return {
	name = "redis",
	summary = "a client, a Redis primary with a replica, and three sentinels",
	switches = { "lan" },
	nodes = nodes,
	databases = {
		{ name = "cache", kind = "redis", port = 6379, nodes = { "db1", "db2" }, sentinels = sentinels, sentinel_port = 26379 },
	},
}
