-- An operator may park a tenant; until it is resumed nobody claims it.
ALTER TABLE defender.sync_state ADD COLUMN parked_by text;
ALTER TABLE defender.sync_state ALTER COLUMN parked_by SET STATISTICS 0;
COMMENT ON COLUMN defender.sync_state.parked_by IS 'Who parked it with `tenant park`: it is not tried before `tenant resume`; NULL where nobody did';
COMMENT ON COLUMN defender.sync_state.parked_reason IS 'Why the tenant waits for a person; it is still tried once an hour, unless somebody parked it';
COMMENT ON TABLE defender.audit IS 'What was deleted, restored, erased, parked or resumed, by whom; outlives the tenant''s data and holds none of it';
COMMENT ON COLUMN defender.audit.action IS 'purge begun, purged, retention, restored, person erased, parked, resumed';
