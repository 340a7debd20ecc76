-- SPDX-License-Identifier: GPL-2.0-only
-- report_html.lua: one file for the on-call review. It fetches nothing and runs no script (the policy in its head forbids both),
-- so it can be mailed and printed. All text is escaped: a scenario's words are not ours.
--
-- Colours are those of Okabe and Ito, which people with any colour vision tell apart; and nothing is said by colour alone.
local common = ...
local get, have, list, esc = common.get, common.have, common.list, common.escape

local style = [[
:root{--bg:#fff;--fg:#1c2024;--dim:#5d6672;--line:#dde1e6;--card:#f6f7f9;--ok:#00785a;--okbg:#e3f4ee;--bad:#b3400a;--badbg:#fdeee6;
--huh:#8a6100;--huhbg:#fdf4dc;--off:#4b5563;--offbg:#eceef1;--blue:#0072b2;--red:#d55e00;--green:#009e73;--pink:#b5578f;--sky:#2f8fc9;
--gold:#b07d00;--band:rgba(213,94,0,.10);color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e6e9ec;--dim:#9aa4af;--line:#2f353c;--card:#1c2025;--ok:#4cd0a6;--okbg:#12302699;
--bad:#ff9a63;--badbg:#3a1d0f99;--huh:#f0c04a;--huhbg:#35290a99;--off:#b3bcc6;--offbg:#262b3199;--blue:#56b4e9;--red:#ff8b45;--green:#34c79a;
--pink:#e08dbd;--sky:#8fd0f5;--gold:#f0c04a;--band:rgba(255,139,69,.13)}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;
font-variant-numeric:tabular-nums}
main{max-width:1060px;margin:0 auto;padding:24px 20px 60px}
h1{font-size:17px;margin:0;font-weight:600}h2{font-size:17px;margin:36px 0 10px;padding-bottom:5px;border-bottom:1px solid var(--line)}
p{margin:6px 0}.dim,small{color:var(--dim)}code,pre{font:13px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,monospace}
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px;overflow-x:auto;white-space:pre-wrap;
overflow-wrap:anywhere;margin:8px 0}
.banner{border-radius:12px;padding:18px 22px;border-left:8px solid;background:var(--offbg);border-color:var(--off)}
.banner .verdict{font-size:34px;font-weight:750;letter-spacing:.01em;line-height:1.15;color:var(--off)}
.banner .why{font-size:16px;margin-top:8px}.banner .meta{margin-top:10px;color:var(--dim)}
.pass{background:var(--okbg);border-color:var(--ok)}.pass .verdict{color:var(--ok)}
.fail,.error{background:var(--badbg);border-color:var(--bad)}.fail .verdict,.error .verdict{color:var(--bad)}
.inconclusive,.halted{background:var(--huhbg);border-color:var(--huh)}.inconclusive .verdict,.halted .verdict{color:var(--huh)}
.residue{margin-top:12px;border-radius:12px;padding:12px 22px;border-left:8px solid var(--bad);background:var(--badbg);font-weight:600}
.question{font-size:16px;margin:18px 2px 0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin-top:18px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px}
.card b{display:block;font-size:22px;font-weight:650;line-height:1.25}.card span{color:var(--dim);font-size:13px;display:block}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:7px 10px 7px 0;vertical-align:top;
border-bottom:1px solid var(--line)}th{font-size:12.5px;color:var(--dim);font-weight:600}td.n,th.n{text-align:right;white-space:nowrap}
td{overflow-wrap:anywhere}td.w{white-space:nowrap}td.a{min-width:150px}td.k{min-width:180px}td.e{color:var(--dim);font-size:13.5px;min-width:260px}
.tag{display:inline-block;border-radius:6px;padding:1px 8px;font-size:12.5px;font-weight:650;white-space:nowrap}
.t-pass{background:var(--okbg);color:var(--ok)}.t-fail{background:var(--badbg);color:var(--bad)}.t-unknown{background:var(--huhbg);color:var(--huh)}
.share{display:grid;grid-template-columns:minmax(80px,auto) 1fr minmax(190px,auto);gap:6px 14px;align-items:center;margin:10px 0 4px}
.track{position:relative;height:18px;background:var(--card);border-radius:4px;border:1px solid var(--line)}
.fill{position:absolute;left:0;top:0;bottom:0;background:var(--blue);border-radius:3px 0 0 3px}
.want{position:absolute;top:-4px;bottom:-4px;width:3px;background:var(--fg);border-radius:2px}
svg{display:block;width:100%;height:auto}svg text{fill:var(--dim);font:11.5px system-ui,sans-serif;paint-order:stroke;stroke:var(--bg);stroke-width:3px}
svg .t{fill:var(--fg);font-weight:600}svg .grid{stroke:var(--line);stroke-width:1}svg .axis{stroke:var(--dim);stroke-width:1}
svg .band{fill:var(--band)}svg .mark{stroke:var(--fg);stroke-width:1.3;stroke-dasharray:4 3}svg .markt{fill:var(--fg);font-weight:600}
svg .stage{fill:var(--card);stroke:var(--line)}svg .ln{fill:none;stroke-width:1.8;stroke-linejoin:round}
.s0{stroke:var(--blue)}.s1{stroke:var(--red)}.s2{stroke:var(--green)}.s3{stroke:var(--pink)}.s4{stroke:var(--sky)}.s5{stroke:var(--gold)}
.f0{fill:var(--blue)}.f1{fill:var(--red)}.f2{fill:var(--green)}.f3{fill:var(--pink)}.f4{fill:var(--sky)}.f5{fill:var(--gold)}
.legend{font-size:13px;color:var(--dim);margin:4px 0 6px}.key{margin-right:18px;white-space:nowrap}.key i{display:inline-block;width:11px;
height:11px;border-radius:2px;margin-right:6px}.k0{background:var(--gold)}.k1{background:var(--sky)}.k2{background:var(--green)}
.a{fill-opacity:.32}.b0{fill:var(--gold)}.b1{fill:var(--sky)}.b2{fill:var(--green)}
.figure{border:1px solid var(--line);border-radius:10px;padding:12px 14px 6px;margin:10px 0}
details summary{cursor:pointer;color:var(--dim)}
@media print{:root{--bg:#fff;--fg:#000;--dim:#444}body{font-size:12px}main{max-width:none;padding:0}h2{break-after:avoid}
tr,.card,.figure,.banner{break-inside:avoid}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
]]

-- ── drawing ────────────────────────────────────────────────────────────────────────────────────

local LEFT, RIGHT = 62, 985
local PANEL, GAP = 96, 34

local function f(fmt, ...) return string.format(fmt, ...) end

-- the next of 1, 2, 5 times a power of ten
local function nice(v)
  if not (v > 0) or v == math.huge then return 1 end
  local p = 10 ^ math.floor(math.log(v, 10))
  for _, m in ipairs { 1, 2, 5, 10 } do
    if v <= m * p * 1.0000001 then return m * p end
  end
  return 10 * p
end

local function numeric(v) return type(v) == "number" and v == v and math.abs(v) ~= math.huge end

-- A line through the points, broken where there is no value; with @base also closed to an area down to it (a function of the index).
local function path(points, x, y, base)
  local out, run = {}, {}

  local function flush()
    if #run > 0 then
      local d = {}
      for i, k in ipairs(run) do d[i] = f("%s%.1f %.1f", i == 1 and "M" or "L", x(points[k].x), y(points[k].y)) end
      if base then
        for i = #run, 1, -1 do d[#d + 1] = f("L%.1f %.1f", x(points[run[i]].x), y(base(run[i]))) end
        d[#d + 1] = "Z"
      elseif #run == 1 then
        d[#d + 1] = "h0.1" -- alone, and still to be seen
      end
      out[#out + 1] = table.concat(d)
    end
    run = {}
  end
  for k, p in ipairs(points) do
    if numeric(p.y) then run[#run + 1] = k else flush() end
  end
  flush()
  return table.concat(out)
end

local function chart_marks(r, to_x)
  local rec, marks = r.recovery or {}, {}

  local function add(t, label)
    if t then marks[#marks + 1] = { x = to_x(t), label = label } end
  end
  if numeric(rec.onset_ns) then
    add(0, "fault")
    for _, m in ipairs { { "detect_ms", "detected" }, { "failover_ms", "failed over" }, { "recover_ms", "recovered" } } do
      local v = rec[m[1]]
      if numeric(v) then add(v / 1000, m[2] .. " " .. common.ms(v)) end
    end
  end
  return marks
end

local function timeline_svg(r, chart)
  local load = list(get(chart, "load"))
  if #load < 2 then return nil end
  local step = numeric(chart.step_s) and chart.step_s or 0
  local t0_ns = numeric(chart.t0_ns) and chart.t0_ns or 0
  local onset = get(r, "recovery", "onset_ns")
  -- all times become seconds from the fault, or from the start when there was none
  local zero = numeric(onset) and (onset - t0_ns) / 1e9 or 0
  local first, last = load[1][1] - zero, load[#load][1] + step - zero
  local function x(t) return LEFT + (math.max(first, math.min(last, t)) - first) / (last - first) * (RIGHT - LEFT) end

  local out = {}
  local function put(fmt, ...) out[#out + 1] = f(fmt, ...) end

  -- labels of the marks, in as many rows as they need not to cover one another
  local marks, rows = chart_marks(r, x), {}
  for _, m in ipairs(marks) do
    local w = 7 * common.length(m.label) + 10
    m.left = math.min(m.x + 4, RIGHT - w)
    m.row = 1
    while rows[m.row] and rows[m.row] > m.left do m.row = m.row + 1 end
    rows[m.row] = m.left + w
  end
  local top = 8 + 15 * math.max(1, #rows)

  -- the strip of stages, and of the method's phases
  local strips = { stage = {}, phase = {} }
  for _, e in ipairs(list(chart.events)) do
    local s = strips[e.kind]
    if s and numeric(e.t_s) then
      s[#s + 1] = { t = e.t_s - zero, name = tostring(e[e.kind] or "") }
    elseif e.kind == "stage" then
      strips.phase[#strips.phase + 1] = { t = e.t_s - zero, name = "" }
    end
  end
  -- a phase ends with the method
  for _, s in ipairs(strips.stage) do
    if s.name ~= "method" and #strips.phase > 0 and s.t > strips.phase[1].t then
      strips.phase[#strips.phase + 1] = { t = s.t, name = "" }
    end
  end
  table.sort(strips.phase, function(a, b) return a.t < b.t end)
  local strip_top = top + 4
  for _, which in ipairs { "stage", "phase" } do
    local s, any = strips[which], false
    for i, seg in ipairs(s) do
      local till = s[i + 1] and s[i + 1].t or last
      if seg.name ~= "" and till > first and seg.t < last and x(till) - x(seg.t) > 1 then
        any = true
        put('<rect class="stage" x="%.1f" y="%.1f" width="%.1f" height="17" rx="3"><title>%s</title></rect>', x(seg.t), strip_top,
          x(till) - x(seg.t), esc(seg.name))
        if x(till) - x(seg.t) > 7 * common.length(seg.name) then
          put('<text x="%.1f" y="%.1f">%s</text>', x(seg.t) + 5, strip_top + 12.5, esc(seg.name))
        end
      end
    end
    if any then strip_top = strip_top + 21 end
  end
  local y0 = strip_top + 26

  local panels = {}
  local function panel(title, max, fmt)
    local p = { y = y0, max = nice(max) }
    function p.at(v) return p.y + PANEL - math.min(v, p.max) / p.max * PANEL end
    put('<text class="t" x="%.1f" y="%.1f">%s</text>', LEFT, p.y - 9, esc(title))
    for i = 0, 2 do
      local v = p.max * i / 2
      put('<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/><text x="%.1f" y="%.1f" text-anchor="end">%s</text>', LEFT, p.at(v),
        RIGHT, p.at(v), LEFT - 8, p.at(v) + 4, esc(fmt(v)))
    end
    y0 = y0 + PANEL + GAP
    panels[#panels + 1] = p
    return p
  end

  -- bands first, so that they lie under everything; their height is known when all panels are
  local band_at = #out + 1
  out[band_at] = ""

  local most, worst, slowest = 0, 0, 0
  local ok, failed, ratio, p99 = {}, {}, {}, {}
  for i, b in ipairs(load) do
    local at, rate, er = b[1] + step / 2 - zero, numeric(b[2]) and b[2] or 0, numeric(b[3]) and b[3] or nil
    most = math.max(most, rate)
    worst = math.max(worst, er or 0)
    if numeric(b[4]) then slowest = math.max(slowest, b[4]) end
    ok[i] = { x = at, y = rate * (1 - (er or 0)) }
    failed[i] = { x = at, y = rate }
    ratio[i] = { x = at, y = er }
    p99[i] = { x = at, y = numeric(b[4]) and b[4] or nil }
  end
  local p = panel("requests a second: answered, and failed on top", most, common.digits)
  put('<path class="f0 a" d="%s"/><path class="f1" d="%s"/><path class="ln s0" d="%s"/>', path(ok, x, p.at, function() return 0 end),
    path(failed, x, p.at, function(i) return ok[i].y end), path(ok, x, p.at))
  p = panel("share of requests that failed", math.max(worst, 0.01), common.percent)
  put('<path class="f1 a" d="%s"/><path class="ln s1" d="%s"/>', path(ratio, x, p.at, function() return 0 end), path(ratio, x, p.at))
  p = panel("p99 of the requests that were answered", slowest, common.ms)
  put('<path class="ln s2" d="%s"/>', path(p99, x, p.at))

  local by_service = {}
  for _, c in ipairs(list(chart.conns)) do
    local name = tostring(c.service)
    if not by_service[name] then
      by_service[name] = {}
      by_service[#by_service + 1] = name
    end
    table.insert(by_service[name], c)
  end
  for _, name in ipairs(by_service) do
    local peak = 0
    for _, c in ipairs(by_service[name]) do
      for _, q in ipairs(list(c.points)) do peak = math.max(peak, numeric(q[2]) and q[2] or 0) end
    end
    p = panel("new connections a second, service " .. name, peak, common.digits)
    local legend = RIGHT
    for i = #by_service[name], 1, -1 do
      local c, points = by_service[name][i], {}
      local width = 7 * common.length(tostring(c.server)) + 26
      for k, q in ipairs(list(c.points)) do points[k] = { x = q[1] + step / 2 - zero, y = q[2] } end
      put('<path class="ln s%d" d="%s"/>', (i - 1) % 6, path(points, x, p.at))
      legend = legend - width
      put('<rect class="f%d" x="%.1f" y="%.1f" width="12" height="4" rx="2"/><text x="%.1f" y="%.1f">%s</text>', (i - 1) % 6, legend,
        p.y - 14, legend + 16, p.y - 9, esc(c.server))
    end
  end

  local bottom = panels[#panels].y + PANEL
  local bands = {}
  for _, fault in ipairs(list(r.faults)) do
    if numeric(fault.applied_ns) then
      local from = (fault.applied_ns - t0_ns) / 1e9 - zero
      local to = numeric(fault.lifted_ns) and (fault.lifted_ns - t0_ns) / 1e9 - zero or last
      bands[#bands + 1] = f('<rect class="band" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s on %s</title></rect>', x(from), top + 2,
        math.max(x(to) - x(from), 1), bottom - top - 2, esc(get(fault, "name") or "fault"), esc(get(fault, "node") or "?"))
    end
  end
  out[band_at] = table.concat(bands)

  for _, m in ipairs(marks) do
    put('<line class="mark" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/><text class="markt" x="%.1f" y="%.1f">%s</text>', m.x, 15 * m.row - 4,
      m.x, bottom, m.left, 15 * m.row, esc(m.label))
  end

  -- the axis of time
  local tick = nice((last - first) / 12)
  put('<line class="axis" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>', LEFT, bottom, RIGHT, bottom)
  for k = math.ceil(first / tick), math.floor(last / tick) do
    put('<line class="axis" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/><text x="%.1f" y="%.1f" text-anchor="middle">%s</text>', x(k * tick),
      bottom, x(k * tick), bottom + 4, x(k * tick), bottom + 17, esc(common.digits(k * tick)))
  end
  put('<text x="%.1f" y="%.1f" text-anchor="end">seconds %s</text>', RIGHT, bottom + 33,
    numeric(onset) and "from the fault" or "from the start")

  return f('<svg viewBox="0 0 1000 %.0f" role="img" aria-labelledby="tl-t tl-d"><title id="tl-t">The drill over time</title>'
    .. '<desc id="tl-d">Request rate, share of failed requests, p99 latency and new connections for each server; the shaded band is '
    .. "the time the fault was in force.</desc>%s</svg>", bottom + 40, table.concat(out, "\n"))
end

-- From the fault to recovery against the objective, to scale; with its legend
local function recovery_bar(rec)
  local total = get(rec, "recover_ms")
  local objective = get(rec, "objective_ms")
  if not numeric(total) or total <= 0 then return nil end
  local scale = math.max(total, numeric(objective) and objective or 0) * 1.04
  local function x(v) return 4 + v / scale * 990 end
  local out, legend, from = {}, {}, 0
  local names = { "until detected", "until failed over", "until recovered" }
  for i, key in ipairs { "detect_ms", "failover_ms", "recover_ms" } do
    local v = rec[key]
    if numeric(v) and v > from then
      out[#out + 1] = f('<rect class="b%d" x="%.1f" y="18" width="%.1f" height="22"><title>%s: %s</title></rect>', i - 1, x(from),
        math.max(x(v) - x(from), 1.5), names[i], esc(common.ms(v - from)))
      legend[#legend + 1] = f('<span class="key"><i class="k%d"></i>%s: %s</span>', i - 1, names[i], esc(common.ms(v - from)))
      from = v
    end
  end
  if numeric(objective) then
    local at = x(objective)
    out[#out + 1] = f('<line class="mark" x1="%.1f" y1="13" x2="%.1f" y2="46"/><text class="markt" x="%.1f" y="10" text-anchor="%s">objective %s</text>',
      at, at, at, at > 900 and "end" or at < 80 and "start" or "middle", esc(common.ms(objective)))
  end
  return f('<svg viewBox="0 0 1000 48" role="img" aria-label="From the fault to recovery, to scale">%s</svg><div class="legend">%s</div>',
    table.concat(out), table.concat(legend))
end

-- ── sections ───────────────────────────────────────────────────────────────────────────────────

local tags = { pass = "pass", fail = "missed", unknown = "unknown" }

local function tag(status, text)
  return f('<span class="tag t-%s">%s</span>', tags[status] and status or "unknown", esc(text or tags[status] or status))
end

local function checks_section(put, r)
  if #list(r.checks) == 0 then return end
  put('<h2>Checks</h2><div class="scroll"><table><thead><tr><th scope="col"></th><th scope="col">promise</th><th scope="col" class="n">'
    .. 'measured</th><th scope="col" class="n">objective</th><th scope="col" class="n">margin</th><th scope="col">evidence</th></tr></thead><tbody>')
  for _, c in ipairs(r.checks) do
    put("<tr><td>%s</td><td class=\"k\">%s%s</td><td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"e\">%s</td></tr>",
      tag(c.status), esc(c.name), get(c, "where") and c.where ~= "" and "<br><small>" .. esc(c.where) .. "</small>" or "",
      esc(common.measured(c)), have(c.objective) and esc(common.value(c.unit, c.objective)) or "",
      esc(common.margin(c.unit, c.margin)), esc(get(c, "evidence") or ""))
  end
  put("</tbody></table></div>")
end

local function phases_table(put, r)
  local phases = common.phases(r)
  if #phases == 0 then return end
  put('<div class="scroll"><table><thead><tr><th scope="col"></th><th scope="col">phase</th><th scope="col">onset</th><th scope="col" class="n">'
    .. 'detected</th><th scope="col" class="n">failed over</th><th scope="col" class="n">recovered</th><th scope="col" class="n">objective</th></tr></thead><tbody>')
  for _, p in ipairs(phases) do
    put('<tr><td>%s</td><td class="k">%s</td><td>%s</td><td class="n">%s</td><td class="n">%s</td><td class="n">%s</td><td class="n">%s</td></tr>',
      tag(p.status), esc(p.name), esc(p.onset), esc(p.detected), esc(p.over), esc(p.recovered), esc(p.objective))
  end
  put("</tbody></table></div>")
end

local function recovery_section(put, r, chart)
  local bar = recovery_bar(r.recovery or {})
  local svg = have(chart) and timeline_svg(r, chart) or nil
  if not bar and not svg then return end
  put("<h2>Recovery</h2>")
  if bar then put('<div class="figure">%s</div>', bar) end
  phases_table(put, r)
  for _, h in ipairs(common.held(r)) do put("<p>%s.</p>", esc(h)) end
  if svg then put('<div class="figure">%s</div>', svg) end
  put("<p class=\"dim\">Shaded: the fault is in force. Recovery is the start of the first window in which the whole steady state held, and kept"
    .. " holding until the fault was lifted. Times are good to %s.</p>", esc(common.ms(get(r, "recovery", "resolution_ms") or 100)))
end

local function services_section(put, r)
  for _, s in ipairs(list(r.services)) do
    put("<h2>Service %s: shares of new connections</h2>", esc(s.name))
    local scale = 0
    for _, b in ipairs(list(s.backends)) do
      scale = math.max(scale, numeric(b.share) and b.share or 0, numeric(b.expected) and b.expected or 0)
    end
    scale = scale > 0 and scale * 1.08 or 1
    put('<div class="share">')
    for _, b in ipairs(list(s.backends)) do
      put('<div><b>%s</b><br><small>weight %s</small></div><div class="track">%s%s</div><div>%s<br><small>expected %s, %s connections</small></div>',
        esc(b.node), have(b.weight) and esc(b.weight) or "not measured",
        numeric(b.share) and f('<div class="fill" style="width:%.2f%%"></div>', b.share / scale * 100) or "",
        numeric(b.expected) and f('<div class="want" style="left:%.2f%%"></div>', b.expected / scale * 100) or "",
        numeric(b.share) and "<b>" .. esc(common.percent(b.share)) .. "</b>" or "not measured", esc(common.percent(b.expected)),
        esc(common.count(b.connections)))
    end
    put('</div><p class="dim">Bar: what was measured after recovery. Mark: what the declared weights promise.</p>')
  end
end

local function faults_section(put, r)
  if #list(r.faults) == 0 then return end
  put('<h2>Faults: asked and measured</h2><div class="scroll"><table><thead><tr><th scope="col"></th><th scope="col">fault</th>'
    .. '<th scope="col">asked</th><th scope="col">measured</th><th scope="col" class="n">in force</th></tr></thead><tbody>')
  for _, x in ipairs(r.faults) do
    local proved = get(x, "proved")
    put('<tr><td>%s</td><td class="k">%s on <b>%s</b>%s</td><td class="a">%s</td><td>%s%s</td><td class="n">%s</td></tr>',
      tag(proved == true and "pass" or proved == false and "fail" or "unknown", common.proved(x)), esc(get(x, "name") or "?"),
      esc(get(x, "node") or "?"), get(x, "where") and x.where ~= "" and "<br><small>" .. esc(x.where) .. "</small>" or "",
      esc(common.plain(have(x.asked) and x.asked or x.args)), esc(common.plain(x.measured)),
      get(x, "text") and "<br><small>" .. esc(x.text) .. "</small>" or "",
      numeric(x.applied_ns) and numeric(x.lifted_ns) and esc(common.ms((x.lifted_ns - x.applied_ns) / 1e6)) or "not measured")
  end
  put("</tbody></table></div>")
end

local function load_section(put, r)
  local l = r.load
  if not have(l) then return end
  local rows = {}
  local function row(name, x)
    rows[#rows + 1] = f("<tr><td>%s</td>" .. string.rep('<td class="n">%s</td>', 9) .. "</tr>", esc(name), esc(common.count(x.requests)),
      esc(common.percent(x.error_ratio)), have(x.rate_asked) and esc(common.digits(x.rate_asked)) .. "/s" or "",
      have(x.rate_achieved) and esc(common.digits(x.rate_achieved)) .. "/s" or "", esc(common.ms(x.p50_ms)), esc(common.ms(x.p90_ms)),
      esc(common.ms(x.p99_ms)), esc(common.ms(x.p999_ms)), esc(common.ms(x.max_ms)))
  end
  for _, x in ipairs(list(l.loads)) do row(get(x, "name") or "?", x) end
  if #rows ~= 1 then row("all", l) end
  put('<h2>Load</h2><div class="scroll"><table><thead><tr><th scope="col">load</th>')
  for _, h in ipairs { "requests", "failed", "asked", "sent", "p50", "p90", "p99", "p99.9", "max" } do
    put('<th scope="col" class="n">%s</th>', h)
  end
  put("</tr></thead><tbody>%s</tbody></table></div>", table.concat(rows))
  local kinds = {}
  for _, k in ipairs { "refused", "reset", "timeout", "status", "other" } do
    if numeric(l[k]) and l[k] > 0 then kinds[#kinds + 1] = k .. " " .. common.count(l[k]) end
  end
  put('<p class="dim">%s Latency is counted from the time a request was due.</p>',
    #kinds > 0 and "Failed: " .. esc(table.concat(kinds, ", ")) .. "." or "No request failed.")
end

local function ledger_section(put, r)
  local words = common.ledger(r)
  if not words then return end
  local lost = get(r, "ledger", "lost")
  put("<h2>Ledger of writes</h2><p>%s %s.</p>", tag(lost == 0 and "pass" or lost and "fail" or "unknown",
    lost == 0 and "none lost" or lost and "lost" or "not known"), esc(words))
end

local function restored_section(put, r)
  local answer, sentence = common.residue(r)
  put("<h2>Restored</h2><p>%s %s.</p>", tag(answer == "yes" and "pass" or answer == "no" and "fail" or "unknown", answer),
    esc((sentence:gsub("^%l", string.upper))))
  local lines = {}
  for _, key in ipairs { "diff", "conflicts", "failed" } do
    for _, d in ipairs(list(get(r, "residue", key))) do lines[#lines + 1] = (key == "diff" and "" or key .. ": ") .. tostring(d) end
  end
  if #lines > 0 then put("<pre>%s</pre>", esc(table.concat(lines, "\n"))) end
  for _, s in ipairs(common.pictures(r)) do put('<p class="dim">%s.</p>', esc((s:gsub("^%l", string.upper)))) end
  local changes = list(r.changes)
  if #changes == 0 then return end
  put('<details%s><summary>%d changes were made and journalled</summary><div class="scroll"><table><thead><tr><th scope="col">state</th>'
    .. '<th scope="col">change</th><th scope="col">node</th><th scope="col">arguments</th></tr></thead><tbody>', #changes <= 12 and " open" or "",
    #changes)
  for _, c in ipairs(changes) do
    local state = get(c, "state") or "?"
    put('<tr><td>%s</td><td class="w">%s</td><td class="w">%s</td><td>%s%s</td></tr>', tag(state == "undone" and "pass" or state == "applied" and "unknown" or "fail", state),
      esc(get(c, "change") or "?"), esc(get(c, "node") or "?"), have(c.args) and esc(common.plain(c.args)) or "",
      get(c, "text") and "<br><small>" .. esc(c.text) .. "</small>" or "")
  end
  put("</tbody></table></div></details>")
end

local function events_section(put, r, chart)
  local events, zero = list(get(chart, "events")), 0
  if #events == 0 then return end
  local onset = get(r, "recovery", "onset_ns")
  if numeric(onset) and numeric(chart.t0_ns) then zero = (onset - chart.t0_ns) / 1e9 end
  put('<h2>What happened</h2><div class="scroll"><table><thead><tr><th scope="col" class="n">%s</th><th scope="col"></th><th scope="col">'
    .. "</th></tr></thead><tbody>", numeric(onset) and "from the fault" or "from the start")
  local most = 150
  for i, e in ipairs(events) do
    if i > most then break end
    local what = {}
    for _, key in ipairs { "stage", "phase", "use", "name", "change", "node", "state", "status", "by", "what", "reason", "text" } do
      if get(e, key) and tostring(e[key]) ~= "" and not (key == "use" and get(e, "name")) then
        what[#what + 1] = key == "node" and "on " .. tostring(e[key]) or tostring(e[key])
      end
    end
    put('<tr><td class="n">%+.3f s</td><td class="w">%s</td><td>%s</td></tr>', (numeric(e.t_s) and e.t_s or 0) - zero, esc(e.kind or "?"),
      esc(table.concat(what, " · ")))
  end
  put("</tbody></table></div>")
  if #events > most then put('<p class="dim">%d more are in timeline.jsonl.</p>', #events - most) end
end

local function again_section(put, r)
  local run = r.run or {}
  put("<h2>Again, and how good the data are</h2><pre>%s</pre>", esc(common.again(r)))
  local facts = {}
  for _, x in ipairs { { "run", "id" }, { "seed", "seed" }, { "kernel", "kernel" }, { "lab", "lab" }, { "site", "site" }, { "host", "host" },
    { "muster", "version" }, { "started", "started" }, { "ended", "ended" } } do
    if get(run, x[2]) then facts[#facts + 1] = x[1] .. " " .. esc(run[x[2]]) end
  end
  put('<p class="dim">%s</p>', table.concat(facts, " · "))
  local t = r.telemetry or {}
  put('<p class="dim">Telemetry: %s; %s.</p>', get(t, "events") and esc(common.count(t.events)) .. " events" or "not measured",
    get(t, "dropped") and esc(common.count(t.dropped)) .. " lost" or "losses not measured")
  for _, l in ipairs(common.telemetry(r)) do put('<p class="dim">%s</p>', esc(l)) end
  for _, l in ipairs(common.counted(r)) do put('<p class="dim">Counted: %s</p>', esc(l)) end
  local traffic = common.traffic(r)
  if #traffic > 0 then
    put("<h3>Who talked to whom</h3><table>")
    for i, row in ipairs(traffic) do
      local cells = {}
      for _, key in ipairs { "node", "way", "peer", "service", "before", "during", "after" } do
        cells[#cells + 1] = (i == 1 and "<th>%s</th>" or "<td>%s</td>"):format(esc(row[key]))
      end
      put("<tr>%s</tr>", table.concat(cells))
    end
    put("</table>")
  end
  for _, n in ipairs(common.notes(r)) do put('<p class="dim">Note. %s</p>', esc(n)) end
end

local function cards(put, r)
  local rec = r.recovery or {}
  local function card(value, label) put('<div class="card"><b>%s</b><span>%s</span></div>', esc(value), esc(label)) end

  put('<div class="cards">')
  if get(rec, "onset_ns") then
    card(common.moment(get(rec, "recover_ms")), "recovered" .. (numeric(rec.objective_ms) and ", objective " .. common.ms(rec.objective_ms) or ""))
    if common.acts(r) then
      card(common.moment(get(rec, "detect_ms")), "detected" .. (get(rec, "withdrawn") and ": " .. tostring(rec.withdrawn) .. " withdrawn" or ""))
      card(common.moment(get(rec, "failover_ms")), "first connection elsewhere")
    end
  end
  if have(r.load) then
    card(common.percent(r.load.error_ratio), "of " .. common.count(r.load.requests) .. " requests failed")
    card(common.ms(r.load.p99_ms), "p99 over the whole run")
  end
  local answer = common.residue(r)
  card(answer == "yes" and "yes" or answer == "no" and "no" or "not proved", "restored as it was before")
  put("</div>")
end

return function(r, chart)
  local out = {}
  local function put(fmt, ...) out[#out + 1] = select("#", ...) > 0 and f(fmt, ...) or fmt end
  local name = get(r, "run", "scenario") or "?"
  local verdict = get(r, "verdict") or "?"

  put('<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    .. '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'">'
    .. '<meta name="referrer" content="no-referrer"><title>%s: %s</title>', esc(verdict), esc(name))
  put("<style>")
  out[#out + 1] = style
  put("</style></head><body><main>")
  put('<header class="banner %s"><h1>%s</h1><div class="verdict">%s</div><div class="why">%s</div><div class="meta">exit %s · %s · %s</div></header>',
    esc(verdict), esc(name), esc((verdict:gsub("^%l", string.upper))), esc(get(r, "reason") or ""), esc(tostring(get(r, "exit_code") or "?")),
    esc(get(r, "run", "started") or "start not recorded"), numeric(get(r, "run", "seconds")) and esc(common.ms(r.run.seconds * 1000)) or "length not recorded")
  local answer, sentence = common.residue(r)
  if answer == "no" or r.exit_code == 5 then
    put('<div class="residue" role="alert">%s. The difference stands under “Restored”.</div>', esc((sentence:gsub("^%l", string.upper))))
  end
  if common.said(get(r, "run", "summary")) then put('<p class="question">%s</p>', esc(r.run.summary)) end
  for _, w in ipairs(list(r.waived)) do put('<div class="residue">waived: %s</div>', esc(tostring(w))) end
  cards(put, r)
  for _, e in ipairs(list(r.errors)) do
    put("<pre>error: %s%s%s</pre>", esc(get(e, "text") or "?"), get(e, "where") and e.where ~= "" and "\nat " .. esc(e.where) or "",
      get(e, "hint") and "\n" .. esc(e.hint) or "")
  end
  checks_section(put, r)
  recovery_section(put, r, chart)
  services_section(put, r)
  faults_section(put, r)
  load_section(put, r)
  ledger_section(put, r)
  restored_section(put, r)
  events_section(put, r, chart)
  again_section(put, r)
  put("</main></body></html>\n")
  return table.concat(out, "\n")
end
