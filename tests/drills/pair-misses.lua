-- SPDX-License-Identifier: GPL-2.0-only
-- An expectation that cannot come true: the drill must fail, and go on measuring.

local muster = require "muster"
local site = muster.site "pair"
local client = muster.load.http { from = "client", url = "http://198.18.8.20:8080/", rate = "200/s", timeout = "500ms" }

return muster.scenario {
	name = "pair-misses",
	site = site,
	deadline = "1m",
	load = client,
	steady_state = { settle = "1s", within = "20s", client:error_ratio():below "1%" },
	method = function(run)
		local loss <close> = run:inject(muster.fault.node_loss { node = "server", how = "silent" })
		run:always(client:error_ratio():below "10%", { during = "2s" })
	end,
}
