-- Auto-routing as a PACS administrator would set it up: what arrives is sent on to one AE, once.
-- ROUTE_MODALITY, ROUTE_AET, ROUTE_ON ("stable" or "stored") and ROUTE_ALL are set by a script
-- that the test writes. Without ROUTE_ALL only pictures are sent, and nothing that came from the
-- destination itself; with it, everything is: the destination gets its own results back.

local SENT = '5000'  -- user-defined metadata: marks an instance that was routed
local PICTURES = '1.2.840.10008.5.1.4.1.1.77.1.'
local SECONDARY_CAPTURE = '1.2.840.10008.5.1.4.1.1.7'

local function IsWanted(metadata)
  if metadata[SENT] ~= nil then return false end
  if ROUTE_ALL then return true end
  local origin = metadata['RemoteAET'] or ''  -- empty when it came by HTTP
  if origin == ROUTE_AET then return false end
  local class = metadata['SopClassUid'] or ''
  return class:sub(1, #PICTURES) == PICTURES or (class == SECONDARY_CAPTURE and origin ~= '')
end

local function Route(instances)
  local wanted = {}
  for _, id in ipairs(instances) do
    local metadata = ParseJson(RestApiGet('/instances/' .. id .. '/metadata?expand', false))
    if IsWanted(metadata) then wanted[#wanted + 1] = id end
  end
  if #wanted == 0 then return end
  local body = DumpJson({ Resources = wanted, Synchronous = false }, true)
  RestApiPost('/modalities/' .. ROUTE_MODALITY .. '/store', body, false)
  for _, id in ipairs(wanted) do
    RestApiPut('/instances/' .. id .. '/metadata/' .. SENT, 'routed', false)
  end
end

function OnStableStudy(study_id)
  if ROUTE_ON ~= 'stable' then return end
  local ids = {}
  for _, instance in ipairs(ParseJson(RestApiGet('/studies/' .. study_id .. '/instances', false))) do
    ids[#ids + 1] = instance['ID']
  end
  Route(ids)
end

function OnStoredInstance(instance_id)
  if ROUTE_ON == 'stored' then Route({ instance_id }) end
end
