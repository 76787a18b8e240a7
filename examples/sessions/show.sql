SELECT format('%s: %s sessions, the copy has %s; %s changes, %s of them taken back',
	to_char(:'to'::timestamptz, 'DD Mon HH24:MI'),
	(SELECT count(*) FROM sessions), (SELECT count(*) FROM visits),
	count(*), count(*) FILTER (WHERE weir_diff < 0))
FROM sessions_changes;
