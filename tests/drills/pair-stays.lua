-- SPDX-License-Identifier: GPL-2.0-only
-- A setting and a fault, and then nothing happens: for whoever looks at a drill in force, or kills it.

local muster = require "muster"

local site = muster.site "pair"
local how = muster.param("how", "silent")

return muster.scenario {
	name = "pair-stays",
	site = site,
	baseline = { muster.set.sysctl { node = "server", values = { ["net.core.somaxconn"] = "65535" } } },
	deadline = "10m",
	method = function(run)
		run:inject(muster.fault.node_loss { node = "server", how = how })
		run:wait "10m"
	end,
}
