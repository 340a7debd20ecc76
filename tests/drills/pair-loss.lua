-- SPDX-License-Identifier: GPL-2.0-only
-- Does the service answer again within a second of its only server's return?

local muster = require "muster"
local fault, load, set = muster.fault, muster.load, muster.set

local site = muster.site "pair"
local how = muster.param("how", "silent")
local client = load.http { from = "client", url = "http://198.18.8.20:8080/", rate = "200/s", timeout = "500ms" }

return muster.scenario {
	name = "pair-loss",
	summary = "The only server is lost and comes back",
	site = site,
	baseline = { set.sysctl { node = "server", values = { ["net.core.somaxconn"] = "65535" } } },
	deadline = "1m",
	load = client,
	steady_state = { settle = "1s", within = "20s", client:error_ratio():below "1%", client:p99():below "200ms" },
	method = function(run)
		run:phase "loss"
		do
			local _ <close> = run:inject(fault.node_loss { node = "server", how = how })
			run:eventually(client:error_ratio():above "90%", { within = "5s" })
		end
		run:phase "return"
		run:eventually(client:error_ratio():below "1%", { within = "5s" })
	end,
	objective = { rto = "15s" },
}
