-- Posts the bodies of a folder in turn, prints one line of JSON at the end: microseconds, counts.
-- Environment: BODIES (a folder with files 0, 1, ...), COUNT, URL_PATH, HEADERS ("name: value" lines).
local requests = {}
local next_request = 0

function init(args)
  local headers = {}
  for name, value in string.gmatch(os.getenv("HEADERS"), "([^:\n]+): ([^\n]+)") do headers[name] = value end
  for i = 0, tonumber(os.getenv("COUNT")) - 1 do
    local file = assert(io.open(os.getenv("BODIES") .. "/" .. i, "rb"))
    requests[i] = wrk.format("POST", os.getenv("URL_PATH"), headers, file:read("*a"))
    file:close()
  end
end

function request()
  next_request = (next_request + 1) % tonumber(os.getenv("COUNT"))
  return requests[next_request]
end

function done(summary, latency, requests)
  local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout
  io.write(string.format('{"requests": %d, "us": %d, "errors": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, errors, latency:percentile(50), latency:percentile(99)))
end
