-- SPDX-License-Identifier: GPL-2.0-only
-- A real server falls silent: is it left in peace? New connections to it end when it is withdrawn, and what its old ones send again soon after.

local muster = require "muster"
local fault, load = muster.fault, muster.load

local site = muster.site "lvs-dr"
local web = site:service "web"
local client = load.http { from = "client", url = web:url "/", rate = "50/s", connections = 256, timeout = "2s" }

return muster.scenario {
	name = "lvs-sent",
	site = site,
	deadline = "3m",
	load = client,
	steady_state = { settle = "3s", within = "30s", client:error_ratio():below "1%", web:forwarded "rs2":above "5/s",
		web:scheduled "rs2":above "1/s" },
	method = function(run)
		local loss <close> = run:inject(fault.node_loss { node = "rs2", how = "silent" })
		run:eventually(web:scheduled "rs2":above "1/s", { within = "2s" }) -- nobody knows yet
		run:eventually(web:weight "rs2":equals(0), { within = "5s" })
		run:eventually(web:scheduled "rs2":equals "0/s", { within = "3s" })
		run:always(web:scheduled "rs2":equals "0/s", { during = "3s" })
		run:eventually(web:forwarded "rs2":equals "0/s", { within = "20s" })
		run:always(web:scheduled "rs1":above "1/s", { during = "2s" })
		run:always(web:response_p50 "rs1":below "2s", { during = "3s" }) -- read once a second
		run:always(site:node "rs1":syn_queue():below(256), { during = "2s" })
	end,
}
