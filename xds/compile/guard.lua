-- Keeps answers from callers that only Weir could have made fit for them, where Envoy lets them pass because Weir does not answer:
-- answers of backends that speak another dialect, and streams that a budget may end, of which pieces are lost. What the caller gets
-- is an error in its own dialect. Answers pass this filter after Weir.

local FILTER = "weir.decide" -- that asks Weir
local FACTS = { "failed_open", "response_header_call_status", "response_body_last_call_status", "response_trailer_call_status" }

-- whether Weir has failed in this request. Envoy notes the status of the call that it failed in before what waited for it goes on,
-- and that it has failed at all a little later; there need not be such a call. All are numbers, and 0 is good.
local function failed(handle)
  local state = handle:streamInfo():filterState()
  for i = 1, #FACTS do
    local fact = state:get(FILTER, FACTS[i])
    if fact and fact ~= 0 then return true end
  end
  return false
end

function envoy_on_response(handle)
  local decided = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  local needs = decided and decided[KEY_NEEDS]
  if not needs or decided.open then return end -- of what was let through nothing needs Weir
  local headers = handle:headers()
  if needs ~= "*" then
    local backend = headers:get(BACKEND_HEADER)
    if not backend or not string.find(needs, " " .. backend .. " ", 1, true) then return end
  end
  local errors = ERRORS[decided.dialect] or ERRORS[DEFAULT_DIALECT]
  local spoilt = failed(handle)
  local last
  if spoilt then
    headers:replace(":status", "503")
    headers:replace("content-type", "application/json")
    headers:replace("retry-after", "1")
    headers:remove("content-length")
    headers:remove("content-encoding")
    last = errors.whole
  else
    local kind = headers:get("content-type")
    if not kind or string.sub(kind, 1, 17) ~= "text/event-stream" then return end
    last = errors.event
  end
  for chunk in handle:bodyChunks() do
    spoilt = spoilt or failed(handle)
    if spoilt then
      chunk:setBytes(last)
      last = ""
    end
  end
end
