-- Sends an attempt on that Weir was asked to prepare and did not, because it does not answer, where there is nothing to prepare but what
-- a direct route has Envoy do: a backend that fails open, speaks the caller's dialect, calls the model as the caller does, and wants
-- no credential. The request was decided: Weir has let it in. All other attempts end here, because unprepared they would carry the
-- caller's key.
--
-- It runs for each attempt of a chain. BACKENDS are those that may be asked so, by their IDs; PATHS are the dialects' by "dialect
-- operation"; REMOVED are the headers that no backend gets.

local find, sub = string.find, string.sub

-- whether the attempt may go on
local function prepare(handle)
  local headers = handle:headers()
  if headers:get(PREPARED_HEADER) then return true end
  local backend = BACKENDS[headers:get(AT_HEADER) or ""]
  local metadata = handle:streamInfo():dynamicMetadata()
  local decided = metadata:get(NAMESPACE)
  -- What an earlier attempt has replaced, the length of the body above all, is not the caller's any more.
  if not backend or not decided or metadata:get(ATTEMPT_NAMESPACE) then return false end
  if decided.dialect ~= backend.dialect or not decided.model or not decided.operation then return false end
  if backend.models and not find(backend.models, "\t" .. decided.model .. "\t", 1, true) then return false end
  local path = PATHS[decided.dialect .. " " .. decided.operation]
  if not path then return false end
  local asked = headers:get(":path")
  local query = find(asked, "?", 1, true)
  for i = 1, #REMOVED do headers:remove(REMOVED[i]) end
  headers:replace(":path", backend.base .. path .. (query and sub(asked, query) or ""))
  headers:replace(":authority", backend.host)
  return true
end

function envoy_on_request(handle)
  local ok, prepared = pcall(prepare, handle)
  if not ok or not prepared then handle:respond({ [":status"] = "503" }, "") end
end
