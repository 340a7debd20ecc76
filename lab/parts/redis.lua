-- SPDX-License-Identifier: GPL-2.0-only
-- A Redis primary with replicas, and the sentinels that elect another one: daemons for a site's nodes.

local redis = {}

local server_conf = [[
port %d
bind * -::*
protected-mode no
daemonize no
dir %%{dir}
pidfile %%{dir}/redis.pid
set-proc-title no
save ""
appendonly no
repl-diskless-sync yes
repl-diskless-sync-delay %d
repl-timeout 10
min-replicas-to-write %d
min-replicas-max-lag 2
]]

-- opt: port; replica_of (an address; nil: the primary); min_replicas (0: writes go on without any); sync_delay (0, in seconds: how
-- long a replica that has come is kept waiting for its first copy)
function redis.server(opt)
	local conf = server_conf:format(opt.port, opt.sync_delay or 0, opt.min_replicas or 0)

	if opt.replica_of then
		conf = conf .. string.format("replicaof %s %d\n", opt.replica_of, opt.port)
	end
	return {
		name = "redis",
		package = "redis-server",
		order = opt.replica_of and 1 or 0,
		argv = { "redis-server", "%{dir}/redis.conf" },
		files = { ["redis.conf"] = conf },
		ready = { listen = opt.port },
	}
end

-- A primary that does not answer for `down_after` is down in this sentinel's eyes; when `quorum` of them say so, and a majority
-- of all elects one, that one promotes a replica.
local sentinel_conf = [[
port %d
bind * -::*
protected-mode no
daemonize no
dir %%{dir}
pidfile %%{dir}/sentinel.pid
sentinel monitor %s %s %d %d
sentinel down-after-milliseconds %s %d
sentinel failover-timeout %s %d
sentinel parallel-syncs %s 1
]]

-- opt: port, name, primary, primary_port, quorum, down_after (ms), failover_timeout (ms)
function redis.sentinel(opt)
	return {
		name = "sentinel",
		package = "redis-sentinel",
		order = 2, -- when primary and replicas answer
		argv = { "redis-sentinel", "%{dir}/sentinel.conf" }, -- which it rewrites
		files = {
			["sentinel.conf"] = sentinel_conf:format(opt.port, opt.name, opt.primary, opt.primary_port, opt.quorum, opt.name,
				opt.down_after, opt.name, opt.failover_timeout, opt.name),
		},
		ready = { listen = opt.port },
	}
end

return redis
