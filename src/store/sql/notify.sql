-- notify
NOTIFY incident_sync_changes
