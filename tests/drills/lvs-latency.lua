-- SPDX-License-Identifier: GPL-2.0-only
-- A real server answers 40 ms late: the service stays whole, and the delay is measured, not believed.

local muster = require "muster"
local fault, load = muster.fault, muster.load

local site = muster.site "lvs-dr"
local web = site:service "web"
local client = load.http { from = "client", url = web:url "/", rate = "100/s", connections = 256 }

return muster.scenario {
	name = "lvs-latency",
	site = site,
	deadline = "3m",
	load = client,
	steady_state = { settle = "3s", within = "30s", client:error_ratio():below "1%" },
	method = function(run)
		local slow <close> = run:inject(fault.netem { node = "rs1", delay = "40ms" })
		run:eventually(client:p99():above "40ms", { within = "5s" })
		run:always(client:error_ratio():below "2%", { during = "2s" })
	end,
	objective = { error_budget = "1%" },
}
