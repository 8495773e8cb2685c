-- Puts the base path of the backend that an attempt has got before the dialect's path, where the backends of a chain have several. The route
-- has put that of the first backend there, and an earlier attempt that of its own.
--
-- It runs for each attempt but the first one at the first backend. BASES are the base paths by the backends' IDs, FIRST is the route's,
-- AT_HEADER the header in which a filter before this one leaves the ID and the number of the attempt, NAMESPACE that of the metadata
-- which keeps the dialect's path for attempts that follow.

local function prepare(handle)
  local headers = handle:headers()
  local base = BASES[string.match(headers:get(AT_HEADER) or "", "^[^#]*")]
  if not base then return false end
  local metadata = handle:streamInfo():dynamicMetadata()
  local kept = metadata:get(NAMESPACE)
  local path = kept and kept.path
  if not path then
    path = string.sub(headers:get(":path"), #FIRST + 1)
    metadata:set(NAMESPACE, "path", path)
  end
  headers:replace(":path", base .. path)
  return true
end

function envoy_on_request(handle)
  local ok, prepared = pcall(prepare, handle)
  if not ok or not prepared then handle:respond({ [":status"] = "503" }, "") end
end
