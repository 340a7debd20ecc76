-- SPDX-License-Identifier: GPL-2.0-only
-- The primary is cut off from replica and sentinels, and the client still reaches it: what becomes of the writes it acknowledges?
local muster = require "muster"
local fault, load = muster.fault, muster.load
local site = muster.site("redis", { min_replicas = muster.param("min_replicas", 0) })
local cache = site:database "cache"
local ledger = load.ledger { name = "ledger", from = "client", database = "cache", rate = "50/s", timeout = "500ms" }
local alone = muster.param("alone", true) -- that one primary at a time is asked for

return muster.scenario {
	name = "redis-partition",
	site = site,
	deadline = "2m",
	load = ledger,
	steady_state = { settle = "3s", ledger:error_ratio():below "1%" },
	method = function(run)
		run:phase "partition"
		do
			local loss <close> = run:inject(fault.primary_loss { database = "cache", how = "cut", keep = { "client" } })
			run:eventually(cache:primary "db2":equals(1), { within = "8s" })
			if alone then
				run:always(cache:primaries():equals(1), { during = "2s" })
			end
			run:wait "10s"
		end
		run:phase "return"
		run:eventually(cache:primaries():equals(1), { within = "30s" })
		run:eventually(cache:replicas():at_least(1), { within = "15s" })
	end,
	-- a primary that wants a replica notices that it has none after 2 s and up to 2 more; the partition lasts for 11 s
	objective = { rpo = "6s" },
}
