-- SPDX-License-Identifier: GPL-2.0-only
-- One real server accepts no more while connections go on arriving: its accept queue
-- overflows. Is it withdrawn within 4 s, and does everybody else stay served?

local muster = require "muster"
local fault, load, set = muster.fault, muster.load, muster.set

local rate  = muster.param("rate", "40/s")
local abort = muster.param("abort", false)       -- true: what overflows is answered with RST; false: dropped in silence

-- The queue is the smaller of the two: what nginx asks for, and net.core.somaxconn. Short ones overflow in time.
local site   = muster.site("llm-service", { backlog = muster.param("backlog", 8) })
local web    = site:service "web"
local client = load.http { from = "client", url = web:url "/", rate = rate, connections = 256, timeout = "1s" }

return muster.scenario {
  name     = "queue-overflow",
  summary  = "A real server stops accepting: its queue overflows, and it must be withdrawn",
  site     = site,
  baseline = { set.sysctl { node = "rs2", values = { ["net.ipv4.tcp_abort_on_overflow"] = 0 } } },
  deadline = "4m",

  load         = client,
  steady_state = {
    settle = "6s",
    client:error_ratio():below "1%",
    client:p99():below(muster.param("p99", "900ms")),   -- of an emulated machine; less on a real one
  },

  method = function(run)
    run:phase("overflow", { rto = "8s" })
    do
      local full <close> = run:inject(fault.accept_queue { node = "rs2", service = "web", abort = abort })
      run:eventually(site:node "rs2":overflows():at_least(1), { within = "10s" })
      run:eventually(web:weight "rs2":equals(0), { within = "10s" })
      run:eventually(client:error_ratio():below "1%", { within = "10s" })
    end

    run:phase "return"
    run:eventually(web:weight "rs2":equals(5), { within = "10s" })
  end,

  objective = { rto = "10s", error_budget = "20%", web:balance():within "10%" },
}
