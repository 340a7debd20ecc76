-- SPDX-License-Identifier: GPL-2.0-only
-- Does a replica take over when the primary is lost, or all of its node (frozen)?
local muster = require "muster"
local fault, load = muster.fault, muster.load
local how = muster.param("how", "freeze")
local site = muster.site("redis", {
	sentinels = muster.param("sentinels", 3), replica = muster.param("replica", true), sync_delay = muster.param("sync_delay", 0),
})
local cache = site:database "cache"
local ledger = load.ledger { name = "ledger", from = "client", database = "cache", rate = "50/s", timeout = "500ms" }
local lost = how == "frozen" and fault.node_loss { node = "db1", how = how } or fault.primary_loss { database = "cache", how = how }

return muster.scenario {
	name = "redis-loss",
	site = site,
	deadline = "1m",
	load = ledger,
	steady_state = { settle = "3s", ledger:error_ratio():below "1%" },
	method = function(run)
		run:eventually(cache:replicas():at_least(1), { within = "10s" })
		run:phase "lost"
		do
			local loss <close> = run:inject(lost)
			run:eventually(cache:primary "db2":equals(1), { within = "8s" })
			run:eventually(ledger:error_ratio():below "1%", { within = "8s" })
		end
		run:phase "return"
		run:eventually(cache:replicas():at_least(1), { within = "15s" })
		run:eventually(cache:primaries():equals(1), { within = "15s" })
	end,
	objective = { rto = "10s", rpo = "0s" },
}
