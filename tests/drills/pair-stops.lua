-- SPDX-License-Identifier: GPL-2.0-only
-- A stop condition that comes true: the drill is halted and everything is put back.

local muster = require "muster"
local site = muster.site "pair"
local client = muster.load.http { from = "client", url = "http://198.18.8.20:8080/", rate = "200/s", timeout = "300ms" }

return muster.scenario {
	name = "pair-stops",
	site = site,
	deadline = "1m",
	load = client,
	steady_state = { settle = "1s", within = "20s", client:error_ratio():below "1%" },
	stop_when = { client:error_ratio():above("50%"):lasting "1s" },
	method = function(run)
		local loss <close> = run:inject(muster.fault.node_loss { node = "server", how = "silent" })
		run:wait "40s"
	end,
}
