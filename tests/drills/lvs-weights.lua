-- SPDX-License-Identifier: GPL-2.0-only
-- Weights that contradict what the site declares: the load is shared wrongly, and the drill must say so.

local muster = require "muster"
local fault, load, set = muster.fault, muster.load, muster.set

local site = muster.site "lvs-dr"
local web = site:service "web"
local client = load.http { from = "client", url = web:url "/", rate = "50/s", connections = 256 }

return muster.scenario {
	name = "lvs-weights",
	site = site,
	deadline = "3m",
	load = client,
	steady_state = { settle = "7s", within = "30s", client:error_ratio():below "1%", web:balance():within "7%" },
	method = function(run)
		run:apply(set.ipvs { service = "web", weights = { rs1 = 8, rs2 = 1, rs3 = 1 } })
		local loss <close> = run:inject(fault.node_loss { node = "rs2", how = "silent" })
		run:eventually(web:weight "rs2":equals(0), { within = "5s" })
	end,
	objective = { web:balance():within "7%" },
}
