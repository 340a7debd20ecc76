-- SPDX-License-Identifier: GPL-2.0-only
-- A fault that cannot bite: latency on a device that carries nothing. The objectives are met, and nothing is shown.

local muster = require "muster"
local fault, load = muster.fault, muster.load

local site = muster.site "lvs-dr"
local web = site:service "web"
local client = load.http { from = "client", url = web:url "/", rate = "100/s", connections = 256 }

return muster.scenario {
	name = "lvs-toothless",
	site = site,
	deadline = "3m",
	load = client,
	steady_state = { settle = "3s", within = "30s", client:error_ratio():below "1%" },
	method = function(run)
		local slow <close> = run:inject(fault.netem { node = "rs2", dev = "lo", delay = "100ms" })
		run:always(client:error_ratio():below "2%", { during = "2s" })
	end,
	objective = { error_budget = "1%" },
}
