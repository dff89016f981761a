-- Lets in who knows a key: `Authorization: Bearer <key>`, one of those that the mounted Secret holds, one a line.

local PATH = "/etc/envoy-keys/keys"
local SECONDS = 10 -- between two looks at the file, which changes when the Secret does
local REFUSAL = '{"error":{"message":"The entrance asks for one of its keys as bearer.",'
  .. '"type":"invalid_request_error","param":null,"code":"invalid_api_key"}}'

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
  if headers:get(":path"):match("^/health$") then
    return
  end
  refresh()
  local scheme, key = (headers:get("authorization") or ""):match("^(%a+) +(%S+)$")
  if scheme ~= nil and scheme:lower() == "bearer" and keys[key] then
    return
  end
  handle:respond(
    {[":status"] = "401", ["content-type"] = "application/json", ["www-authenticate"] = "Bearer"},
    REFUSAL
  )
end
