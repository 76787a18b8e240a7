-- What is wrong, if anything.  The sessions are gaps and islands: a row begins one
-- if the row before it is half an hour or more away.
CREATE TEMP TABLE topic AS SELECT * FROM app_events;

SELECT 'the topic has not all of the script' WHERE (SELECT count(*) FROM topic) <> (SELECT count(*) FROM script);

-- Only the event of the lost phone came too late, and it is on record.
(SELECT user_id, ts FROM topic WHERE user_id = 1000
 EXCEPT SELECT (row ->> 'user_id')::int, (row ->> 'ts')::timestamptz FROM weir.late_rows);
SELECT 'late', row FROM weir.late_rows WHERE (row ->> 'user_id')::int <> 1000;

CREATE TEMP TABLE truth AS
SELECT user_id, tstzrange(min(ts), max(ts) + interval '30 minutes') AS visit,
	count(*) AS events, count(*) FILTER (WHERE screen = 'pay') AS payments
FROM (
	SELECT *, count(*) FILTER (WHERE first) OVER (PARTITION BY user_id ORDER BY ts) AS island
	FROM (
		SELECT *, ts - lag(ts) OVER (PARTITION BY user_id ORDER BY ts) >= interval '30 minutes' AS first
		FROM topic WHERE user_id <> 1000
	) AS gaps
) AS islands
GROUP BY user_id, island;

(TABLE truth EXCEPT ALL TABLE sessions) UNION ALL (TABLE sessions EXCEPT ALL TABLE truth);

-- The copy has those that are over.
CREATE TEMP VIEW over AS SELECT * FROM truth WHERE weir.is_closed('sessions', visit);
(TABLE over EXCEPT ALL TABLE visits) UNION ALL (TABLE visits EXCEPT ALL TABLE over);
SELECT 'nothing is over' WHERE NOT EXISTS (TABLE over);
SELECT 'nothing has merged' WHERE NOT EXISTS (
	SELECT FROM sessions_changes WHERE weir_reason = 'late'
	GROUP BY weir_at, user_id HAVING sum(weir_diff) < 0);
