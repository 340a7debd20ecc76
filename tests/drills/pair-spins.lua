-- SPDX-License-Identifier: GPL-2.0-only
-- A method that never asks again: only in the run pass, because the record pass would not get past it.

local muster = require "muster"
local site = muster.site "pair"
local client = muster.load.http { from = "client", url = "http://198.18.8.20:8080/", rate = "50/s", timeout = "500ms" }

return muster.scenario {
	name = "pair-spins",
	site = site,
	deadline = "4s",
	load = client,
	method = function(run)
		run:inject(muster.fault.node_loss { node = "server", how = "silent" })
		if not run:eventually(client:error_ratio():below "1%", { within = "500ms" }) then
			while true do end
		end
	end,
}
