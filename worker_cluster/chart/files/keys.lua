-- Knows callers by their key, `Authorization: Bearer <key>`: one of those that the mounted Secret holds, one a line. A
-- route refuses whom this marks. It does not answer itself, as the endpoint picker would be shown that answer.

local PATH = "/etc/envoy-keys/keys"
local SECONDS = 10 -- between two looks at the file, which changes when the Secret does

local keys = {}
local looked_at = 0

local function refresh()
  if os.time() - looked_at < SECONDS then
    return
  end
  looked_at = os.time()
  local file = io.open(PATH, "r")
  if file == nil then
    return -- A Secret is swapped as a whole: what was read last still counts.
  end
  local found = {}
  for line in file:lines() do
    local key = line:match("^%s*(.-)%s*$")
    if key ~= "" then
      found[key] = true
    end
  end
  file:close()
  keys = found
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(":path") == "/health" then
    return
  end
  refresh()
  local scheme, key = (headers:get("authorization") or ""):match("^(%a+) +(%S+)$")
  if scheme == nil or scheme:lower() ~= "bearer" or not keys[key] then
    handle:streamInfo():dynamicMetadata():set("entrance", "key", "unknown")
    handle:clearRouteCache()
  end
end
