-- SPDX-License-Identifier: GPL-2.0-only
-- A method that outlives its deadline: the guard ends it.

local muster = require "muster"
local site = muster.site "pair"
local how = muster.param("how", "silent")
local before, wait = muster.param("before", "0s"), muster.param("wait", "10m")

return muster.scenario {
	name = "pair-overdue",
	site = site,
	deadline = muster.param("deadline", "2s"),
	method = function(run)
		run:wait(before)
		run:inject(muster.fault.node_loss { node = "server", how = how })
		run:wait(wait)
	end,
}
