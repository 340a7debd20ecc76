-- SPDX-License-Identifier: GPL-2.0-only
-- The health checker is off: nobody withdraws the lost server, and the drill must fail.

local muster = require "muster"
local fault, load = muster.fault, muster.load

local site = muster.site("lvs-dr", { health_checker = "none" })
local web = site:service "web"
local client = load.http { from = "client", url = web:url "/", rate = "50/s", connections = 256, timeout = "1s" }

return muster.scenario {
	name = "lvs-unchecked",
	site = site,
	deadline = "3m",
	load = client,
	steady_state = { settle = "3s", within = "30s", client:error_ratio():below "1%" },
	method = function(run)
		local loss <close> = run:inject(fault.node_loss { node = "rs2", how = "silent" })
		run:eventually(web:weight "rs2":equals(0), { within = "3s" })
		run:always(client:error_ratio():below "2%", { during = "3s" })
	end,
	objective = { rto = "5s", error_budget = "1%" },
}
