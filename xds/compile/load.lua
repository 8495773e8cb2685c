-- Notes what the headers of an answer say about the load of the endpoint that gave it, and that it refused, for the access log. It runs
-- for each attempt, so that a refusal which led to another attempt is not lost. HEADERS are the names to look for, FROM the header
-- in which the filter before this one leaves the backend's ID and the endpoint's address, NAMESPACE that of the metadata.
-- extproc/wire reads what this writes.

local MAX_VALUE = 2048 -- bytes of a header that is noted; longer ones are not

function envoy_on_response(handle)
  local headers = handle:headers()
  local from = headers:get(FROM)
  if not from then return end
  local text
  for i = 1, #HEADERS do
    local value = headers:get(HEADERS[i])
    -- Metadata of anything but UTF-8 cannot be sent, and the record of the request would be lost.
    if value and #value <= MAX_VALUE and not string.find(value, "[^ -~]") then
      text = (text or headers:get(":status")) .. "\n" .. HEADERS[i] .. ": " .. value
    end
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  if not text then
    text = headers:get(":status")
    if text < "400" then
      -- What an earlier attempt at this endpoint has left no longer holds.
      local before = metadata:get(NAMESPACE)
      if not before or not before[from] then return end
    end
  end
  metadata:set(NAMESPACE, from, text)
end
