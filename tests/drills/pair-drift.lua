-- SPDX-License-Identifier: GPL-2.0-only
-- Is it noticed when somebody changes the baseline under a drill?

local muster = require "muster"
local fault, load, set = muster.fault, muster.load, muster.set

local site = muster.site "pair"
local client = load.http { from = "client", url = "http://198.18.8.20:8080/", rate = "50/s", timeout = "500ms" }

return muster.scenario {
	name = "pair-drift",
	summary = "A parameter of the baseline is changed by somebody else, and back",
	site = site,
	baseline = {
		set.sysctl { node = "server", values = { ["net.core.somaxconn"] = "65535" } },
		set.limits { node = "server", process = "nginx", limits = { nofile = "1000" } },
	},
	deadline = "1m",
	load = client,
	steady_state = { settle = "1s", within = "20s", client:error_ratio():below "1%" },
	method = function(run)
		run:phase "drift"
		do
			local _ <close> = run:inject(fault.node_loss { node = "server", how = "silent" })
			run:eventually(client:error_ratio():above "90%", { within = "5s" })
		end
		run:eventually(client:error_ratio():below "1%", { within = "5s" })
		-- the test changes it, and back, in here
		run:wait "8s"
	end,
	objective = { rto = "15s" },
}
