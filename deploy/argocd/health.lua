-- Health of a ContextManager for Argo CD: resource.customizations.health.contextmanager.dev_ContextManager
local function condition(name)
  if obj.status ~= nil and obj.status.conditions ~= nil then
    for _, found in ipairs(obj.status.conditions) do
      if found.type == name then
        return found
      end
    end
  end
  return nil
end

local function is_true(found)
  return found ~= nil and found.status == "True"
end

local ready = condition("Ready")
if obj.metadata.deletionTimestamp ~= nil then
  return {status = "Progressing", message = "It is being deleted"}
end
if obj.spec ~= nil and obj.spec.suspend == true then
  return {status = "Suspended", message = "spec.suspend is true: the operator observes and writes nothing"}
end
if ready == nil then
  return {status = "Progressing", message = "The operator has not looked at it yet"}
end
-- What is said of an earlier generation says nothing about this one.
if obj.status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "The operator has not looked at this generation yet"}
end
local stalled = condition("Stalled")
if is_true(stalled) then
  return {status = "Degraded", message = stalled.reason .. ": " .. stalled.message}
end
if is_true(ready) then
  return {status = "Healthy", message = ready.message}
end
return {status = "Progressing", message = ready.reason .. ": " .. ready.message}
