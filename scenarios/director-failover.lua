-- SPDX-License-Identifier: GPL-2.0-only
-- The active director falls silent: does the other one take over within 4 s,
-- with its connections, and is there ever more than one of them, or none for longer?

local muster = require "muster"
local fault, load = muster.fault, muster.load

local rate = muster.param("rate", "40/s")        -- --set rate=300/s; an emulated machine gets no further than this
local how  = muster.param("how", "silent")       -- --set how=cut: the director sees its own link go down

-- --set sync_daemon=false: the standby knows no connection but its own, and answers the others with RST
local site   = muster.site("llm-service", { sync_daemon = muster.param("sync_daemon", true) })
local web    = site:service "web"
local client = load.http { name = "client", from = "client", url = web:url "/", rate = rate, connections = 256 }
local held   = load.http { name = "held", from = "client", url = web:url "/", rate = "5/s", connections = 10,
                           keep_alive = true, timeout = "5s" }

return muster.scenario {
  name     = "director-failover",
  summary  = "The active LVS director is lost under load; the standby must take over its addresses and its connections",
  site     = site,
  baseline = "open-autoglm",
  deadline = "4m",

  load         = { client, held },
  steady_state = {
    settle = "6s",
    client:error_ratio():below "1%",
    client:p99():below(muster.param("p99", "900ms")),   -- of an emulated machine; less on a real one
    web:balance():within "10%",
  },

  method = function(run)
    run:phase("director lost", { rto = "6s" })
    do
      local loss <close> = run:inject(fault.director_loss { service = "web", how = how })
      run:always(held:reset():at_most "0%", { during = "6s" })             -- the standby knows their connections
      run:eventually(web:held_by "lvs2":equals(1), { within = "1s" })      -- by now; the phase's objective times it
      run:always(client:error_ratio():below "2%", { during = "8s" })
    end

    run:phase "return"                           -- it has the higher priority, and takes its addresses back
    run:eventually(web:held_by "lvs1":equals(1), { within = "10s" })
    run:eventually(web:directors():equals(1), { within = "10s" })
  end,

  objective = { rto = "10s", error_budget = "15%", web:balance():within "10%" },
}
