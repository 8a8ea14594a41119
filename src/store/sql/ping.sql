-- ping
SELECT 1
