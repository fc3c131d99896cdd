-- wrk: chat completions of a 2 KB prompt; the key is the argument after `--`.
-- Prints one line: requests failed microseconds p50_us p99_us.
function init(args)
  wrk.method = "POST"
  wrk.headers["content-type"] = "application/json"
  wrk.headers["authorization"] = "Bearer " .. args[1]
  wrk.body = '{"model":"tiny-chat","stream":false,"max_tokens":256,"messages":[{"role":"user","content":"'
    .. string.rep("x", 1940) .. '"}]}'
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format("RESULT %d %d %d %d %d\n",
    summary.requests, failed, summary.duration, latency:percentile(50), latency:percentile(99)))
end
