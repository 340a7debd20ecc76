-- SPDX-License-Identifier: GPL-2.0-only
-- A fault on a server that nobody talks to: it cannot bite, so nothing is shown.

local muster = require "muster"
local site = muster.site "pair"

return muster.scenario {
	name = "pair-toothless",
	site = site,
	deadline = "1m",
	method = function(run)
		local loss <close> = run:inject(muster.fault.node_loss { node = "server", how = "silent" })
		run:wait "500ms"
	end,
}
