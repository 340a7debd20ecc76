-- SPDX-License-Identifier: GPL-2.0-only
-- A real server falls silent and is taken out of the director's table. Are the persistent connections that
-- led to it ended at once, so that their clients come back elsewhere, or are they left hanging?

local muster = require "muster"
local fault, load = muster.fault, muster.load

-- --set expire_nodest=false: net.ipv4.vs.expire_nodest_conn = 0, and what is sent to the server that is gone is dropped in silence
local site   = muster.site("llm-service", { on_failure = "delete", expire_nodest = muster.param("expire_nodest", true) })
local web    = site:service "web"
local client = load.http { name = "client", from = "client", url = web:url "/", rate = muster.param("rate", "40/s"),
                           connections = 128 }
local held   = load.http { name = "held", from = "client", url = web:url "/", rate = "10/s", connections = 12,
                           keep_alive = true, timeout = "10s" }

return muster.scenario {
  name     = "server-removal",
  summary  = "A real server is taken out of the table; those who were connected to it must not be left hanging",
  site     = site,
  deadline = "4m",

  load         = { client, held },
  steady_state = { settle = "6s", client:error_ratio():below "1%", held:error_ratio():below "1%" },

  method = function(run)
    run:phase("removed", { rto = "10s" })
    do
      local loss <close> = run:inject(fault.node_loss { node = "rs2", how = "silent" })
      -- A client sends again 0.2, 0.6, 1.4, 3.0, 6.2 s after. The first that comes when the server has gone ends the director's
      -- memory of the connection, the next one is answered with RST.
      run:always(held:timed_out():at_most "0%", { during = "14s" })
      run:eventually(web:weight "rs2":equals(0), { within = "1s" })      -- not in the table: no weight at all
    end

    run:phase "return"
    run:eventually(web:weight "rs2":equals(5), { within = "10s" })
  end,

  objective = { rto = "15s", web:balance():within "10%" },
}
