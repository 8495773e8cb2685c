-- What Argo CD says of the health of Weir's objects, by their conditions. argocd-cm.yaml is made from this file.
local hs = { status = "Progressing", message = "Weir has not seen it yet" }
if obj.metadata.deletionTimestamp ~= nil then
  hs.message = "it is being deleted"
  return hs
end
if obj.status == nil or obj.status.conditions == nil then
  return hs
end
if obj.status.observedGeneration ~= nil and obj.metadata.generation ~= nil and obj.status.observedGeneration < obj.metadata.generation then
  hs.message = "Weir has not seen its last change yet"
  return hs
end
local found = {}
for _, condition in ipairs(obj.status.conditions) do
  local old = condition.observedGeneration ~= nil and obj.metadata.generation ~= nil and condition.observedGeneration < obj.metadata.generation
  if not old then
    found[condition.type] = condition
  end
end
-- What is refused stays refused until somebody changes something.
for _, name in ipairs({ "Accepted", "ResolvedRefs" }) do
  local condition = found[name]
  if condition ~= nil and condition.status == "False" then
    hs.status = "Degraded"
    hs.message = name .. ", " .. (condition.reason or "no reason") .. ": " .. (condition.message or "")
    return hs
  end
end
local programmed = found["Programmed"]
if programmed == nil then
  return hs
end
hs.message = programmed.message or ""
if programmed.status == "True" then
  hs.status = "Healthy"
elseif programmed.status == "False" and programmed.reason ~= "Pending" then
  hs.status = "Degraded"
  hs.message = "Programmed, " .. (programmed.reason or "no reason") .. ": " .. hs.message
end
return hs
