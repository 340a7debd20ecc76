-- SPDX-License-Identifier: GPL-2.0-only
-- The way to one real server becomes slow. Do the others go on as fast as before,
-- and is the slow one tolerated, or withdrawn, as the health checker declares?

local muster = require "muster"
local fault, load = muster.fault, muster.load

local rate  = muster.param("rate", "40/s")
local delay = muster.param("delay", "100ms")     -- below the checker's 400 ms: tolerated; above: withdrawn

local site   = muster.site("llm-service", { weights = muster.param("weights", "declared") })
local web    = site:service "web"
local client = load.http { from = "client", url = web:url "/", rate = rate, connections = 256 }

return muster.scenario {
  name     = "network-latency",
  summary  = "What one real server sends is delayed; clients must be served, and nobody is withdrawn who still answers in time",
  site     = site,
  deadline = "4m",

  load         = client,
  -- the balance is measured over it: 600 connections tell weights that are turned round from those that are declared
  steady_state = { settle = "15s", client:error_ratio():below "1%", client:p99():below "900ms" },

  method = function(run)
    run:phase("slow", { rto = "10s" })
    do
      local slow <close> = run:inject(fault.netem { node = "rs2", delay = delay, to = { "client" } })
      run:eventually(client:p90():above "180ms", { within = "10s" })   -- it is felt: twice, by SYN-ACK and by answer
      run:always(client:error_ratio():below "1%", { during = "10s" })
      run:always(web:weight "rs2":equals(5), { during = "5s" })        -- the checker's own way is not slow
    end

    run:phase "return"
    run:eventually(client:p90():below "170ms", { within = "10s" })
  end,

  objective = { rto = "10s", error_budget = "1%", web:balance():within "10%" },
}
