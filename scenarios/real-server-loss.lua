-- SPDX-License-Identifier: GPL-2.0-only
-- Does the director route around a real server that falls silent, within 3 s,
-- and is the load shared by weight again once it is back?

local muster = require "muster"
local fault, load = muster.fault, muster.load

local rate = muster.param("rate", "100/s")       -- --set rate=300/s; an emulated machine gets no further than this

local site   = muster.site "lvs-dr"              -- a lab here, the same names in production
local web    = site:service "web"                -- the virtual service
local client = load.http { from = "client", url = web:url "/", rate = rate, connections = 256 }

return muster.scenario {
  name     = "real-server-loss",
  summary  = "A real server falls silent under load; the director must route around it",
  site     = site,
  baseline = "open-autoglm",                     -- a profile; or a table; or both, merged
  deadline = "4m",                               -- the guard restores everything after this

  load         = client,
  steady_state = {
    settle = "8s",                               -- 800 connections: enough to tell shares 5 points apart
    client:error_ratio():below "0.5%",
    client:p99():below "250ms",
    web:balance():within "5%",
  },
  stop_when    = { client:error_ratio():above("60%"):lasting "5s" },

  method = function(run)
    run:phase "silent loss"
    do
      local loss <close> = run:inject(fault.node_loss { node = "rs2", how = "silent" })
      run:eventually(web:weight "rs2":equals(0), { within = "3s" })
      run:always(client:error_ratio():below "2%", { during = "10s" })
    end                                          -- leaving the block lifts the fault

    run:phase "return"
    run:eventually(web:weight "rs2":equals(5), { within = "10s" })
  end,

  objective = { rto = "10s", error_budget = "1%", web:balance():within "5%" },
}
