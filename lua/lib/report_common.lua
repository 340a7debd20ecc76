-- SPDX-License-Identifier: GPL-2.0-only
-- report_common.lua: what the renderers share. A report's field that was not measured is `null`, a value of its own; here it
-- becomes words, never a number.
local null = ...

local common = { null = null }

--- Is there a value? Absent and not measured are the same to a reader.
function common.have(v)
  return v ~= nil and v ~= null
end
local have = common.have

--- The member of a member of ..., or nil when anything on the way is not there.
function common.get(t, ...)
  for _, key in ipairs { ... } do
    if type(t) ~= "table" then return nil end
    t = t[key]
  end
  if t == null then return nil end
  return t
end
local get = common.get

--- A list, whatever was there.
function common.list(v)
  return type(v) == "table" and v or {}
end

--- Pairs in the order of their keys: two renderings of one report are equal.
function common.sorted(t)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  local i = 0
  return function()
    i = i + 1
    if keys[i] ~= nil then return keys[i], t[keys[i]] end
  end
end

-- ── numbers ────────────────────────────────────────────────────────────────────────────────────

-- three significant digits, without exponents and without a trailing ".0"
local function digits(v)
  local a = math.abs(v)
  if v ~= v or a == math.huge then return tostring(v) end
  if a >= 100 or a == 0 then return string.format("%.0f", v) end
  local s = string.format(a >= 10 and "%.1f" or a >= 1 and "%.2f" or a >= 0.1 and "%.3f" or "%.3g", v)
  if s:find(".", 1, true) and not s:find("e", 1, true) then s = s:gsub("0+$", ""):gsub("%.$", "") end
  return s
end
common.digits = digits

--- Milliseconds as a person says them.
function common.ms(v)
  if type(v) ~= "number" then return "not measured" end
  local a = math.abs(v)
  if a >= 1000 then return digits(v / 1000) .. " s" end
  if a >= 1 or a == 0 then return digits(v) .. " ms" end
  return digits(v * 1000) .. " µs"
end

--- A moment of recovery: one that was not seen did not come, or was not looked for.
function common.moment(v)
  return type(v) == "number" and common.ms(v) or "not seen"
end

--- A row for each phase with a fault, ready to be shown: phase, detected, failed over, recovered, objective, and whether it was met.
-- Empty when there is one phase alone, which the recovery itself tells.
function common.phases(r)
  local rows = {}
  for _, p in ipairs(common.list(get(r, "recovery", "phases"))) do
    local met = have(p.objective_ms) and ({ ["true"] = "pass", ["false"] = "fail" })[p.status] or "unknown"
    rows[#rows + 1] = {
      name = get(p, "phase") ~= "" and get(p, "phase") or "(no name)", onset = get(p, "onset") or "not known",
      detected = common.moment(get(p, "detect_ms")), over = common.moment(get(p, "failover_ms")),
      recovered = common.moment(get(p, "recover_ms")),
      objective = have(p.objective_ms) and common.ms(p.objective_ms) or "none", status = met,
    }
  end
  return #rows > 1 and rows or {}
end

--- What became of the connections that were held when the fault came, in one sentence for each phase; an empty list: none were held.
function common.held(r)
  local out = {}
  for _, p in ipairs(common.list(get(r, "recovery", "phases"))) do
    local c = p.connections
    if have(c) then
      out[#out + 1] = string.format("%s%s of %s held connections survived", get(p, "phase") ~= "" and p.phase .. ": " or "",
        common.count(c.survived), common.count(c.held))
    end
  end
  return out
end

--- Whether there is somebody who could have acted: directors that withdraw, standbys that take over.
function common.acts(r)
  return common.has_services(r) or have(get(r, "recovery", "detect_ms"))
end

--- What the ledger of writes says, in one sentence; nil: there was none.
function common.ledger(r)
  local l = r.ledger or {}
  if not have(l.acknowledged) then return nil end
  if not have(l.lost) then
    return string.format("%s writes acknowledged; nothing could be read back, so what is lost is not known", common.count(l.acknowledged))
  end
  local parts = {
    string.format("%s of %s writes acknowledged", common.count(l.acknowledged), common.count(l.attempted)),
    l.lost == 0 and "none of them lost" or string.format("%s of them LOST (%s; RPO %s)", common.count(l.lost), get(l, "missing") or "?",
      common.ms(l.rpo_ms)),
    common.count(l.duplicated) .. " duplicated",
    string.format("%s stale of %s answers", common.count(l.stale), common.count(l.reads)),
  }
  if (l.unsure or 0) > 0 then parts[#parts + 1] = common.count(l.unsure) .. " there without an acknowledgement" end
  return table.concat(parts, ", ")
end

--- 0..1 as a percentage.
function common.percent(v)
  if type(v) ~= "number" then return "not measured" end
  return digits(v * 100) .. " %"
end

--- 18000 -> "18,000"
function common.count(v)
  if type(v) ~= "number" then return "not measured" end
  local s = string.format("%d", math.floor(v))
  repeat
    local n
    s, n = s:gsub("^(-?%d+)(%d%d%d)", "%1,%2")
  until n == 0
  return s
end

--- A check's value in its unit: "ms", "ratio", "1/s" or "".
function common.value(unit, v)
  if type(v) ~= "number" then return "not measured" end
  if unit == "ms" then return common.ms(v) end
  if unit == "ratio" then return common.percent(v) end
  if unit == "1/s" then return digits(v) .. "/s" end
  return digits(v)
end

--- What a check measured; a time that was to be kept and has no end was not kept.
function common.measured(c)
  if type(c.measured) ~= "number" and c.status == "fail" and c.unit == "ms" then return "not in time" end
  return common.value(c.unit, c.measured)
end

--- A margin, with its sign: how far on the good side.
function common.margin(unit, v)
  if type(v) ~= "number" then return "" end
  if unit == "ratio" then return string.format("%s%s points", v >= 0 and "+" or "-", digits(math.abs(v) * 100)) end
  return (v >= 0 and "+" or "-") .. common.value(unit, math.abs(v))
end

-- ── text ───────────────────────────────────────────────────────────────────────────────────────

--- Any value of a report on one line: objects as "key value, key value" in order.
function common.plain(v, depth)
  depth = depth or 0
  if not have(v) then return "not measured" end
  if type(v) ~= "table" then
    if math.type(v) == "float" then return digits(v) end
    return (tostring(v):gsub("%c+", " "))
  end
  if depth > 8 then return "..." end
  local out = {}
  if #v > 0 then
    for i, x in ipairs(v) do out[i] = common.plain(x, depth + 1) end
    return table.concat(out, ", ")
  end
  for k, x in common.sorted(v) do
    local key, text = tostring(k), common.plain(x, depth + 1)
    -- a name that says its unit is read with it
    if math.type(x) ~= nil and key:find("_ns$") then
      key, text = key:gsub("_ns$", ""), common.ms(x / 1e6)
    elseif type(x) == "table" and #x == 0 then
      text = "(" .. text .. ")"
    end
    out[#out + 1] = key:gsub("_", " ") .. " " .. text
  end
  return table.concat(out, ", ")
end

-- The first byte that ends a well-formed character beginning at @i, or nil (RFC 3629).
local function character_end(s, i)
  local b = s:byte(i)
  local n = b < 0x80 and 0 or b >= 0xc2 and b < 0xe0 and 1 or b >= 0xe0 and b < 0xf0 and 2 or b >= 0xf0 and b < 0xf5 and 3
  if not n then return nil end
  for k = 1, n do
    local c = s:byte(i + k)
    if not c or c < 0x80 or c > 0xbf then return nil end
  end
  return i + n
end

local REPLACEMENT = "\u{FFFD}"

-- Well-formed, and still not to be shown: C1 controls (a terminal obeys them), what turns the direction of writing (text then
-- reads otherwise than it is), and what is no character of XML.
local function is_harmful(c)
  return c:find("^\xc2[\x80-\x9f]") or c:find("^\xe2\x80[\xaa-\xae]") or c:find("^\xe2\x81[\xa6-\xa9]") or
    c == "\u{FFFE}" or c == "\u{FFFF}"
end

--- What neither XML nor a terminal may be handed: control characters, and bytes that are no UTF-8.
function common.clean(s)
  s = tostring(s):gsub("[\0-\8\11\12\14-\31\127]", REPLACEMENT)
  if not s:find("[\128-\255]") then return s end
  local out, i = {}, 1
  while i <= #s do
    local e = character_end(s, i)
    local c = e and s:sub(i, e) or REPLACEMENT
    out[#out + 1] = is_harmful(c) and REPLACEMENT or c
    i = (e or i) + 1
  end
  return table.concat(out)
end

local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

--- The same on one line.
function common.oneline(s)
  return (common.clean(s):gsub("%s*[\r\n]+%s*", " "))
end

--- Characters, not bytes
function common.length(s)
  return select(2, s:gsub("[^\x80-\xbf]", ""))
end

--- For HTML and XML, between tags and inside quoted attributes.
function common.escape(s)
  return (common.clean(s):gsub("[&<>\"']", entities))
end

--- One word for a POSIX shell.
local function shell(s)
  s = common.clean(s):gsub("%c", " ")
  if s:find("^[%w@%%+=:,./_-]+$") then return s end
  return "'" .. s:gsub("'", "'\\''") .. "'"
end

--- The command that plays the same drill again.
function common.again(report)
  local run = report.run or {}
  local words = { "muster run", shell(get(run, "file") or get(run, "scenario") or "FILE") }
  if get(run, "lab") then words[#words + 1] = "--lab " .. shell(run.lab) end
  if get(run, "seed") then words[#words + 1] = "--seed " .. shell(run.seed) end
  for k, v in common.sorted(common.list(get(run, "set"))) do
    words[#words + 1] = "--set " .. shell(k .. "=" .. tostring(v))
  end
  return table.concat(words, " ")
end

-- ── the report ─────────────────────────────────────────────────────────────────────────────────

--- {sysctl = 2, qdisc = 1} as "sysctl 2, qdisc 1", most first; and the sum
local function by_subject(counts)
  local names, words, sum = {}, {}, 0
  for name, n in pairs(counts) do
    if type(n) == "number" then
      names[#names + 1] = name
      sum = sum + n
    end
  end
  table.sort(names, function(a, b)
    if counts[a] ~= counts[b] then return counts[a] > counts[b] end
    return a < b
  end)
  for i, name in ipairs(names) do words[i] = name .. " " .. common.count(counts[name]) end
  return table.concat(words, ", "), sum
end

--- Of the lines that differ, how many are of each subject: "- NODE: SUBJECT ..."
local function differing(report)
  local counts = {}
  for _, line in ipairs(common.list(get(report, "residue", "diff"))) do
    local subject = tostring(line):match("^[-+?] .-: ([%w_]+)")
    if subject then counts[subject] = (counts[subject] or 0) + 1 end
  end
  return by_subject(counts)
end

--- "yes", "no" or "unknown", and one line on it.
function common.residue(report)
  local clean = get(report, "residue", "clean")
  local subjects = clean == false and differing(report) or ""
  if subjects ~= "" then return "no", "the host is not as it was before: " .. subjects end
  if clean == true then return "yes", "the host is as it was before: compared, nothing differs" end
  if clean == false then return "no", "the host is not as it was before" end
  -- a drill that was refused before its first change has nothing to compare
  if report.verdict == "refused" and #common.list(report.changes) == 0 then return "yes", "nothing was changed" end
  return "unknown", "whether the host is as it was before was not proved"
end

--- What "as it was before" rests on, one line each: what was compared, and what the picture at the peak showed.
function common.pictures(report)
  local out = {}
  local compared, peak = get(report, "residue", "compared"), get(report, "residue", "peak")
  if type(compared) == "table" and next(compared) then
    local subjects, sum = by_subject(compared)
    out[#out + 1] = string.format("compared: %s facts (%s)", common.count(sum), subjects)
  end
  if type(peak) ~= "table" then return out end
  if get(peak, "text") then
    out[#out + 1] = "at the peak: no picture: " .. tostring(peak.text)
    return out
  end
  local subjects, sum = by_subject(common.list(get(peak, "changed")))
  local unseen = common.list(get(peak, "unseen"))
  if sum == 0 then
    out[#out + 1] = "at the peak: nothing differed from before, though changes were in force: the comparison does not see them"
  else
    out[#out + 1] = string.format("at the peak: %s %s from before (%s), so the comparison can see what was done", common.count(sum),
      sum == 1 and "fact differed" or "facts differed", subjects)
  end
  for _, name in ipairs(unseen) do
    out[#out + 1] = "not seen at the peak: " .. tostring(name) .. ": what it left behind would not be seen either"
  end
  return out
end

--- What the sources say about their own data, one line each: "client: ...".
function common.notes(report)
  local out = {}
  for _, s in ipairs(common.list(report.sources)) do
    local name = tostring(get(s, "name") or "?")
    if get(s, "state") == "refused" then
      out[#out + 1] = name .. ": did not run: " .. tostring(get(s, "text") or "no reason was given")
    elseif get(s, "text") then
      out[#out + 1] = name .. ": " .. tostring(s.text)
    end
    for _, n in ipairs(common.list(get(s, "notes"))) do out[#out + 1] = name .. ": " .. tostring(n) end
  end
  for _, c in ipairs(common.list(report.changes)) do
    if get(c, "state") == "unsupported" then
      out[#out + 1] = "baseline: not on this host: " .. tostring(get(c, "text") or get(c, "change") or "?")
    end
  end
  for _, d in ipairs(common.list(report.drift)) do
    local what = string.format("%s on %s: %s", tostring(get(d, "change") or "?"), tostring(get(d, "node") or "?"),
      tostring(get(d, "key") or "?"))
    out[#out + 1] = get(d, "holds") == true and string.format("drift: %s holds again: %s", what, tostring(get(d, "now")))
      or string.format("drift: %s became %s; the baseline made it %s, before it was %s", what, tostring(get(d, "now") or "?"),
        tostring(get(d, "want") or "?"), tostring(get(d, "before") or "?"))
  end
  return out
end

--- The outage to the connection, and how good the telemetry was: lines of text.
function common.outage(r)
  local out, rec = {}, r.recovery or {}
  local o = get(rec, "outage")
  if get(rec, "affected_ms") then
    out[#out + 1] = "first in trouble " .. common.ms(rec.affected_ms) .. " after the fault"
  end
  if o and have(o.length_ms) then
    out[#out + 1] = string.format("%s accepted nobody for %s, good to %s", tostring(o.service), common.ms(o.length_ms),
      common.ms(o.resolution_ms))
  elseif o then
    out[#out + 1] = tostring(o.service) .. " accepted nobody any more, as long as it was looked at"
  end
  return out
end

function common.telemetry(r)
  local out, t = {}, r.telemetry or {}
  local active, absent = {}, {}
  for _, p in ipairs(common.list(get(t, "probes"))) do
    if p.active == true then
      active[#active + 1] = tostring(p.probe)
    else
      absent[#absent + 1] = tostring(p.probe) .. (get(p, "why") and " (" .. tostring(p.why) .. ")" or "")
    end
  end
  if #active > 0 then out[#out + 1] = "seen by " .. table.concat(active, ", ") end
  if #absent > 0 then out[#out + 1] = "not active: " .. table.concat(absent, ", ") end
  local rs = get(t, "resolution")
  if rs then
    out[#out + 1] = string.format("connections are stamped to %s ns and counted by %s; traffic and latencies by %s",
      common.digits(rs.stamp_ns), common.ms(rs.series_ns / 1e6), common.ms(rs.counts_ns / 1e6))
  end
  local rec = get(t, "records")
  if rec and (get(rec, "left_out") or 0) > 0 then
    out[#out + 1] = string.format("single connections above %s/s: a sample, one in %s at most", common.count(rec.rate_limit),
      common.count(rec.one_in_at_most))
  end
  if (get(t, "rescued") or 0) > 0 then
    out[#out + 1] = string.format("%s changes came upon the recording of another, and were recorded all the same",
      common.count(t.rescued))
  end
  for _, p in ipairs(common.list(get(t, "phases"))) do
    if (get(p, "lost") or 0) > 0 then
      out[#out + 1] = string.format("%s: %s events missed beside %s seen%s", tostring(p.phase), common.count(p.lost), common.count(p.events),
        p.too_many and "; what rests on them is unknown" or "")
    end
  end
  return out
end

--- What was counted by packet, of those that came or were sent on at all: lines of text.
function common.counted(r)
  local out, c = {}, get(r, "telemetry", "counted")
  local function put(e, what, ...)
    if type(get(e, "packets")) == "number" and e.packets > 0 then
      out[#out + 1] = string.format("%s packets (%s B) %s%s", common.count(e.packets), common.count(e.bytes), what:format(...),
        get(e, "service") and " for " .. tostring(e.service) or "")
    end
  end
  for _, e in ipairs(common.list(get(c, "forward"))) do
    put(e, "in %s connections were sent on to %s by %s", common.count(e.connections), tostring(e.server), tostring(e.director))
  end
  for _, e in ipairs(common.list(get(c, "packets"))) do put(e, "came to %s/%s", tostring(e.node), tostring(e.dev)) end
  return out
end

--- Who talked to whom: rows of text, the header first; empty when nobody watched. Those that have a service or a known peer.
function common.traffic(r)
  local rows = {}
  for _, e in ipairs(common.list(r.traffic)) do
    if get(e, "service") or get(e, "peer") then
      local row = { node = tostring(get(e, "node") or "?"), way = e.role == "active" and "to" or "from",
        peer = tostring(get(e, "peer") or "(others)"), service = tostring(get(e, "service") or "") }
      for _, when in ipairs { "before", "during", "after" } do
        local p, ended = get(e, when), 0
        if p then
          for outcome, n in pairs(get(p, "outcomes") or {}) do
            if outcome ~= "closed" then ended = ended + n end
          end
          row[when] = string.format("%s (%s not clean), %s/%s B", common.count(p.established), common.count(ended), common.count(p.bytes_in),
            common.count(p.bytes_out))
        else
          row[when] = "-"
        end
      end
      rows[#rows + 1] = row
    end
  end
  if #rows > 0 then
    table.insert(rows, 1, { node = "node", way = "", peer = "peer", service = "service", before = "before: connections, bytes in/out",
      during = "during the faults", after = "after" })
  end
  return rows
end

--- Is there anybody who could detect and fail over? Without a service nobody does.
function common.has_services(report)
  return #common.list(report.services) > 0
end

--- A text that says something, or nil.
function common.said(v)
  if not have(v) or tostring(v):find("^%s*$") then return nil end
  return tostring(v)
end

local proved_words = { [true] = "proved", [false] = "did not bite" }

--- Did the fault bite?
function common.proved(fault)
  return proved_words[get(fault, "proved")] or "not proved"
end

return common
