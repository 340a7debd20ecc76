-- SPDX-License-Identifier: GPL-2.0-only
-- Game day: does the service survive, one after the other, the loss of a real server, a slow network, an accept
-- queue that overflows, the loss of its director and the loss of its Redis primary, each within its objective?

local muster = require "muster"
local fault, load = muster.fault, muster.load

local rate = muster.param("rate", "40/s")        -- an emulated machine gets no further, nor is it
local p99  = muster.param("p99", "900ms")        -- any faster: below the second after which a lost SYN is sent again

local site    = muster.site("llm-service", { backlog = 16 })   -- a queue that a load like this fills in time
local web     = site:service "web"
local cache   = site:database "cache"
local client  = load.http { name = "client", from = "client", url = web:url "/", rate = rate, connections = 256 }
local held    = load.http { name = "held", from = "client", url = web:url "/", rate = "5/s", connections = 10,
                            keep_alive = true, timeout = "5s" }
local ledger  = load.ledger { name = "ledger", from = "client", database = "cache", rate = "10/s" }

return muster.scenario {
  name     = "game-day",
  summary  = "Five failures in turn; the service must come back from each within its objective, and lose nothing",
  site     = site,
  baseline = "open-autoglm",
  deadline = "8m",

  load         = { client, held, ledger },
  steady_state = {
    settle = "8s",
    client:error_ratio():below "1%",
    client:p99():below(p99),
    ledger:error_ratio():below "2%",
  },

  method = function(run)
    run:eventually(cache:replicas():at_least(1), { within = "20s" })

    run:phase("node loss", { rto = "5s" })
    do
      local loss <close> = run:inject(fault.node_loss { node = "rs2", how = "silent" })
      run:eventually(web:weight "rs2":equals(0), { within = "4s" })
      run:always(web:scheduled "rs2":equals "0/s", { during = "5s" })
      run:always(client:error_ratio():below "2%", { during = "10s" })
    end
    run:eventually(web:weight "rs2":equals(5), { within = "10s" })

    run:phase("network latency", { rto = "10s" })
    do
      local slow <close> = run:inject(fault.netem { node = "rs3", delay = "100ms", to = { "client" } })
      run:always(client:error_ratio():below "1%", { during = "12s" })
    end

    run:phase("queue overflow", { rto = "10s" })
    do
      local full <close> = run:inject(fault.accept_queue { node = "rs1", service = "web" })
      run:eventually(site:node "rs1":overflows():at_least(1), { within = "10s" })
      run:eventually(web:weight "rs1":equals(0), { within = "10s" })
      run:always(web:scheduled "rs1":equals "0/s", { during = "5s" })
      run:always(client:error_ratio():below "2%", { during = "10s" })
    end
    run:eventually(web:weight "rs1":equals(3), { within = "10s" })

    run:phase("director failover", { rto = "6s" })
    do
      local loss <close> = run:inject(fault.director_loss { service = "web", how = "silent" })
      run:eventually(web:held_by "lvs2":equals(1), { within = "4s" })
      run:always(client:error_ratio():below "2%", { during = "10s" })
    end
    run:eventually(web:held_by "lvs1":equals(1), { within = "10s" })
    run:eventually(web:directors():equals(1), { within = "10s" })

    run:phase("primary failover", { rto = "15s" })
    do
      local loss <close> = run:inject(fault.primary_loss { database = "cache", how = "freeze" })
      run:eventually(cache:primary "db2":equals(1), { within = "15s" })
      run:always(ledger:error_ratio():below "2%", { during = "10s" })
    end
    run:eventually(cache:primaries():equals(1), { within = "30s" })
  end,

  objective = { rto = "15s", rpo = "0s", error_budget = "10%", web:balance():within "8%" },
}
