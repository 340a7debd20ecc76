-- SPDX-License-Identifier: GPL-2.0-only
-- A method that fails half-way: its damage ends at once.

local muster = require "muster"
local site = muster.site "pair"
local client = muster.load.http { from = "client", url = "http://198.18.8.20:8080/", rate = "50/s", timeout = "500ms" }

return muster.scenario {
	name = "pair-raises",
	site = site,
	deadline = "1m",
	load = client,
	method = function(run)
		local loss <close> = run:inject(muster.fault.node_loss { node = "server", how = "silent" })
		if not run:eventually(client:error_ratio():below "1%", { within = "500ms" }) then
			error "this is the scenario's own mistake"
		end
	end,
}
