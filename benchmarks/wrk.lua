-- Load of one workload, and its figures as one line of JSON on standard output.
--
-- Arguments after "--": nothing for GET, or the length of the body in bytes for POST.
-- The request is built once, by wrk itself: no Lua runs per request.

local pattern = "0123456789abcdef"

function init(args)
    local length = tonumber(args[1])
    if length then
        wrk.method = "POST"
        wrk.headers["Content-Type"] = "text/plain"
        wrk.body = string.rep(pattern, length / #pattern)
    end
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '{"requests": %d, "seconds": %.6f, "bytes": %.0f, '
        .. '"p50_ms": %.3f, "p99_ms": %.3f, "p999_ms": %.3f, "max_ms": %.3f, '
        .. '"errors": {"connect": %d, "read": %d, "write": %d, '
        .. '"timeout": %d, "status": %d}}\n',
        summary.requests, summary.duration / 1e6, summary.bytes,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        latency:percentile(99.9) / 1e3, latency.max / 1e3,
        errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
